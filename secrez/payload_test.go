package secrez

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

var anyTime = time.UnixMilli(1700000000000)

// signText signs any text as a payload, well formed or not.
func signText(a *Account, text string) Signed {
	return Signed{Payload: text, Signature: a.Sign([]byte(text))}
}

// signMembers signs an object of these members and the account's key.
func signMembers(a *Account, members string) Signed {
	return signText(a, fmt.Sprintf(`{%s,"publicKey":"%s"}`, members, a.Public()))
}

func mustVerify(tb testing.TB, s Signed) *Payload {
	tb.Helper()
	p, err := s.Verify()
	if err != nil {
		tb.Fatalf("%s: %v", s.Payload, err)
	}
	return p
}

func TestPayloadsAreMadeAndVerified(t *testing.T) {
	for _, a := range []*Account{account(t, "alice"), derived(t, 1)} {
		s, err := a.SignPayload(map[string]any{"id": 0, "reset": true, "text": "<a&b> caffè \u2028"}, anyTime.Add(999*time.Microsecond))
		if err != nil {
			t.Fatal(err)
		}
		p := mustVerify(t, s)
		if !p.PublicKey().Equal(a.Public()) || !p.When().Equal(anyTime) || len(p.Salt()) != saltSize || p.Signed() != s {
			t.Errorf("read back: %v, %v, %q", p.PublicKey(), p.When(), p.Salt())
		}
		var reset bool
		if found, err := p.Field("reset", &reset); !found || err != nil || !reset {
			t.Errorf("reset: %v, %v, %v", found, err, reset)
		}
		var text string
		if found, err := p.Field("text", &text); !found || err != nil || text != "<a&b> caffè \u2028" {
			t.Errorf("text: %v, %v, %q", found, err, text)
		}
		if !strings.Contains(s.Payload, "<a&b>") {
			t.Errorf("escaped where JavaScript does not: %s", s.Payload)
		}
	}
}

func TestPayloadBodiesMayBeEmpty(t *testing.T) {
	a := derived(t, 1)
	for _, body := range []any{nil, struct{}{}, map[string]int{}, json.RawMessage("{}"), json.RawMessage(" { } ")} {
		s, err := a.SignPayload(body, anyTime)
		if err != nil {
			t.Errorf("%v: %v", body, err)
			continue
		}
		if !strings.HasPrefix(s.Payload, `{"when":1700000000000,"publicKey":"`) {
			t.Errorf("%v: %s", body, s.Payload)
		}
		mustVerify(t, s)
	}
}

func TestPayloadBodiesAreObjectsAndLeaveThreeNamesFree(t *testing.T) {
	a := derived(t, 1)
	for _, body := range []any{
		1, "text", []int{1}, true, (*int)(nil), json.RawMessage("null"), make(chan int), math.Inf(1), func() {},
		map[string]int{"when": 1}, map[string]string{"publicKey": "x"}, map[string]string{"salt": "x"},
		json.RawMessage(`{"a":1,"a":2}`), strings.Repeat("x", MaxPayload), map[string]string{"x": strings.Repeat("x", MaxPayload)},
	} {
		if s, err := a.SignPayload(body, anyTime); err == nil || s != (Signed{}) {
			t.Errorf("%.40v: %.80v, %v", body, s, err)
		}
	}
	for _, when := range []time.Time{time.UnixMilli(maxSafeInteger + 1), time.UnixMilli(-maxSafeInteger - 1)} {
		if _, err := a.SignPayload(nil, when); !errors.Is(err, ErrPayload) {
			t.Errorf("%v: %v", when, err)
		}
	}
}

func TestSaltsAreBase58AndDiffer(t *testing.T) {
	seen := map[string]bool{}
	letters := map[rune]bool{}
	for range 200 {
		salt := newSalt()
		if len(salt) != saltSize || strings.Trim(salt, base58Alphabet) != "" || seen[salt] {
			t.Fatalf("salt %q", salt)
		}
		seen[salt] = true
		for _, c := range salt {
			letters[c] = true
		}
	}
	if len(letters) != len(base58Alphabet) {
		t.Errorf("%d of %d characters in use", len(letters), len(base58Alphabet))
	}
}

