package secrez

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"
)

// reversed turns a number into 32 bytes, least significant first.
func reversed(n *big.Int) []byte {
	b := n.FillBytes(make([]byte, halfSize))
	slices.Reverse(b)
	return b
}

func fieldPrime() *big.Int {
	p := new(big.Int).Lsh(big.NewInt(1), 255)
	return p.Sub(p, big.NewInt(19))
}

// smallOrderSigns gives every encoding of the eight points of small order that decodes, canonical or not.
func smallOrderSigns(t *testing.T) [][]byte {
	t.Helper()
	const order8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
	torsion, err := new(edwards25519.Point).SetBytes(unhex(t, order8))
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	point := edwards25519.NewIdentityPoint()
	for range 8 {
		all = append(all, point.Bytes())
		point = new(edwards25519.Point).Add(point, torsion)
	}
	for _, canonical := range slices.Clone(all) {
		flipped := slices.Clone(canonical)
		flipped[31] ^= 0x80
		y := slices.Clone(canonical)
		y[31] &= 0x7f
		slices.Reverse(y)
		above := new(big.Int).Add(new(big.Int).SetBytes(y), fieldPrime())
		all = append(all, flipped)
		if above.BitLen() <= 255 {
			all = append(all, reversed(above))
		}
	}
	return all
}

