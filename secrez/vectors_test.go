package secrez

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// refusedCases lists every recorded case that the original accepts and this package refuses, and why. The vector tests
// below hold all other cases to the original's answer, and fail when a line here is not needed.
var refusedCases = map[string]struct {
	err error
	why string
}{
	"base64/AB==": {ErrEncoding, "spare bits give one value several spellings"},
	"base64/AAB=": {ErrEncoding, "spare bits give one value several spellings"},
	"base64/AA=A": {ErrEncoding, "padding inside gives one value several spellings"},

	"publicKey/three_parts_valid_b64":           {ErrPublicKey, "a third part makes further names for one account"},
	"publicKey/three_parts_empty":               {ErrPublicKey, "a third part makes further names for one account"},
	"publicKey/noncanonical_box_trailing_bits":  {ErrPublicKey, "spare base64 bits make further names for one account"},
	"publicKey/noncanonical_sign_trailing_bits": {ErrPublicKey, "spare base64 bits make further names for one account"},
	"publicKey/all_zero_keys":                   {ErrPublicKey, "both points have small order: no secret is needed to use them"},

	"signature/trailing_bits_changed_base64": {ErrSignature, "a second spelling passes for a second signature"},
	"signature/S_plus_L":                     {ErrSignature, "a scalar beyond the group's order passes for a second signature"},
	"signature/small-order public key (identity) with R=identity,S=0 verifies any message": {
		ErrPublicKey, "nobody's key: one fixed signature verifies every message"},

	"id/uz-3ms-cm-":    {ErrID, "further segments make further ids for one courier"},
	"id/uz-3ms-cm-abc": {ErrID, "further segments make further ids for one courier"},
	"id/uz-3ms-cm-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx": {ErrID, "further segments make further ids for one courier"},

	"host/foo.uz-3ms-cm.example.com":       {ErrID, "an id stands directly below the hub's domain, nowhere else"},
	"host/uz-3ms-cm.yb-ndr-fg.example.com": {ErrID, "two ids: which courier is meant depends on who reads"},
	"host/uz-3ms-cm":                       {ErrID, "not below the hub's domain"},
	"host/example.uz-3ms-cm":               {ErrID, "not below the hub's domain"},
	"host/uz-3ms-cm-extra.example.com":     {ErrID, "further segments make further ids for one courier"},

	"payload/2":  {ErrSignature, "spare base64 bits of the signature: a one-time payload worked twice"},
	"payload/3":  {ErrSignature, "S raised by the group's order: a one-time payload worked twice"},
	"payload/16": {ErrPayload, "a time that is no number has no age and never expired"},
	"payload/19": {ErrPayload, "no time at all"},
	"payload/21": {ErrPayload, "an array passed for a time"},
	"payload/22": {ErrPayload, "a string passed for a time"},
	"payload/23": {ErrPublicKey, "a third part makes further names for one account"},
}

// acceptedCases lists the recorded cases that the original refuses and this package accepts, and why.
var acceptedCases = map[string]string{
	"host/UZ-3MS-CM.example.com": "host names have no case; the original's capitals were somebody's typing",
}

// usedCases makes sure that each line of the two tables above is about a recorded case.
type usedCases map[string]bool

func (u usedCases) judge(t *testing.T, name string, original bool, err error) {
	t.Helper()
	row, refused := refusedCases[name]
	why, accepted := acceptedCases[name]
	switch {
	case refused:
		u[name] = true
		if !original {
			t.Errorf("%s: listed as accepted by the original, which refuses it", name)
		}
		if !errors.Is(err, row.err) {
			t.Errorf("%s: got %v, want %v, because %s", name, err, row.err, row.why)
		}
	case accepted:
		u[name] = true
		if original || err != nil {
			t.Errorf("%s: original %v, here %v, want it accepted here alone, because %s", name, original, err, why)
		}
	case original && err != nil:
		t.Errorf("%s: %v, and the original accepts it", name, err)
	case !original && err == nil:
		t.Errorf("%s: accepted, and the original refuses it", name)
	}
}