// Defect: a time that is no number had no age; it passed every window and was never forgotten.
func TestAttackWhenIsASafeIntegerNumber(t *testing.T) {
	a := derived(t, 1)
	good := map[string]int64{
		`1700000000000`:         1700000000000,
		` 1700000000000 `:       1700000000000,
		`1700000000000.0`:       1700000000000, // as Python writes a float: the same number in JavaScript
		`1.7e12`:                1700000000000,
		`0`:                     0,
		`-1`:                    -1,
		`9007199254740991`:      maxSafeInteger,
		`-9007199254740991`:     -maxSafeInteger,
		`1700000000000.0000000`: 1700000000000,
	}
	for when, want := range good {
		p, err := signMembers(a, `"when":`+when).Verify()
		if err != nil || p.When().UnixMilli() != want {
			t.Errorf("%s: %v", when, err)
		}
	}
	for _, when := range []string{
		`"1700000000000"`, `"x"`, `"not-a-number"`, `""`, `"__proto__"`, `"constructor"`, `"NaN"`, `"Infinity"`, `"0x10"`,
		`[1700000000000]`, `[]`, `[[1]]`, `{}`, `{"valueOf":1}`, `null`, `true`, `false`,
		`1700000000000.5`, `0.1`, `1e-3`, `9007199254740992`, `-9007199254740992`, `9007199254740993`, `1e21`, `1e308`, `1e309`, `-1e999`,
	} {
		if _, err := signMembers(a, `"when":`+when).Verify(); !errors.Is(err, ErrPayload) {
			t.Errorf("%s: %v, want ErrPayload", when, err)
		}
	}
	for _, members := range []string{`"id":0`, `"When":1700000000000`, `"WHEN":1700000000000`, `" when":1`, `"when\u0000":1`} {
		if _, err := signMembers(a, members).Verify(); !errors.Is(err, ErrPayload) {
			t.Errorf("%s: %v, want ErrPayload", members, err)
		}
	}
}

// Defect: "__proto__" as time polluted every object of the hub's process, until it was started again.
func TestAttackPrototypeNamesAreHarmless(t *testing.T) {
	a := derived(t, 1)
	replays := NewReplayCache(ReplayOptions{Now: func() time.Time { return anyTime }})
	for _, name := range []string{"__proto__", "constructor", "prototype", "hasOwnProperty", "toString", "get"} {
		if _, err := signMembers(a, fmt.Sprintf(`"when":%q`, name)).Verify(); !errors.Is(err, ErrPayload) {
			t.Errorf("as time, %s: %v", name, err)
		}
		p := mustVerify(t, signMembers(a, fmt.Sprintf(`"when":1700000000000,%q:{"when":1},"salt":%q`, name, name)))
		if err := replays.Admit(p); err != nil {
			t.Errorf("as member, %s: %v", name, err)
		}
		if err := replays.Admit(p); !errors.Is(err, ErrReplayed) {
			t.Errorf("as member, %s, again: %v", name, err)
		}
		if found, err := mustVerify(t, signMembers(a, `"when":1`)).Field(name, new(any)); found || err != nil {
			t.Errorf("absent member %s: %v, %v", name, found, err)
		}
	}
}

