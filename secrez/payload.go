package secrez

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	// MaxPayload is the longest payload, in bytes, that is made or verified.
	MaxPayload = 1 << 20

	// maxSafeInteger is the greatest whole number that JavaScript tells from its neighbours.
	maxSafeInteger = 1<<53 - 1

	saltSize = 16

	memberWhen      = "when"
	memberPublicKey = "publicKey"
	memberSalt      = "salt"
)

// Signed is a payload and its signature as they travel: two texts, in a query or as JSON. Nothing about it is checked yet.
type Signed struct {
	Payload   string `json:"payload"`
	Signature string `json:"signature"`
}

// Payload is a payload whose signature and types are right. It exists only as [Signed.Verify] makes it.
type Payload struct {
	signed  Signed
	key     PublicKey
	when    int64 // ms since 1970
	salt    string
	members map[string]json.RawMessage
}

// SignPayload writes body, which must marshal to a JSON object, adds the members "when", "publicKey" and "salt", and
// signs the text. A nil body is an empty object. Its error is [ErrPayload]: for a body that is no object or already has
// one of the three, or for more than [MaxPayload] bytes.
func (a *Account) SignPayload(body any, when time.Time) (Signed, error) {
	return a.signPayload(body, when, newSalt())
}

func (a *Account) signPayload(body any, when time.Time, salt string) (Signed, error) {
	object, err := marshalObject(body)
	if err != nil {
		return Signed{}, err
	}
	ms := when.UnixMilli()
	if !safeInteger(ms) {
		return Signed{}, fmt.Errorf("%w: %q out of range", ErrPayload, memberWhen)
	}
	text := object[:len(object)-1]
	if len(text) > 1 {
		text = append(text, ',')
	}
	text = fmt.Appendf(text, `"when":%d,"publicKey":"%s","salt":"%s"}`, ms, a.public, salt)
	if len(text) > MaxPayload {
		return Signed{}, fmt.Errorf("%w: over %d bytes", ErrPayload, MaxPayload)
	}
	return Signed{Payload: string(text), Signature: a.Sign(text)}, nil
}

// marshalObject writes body as one JSON object without spaces, in which the three members are still free.
func marshalObject(body any) ([]byte, error) {
	if body == nil {
		return []byte("{}"), nil
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // as JavaScript writes it: a signed text travels in queries, and escapes are long
	if err := enc.Encode(body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPayload, err)
	}
	object := bytes.TrimSpace(out.Bytes())
	members, err := objectMembers(object)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{memberWhen, memberPublicKey, memberSalt} {
		if _, taken := members[name]; taken {
			return nil, fmt.Errorf("%w: %q is not for the body to set", ErrPayload, name)
		}
	}
	return object, nil
}

// newSalt gives characters of base58, all as likely.
func newSalt() string {
	salt := make([]byte, 0, saltSize)
	for len(salt) < saltSize {
		var b [1]byte
		_, _ = rand.Read(b[:]) // never fails
		if v := int(b[0] & 63); v < len(base58Alphabet) {
			salt = append(salt, base58Alphabet[v])
		}
	}
	return string(salt)
}

// Verify checks types and signature and gives the payload. It looks at no clock and remembers nothing: a request that
// makes something happen also goes through a [ReplayCache]. The cheap checks come before the signature. Its error is
//
//   - [ErrPayload] for what is no JSON, is null, is longer than [MaxPayload], has a "when" that is no safe integer
//     number of milliseconds, a "salt" that is no string, or a member twice;
//   - [ErrPublicKey] for a "publicKey" that is absent or wrong;
//   - [ErrSignature] for a signature that is absent, malformed or not the key's.
func (s Signed) Verify() (*Payload, error) {
	p := &Payload{signed: s}
	if err := p.parse(); err != nil {
		return nil, err
	}
	return p.verify()
}

// VerifyFresh is [Signed.Verify] and [Payload.Fresh] in one, and looks at the time before the signature: what is out of
// date costs the verifier next to nothing. Its error is theirs.
func (s Signed) VerifyFresh(now time.Time, window time.Duration) (*Payload, error) {
	p := &Payload{signed: s}
	if err := p.parse(); err != nil {
		return nil, err
	}
	if err := p.Fresh(now, window); err != nil {
		return nil, err
	}
	return p.verify()
}

