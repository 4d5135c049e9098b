package keys

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"filippo.io/edwards25519"
)

// identity returns the identity whose seed is the SHA-256 of a name.
func identity(t testing.TB, name string) *Identity {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	id, err := FromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const aliceBase64 = "1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ="

func TestSeedGivesTheIdentityOfSSBKeys(t *testing.T) {
	alice := identity(t, "alice")
	if got := alice.Public().Base64(); got != aliceBase64 {
		t.Errorf("public key %s, want %s", got, aliceBase64)
	}
	if got, want := alice.Public().String(), "@"+aliceBase64+".ed25519"; got != want {
		t.Errorf("reference %s, want %s", got, want)
	}
	if got := alice.Public().Short(); got != "@1b9KP8" {
		t.Errorf("short form %s", got)
	}
	want := sha256.Sum256([]byte("alice"))
	if !bytes.Equal(alice.Seed(), want[:]) {
		t.Error("Seed is not the seed")
	}
}

func TestStringSeedGivesTheIdentityOfSSBKeys(t *testing.T) {
	for _, tt := range []struct{ name, seed, hex string }{
		{"short", "alice", "616c696365" + strings.Repeat("00", 27)},
		{"empty", "", strings.Repeat("00", 32)},
		{"long", strings.Repeat("abcd", 20), strings.Repeat("61626364", 8)},
		{"two bytes a character", strings.Repeat("é", 40), strings.Repeat("c3a9", 16)},
		{"surrogate pair cut in two", strings.Repeat("a", 31) + "\U0001F600", strings.Repeat("61", 31) + "ef"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := FromStringSeed(tt.seed)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(id.Seed()); got != tt.hex {
				t.Errorf("seed %s, want %s", got, tt.hex)
			}
		})
	}
}

func TestGeneratedIdentitiesDiffer(t *testing.T) {
	a, errA := Generate()
	b, errB := Generate()
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	if a.Public().Equal(b.Public()) {
		t.Error("two new identities are the same")
	}
}

func TestWrongLengthsAreRefused(t *testing.T) {
	for _, n := range []int{0, 31, 33, 64} {
		if _, err := FromSeed(make([]byte, n)); err == nil {
			t.Errorf("seed of %d bytes taken", n)
		}
		if _, err := NewPublicKey(make([]byte, n)); err == nil {
			t.Errorf("public key of %d bytes taken", n)
		}
		if _, err := NewAppKey(bytes.Repeat([]byte{1}, n)); err == nil {
			t.Errorf("app key of %d bytes taken", n)
		}
	}
	if _, err := NewAppKey(make([]byte, AppKeySize)); err == nil {
		t.Error("app key of zeros taken")
	}
}

func TestSignaturesVerify(t *testing.T) {
	alice, bob := identity(t, "alice"), identity(t, "bob")
	msg := []byte("a message")
	sig := alice.Sign(msg)
	if !alice.Public().Verify(msg, sig) {
		t.Error("own signature does not verify")
	}
	if bob.Public().Verify(msg, sig) {
		t.Error("another's signature verifies")
	}
	if alice.Public().Verify([]byte("another message"), sig) {
		t.Error("signature of another message verifies")
	}
	for _, n := range []int{0, 63, 65} {
		if alice.Public().Verify(msg, make([]byte, n)) {
			t.Errorf("signature of %d bytes verifies", n)
		}
	}
}

