package rotation_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
)

func identity(t testing.TB, b byte) *keys.Identity {
	t.Helper()
	id, err := keys.FromSeed(bytes.Repeat([]byte{b}, keys.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func statement(t testing.TB) *rotation.Statement {
	t.Helper()
	s, err := rotation.New(identity(t, 1), identity(t, 2), time.UnixMilli(1795311465269))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAStatementNamesBothKeys(t *testing.T) {
	s, err := rotation.Parse(statement(t).Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Old.Equal(identity(t, 1).Public()) || !s.New.Equal(identity(t, 2).Public()) || s.Time.UnixMilli() != 1795311465269 {
		t.Errorf("%v becomes %v at %v", s.Old, s.New, s.Time)
	}
	if len(s.Bytes()) != rotation.Size {
		t.Errorf("%d bytes", len(s.Bytes()))
	}
}

func TestAStatementTravelsInJSON(t *testing.T) {
	text, err := json.Marshal(statement(t))
	if err != nil {
		t.Fatal(err)
	}
	var s *rotation.Statement
	if err := json.Unmarshal(text, &s); err != nil || !bytes.Equal(s.Bytes(), statement(t).Bytes()) {
		t.Errorf("%s gives %v", text, err)
	}
	for _, bad := range []string{`"AAAA"`, `""`, `"é"`, `"` + string(text[1:len(text)-2]) + `\n"`} {
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("%.40s passes", bad)
		}
	}
}

func TestEveryAlteredBitOfAStatementIsFound(t *testing.T) {
	good := statement(t).Bytes()
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			if _, err := rotation.Parse(bad); !errors.Is(err, rotation.ErrStatement) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
	for n := range good {
		if _, err := rotation.Parse(good[:n]); err == nil {
			t.Errorf("%d bytes pass", n)
		}
	}
}

func TestNobodyRotatesIntoAKeyThatIsNotHis(t *testing.T) {
	if _, err := rotation.New(identity(t, 1), identity(t, 1), time.Now()); !errors.Is(err, rotation.ErrStatement) {
		t.Errorf("the same key: %v", err)
	}
	if _, err := rotation.New(identity(t, 1), nil, time.Now()); !errors.Is(err, rotation.ErrStatement) {
		t.Errorf("no key: %v", err)
	}
	forged := bytes.Clone(statement(t).Bytes())
	body := forged[:len(forged)-64]
	copy(forged[len(body):], identity(t, 1).Sign(body)) // the old key signs for the new one
	if _, err := rotation.Parse(forged); !errors.Is(err, rotation.ErrStatement) {
		t.Errorf("signed twice by the old key: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(statement(f).Bytes())
	f.Add([]byte("secretstack key rotation v1\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := rotation.Parse(b); err == nil && !bytes.Equal(s.Bytes(), b) {
			t.Errorf("%x gives %x", b, s.Bytes())
		}
	})
}

func TestAllFormerIdentitiesAreGivenUpForThePresentOne(t *testing.T) {
	first, second, present := identity(t, 1), identity(t, 2), identity(t, 3)
	all, err := rotation.NewAll([]*keys.Identity{first, present, second}, present, time.Now())
	if err != nil || len(all) != 2 || !all[0].Old.Equal(second.Public()) || !all[1].Old.Equal(first.Public()) || !all[0].New.Equal(present.Public()) {
		t.Errorf("%v, %v", all, err)
	}
}