func (p *Payload) verify() (*Payload, error) {
	if err := p.key.Verify([]byte(p.signed.Payload), p.signed.Signature); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Payload) parse() (err error) {
	if len(p.signed.Payload) > MaxPayload {
		return fmt.Errorf("%w: over %d bytes", ErrPayload, MaxPayload)
	}
	if p.members, err = objectMembers([]byte(p.signed.Payload)); err != nil {
		return err
	}
	if p.key, err = publicKeyMember(p.members[memberPublicKey]); err != nil {
		return err
	}
	if p.when, err = whenMember(p.members[memberWhen]); err != nil {
		return err
	}
	if raw, ok := p.members[memberSalt]; ok {
		if p.salt, ok = stringMember(raw); !ok {
			return fmt.Errorf("%w: %q is not a string", ErrPayload, memberSalt)
		}
	}
	return nil
}

// objectMembers splits a JSON object. The same name twice is refused: readers differ in which of the two they take.
// JSON other than an object has no public key, which is what the original says of it.
func objectMembers(text []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(text) || !json.Valid(text) {
		return nil, fmt.Errorf("%w: not JSON", ErrPayload)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	first, err := dec.Token()
	if err != nil || first == nil {
		return nil, fmt.Errorf("%w: null", ErrPayload)
	}
	if first != json.Delim('{') {
		return nil, fmt.Errorf("%w: not in an object", ErrPublicKey)
	}
	members := map[string]json.RawMessage{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: not JSON", ErrPayload)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("%w: not JSON", ErrPayload)
		}
		key, ok := name.(string)
		if _, twice := members[key]; !ok || twice {
			return nil, fmt.Errorf("%w: a member twice", ErrPayload)
		}
		members[key] = value
	}
	return members, nil
}

func publicKeyMember(raw json.RawMessage) (PublicKey, error) {
	text, ok := stringMember(raw)
	if !ok {
		return PublicKey{}, fmt.Errorf("%w: %q is absent or not a string", ErrPublicKey, memberPublicKey)
	}
	return ParsePublicKey(text)
}

func whenMember(raw json.RawMessage) (int64, error) {
	when, err := strconv.ParseFloat(string(raw), 64) // JavaScript's own number; strings, null and absence fail
	if err != nil || when != math.Trunc(when) || math.Abs(when) > maxSafeInteger {
		return 0, fmt.Errorf("%w: %q is not a safe integer number of milliseconds", ErrPayload, memberWhen)
	}
	return int64(when), nil
}

func safeInteger(n int64) bool { return -maxSafeInteger <= n && n <= maxSafeInteger }

func stringMember(raw json.RawMessage) (string, bool) {
	var text *string // stays nil for null
	if err := json.Unmarshal(raw, &text); err != nil || text == nil {
		return "", false
	}
	return *text, true
}

// PublicKey tells who signed.
func (p *Payload) PublicKey() PublicKey { return p.key }

// When tells the time the signer gave, to the millisecond. It may be far outside the years that have four digits.
func (p *Payload) When() time.Time { return time.UnixMilli(p.when) }

// Salt gives the member "salt", which makes payloads of one millisecond differ, or nothing.
func (p *Payload) Salt() string { return p.salt }

// Signed gives the two texts as they were verified, to be stored or sent on.
func (p *Payload) Signed() Signed { return p.signed }

// Field decodes the member called exactly name into the value into points to, and reports whether there is one. Its error
// is [ErrPayload], for a member of another type.
func (p *Payload) Field(name string, into any) (bool, error) {
	raw, ok := p.members[name]
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return true, fmt.Errorf("%w: member of the wrong type", ErrPayload)
	}
	return true, nil
}

// Digest names what was signed and by whom. It does not depend on the signature, so all signatures a payload could have
// give the same.
func (p *Payload) Digest() [sha256.Size]byte {
	h := sha256.New()
	h.Write(p.key.sign.Bytes())
	h.Write([]byte(p.signed.Payload))
	return [sha256.Size]byte(h.Sum(nil))
}

// Fresh checks that the payload was signed at most window before or after now, in whole milliseconds, limits included.
// Its error is [ErrExpired].
func (p *Payload) Fresh(now time.Time, window time.Duration) error {
	age := now.UnixMilli() - p.when
	if limit := window.Milliseconds(); age > limit {
		return fmt.Errorf("%w: signed too long ago", ErrExpired)
	} else if age < -limit {
		return fmt.Errorf("%w: signed in the future", ErrExpired)
	}
	return nil
}