func TestX25519FormsBelongTogether(t *testing.T) {
	alice, bob := identity(t, "alice"), identity(t, "bob")
	shared := func(mine *Identity, theirs PublicKey) []byte {
		private, err := mine.X25519()
		if err != nil {
			t.Fatal(err)
		}
		public, err := theirs.X25519()
		if err != nil {
			t.Fatal(err)
		}
		s, err := private.ECDH(public)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if !bytes.Equal(shared(alice, bob.Public()), shared(bob, alice.Public())) {
		t.Error("the two sides make different secrets")
	}
	private, _ := alice.X25519()
	public, _ := alice.Public().X25519()
	if !private.PublicKey().Equal(public) {
		t.Error("the converted public key is not the converted private key's")
	}
}

// smallOrderKeys returns every encoding, canonical or not, of the eight points
// of small order.
func smallOrderKeys(t testing.TB) [][]byte {
	t.Helper()
	minusOne, err := edwards25519.NewScalar().SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))
	if err != nil {
		t.Fatal(err)
	}
	minusOne.Negate(minusOne)
	var out [][]byte
	for i := range 300 {
		h := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		p, err := new(edwards25519.Point).SetBytes(h[:])
		if err != nil {
			continue
		}
		// The order of the main subgroup times p leaves the part of small order.
		q := new(edwards25519.Point).ScalarMult(minusOne, p)
		if b := q.Add(q, p).Bytes(); !slices.ContainsFunc(out, func(o []byte) bool { return bytes.Equal(o, b) }) {
			out = append(out, b)
		}
	}
	if len(out) != 8 {
		t.Fatalf("found %d points of small order instead of 8", len(out))
	}
	// y = 0 and y = 1 have a second encoding, y + p, and x = 0 a second sign.
	for _, first := range []byte{0xed, 0xee} {
		b := append([]byte{first}, bytes.Repeat([]byte{0xff}, 31)...)
		out = append(out, bytes.Clone(b))
		b[31] = 0x7f
		out = append(out, b)
	}
	for _, y := range []string{
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	} {
		b, _ := hex.DecodeString(y)
		out = append(out, b)
	}
	return out
}