func (u usedCases) complete(t *testing.T, section string) {
	t.Helper()
	for name := range maps.Keys(refusedCases) {
		if strings.HasPrefix(name, section+"/") && !u[name] {
			t.Errorf("refused case %q is not among the recorded ones", name)
		}
	}
	for name := range maps.Keys(acceptedCases) {
		if strings.HasPrefix(name, section+"/") && !u[name] {
			t.Errorf("accepted case %q is not among the recorded ones", name)
		}
	}
}

// outcome is how the original answered a case.
type outcome struct {
	Name    string          `json:"name"`
	In      json.RawMessage `json:"in"`
	Returns json.RawMessage `json:"returns"`
	Throws  string          `json:"throws"`
}

func (o outcome) text(t *testing.T) string {
	t.Helper()
	var s string
	if err := json.Unmarshal(o.In, &s); err != nil { // null is the empty text
		t.Fatal(err)
	}
	return s
}

// accepted tells whether the original gave something other than false.
func (o outcome) accepted() bool { return o.Throws == "" && string(o.Returns) != "false" }

type accountVector struct {
	Name   string `json:"name"`
	Seed   string `json:"sign_seed_hex"`
	Sign   string `json:"sign_secret_key_hex"`
	Box    string `json:"box_secret_key_hex"`
	Public string `json:"secrez_public_key"`
	Legacy string `json:"legacy_public_key_0x"`
}

type vectors struct {
	Accounts []accountVector `json:"accounts"`
	Keccak   []struct {
		In  string `json:"in_utf8"`
		Hex string `json:"hex"`
		B32 string `json:"b32Hash"`
		B58 string `json:"b58Hash"`
		B64 string `json:"b64Hash"`
	} `json:"keccak256"`
	BaseX []struct {
		Hex string `json:"hex"`
		B32 string `json:"base32"`
		B58 string `json:"base58"`
		B64 string `json:"base64"`
	} `json:"base_x"`
	Base32Alphabet string    `json:"base32_alphabet"`
	Base58Alphabet string    `json:"base58_alphabet"`
	Base32Errors   []outcome `json:"base32_decode_errors"`
	Base64         []outcome `json:"base64_decode"`
	IsBase32       []outcome `json:"isBase32String"`
	PublicKeys     []outcome `json:"isValidSecrezPublicKey"`
	Signatures     []struct {
		Hex       string `json:"message_utf8_hex"`
		Signature string `json:"signature"`
	} `json:"signatures"`
	VerifySignature []struct {
		outcome
		Message   string  `json:"message"`
		Key       string  `json:"public_key_hex"`
		Signature *string `json:"signature"`
	} `json:"verifySignature"`
	SharedKey struct {
		AliceBob string `json:"alice_bob_hex"`
	} `json:"shared_key"`
	Box []struct {
		From       string `json:"from"`
		To         string `json:"to"`
		Nonce      string `json:"nonce_hex"`
		Plaintext  string `json:"plaintext"`
		Ciphertext string `json:"ciphertext_base64"`
		RawLen     int    `json:"raw_len"`
	} `json:"box"`
	BoxErrors []outcome `json:"box_open_errors"`
	IDs       []outcome `json:"isValidId_02"`
	Hosts     []outcome `json:"getClientIdFromHostname_02"`
	NewIDs    struct {
		Samples []string `json:"samples"`
	} `json:"newId_02"`
	LegacyIDs struct {
		Prefix  string `json:"alice_prefix"`
		Example string `json:"example_id"`
	} `json:"legacy_01_ids"`
	Payloads []payloadVector `json:"verifyPayload"`
}

type payloadVector struct {
	outcome
	Seq       int     `json:"seq"`
	Payload   string  `json:"payload"`
	Signature *string `json:"signature"`
	Now       int64   `json:"now_ms"`
	ValidFor  *int64  `json:"valid_for_ms"`
	OneTime   bool    `json:"one_time"`
}

func (v payloadVector) signed() Signed {
	s := Signed{Payload: v.Payload}
	if v.Signature != nil {
		s.Signature = *v.Signature
	}
	return s
}