// Defect: the original takes keys of small order, under which one fixed signature verifies every message.
func TestAttackSmallOrderSignKeysAreRefused(t *testing.T) {
	good := derived(t, 1).Public()
	for _, bad := range smallOrderSigns(t) {
		if _, err := NewPublicKey(good.Box(), bad); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

func TestBoxHalvesWithoutSecretsAreRefused(t *testing.T) {
	good := derived(t, 1).Public()
	secret, err := ecdh.X25519().NewPrivateKey(slices.Repeat([]byte{0x42}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, low := range lowOrderBoxes() {
		public, err := ecdh.X25519().NewPublicKey(low[:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := secret.ECDH(public); err == nil {
			t.Errorf("%x is listed as of small order and gives a secret", low)
		}
		if _, err := NewPublicKey(low[:], good.Identity().Bytes()); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%x: %v", low, err)
		}
	}
}

func TestBoxHalvesHaveOneEncoding(t *testing.T) {
	good := derived(t, 1).Public()
	p := fieldPrime()
	bad := map[string][]byte{
		"the prime":            reversed(p),
		"one above the prime":  reversed(new(big.Int).Add(p, big.NewInt(1))),
		"nine above the prime": reversed(new(big.Int).Add(p, big.NewInt(9))),
		"all bits":             slices.Repeat([]byte{0xff}, 32),
		"top bit of a good one": func() []byte {
			b := good.Box()
			b[31] |= 0x80
			return b
		}(),
	}
	for name, box := range bad {
		if _, err := NewPublicKey(box, good.Identity().Bytes()); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignHalvesHaveOneEncodingAndAreOnTheCurve(t *testing.T) {
	good := derived(t, 1).Public()
	two := append([]byte{2}, make([]byte, 31)...) // y = 2 is on no point
	bad := map[string][]byte{
		"off the curve":       two,
		"above the prime":     reversed(new(big.Int).Add(fieldPrime(), big.NewInt(3))),
		"minus zero":          append(append([]byte{1}, make([]byte, 30)...), 0x80),
		"all bits":            slices.Repeat([]byte{0xff}, 32),
		"y = 0":               make([]byte, 32),
		"y = 1":               append([]byte{1}, make([]byte, 31)...),
		"31 bytes":            good.Identity().Bytes()[:31],
		"33 bytes":            append(good.Identity().Bytes(), 0),
		"nothing":             nil,
		"64 bytes, both good": slices.Repeat(good.Identity().Bytes(), 2),
	}
	for name, sign := range bad {
		if _, err := NewPublicKey(good.Box(), sign); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Defect: one account had any number of identity strings, so anything that counts or compares them could be fooled.
func TestAttackOneAccountHasOneName(t *testing.T) {
	text := account(t, "alice").Public().String()
	box, sign, _ := strings.Cut(text, "$")
	for _, s := range []string{
		text + "$", text + "$AAAA", text + "\n", " " + text, text + " ", text + "\x00",
		box + "$$" + sign, "$" + text, box + sign, box + "$", "$" + sign, "$", "",
		strings.ReplaceAll(text, "=", ""), strings.ReplaceAll(text, "/", "_"), strings.ReplaceAll(text, "$", "%24"),
		strings.ReplaceAll(text, "=", "\n"), box[:42] + "R=$" + sign, box + "$" + sign[:42] + "N=",
		box + "\uff04" + sign, strings.ToLower(text), sign + "$" + box + "$",
	} {
		if k, err := ParsePublicKey(s); !errors.Is(err, ErrPublicKey) || !k.IsZero() {
			t.Errorf("%q: %v, %v", s, k, err)
		}
	}
}

func TestEveryTruncatedPublicKeyIsRefused(t *testing.T) {
	k := account(t, "alice").Public()
	for n := range len(k.String()) {
		if _, err := ParsePublicKey(k.String()[:n]); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%d characters: %v", n, err)
		}
	}
	for n := range len(k.Legacy()) {
		if got, err := ParseLegacyPublicKey(k.Legacy()[:n]); err == nil && got.Equal(k) {
			t.Errorf("legacy, %d characters: the same key", n)
		}
	}
}

func TestEveryChangedCharacterOfAPublicKeyIsRefusedOrAnotherKey(t *testing.T) {
	k := account(t, "alice").Public()
	text := []byte(k.String())
	for i := range text {
		for bit := range 8 {
			changed := slices.Clone(text)
			changed[i] ^= 1 << bit
			got, err := ParsePublicKey(string(changed))
			if err == nil && (got.Equal(k) || got.String() != string(changed)) {
				t.Errorf("character %d, bit %d: passes for the same key", i, bit)
			}
		}
	}
}

func TestLegacyPublicKeyRefusesEveryOtherForm(t *testing.T) {
	k := account(t, "alice").Public()
	box, sign, _ := strings.Cut(k.Legacy(), "0")
	for _, s := range []string{
		"", "0", k.String(), box, box + "0", "0" + sign, box + "0" + sign + "0", box + "00" + sign, "1" + k.Legacy(),
		box + "01" + sign, box + "0" + sign[1:], box + "0" + sign + "l", strings.Repeat("z", 1000), box + "0" + strings.Repeat("1", 32),
	} {
		if got, err := ParseLegacyPublicKey(s); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

func TestPublicKeyZeroValueIsNoKey(t *testing.T) {
	var zero PublicKey
	if !zero.IsZero() || zero.String() != "" || zero.Legacy() != "" || zero.Derived() || !zero.Identity().IsZero() {
		t.Error("the zero value passes for a key")
	}
	if zero.Equal(account(t, "alice").Public()) || !zero.Equal(PublicKey{}) {
		t.Error("wrong comparison")
	}
	if err := zero.Verify(nil, account(t, "alice").Sign(nil)); !errors.Is(err, ErrSignature) {
		t.Errorf("verify: %v", err)
	}
	if _, err := DerivePublicKey(zero.Identity()); !errors.Is(err, ErrPublicKey) {
		t.Errorf("derive: %v", err)
	}
}

// The bytes of the zero value are a point of order 4: every fourth message verifies under it with a fixed signature.
func TestNobodySignsForNoKey(t *testing.T) {
	forged := append([]byte{1}, make([]byte, 63)...)
	verified := 0
	for i := range 64 {
		message := fmt.Append(nil, i)
		if ed25519.Verify(make([]byte, 32), message, forged) {
			verified++
		}
		if err := (PublicKey{}).Verify(message, base64.StdEncoding.EncodeToString(forged)); !errors.Is(err, ErrSignature) {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if verified == 0 {
		t.Error("the forgery is none, so this test tests nothing")
	}
}

func TestPublicKeyPassesThroughJSON(t *testing.T) {
	type record struct{ Key, None PublicKey }
	in := record{Key: account(t, "bob").Public()}
	text, err := json.Marshal(in)
	if err != nil || !strings.Contains(string(text), in.Key.String()) {
		t.Fatalf("%s, %v", text, err)
	}
	var out record
	if err := json.Unmarshal(text, &out); err != nil || !out.Key.Equal(in.Key) || !out.None.IsZero() {
		t.Errorf("%v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"Key":"box$sign"}`), &out); !errors.Is(err, ErrPublicKey) {
		t.Errorf("bad key: %v", err)
	}
}

func TestPublicKeysDifferWhenEitherHalfDoes(t *testing.T) {
	alice, bob := account(t, "alice").Public(), account(t, "bob").Public()
	mixed, err := NewPublicKey(bob.Box(), alice.Identity().Bytes())
	if err != nil {
		t.Fatal(err) // nothing binds the halves of a key from Secrez
	}
	if mixed.Equal(alice) || mixed.Equal(bob) || !mixed.Identity().Equal(alice.Identity()) {
		t.Error("wrong comparison")
	}
	if mixed.Derived() || !derived(t, 3).Public().Derived() {
		t.Error("Derived tells the two kinds apart wrongly")
	}
}

func TestPublicKeyBoxIsACopy(t *testing.T) {
	k := account(t, "alice").Public()
	k.Box()[0] ^= 1
	if k.String() != account(t, "alice").Public().String() {
		t.Error("the key changed")
	}
}

// Defect: signatures could be rewritten without the secret and pass as new ones.
func TestAttackASignatureHasOneForm(t *testing.T) {
	alice := account(t, "alice")
	message := []byte("hello")
	signature := alice.Sign(message)
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(raw[32:])
	slices.Reverse(s)
	raised := slices.Concat(raw[:32], reversed(new(big.Int).Add(new(big.Int).SetBytes(s), order)))
	for name, bad := range map[string]string{
		"raised by the order": base64.StdEncoding.EncodeToString(raised),
		"spare bits":          signature[:85] + string(signature[85]+1) + "==",
		"base58":              EncodeBase58(raw),
		"base32":              EncodeBase32(raw),
		"hexadecimal":         hex.EncodeToString(raw),
		"no padding":          strings.TrimRight(signature, "="),
		"alphabet of URLs":    base64.URLEncoding.EncodeToString(raw) + " ",
		"line break":          signature + "\n",
		"break inside":        signature[:40] + "\r\n" + signature[40:],
		"one byte more":       base64.StdEncoding.EncodeToString(append(slices.Clone(raw), 0)),
		"absent":              "",
	} {
		if err := alice.Public().Verify(message, bad); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range raw {
		for bit := range 8 {
			flipped := slices.Clone(raw)
			flipped[i] ^= 1 << bit
			if err := alice.Public().Verify(message, base64.StdEncoding.EncodeToString(flipped)); !errors.Is(err, ErrSignature) {
				t.Errorf("byte %d, bit %d: %v", i, bit, err)
			}
		}
	}
	for n := range len(signature) {
		if err := alice.Public().Verify(message, signature[:n]); !errors.Is(err, ErrSignature) {
			t.Errorf("%d characters: %v", n, err)
		}
	}
}

func TestErrorsDoNotRepeatTheirInput(t *testing.T) {
	const marker = "qqqqzzzzmarker"
	alice := account(t, "alice")
	_, e1 := ParsePublicKey(marker)
	_, e2 := ParseLegacyPublicKey(marker)
	_, e3 := DecodeBase58(marker + "-")
	_, e4 := ParseID(marker)
	_, e5 := ParseContactURL("https://" + marker + "\x7f/")
	_, e6 := alice.Open(alice.Public(), marker)
	_, e7 := Signed{Payload: fmt.Sprintf(`{"publicKey":%q}`, marker), Signature: marker}.Verify()
	e8 := CheckLegacyID(marker, alice.Public())
	for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8} {
		if err == nil || strings.Contains(err.Error(), "marker") {
			t.Errorf("%d: %v", i+1, err)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	for _, c := range readVectors(f).PublicKeys {
		var s string
		if json.Unmarshal(c.In, &s) == nil {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParsePublicKey(s)
		if err != nil {
			if !errors.Is(err, ErrPublicKey) || !k.IsZero() {
				t.Fatalf("%v with %v", k, err)
			}
			return
		}
		if k.String() != s {
			t.Fatalf("%q is written %q", s, k)
		}
		if _, err := derived(t, 1).Shared(k); err != nil {
			t.Fatalf("%q: no shared key: %v", s, err)
		}
		if back, err := ParseLegacyPublicKey(k.Legacy()); err != nil || !back.Equal(k) {
			t.Fatalf("%q: legacy form %q, %v", s, k.Legacy(), err)
		}
	})
}

func FuzzParseLegacyPublicKey(f *testing.F) {
	for _, a := range readVectors(f).Accounts {
		f.Add(a.Legacy)
	}
	f.Add("0")
	f.Add("1110111")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseLegacyPublicKey(s)
		if err != nil {
			if !errors.Is(err, ErrPublicKey) || !k.IsZero() {
				t.Fatalf("%v with %v", k, err)
			}
			return
		}
		if k.Legacy() != s {
			t.Fatalf("%q is written %q", s, k.Legacy())
		}
	})
}

func FuzzNewPublicKey(f *testing.F) {
	good := derived(f, 1).Public()
	f.Add(good.Box(), good.Identity().Bytes())
	f.Add(make([]byte, 32), make([]byte, 32))
	f.Fuzz(func(t *testing.T, box, sign []byte) {
		k, err := NewPublicKey(box, sign)
		if err != nil {
			return
		}
		if back, err := ParsePublicKey(k.String()); err != nil || !back.Equal(k) {
			t.Fatalf("%v: %v, %v", k, back, err)
		}
	})
}
