package secrez

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/nacl/box"
)

func TestSealedMessagesOpenOnBothSidesAndNowhereElse(t *testing.T) {
	pairs := map[string][2]*Account{
		"both imported":    {account(t, "alice"), account(t, "bob")},
		"both derived":     {derived(t, 1), derived(t, 2)},
		"one of each":      {account(t, "alice"), derived(t, 2)},
		"to the same self": {derived(t, 1), derived(t, 1)},
	}
	for name, pair := range pairs {
		sealed, err := pair[0].Seal(pair[1].Public(), []byte("caffè 🙂"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range pair {
			if text, err := pair[i].Open(pair[1-i].Public(), sealed); err != nil || string(text) != "caffè 🙂" {
				t.Errorf("%s, side %d: %q, %v", name, i, text, err)
			}
		}
		if text, err := account(t, "mallory").Open(pair[0].Public(), sealed); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: mallory reads %q, %v", name, text, err)
		}
		if text, err := pair[1].Open(account(t, "mallory").Public(), sealed); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %q passes for mallory's, %v", name, text, err)
		}
	}
}

func TestSharedKeyComesFromTheX25519Secret(t *testing.T) {
	alice, bob := derived(t, 1), account(t, "bob")
	k, err := alice.Shared(bob.Public())
	if err != nil {
		t.Fatal(err)
	}
	public, err := ecdh.X25519().NewPublicKey(bob.Public().Box())
	if err != nil {
		t.Fatal(err)
	}
	secret, err := alice.box().ECDH(public)
	if err != nil {
		t.Fatal(err)
	}
	var nonce [nonceSize]byte
	sealed, err := k.seal(&nonce, []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	text, ok := box.Open(nil, sealed[nonceSize:], &nonce, (*[32]byte)(alice.Public().Box()), (*[32]byte)(bob.BoxSecret()))
	if !ok || string(text) != "text" {
		t.Errorf("NaCl's box does not open it: %q", text)
	}
	if *k.key() == [32]byte(secret) || *k.key() == [32]byte{} {
		t.Error("the key is the bare secret, or none")
	}
}

func TestSealingTwiceGivesTwoMessages(t *testing.T) {
	a, b := derived(t, 1), derived(t, 2)
	first, err1 := a.Seal(b.Public(), []byte("same"))
	second, err2 := a.Seal(b.Public(), []byte("same"))
	if err1 != nil || err2 != nil || first == second {
		t.Errorf("%q, %q, %v, %v", first, second, err1, err2)
	}
}

func TestEveryBitOfASealedMessageCounts(t *testing.T) {
	a, b := derived(t, 1), derived(t, 2)
	k, err := a.Shared(b.Public())
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := k.Seal([]byte("short"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		for bit := range 8 {
			flipped := slices.Clone(sealed)
			flipped[i] ^= 1 << bit
			if text, err := k.Open(flipped); !errors.Is(err, ErrSealed) || text != nil {
				t.Errorf("byte %d, bit %d: %q, %v", i, bit, text, err)
			}
		}
	}
	for n := range sealed {
		if text, err := k.Open(sealed[:n]); !errors.Is(err, ErrSealed) || text != nil {
			t.Errorf("%d bytes: %q, %v", n, text, err)
		}
	}
	if _, err := k.Open(append(slices.Clone(sealed), 0)); !errors.Is(err, ErrSealed) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestASealedMessageHasOneSpelling(t *testing.T) {
	a, b := derived(t, 1), derived(t, 2)
	sealed, err := a.Seal(b.Public(), []byte("12")) // 42 bytes: no padding, so add it where it is not
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{sealed + "=", sealed + "\n", "\r\n" + sealed, sealed[:20] + "\n" + sealed[20:], sealed[:len(sealed)-1]} {
		if _, err := b.Open(a.Public(), s); !errors.Is(err, ErrSealed) {
			t.Errorf("%q: %v", s, err)
		}
	}
	spare, err := a.Seal(b.Public(), []byte("1")) // 41 bytes: one "=" and two spare bits
	if err != nil {
		t.Fatal(err)
	}
	changed := []byte(spare)
	changed[len(changed)-2]++
	if _, err := b.Open(a.Public(), string(changed)); !errors.Is(err, ErrSealed) {
		t.Errorf("spare bits: %v", err)
	}
}

func TestSealedMessagesAreBounded(t *testing.T) {
	a, b := derived(t, 1), derived(t, 2)
	longest := bytes.Repeat([]byte("x"), MaxMessage)
	sealed, err := a.Seal(b.Public(), longest)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := b.Open(a.Public(), sealed); err != nil || !bytes.Equal(text, longest) {
		t.Errorf("at the limit: %d bytes, %v", len(text), err)
	}
	if _, err := a.SignPayload(map[string]string{"message": sealed}, anyTime); err != nil {
		t.Errorf("the longest message does not fit a payload: %v", err)
	}
	if _, err := a.Seal(b.Public(), append(longest, 'x')); !errors.Is(err, ErrSealed) {
		t.Errorf("above the limit: %v", err)
	}
	tooLong := base64.StdEncoding.EncodeToString(make([]byte, MaxMessage+SealedOverhead+1))
	if _, err := b.Open(a.Public(), tooLong); !errors.Is(err, ErrSealed) {
		t.Errorf("too long to open: %v", err)
	}
}

func TestNothingIsSealedForNoKey(t *testing.T) {
	a := derived(t, 1)
	if _, err := a.Seal(PublicKey{}, nil); !errors.Is(err, ErrPublicKey) {
		t.Errorf("seal: %v", err)
	}
	if _, err := a.Open(PublicKey{}, strings.Repeat("A", 56)); !errors.Is(err, ErrPublicKey) {
		t.Errorf("open: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	v := readVectors(f)
	for _, c := range v.Box {
		f.Add(c.Ciphertext)
	}
	f.Add("")
	f.Add("AAAA")
	alice, bob := account(f, "alice"), account(f, "bob")
	f.Fuzz(func(t *testing.T, sealed string) {
		text, err := bob.Open(alice.Public(), sealed)
		if err != nil {
			if !errors.Is(err, ErrSealed) || text != nil {
				t.Fatalf("%q, %v", text, err)
			}
			return
		}
		raw, err := base64.StdEncoding.DecodeString(sealed)
		if err != nil || len(raw) != len(text)+SealedOverhead {
			t.Fatalf("%q opens to %q", sealed, text)
		}
	})
}