func readVectors(tb testing.TB) vectors {
	tb.Helper()
	var v vectors
	readJSON(tb, "testdata/crypto.json", &v)
	return v
}

func readJSON(tb testing.TB, path string, into any) {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		tb.Fatal(err)
	}
}

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// account imports one of the recorded accounts: alice, bob or mallory.
func account(tb testing.TB, name string) *Account {
	tb.Helper()
	for _, v := range readVectors(tb).Accounts {
		if v.Name != name {
			continue
		}
		a, err := ImportAccount(unhex(tb, v.Sign), unhex(tb, v.Box))
		if err != nil {
			tb.Fatal(err)
		}
		return a
	}
	tb.Fatalf("no account %q", name)
	return nil
}

// derived makes an account out of an identity.
func derived(tb testing.TB, seed byte) *Account {
	tb.Helper()
	id, err := keys.FromSeed(append(make([]byte, 31), seed))
	if err != nil {
		tb.Fatal(err)
	}
	a, err := FromIdentity(id)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func TestVectorsAccounts(t *testing.T) {
	for _, v := range readVectors(t).Accounts {
		a := account(t, v.Name)
		if got := a.Public().String(); got != v.Public {
			t.Errorf("%s: public key %q, want %q", v.Name, got, v.Public)
		}
		if got := a.Public().Legacy(); got != v.Legacy {
			t.Errorf("%s: legacy key %q, want %q", v.Name, got, v.Legacy)
		}
		if legacy, err := ParseLegacyPublicKey(v.Legacy); err != nil || !legacy.Equal(a.Public()) {
			t.Errorf("%s: legacy key parses to %v, %v", v.Name, legacy, err)
		}
		if a.Public().Derived() {
			t.Errorf("%s: independent halves pass for derived ones", v.Name)
		}
		fromSeed, err := ImportAccount(unhex(t, v.Seed), unhex(t, v.Box))
		if err != nil || !fromSeed.Public().Equal(a.Public()) {
			t.Errorf("%s: from its seed: %v, %v", v.Name, fromSeed, err)
		}
	}
}

func TestVectorsEncodings(t *testing.T) {
	v := readVectors(t)
	if v.Base32Alphabet != base32Alphabet || v.Base58Alphabet != base58Alphabet {
		t.Error("another alphabet")
	}
	for _, c := range v.BaseX {
		raw := unhex(t, c.Hex)
		if got := EncodeBase32(raw); got != c.B32 {
			t.Errorf("base32 of %s: %q, want %q", c.Hex, got, c.B32)
		}
		if got := EncodeBase58(raw); got != c.B58 {
			t.Errorf("base58 of %s: %q, want %q", c.Hex, got, c.B58)
		}
		for name, decode := range map[string]func() ([]byte, error){
			"base32": func() ([]byte, error) { return DecodeBase32(c.B32) },
			"base58": func() ([]byte, error) { return DecodeBase58(c.B58) },
		} {
			if got, err := decode(); err != nil || string(got) != string(raw) {
				t.Errorf("%s to %s: %x, %v", name, c.Hex, got, err)
			}
		}
		if got, ok := decodeBase64(c.B64); !ok || string(got) != string(raw) {
			t.Errorf("base64 to %s: %x, %v", c.Hex, got, ok)
		}
	}
	for _, c := range slices.Concat(v.Base32Errors, v.IsBase32) {
		if _, err := DecodeBase32(c.text(t)); (err == nil) != c.accepted() {
			t.Errorf("base32 %s: %v, the original %s%s", c.In, err, c.Returns, c.Throws)
		}
	}
	used := usedCases{}
	for _, c := range v.Base64 {
		var err error
		raw, ok := decodeBase64(c.text(t))
		if !ok {
			err = ErrEncoding
		} else if want := fmt.Sprintf("%q", hex.EncodeToString(raw)); want != string(c.Returns) {
			t.Errorf("base64 %s: %s, want %s", c.In, want, c.Returns)
		}
		used.judge(t, "base64/"+c.text(t), c.accepted(), err)
	}
	used.complete(t, "base64")
}

func TestVectorsKeccak(t *testing.T) {
	for _, c := range readVectors(t).Keccak {
		sum := Keccak256([]byte(c.In))
		if hex.EncodeToString(sum[:]) != c.Hex || EncodeBase32(sum[:]) != c.B32 || EncodeBase58(sum[:]) != c.B58 ||
			base64.StdEncoding.EncodeToString(sum[:]) != c.B64 {
			t.Errorf("Keccak-256 of %q: %x", c.In, sum)
		}
	}
}

func TestVectorsPublicKeys(t *testing.T) {
	used := usedCases{}
	for _, c := range readVectors(t).PublicKeys {
		_, err := publicKeyMember(c.In) // what is no string comes as a JSON value
		used.judge(t, "publicKey/"+c.Name, c.accepted(), err)
	}
	used.complete(t, "publicKey")
}

func TestVectorsSignatures(t *testing.T) {
	v := readVectors(t)
	alice := account(t, "alice")
	for _, c := range v.Signatures {
		message := unhex(t, c.Hex)
		if got := alice.Sign(message); got != c.Signature {
			t.Errorf("signature over %s: %s, want %s", c.Hex, got, c.Signature)
		}
		if err := alice.Public().Verify(message, c.Signature); err != nil {
			t.Errorf("signature over %s: %v", c.Hex, err)
		}
	}
	used := usedCases{}
	for _, c := range v.VerifySignature {
		key, signature := alice.Public(), ""
		var err error
		if c.Key != "" {
			key, err = NewPublicKey(alice.Public().Box(), unhex(t, c.Key))
		}
		if c.Signature != nil {
			signature = *c.Signature
		}
		if err == nil {
			err = key.Verify([]byte(c.Message), signature)
		}
		used.judge(t, "signature/"+c.Name, string(c.Returns) == "true", err)
	}
	used.complete(t, "signature")
}

func TestVectorsSealedMessages(t *testing.T) {
	v := readVectors(t)
	alice, bob := account(t, "alice"), account(t, "bob")
	for _, side := range []struct {
		own  *Account
		peer *Account
	}{{alice, bob}, {bob, alice}} {
		k, err := side.own.Shared(side.peer.Public())
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.key()[:]); got != v.SharedKey.AliceBob {
			t.Errorf("shared key %s, want %s", got, v.SharedKey.AliceBob)
		}
	}
	for _, c := range v.Box {
		k, err := account(t, c.From).Shared(account(t, c.To).Public())
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := k.seal((*[nonceSize]byte)(unhex(t, c.Nonce)), []byte(c.Plaintext))
		if err != nil || base64.StdEncoding.EncodeToString(sealed) != c.Ciphertext {
			t.Errorf("sealing %q: %v, not the recorded bytes", c.Plaintext, err)
		}
		if len(sealed) != c.RawLen || len(sealed) != len(c.Plaintext)+SealedOverhead {
			t.Errorf("sealing %q: %d bytes, want %d", c.Plaintext, len(sealed), c.RawLen)
		}
		if text, err := bob.Open(alice.Public(), c.Ciphertext); err != nil || string(text) != c.Plaintext {
			t.Errorf("bob opens %q, %v; want %q", text, err, c.Plaintext)
		}
		if text, err := alice.Open(bob.Public(), c.Ciphertext); err != nil || string(text) != c.Plaintext {
			t.Errorf("alice opens her copy: %q, %v; want %q", text, err, c.Plaintext)
		}
	}
	for _, c := range v.BoxErrors {
		sender := alice
		if c.Name == "wrong sender key" {
			sender = account(t, "mallory")
		}
		if text, err := bob.Open(sender.Public(), c.text(t)); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %q, %v; want ErrSealed", c.Name, text, err)
		}
	}
}

