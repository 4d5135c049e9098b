package secrez

import (
	"bytes"
	"crypto/ed25519"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"

	"github.com/secretstack/secretstack/keys"
)

const (
	halfSize      = 32
	halfText      = 44 // base64 of 32 bytes
	publicKeyText = halfText + 1 + halfText

	separator       = "$"
	legacySeparator = "0" // a digit that base58 does not have
)

// PublicKey is the public key of an account: a box half (X25519), for which messages are sealed, and a sign half
// (Ed25519), which names the account. Values other than the zero value, which is no key, hold two canonical and usable
// points. A PublicKey is compared with [PublicKey.Equal] and has one text; what belongs to one person is kept by [PublicKey.Identity].
type PublicKey struct {
	_    [0]func() // no ==
	box  [halfSize]byte
	sign keys.PublicKey
}

// NewPublicKey puts a key together from its two halves of 32 bytes. Its error is [ErrPublicKey]: for a wrong length, a
// point in a non-canonical encoding, or one of small order.
func NewPublicKey(box, sign []byte) (PublicKey, error) {
	if len(box) != halfSize || len(sign) != halfSize {
		return PublicKey{}, fmt.Errorf("%w: each half has 32 bytes", ErrPublicKey)
	}
	if !usableBox(box) {
		return PublicKey{}, fmt.Errorf("%w: bad point in the box half", ErrPublicKey)
	}
	if !usableSign(sign) {
		return PublicKey{}, fmt.Errorf("%w: bad point in the sign half", ErrPublicKey)
	}
	identity, err := keys.NewPublicKey(sign)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: bad sign half", ErrPublicKey)
	}
	return PublicKey{box: [halfSize]byte(box), sign: identity}, nil
}

// DerivePublicKey gives the public key of the account that [FromIdentity] makes from the identity id. Its error is
// [ErrPublicKey].
func DerivePublicKey(id keys.PublicKey) (PublicKey, error) {
	box, err := id.X25519()
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: bad point in the sign half", ErrPublicKey)
	}
	return NewPublicKey(box.Bytes(), id.Bytes())
}

// ParsePublicKey reads "box$sign": 89 characters, two parts in padded base64 without spare bits. Its error is
// [ErrPublicKey].
func ParsePublicKey(s string) (PublicKey, error) {
	if len(s) != publicKeyText || s[halfText:halfText+1] != separator {
		return PublicKey{}, fmt.Errorf("%w: not two parts of %d characters around a %q", ErrPublicKey, halfText, separator)
	}
	box, okBox := decodeBase64(s[:halfText])
	sign, okSign := decodeBase64(s[halfText+1:])
	if !okBox || !okSign {
		return PublicKey{}, fmt.Errorf("%w: not canonical base64", ErrPublicKey)
	}
	return NewPublicKey(box, sign)
}

// ParseLegacyPublicKey reads a key as Secrez wrote it before hub 0.2.1: both halves in base58 around a "0". Its error is
// [ErrPublicKey].
func ParseLegacyPublicKey(s string) (PublicKey, error) {
	const longest = 44 + 1 + 44 // 32 bytes take 32 to 44 characters
	first, second, found := strings.Cut(s, legacySeparator)
	if !found || len(s) > longest {
		return PublicKey{}, fmt.Errorf("%w: not two parts around a %q", ErrPublicKey, legacySeparator)
	}
	box, errBox := DecodeBase58(first)
	sign, errSign := DecodeBase58(second)
	if errBox != nil || errSign != nil {
		return PublicKey{}, fmt.Errorf("%w: not base58", ErrPublicKey)
	}
	return NewPublicKey(box, sign)
}

// IsZero reports whether k is no key.
func (k PublicKey) IsZero() bool { return k.sign.IsZero() }

// Equal reports whether both halves are the same.
func (k PublicKey) Equal(other PublicKey) bool {
	return subtle.ConstantTimeCompare(k.box[:], other.box[:]) == 1 && k.sign.Equal(other.sign)
}

// Identity gives the sign half: the key that names the account, in this package and in every other.
func (k PublicKey) Identity() keys.PublicKey { return k.sign }

// Box gives the 32 bytes of the box half.
func (k PublicKey) Box() []byte { return slices.Clone(k.box[:]) }

// Derived reports whether the box half is the X25519 form of the sign half. Then a signature proves the whole key. It
// does not for a key made by Secrez, whose halves are independent.
func (k PublicKey) Derived() bool {
	derived, err := DerivePublicKey(k.sign)
	return err == nil && k.Equal(derived)
}

// Verify checks a signature in base64 over message, as [Account.Sign] makes it. Each signature has one spelling, and a
// signer's own is the only one accepted: spare bits and a scalar beyond the group's order are refused. Its error is
// [ErrSignature].
func (k PublicKey) Verify(message []byte, signature string) error {
	if k.IsZero() {
		return fmt.Errorf("%w: no key to check it with", ErrSignature)
	}
	raw, ok := decodeBase64(signature)
	if !ok || len(raw) != ed25519.SignatureSize {
		return fmt.Errorf("%w: not %d bytes in canonical base64", ErrSignature, ed25519.SignatureSize)
	}
	if !ed25519.Verify(k.sign.Bytes(), message, raw) {
		return fmt.Errorf("%w: it does not verify", ErrSignature)
	}
	return nil
}

// String writes "box$sign", 89 characters, or nothing for the zero value.
func (k PublicKey) String() string {
	if k.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(k.box[:]) + separator + base64.StdEncoding.EncodeToString(k.sign.Bytes())
}

// Legacy writes the key as Secrez did before hub 0.2.1, or nothing for the zero value.
func (k PublicKey) Legacy() string {
	if k.IsZero() {
		return ""
	}
	return EncodeBase58(k.box[:]) + legacySeparator + EncodeBase58(k.sign.Bytes())
}

// Short gives a few characters of the sign half for logs, such as "@1b9KP8". They do not identify an account.
func (k PublicKey) Short() string { return k.sign.Short() }

// LogValue logs the short form.
func (k PublicKey) LogValue() slog.Value { return slog.StringValue(k.Short()) }

// MarshalText writes "box$sign"; the zero key gives no text.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what [ParsePublicKey] reads; no text gives the zero key.
func (k *PublicKey) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*k = PublicKey{}
		return nil
	}
	parsed, err := ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

// usableBox tells whether u is the one encoding of a point that gives secrets: below the field's prime, top bit clear,
// and not of small order.
func usableBox(u []byte) bool {
	e, err := new(field.Element).SetBytes(u)
	if err != nil || !bytes.Equal(e.Bytes(), u) {
		return false
	}
	low := lowOrderBoxes()
	return !slices.Contains(low[:], [halfSize]byte(u))
}

// lowOrderBoxes lists the canonical u-coordinates of small order, on the curve and on its twist: each makes every shared
// secret zero.
func lowOrderBoxes() [5][halfSize]byte {
	return [...][halfSize]byte{
		{}, // order 2
		{1},
		{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
			0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00}, // order 8
		{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
			0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57}, // order 8
		{0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
			0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, // −1: order 4 of the twist
	}
}

// usableSign tells whether a is the one encoding of a point on the curve whose order is not small. Under a key of small
// order, fixed signatures verify any message.
func usableSign(a []byte) bool {
	p, err := new(edwards25519.Point).SetBytes(a)
	if err != nil || !bytes.Equal(p.Bytes(), a) {
		return false
	}
	return new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 0
}
