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
	"github.com/secretstack/secretstack/secrez"
)

func seeded(tb testing.TB, b byte) *keys.Identity {
	tb.Helper()
	id, err := keys.FromSeed(bytes.Repeat([]byte{b}, keys.SeedSize))
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func parsedID(tb testing.TB, s string) secrez.ID {
	tb.Helper()
	id, err := secrez.ParseID(s)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func example(tb testing.TB) Statement {
	return Statement{
		Hub: seeded(tb, 1).Public(), Key: seeded(tb, 2).Public(), Box: bytes.Repeat([]byte{9}, boxSize),
		Action: Reset, ID: parsedID(tb, "7y-6ro-3z"), Sequence: 3, Time: time.UnixMilli(1_700_000_000_123).UTC(),
	}
}

func TestStatementBytesAreAsDocumented(t *testing.T) {
	b, err := example(t).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString([]byte("secretstack hub statement v1\x00")) +
		hex.EncodeToString(seeded(t, 1).Public().Bytes()) +
		hex.EncodeToString(seeded(t, 2).Public().Bytes()) +
		"02" + "20" + strings.Repeat("09", 32) +
		"09" + hex.EncodeToString([]byte("7y-6ro-3z")) +
		"0000000000000003" + "0000018bcfe5687b"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestStatementsSurviveTheirBytes(t *testing.T) {
	full := example(t)
	bare := Statement{Hub: full.Hub, Key: full.Key, Action: Register, Time: time.UnixMilli(-5).UTC()}
	for name, s := range map[string]Statement{"full": full, "bare": bare} {
		t.Run(name, func(t *testing.T) {
			b, err := s.MarshalBinary()
			if err != nil {
				t.Fatal(err)
			}
			var back Statement
			if err := back.UnmarshalBinary(b); err != nil {
				t.Fatal(err)
			}
			again, err := back.MarshalBinary()
			if err != nil || !bytes.Equal(b, again) {
				t.Errorf("got %x, %v, want %x", again, err, b)
			}
			if len(b) > MaxSize {
				t.Errorf("%d bytes are more than MaxSize", len(b))
			}
		})
	}
}

func TestEveryCutOfAStatementAndOfAReceiptIsRefused(t *testing.T) {
	statement, err := example(t).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := exampleReceipt(t).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for n := range statement {
		if err := new(Statement).UnmarshalBinary(statement[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes of a statement give %v", n, err)
		}
	}
	for n := range receipt {
		if err := new(Receipt).UnmarshalBinary(receipt[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes of a receipt give %v", n, err)
		}
	}
	if err := new(Statement).UnmarshalBinary(append(statement, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a byte more gives %v", err)
	}
	if err := new(Receipt).UnmarshalBinary(append(receipt, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a byte more gives %v", err)
	}
}

func TestEveryFlippedBitOfASignedStatementIsRefused(t *testing.T) {
	signed, err := example(t).Sign(seeded(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signed.Verify(); err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{signed.Statement, signed.Signature} {
		for i := range part {
			part[i] ^= 1 << (i % 8)
			if _, err := signed.Verify(); err == nil {
				t.Errorf("byte %d can be altered", i)
			}
			part[i] ^= 1 << (i % 8)
		}
	}
}

func TestStatementIsSignedByItsOwnKeyOnly(t *testing.T) {
	if _, err := example(t).Sign(seeded(t, 3)); !errors.Is(err, ErrSignature) {
		t.Errorf("got %v", err)
	}
	bad := example(t)
	bad.Box = bad.Box[:5]
	if _, err := bad.Sign(seeded(t, 2)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a short box half gives %v", err)
	}
}

// A key of small order verifies any message under some signatures.
func TestDefectSmallOrderKeySignsNothing(t *testing.T) {
	identityPoint := make([]byte, 32)
	identityPoint[0] = 1
	key, err := keys.NewPublicKey(identityPoint)
	if err != nil {
		t.Fatal(err)
	}
	s := example(t)
	s.Key = key
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, signatureSize)
	signature[0] = 1 // R is the neutral element and S is zero
	if _, err := (Signed{Statement: b, Signature: signature}).Verify(); !errors.Is(err, ErrSignature) {
		t.Errorf("got %v", err)
	}
}

func exampleReceipt(tb testing.TB) Receipt {
	return Receipt{
		Key: seeded(tb, 2).Public(), ID: parsedID(tb, "7y-6ro-3z"), Sequence: 3, Time: time.UnixMilli(1_700_000_000_123).UTC(),
	}.Sign(seeded(tb, 1))
}

func TestReceiptBytesAreAsDocumented(t *testing.T) {
	r := exampleReceipt(t)
	b, err := r.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	want := hex.EncodeToString([]byte("secretstack hub receipt v1\x00")) +
		hex.EncodeToString(seeded(t, 1).Public().Bytes()) +
		hex.EncodeToString(seeded(t, 2).Public().Bytes()) +
		hex.EncodeToString([]byte("7y-6ro-3z")) +
		"0000000000000003" + "0000018bcfe5687b" + hex.EncodeToString(r.Signature)
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(b) > MaxSize {
		t.Errorf("%d bytes are more than MaxSize", len(b))
	}
}

func TestReceiptTravelsInJSON(t *testing.T) {
	in := struct{ Receipt Receipt }{exampleReceipt(t)}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out struct{ Receipt Receipt }
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if err := out.Receipt.Verify(seeded(t, 1).Public()); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"no base64":  `{"Receipt":"%%%"}`,
		"spare bits": `{"Receipt":"` + strings.Repeat("A", 239) + `B=="}`,
		"long":       `{"Receipt":"` + strings.Repeat("A", 4096) + `"}`,
	} {
		if err := json.Unmarshal([]byte(bad), &out); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := (Receipt{}).MarshalText(); !errors.Is(err, ErrMalformed) {
		t.Errorf("no receipt gives %v", err)
	}
}

func TestReceiptIsTheHubsWordForOneKeyAndOneID(t *testing.T) {
	good, hub := exampleReceipt(t), seeded(t, 1).Public()
	if err := good.Verify(hub); err != nil {
		t.Fatal(err)
	}
	for name, alter := range map[string]func(*Receipt){
		"key":       func(r *Receipt) { r.Key = seeded(t, 5).Public() },
		"hub":       func(r *Receipt) { r.Hub = seeded(t, 5).Public() },
		"id":        func(r *Receipt) { r.ID = parsedID(t, "7y-6ro-3u") },
		"sequence":  func(r *Receipt) { r.Sequence++ },
		"time":      func(r *Receipt) { r.Time = r.Time.Add(time.Millisecond) },
		"signature": func(r *Receipt) { r.Signature = bytes.Repeat([]byte{1}, signatureSize) },
		"unsigned":  func(r *Receipt) { r.Signature = nil },
	} {
		r := good
		alter(&r)
		if err := r.Verify(hub); !errors.Is(err, ErrSignature) {
			t.Errorf("another %s gives %v", name, err)
		}
	}
	if err := good.Verify(seeded(t, 5).Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("another hub gives %v", err)
	}
}

func FuzzStatement(f *testing.F) {
	b, err := example(f).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Statement
		if err := s.UnmarshalBinary(b); err != nil {
			return
		}
		back, err := s.MarshalBinary()
		if err != nil || !bytes.Equal(b, back) {
			t.Errorf("%x was read and is written %x, %v", b, back, err)
		}
	})
}

func FuzzReceipt(f *testing.F) {
	b, err := exampleReceipt(f).MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Receipt
		if err := r.UnmarshalBinary(b); err != nil {
			return
		}
		back, err := r.MarshalBinary()
		if err != nil || !bytes.Equal(b, back) {
			t.Errorf("%x was read and is written %x, %v", b, back, err)
		}
	})
}