func TestVectorsIDs(t *testing.T) {
	v := readVectors(t)
	used := usedCases{}
	for _, c := range v.IDs {
		_, err := ParseID(c.text(t))
		used.judge(t, "id/"+c.text(t), c.accepted(), err)
	}
	used.complete(t, "id")
	for _, sample := range v.NewIDs.Samples {
		if id, err := ParseID(sample); err != nil || id.String() != sample {
			t.Errorf("%s: %v, %v", sample, id, err)
		}
	}
}

func TestVectorsHosts(t *testing.T) {
	used := usedCases{}
	for _, c := range readVectors(t).Hosts {
		id, err := idFrom(c.text(t))
		if err == nil && c.accepted() && fmt.Sprintf("%q", id) != string(c.Returns) {
			t.Errorf("%s: %s, want %s", c.In, id, c.Returns)
		}
		used.judge(t, "host/"+c.text(t), c.accepted(), err)
	}
	used.complete(t, "host")
}

// idFrom reads what the original reads with one function: an address, or the Host header of a hub at example.com.
func idFrom(s string) (ID, error) {
	if strings.Contains(s, "//") {
		u, err := ParseContactURL(s)
		return u.ID, err
	}
	id, ok := IDFromHost(s, "example.com")
	if !ok {
		return ID{}, ErrID
	}
	return id, nil
}