// Defect: a small-order key makes a shared secret or a signature that anybody
// can make, and crashed or passed in other implementations.
func TestWartLowOrderPublicKeysAreRefused(t *testing.T) {
	neutral := append([]byte{1}, make([]byte, 31)...)
	forged := append(bytes.Clone(neutral), make([]byte, 32)...) // R neutral, S zero
	for _, b := range smallOrderKeys(t) {
		k, err := NewPublicKey(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.X25519(); err == nil {
			t.Errorf("%x has an X25519 form", b)
		}
		if k.Verify([]byte("anything"), forged) {
			t.Errorf("%x verifies a signature that nobody made", b)
		}
	}
}

// Defect A5: dialling a key that is no curve point panicked.
func TestDefectA5KeysOffTheCurveAreAnError(t *testing.T) {
	off := 0
	for i := range 100 {
		h := sha256.Sum256([]byte{byte(i)})
		k, err := NewPublicKey(h[:])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := new(edwards25519.Point).SetBytes(h[:]); err == nil {
			continue
		}
		off++
		if _, err := k.X25519(); err == nil {
			t.Errorf("%x is off the curve and has an X25519 form", h)
		}
		if k.Verify(nil, make([]byte, 64)) {
			t.Errorf("%x is off the curve and verifies", h)
		}
	}
	if off < 20 {
		t.Errorf("only %d keys were off the curve", off)
	}
}

func TestParsePublicKeyTakesWhatPeopleType(t *testing.T) {
	want := identity(t, "alice").Public()
	for _, s := range []string{
		"@" + aliceBase64 + ".ed25519",
		aliceBase64 + ".ed25519",
		aliceBase64,
		"@" + aliceBase64,
	} {
		k, err := ParsePublicKey(s)
		if err != nil || !k.Equal(want) {
			t.Errorf("%s: %v, %v", s, k, err)
		}
	}
}

func TestParsePublicKeySaysWhatIsWrong(t *testing.T) {
	private := base64.StdEncoding.EncodeToString(make([]byte, 64))
	for _, tt := range []struct{ in, want string }{
		{"", "empty"},
		{"@", "empty"},
		{" " + aliceBase64, "space"},
		{aliceBase64 + "\n", "line end"},
		{aliceBase64[:20] + "\n" + aliceBase64[20:], "line end"},
		{strings.TrimSuffix(aliceBase64, "="), `"=" at the end`},
		{strings.NewReplacer("/", "_").Replace(aliceBase64), "url-safe"},
		{private, "secret key"},
		{private + ".ed25519", "secret key"},
		{aliceBase64[:40], "40 characters instead of 44"},
		{"!" + aliceBase64[1:], "damaged"},
		{aliceBase64[:42] + "R=", "damaged"}, // bits after the end of the key
		{aliceBase64[:42] + "==", "damaged"},
		{aliceBase64 + ".ed25519.ed25519", "52 characters"},
		{strings.Repeat("A", 43) + "=", "zeros"},
	} {
		k, err := ParsePublicKey(tt.in)
		if err == nil {
			t.Errorf("%q was taken as %v", tt.in, k)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %q does not say %q", tt.in, err, tt.want)
		}
		if len(tt.in) > 10 && strings.Contains(err.Error(), strings.TrimSpace(tt.in)[:10]) {
			t.Errorf("%q: error %q repeats the input", tt.in, err)
		}
	}
}

func TestLenientParserDecodesAsNodeDoes(t *testing.T) {
	want := identity(t, "alice").Public()
	bare := strings.TrimSuffix(aliceBase64, "=")
	for _, s := range []string{
		aliceBase64, bare, "@" + aliceBase64, "@" + aliceBase64 + ".ed25519", aliceBase64 + ".ed25519.ed25519",
		strings.ReplaceAll(bare, "/", "_"), " " + aliceBase64[:9] + "\n" + aliceBase64[9:], aliceBase64 + "AAAA",
		aliceBase64[:43] + "\u00e9=", bare[:42] + "R", // the last two bits belong to no byte
	} {
		k, err := ParsePublicKeyLenient(s)
		if err != nil || !k.Equal(want) {
			t.Errorf("%q: %v, %v", s, k, err)
		}
	}
	for _, s := range []string{"", "=", "=" + aliceBase64, bare[:42], bare + "A", bare + "AA", bare + ".ed25519", strings.Repeat("A", 1<<16)} {
		if k, err := ParsePublicKeyLenient(s); err == nil {
			t.Errorf("%.60q was taken as %v", s, k)
		}
	}
}

func TestZeroPublicKeyIsNoKey(t *testing.T) {
	var k PublicKey
	if !k.IsZero() || k.Ref() != "" || k.Short() != "@?" {
		t.Errorf("the zero key is shown as %q, %q", k.Ref(), k.Short())
	}
	if identity(t, "alice").Public().IsZero() {
		t.Error("a real key is the zero key")
	}
}

func TestPublicKeyTextRoundTrips(t *testing.T) {
	type doc struct{ A, B PublicKey }
	in := doc{A: identity(t, "alice").Public()}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"A":"@` + aliceBase64 + `.ed25519","B":""}`; string(b) != want {
		t.Errorf("JSON %s, want %s", b, want)
	}
	out := doc{B: identity(t, "bob").Public()}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if !out.A.Equal(in.A) || !out.B.IsZero() {
		t.Errorf("read back %v", out)
	}
	if err := json.Unmarshal([]byte(`"nonsense"`), &out.A); err == nil {
		t.Error("nonsense was read as a key")
	}
	if !out.A.Equal(in.A) {
		t.Error("a failed read changed the key")
	}
}

func TestPublicKeyCopiesItsBytes(t *testing.T) {
	k := identity(t, "alice").Public()
	k.Bytes()[0]++
	if a := k.Array(); !bytes.Equal(a[:], k.Bytes()) || k.Base64() != aliceBase64 {
		t.Error("the key's bytes were changed from outside")
	}
}

func TestAppKeyParses(t *testing.T) {
	const mainNet = "1KHLiKZvAvjbY1ziZEHMXawbCEIM6qwjCDm3VYRan/s="
	for _, s := range []string{mainNet, mainNet + ".sha256"} {
		k, err := ParseAppKey(s)
		if err != nil || !k.Equal(MainNet()) {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", ".", mainNet[1:], mainNet + "=", "\n" + mainNet, strings.Repeat("A", 43) + "="} {
		if _, err := ParseAppKey(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestAppKeyEquality(t *testing.T) {
	other, err := NewAppKey(bytes.Repeat([]byte{7}, AppKeySize))
	if err != nil {
		t.Fatal(err)
	}
	var zero AppKey
	if !MainNet().Equal(MainNet()) || MainNet().Equal(other) || MainNet().Equal(zero) || zero.Equal(other) || !zero.Equal(AppKey{}) {
		t.Error("Equal is wrong")
	}
	if MainNet().IsZero() || !zero.IsZero() || zero.Bytes() != nil {
		t.Error("IsZero or Bytes is wrong")
	}
	MainNet().Bytes()[0]++
	if b := MainNet().Bytes(); b[0] != 0xd4 {
		t.Error("the key's bytes were changed from outside")
	}
}

// secretForms returns the texts in which a secret could show up.
func secretForms(secret []byte) []string {
	forms := []string{
		hex.EncodeToString(secret)[:16],
		strings.ToUpper(hex.EncodeToString(secret)[:16]),
		base64.StdEncoding.EncodeToString(secret)[:12],
		string(secret[:8]),
		strings.Trim(fmt.Sprint(secret[:6]), "[]"),
	}
	var list []string
	for _, b := range secret[:6] {
		list = append(list, fmt.Sprintf("%#x", b))
	}
	return append(forms, strings.Join(list, ", "))
}

func TestSecretsAreNeverShown(t *testing.T) {
	id := identity(t, "alice")
	appKey, err := NewAppKey(id.Seed())
	if err != nil {
		t.Fatal(err)
	}
	type exported struct {
		ID    *Identity
		Value Identity
		Key   AppKey
		Keys  []AppKey
	}
	type hidden struct {
		id    *Identity
		value Identity
		key   AppKey
		m     map[string]AppKey
	}
	values := []any{
		id, *id, appKey, &appKey,
		exported{id, *id, appKey, []AppKey{appKey}}, &exported{id, *id, appKey, nil},
		hidden{id, *id, appKey, map[string]AppKey{"": appKey}}, &hidden{id, *id, appKey, nil},
		[]*Identity{id}, map[string]Identity{"": *id}, fmt.Errorf("wrapped: %v", id),
	}
	forms := append(secretForms(id.Seed()), secretForms(mustX25519(t, id).Bytes())...)
	for i, v := range values {
		for name, text := range renderings(t, v) {
			for _, form := range forms {
				if strings.Contains(text, form) {
					t.Errorf("value %d (%T) shows its secret through %s: %s", i, v, name, text)
				}
			}
		}
	}
	if s := fmt.Sprint(id); !strings.Contains(s, id.Public().Ref()) {
		t.Errorf("an identity prints as %s, without its public key", s)
	}
}

func mustX25519(t *testing.T, id *Identity) *ecdh.PrivateKey {
	t.Helper()
	k, err := id.X25519()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// renderings shows v in all the ways that happen by accident.
func renderings(t *testing.T, v any) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d", "%o", "%b", "%T", "% x", "%#x"} {
		out[verb] = fmt.Sprintf(verb, v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out["json"] = string(b)
	var buf bytes.Buffer
	slog.New(slog.NewTextHandler(&buf, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	out["slog text"] = buf.String()
	buf.Reset()
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("m", "v", v, slog.Group("g", "v", v))
	out["slog json"] = buf.String()
	return out
}

func TestZeroIdentityIsRecognised(t *testing.T) {
	var none *Identity
	if !none.IsZero() || !new(Identity).IsZero() || identity(t, "alice").IsZero() {
		t.Error("IsZero is wrong")
	}
	if got := fmt.Sprint(new(Identity)); got != "keys.Identity(none)" {
		t.Errorf("the zero identity prints as %s", got)
	}
}

func TestSignIsPlainEd25519(t *testing.T) {
	id := identity(t, "alice")
	want := ed25519.Sign(ed25519.NewKeyFromSeed(id.Seed()), []byte("m"))
	if !bytes.Equal(id.Sign([]byte("m")), want) {
		t.Error("Sign differs from crypto/ed25519")
	}
}