func TestPayloadsThatAreWrong(t *testing.T) {
	a := derived(t, 1)
	key := fmt.Sprintf(`"publicKey":"%s"`, a.Public())
	for text, want := range map[string]error{
		"":                                     ErrPayload,
		" ":                                    ErrPayload,
		"null":                                 ErrPayload,
		" null ":                               ErrPayload,
		"not json":                             ErrPayload,
		"{":                                    ErrPayload,
		"{}}":                                  ErrPayload,
		"{}{}":                                 ErrPayload,
		`{"when":1,` + key:                     ErrPayload,
		`{"when":1,` + key + `,}`:              ErrPayload,
		`{'when':1,` + key + `}`:               ErrPayload,
		`{"when":01,` + key + `}`:              ErrPayload,
		`{"when":1;` + key + `}`:               ErrPayload,
		`{"when":1,` + key + `}x`:              ErrPayload,
		"\ufeff" + `{"when":1,` + key + `}`:    ErrPayload,
		`{"when":1,"when":1,` + key + `}`:      ErrPayload,
		`{"when":1,` + key + `,` + key + `}`:   ErrPayload,
		`{"when":1,"\u0077hen":2,` + key + `}`: ErrPayload,
		`{"when":1,"a":1,"a":1,` + key + `}`:   ErrPayload,
		`{"when":1,"salt":1,` + key + `}`:      ErrPayload,
		`{"when":1,"salt":null,` + key + `}`:   ErrPayload,
		`{"when":1,"salt":["x"],` + key + `}`:  ErrPayload,
		"{\"when\":1,\"x\":\"\xff\"," + key + "}": ErrPayload,
		"{\"when\":1,\"x\":\"\n\"," + key + "}":   ErrPayload,
		"5":                                       ErrPublicKey, // as the original answers
		"true":                                    ErrPublicKey,
		`"text"`:                                  ErrPublicKey,
		"[]":                                      ErrPublicKey,
		`[{"when":1,` + key + `}]`:                ErrPublicKey,
		"{}":                                      ErrPublicKey,
		`{"when":1}`:                              ErrPublicKey,
		`{"when":"x"}`:                            ErrPublicKey, // the key comes first, as in the original
		`{"when":1,"PublicKey":"` + a.Public().String() + `"}`:      ErrPublicKey,
		`{"when":1,"publicKey":null}`:                               ErrPublicKey,
		`{"when":1,"publicKey":5}`:                                  ErrPublicKey,
		`{"when":1,"publicKey":"abc"}`:                              ErrPublicKey,
		`{"when":1,"publicKey":["` + a.Public().String() + `"]}`:    ErrPublicKey,
		`{"when":1,"publicKey":"` + a.Public().String() + `$AAAA"}`: ErrPublicKey,
		`{"when":1,"publicKey":"` + a.Public().Legacy() + `"}`:      ErrPublicKey,
	} {
		p, err := signText(a, text).Verify()
		if !errors.Is(err, want) || p != nil {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

func TestPayloadsAreBounded(t *testing.T) {
	a := derived(t, 1)
	frame := len(signMembers(a, `"when":1,"x":""`).Payload)
	longest := signMembers(a, `"when":1,"x":"`+strings.Repeat("x", MaxPayload-frame)+`"`)
	if _, err := longest.Verify(); err != nil || len(longest.Payload) != MaxPayload {
		t.Errorf("%d bytes: %v", len(longest.Payload), err)
	}
	if _, err := signText(a, longest.Payload+" ").Verify(); !errors.Is(err, ErrPayload) {
		t.Errorf("one byte more: %v", err)
	}
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	if _, err := signMembers(a, `"when":1,"x":`+deep).Verify(); !errors.Is(err, ErrPayload) {
		t.Errorf("deeply nested: %v", err)
	}
	many := strings.Repeat(`"x":1,`, MaxPayload/8)
	if _, err := signText(a, "{"+many+`"when":1}`).Verify(); !errors.Is(err, ErrPayload) {
		t.Errorf("many members: %v", err)
	}
}

func TestASignatureCoversEveryByteOfThePayload(t *testing.T) {
	a := derived(t, 1)
	s, err := a.SignPayload(map[string]int{"id": 0}, anyTime)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(s.Payload) {
		for bit := range 8 {
			changed := []byte(s.Payload)
			changed[i] ^= 1 << bit
			if _, err := (Signed{string(changed), s.Signature}).Verify(); err == nil {
				t.Errorf("byte %d, bit %d changed and accepted", i, bit)
			}
		}
		if _, err := (Signed{s.Payload[:i], s.Signature}).Verify(); err == nil {
			t.Errorf("cut to %d bytes and accepted", i)
		}
	}
	for _, text := range []string{" " + s.Payload, s.Payload + "\n", strings.Replace(s.Payload, ":", ": ", 1), strings.ReplaceAll(s.Payload, "/", `\/`)} {
		if text == s.Payload {
			continue
		}
		if _, err := (Signed{text, s.Signature}).Verify(); !errors.Is(err, ErrSignature) {
			t.Errorf("the same JSON in other bytes: %v", err)
		}
	}
}

func TestASignatureOfAnotherAccountIsRefused(t *testing.T) {
	alice, mallory := account(t, "alice"), account(t, "mallory")
	s, err := alice.SignPayload(nil, anyTime)
	if err != nil {
		t.Fatal(err)
	}
	s.Signature = mallory.Sign([]byte(s.Payload))
	if _, err := s.Verify(); !errors.Is(err, ErrSignature) {
		t.Errorf("got %v", err)
	}
}

// Defect: "reset" stood beside the signed payload, so whoever passed a request on could add it.
func TestAttackMembersAreReadFromWhatWasSigned(t *testing.T) {
	a := derived(t, 1)
	for members, want := range map[string]bool{
		`"when":1,"reset":true`:                 true,
		`"when":1,"reset":false`:                false,
		`"when":1`:                              false,
		`"when":1,"RESET":true`:                 false,
		`"when":1,"reset":false,"Reset":true`:   false,
		`"when":1,"reset":null`:                 false,
		`"when":1,"nested":{"reset":true}`:      false,
		`"when":1,"\u0072eset":true`:            true,
		`"when":1,"reset":true,"reset\u0000":0`: true,
	} {
		var reset bool
		if _, err := mustVerify(t, signMembers(a, members)).Field("reset", &reset); err != nil || reset != want {
			t.Errorf("%s: %v, %v", members, reset, err)
		}
	}
	for _, value := range []string{`"true"`, `"false"`, `1`, `[]`, `{}`} {
		var reset bool
		found, err := mustVerify(t, signMembers(a, `"when":1,"reset":`+value)).Field("reset", &reset)
		if !found || !errors.Is(err, ErrPayload) || reset {
			t.Errorf("%s: %v, %v, %v", value, found, err, reset)
		}
	}
}

func TestDigestsNameWhatWasSignedAndByWhom(t *testing.T) {
	alice := account(t, "alice")
	text := func(members string) string { return members }
	digests := map[[32]byte]string{}
	for _, s := range []Signed{
		signMembers(alice, text(`"when":1`)), signMembers(alice, text(`"when":2`)), signMembers(alice, text(`"when":1,"salt":"a"`)),
		signMembers(alice, text(` "when":1`)), signMembers(account(t, "bob"), text(`"when":1`)),
	} {
		p := mustVerify(t, s)
		if other, twice := digests[p.Digest()]; twice {
			t.Errorf("%s has the digest of %s", s.Payload, other)
		}
		if p.Digest() != mustVerify(t, s).Digest() {
			t.Error("not the same twice")
		}
		digests[p.Digest()] = s.Payload
	}
}

func TestFreshIncludesItsLimits(t *testing.T) {
	p := mustVerify(t, signMembers(derived(t, 1), `"when":1700000000000`))
	for offset, want := range map[time.Duration]error{
		0:                                nil,
		time.Minute:                      nil,
		-time.Minute:                     nil,
		time.Minute + time.Microsecond:   nil, // the same millisecond
		time.Minute + time.Millisecond:   ErrExpired,
		-time.Minute - time.Millisecond:  ErrExpired,
		24 * 365 * time.Hour:             ErrExpired,
		-24 * 365 * 290 * time.Hour:      ErrExpired,
		time.Minute - 1*time.Millisecond: nil,
	} {
		if err := p.Fresh(anyTime.Add(offset), time.Minute); !errors.Is(err, want) {
			t.Errorf("%v: %v, want %v", offset, err, want)
		}
	}
}

func TestFreshDoesNotOverflow(t *testing.T) {
	for _, when := range []string{"9007199254740991", "-9007199254740991"} {
		p := mustVerify(t, signMembers(derived(t, 1), `"when":`+when))
		if err := p.Fresh(anyTime, math.MaxInt64); !errors.Is(err, ErrExpired) {
			t.Errorf("%s: %v", when, err)
		}
	}
}

func TestSignedTravelsAsTheOriginalPostsIt(t *testing.T) {
	s, err := derived(t, 1).SignPayload(nil, anyTime)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil || !strings.HasPrefix(string(text), `{"payload":"{\"when\":`) || !strings.Contains(string(text), `","signature":"`) {
		t.Fatalf("%s, %v", text, err)
	}
	var back Signed
	if err := json.Unmarshal(text, &back); err != nil || back != s {
		t.Errorf("%v, %v", back, err)
	}
}

// The original turns an unpaired surrogate into U+FFFD when it takes the bytes to sign, and so does a Go JSON reader.
func TestUnpairedSurrogatesVerifyAsTheOriginalSignedThem(t *testing.T) {
	a := derived(t, 1)
	signed := fmt.Sprintf(`{"x":"%s","when":1,"publicKey":"%s"}`, "\ufffd", a.Public())
	posted := fmt.Sprintf(`{"payload":%q,"signature":%q}`, strings.Replace(signed, "\ufffd", "SURROGATE", 1), a.Sign([]byte(signed)))
	var s Signed
	if err := json.Unmarshal([]byte(strings.Replace(posted, "SURROGATE", `\ud800`, 1)), &s); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, s)
}

func FuzzVerify(f *testing.F) {
	for _, c := range readVectors(f).Payloads {
		f.Add(c.signed().Payload, c.signed().Signature)
	}
	f.Add(`{"a":{"b":[1,2,{"c":null}]},"when":1e3}`, "")
	a := derived(f, 1)
	f.Fuzz(func(t *testing.T, payload, signature string) {
		known := []error{ErrPayload, ErrPublicKey, ErrSignature}
		p, err := Signed{payload, signature}.Verify()
		if err == nil {
			checkVerified(t, p, payload)
		} else if !slices.ContainsFunc(known, func(e error) bool { return errors.Is(err, e) }) {
			t.Fatalf("untyped error %v", err)
		}
		// The same members with a right signature, so that the fuzzer gets past it.
		if p, err := signMembers(a, `"x":1,`+payload).Verify(); err == nil {
			checkVerified(t, p, p.Signed().Payload)
		}
	})
}

func checkVerified(t *testing.T, p *Payload, text string) {
	t.Helper()
	if p.Signed().Payload != text || p.PublicKey().IsZero() {
		t.Fatalf("%q verified as %q", text, p.Signed().Payload)
	}
	if ms := p.When().UnixMilli(); !safeInteger(ms) {
		t.Fatalf("%q: time %d", text, ms)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &members); err != nil || len(members) != len(p.members) {
		t.Fatalf("%q: %d members, %v", text, len(p.members), err)
	}
	for name := range members {
		if found, err := p.Field(name, new(any)); !found || err != nil {
			t.Fatalf("%q: member %q: %v, %v", text, name, found, err)
		}
	}
	replays := NewReplayCache(ReplayOptions{Now: p.When})
	if err := replays.Admit(p); err != nil {
		t.Fatal(err)
	}
	if err := replays.Admit(p); !errors.Is(err, ErrReplayed) {
		t.Fatalf("%q: admitted twice: %v", text, err)
	}
}

func BenchmarkVerify(b *testing.B) {
	s := readVectors(b).Payloads[0].signed()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Verify(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestVerifyFreshLooksAtTheTimeFirst(t *testing.T) {
	a := derived(t, 1)
	now := time.UnixMilli(startMS)
	for _, c := range []struct {
		what  string
		ms    int64
		spoil bool
		want  error
	}{
		{"fresh", startMS - 60000, false, nil},
		{"fresh, another's signature", startMS, true, ErrSignature},
		{"old", startMS - 60001, false, ErrExpired},
		{"old, another's signature", startMS - 60001, true, ErrExpired},
		{"early", startMS + 60001, false, ErrExpired},
	} {
		signed := signMembers(a, fmt.Sprintf(`"when":%d`, c.ms))
		if c.spoil {
			signed.Signature = derived(t, 2).Sign([]byte(signed.Payload))
		}
		p, err := signed.VerifyFresh(now, time.Minute)
		wantErr(t, c.what, err, c.want)
		if (p == nil) != (c.want != nil) {
			t.Errorf("%s: %v", c.what, p)
		}
	}
	_, err := Signed{Payload: "{"}.VerifyFresh(now, time.Minute)
	wantErr(t, "no JSON", err, ErrPayload)
}