// The hub calls for a window of one minute and one use. The original's courier calls for neither: that is Verify alone,
// which is right for a message that is read again later, and no more.
func TestVectorsPayloads(t *testing.T) {
	var now time.Time
	replays := NewReplayCache(ReplayOptions{Now: func() time.Time { return now }})
	used := usedCases{}
	for _, c := range readVectors(t).Payloads {
		now = time.UnixMilli(c.Now)
		p, err := c.signed().Verify()
		if err == nil && c.OneTime {
			err = replays.Admit(p)
		}
		used.judge(t, fmt.Sprintf("payload/%d", c.Seq), string(c.Returns) == "true", err)
		if want, ok := payloadErrors[c.Seq]; ok && !errors.Is(err, want) {
			t.Errorf("payload/%d (%s): %v, want %v", c.Seq, c.Name, err, want)
		}
	}
	used.complete(t, "payload")
}

// payloadErrors are the decisions a hub takes on the cases that the original refuses too, often by failing.
var payloadErrors = map[int]error{
	1: ErrReplayed, 5: ErrExpired, 7: ErrExpired, 10: ErrSignature, 11: ErrSignature, 12: ErrSignature, 13: ErrSignature,
	14: ErrSignature, 15: ErrSignature, 17: ErrPayload, 18: ErrPayload, 20: ErrPayload, 25: ErrPublicKey, 26: ErrPayload,
	27: ErrPayload,
}

func TestVectorsPayloadIsWrittenAsTheOriginalWritesIt(t *testing.T) {
	want := readVectors(t).Payloads[0].signed()
	got, err := account(t, "alice").signPayload(struct {
		ID int `json:"id"`
	}{}, time.UnixMilli(1700000000000), "3mJr7AoUXx2Wqd9K")
	if err != nil || got != want {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestVectorsLegacy(t *testing.T) {
	var v struct {
		PublicKey string `json:"public_key"`
		Hash      string `json:"b32Hash_of_sign_pk"`
		ID        string `json:"example_01_id"`
		Payload   string `json:"payload"`
		Signature string `json:"signature_base58"`
		Box       string `json:"box_base58"`
		Plaintext string `json:"box_plaintext"`
	}
	readJSON(t, "testdata/legacy.json", &v)
	alice, bob := account(t, "alice"), account(t, "bob")

	key, err := ParseLegacyPublicKey(v.PublicKey)
	if err != nil || !key.Equal(alice.Public()) {
		t.Fatalf("key: %v, %v", key, err)
	}
	signature, err := DecodeBase58(v.Signature)
	if err != nil || !ed25519.Verify(key.Identity().Bytes(), []byte(v.Payload), signature) {
		t.Errorf("signature: %v", err)
	}
	k, err := bob.Shared(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := DecodeBase58(v.Box)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := k.Open(sealed); err != nil || string(text) != v.Plaintext {
		t.Errorf("opens %q, %v; want %q", text, err, v.Plaintext)
	}
	ids := readVectors(t).LegacyIDs
	for _, id := range []string{v.ID, ids.Example, v.Hash + "0yyyyyyyy", ids.Prefix + "099999999"} {
		if err := CheckLegacyID(id, key); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
