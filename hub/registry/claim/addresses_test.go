package claim

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
)

func signedAddresses(t testing.TB, text string) (Addresses, *keys.Identity) {
	t.Helper()
	id, err := keys.FromStringSeed("addresses")
	if err != nil {
		t.Fatal(err)
	}
	a, err := Addresses{Text: text, Time: time.UnixMilli(1_700_000_000_123)}.Sign(id)
	if err != nil {
		t.Fatal(err)
	}
	return a, id
}

func TestAddressesAreAsDocumented(t *testing.T) {
	a, id := signedAddresses(t, "net:h:1~shs:K")
	b, err := a.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString([]byte("secretstack addresses v1\x00")) + hex.EncodeToString(id.Public().Bytes()) +
		"0000018bcfe5687b" + hex.EncodeToString([]byte("net:h:1~shs:K"))
	if got := hex.EncodeToString(b[:len(b)-64]); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAddressesSurviveJSON(t *testing.T) {
	for _, text := range []string{"", "net:h:1~shs:K", strings.Repeat("x", MaxAddresses)} {
		a, id := signedAddresses(t, text)
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var back Addresses
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatal(err)
		}
		if err := back.Verify(id.Public()); err != nil || back.Text != text || !back.Time.Equal(a.Time) {
			t.Errorf("%+v, %v", back, err)
		}
	}
}

func TestAddressesThatWereAlteredAreNotBelieved(t *testing.T) {
	a, id := signedAddresses(t, "net:h:1~shs:K")
	good, _ := a.MarshalBinary()
	for i := range good {
		bent := bytes.Clone(good)
		bent[i] ^= 4
		var read Addresses
		if err := read.UnmarshalBinary(bent); err != nil {
			continue
		}
		if err := read.Verify(id.Public()); !errors.Is(err, ErrSignature) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	other, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Verify(other.Public()); !errors.Is(err, ErrSignature) {
		t.Error("another's addresses were taken for its own")
	}
}

func TestWhatAreNoAddressesIsRefused(t *testing.T) {
	a, id := signedAddresses(t, "net:h:1~shs:K")
	good, _ := a.MarshalBinary()
	var read Addresses
	shortest := len(good) - len(a.Text)
	for i := range shortest {
		if err := read.UnmarshalBinary(good[:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", i, err)
		}
	}
	long := append(bytes.Clone(good), make([]byte, MaxAddresses)...)
	if err := read.UnmarshalBinary(long); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	for _, text := range []string{"!", "AAAA", strings.Repeat("A", 10_000)} {
		if err := read.UnmarshalText([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	if _, err := (Addresses{}).MarshalText(); !errors.Is(err, ErrMalformed) {
		t.Error("what is not signed was written")
	}
	if _, err := (Addresses{Text: strings.Repeat("x", MaxAddresses+1)}).Sign(id); !errors.Is(err, ErrMalformed) {
		t.Error("too much was signed")
	}
}

func FuzzAddresses(f *testing.F) {
	a, _ := signedAddresses(f, "net:h:1~shs:K")
	good, _ := a.MarshalBinary()
	f.Add(good)
	f.Add(good[:70])
	f.Fuzz(func(t *testing.T, b []byte) {
		var a Addresses
		if a.UnmarshalBinary(b) != nil {
			return
		}
		if back, err := a.MarshalBinary(); err != nil || !bytes.Equal(back, b) {
			t.Errorf("%x becomes %x, %v", b, back, err)
		}
	})
}
