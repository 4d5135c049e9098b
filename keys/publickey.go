package keys

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
)

// PublicKeySize is the length of a public key in bytes.
const PublicKeySize = 32

// refSuffix ends every reference and every key text of ssb-keys.
const refSuffix = ".ed25519"

var errWeakKey = errors.New("keys: this public key is not a usable curve point")

// PublicKey is the Ed25519 public key that names a peer. The zero value means
// "no key". Use [PublicKey.Equal] to compare and [PublicKey.Array] as a map key.
type PublicKey struct {
	_ incomparable
	b [PublicKeySize]byte
}

// NewPublicKey makes a public key from its 32 bytes. Any 32 bytes are taken;
// whether they are a usable point is checked by [PublicKey.X25519] and
// [PublicKey.Verify].
func NewPublicKey(b []byte) (PublicKey, error) {
	if len(b) != PublicKeySize {
		return PublicKey{}, fmt.Errorf("keys: a public key has %d bytes, not %d", PublicKeySize, len(b))
	}
	var k PublicKey
	copy(k.b[:], b)
	return k, nil
}

// Bytes returns a copy of the key's 32 bytes.
func (k PublicKey) Bytes() []byte { return append([]byte(nil), k.b[:]...) }

// Array returns the key's 32 bytes as an array, which can be a map key.
func (k PublicKey) Array() [PublicKeySize]byte { return k.b }

// Equal reports, in constant time, whether the two keys are the same.
func (k PublicKey) Equal(other PublicKey) bool {
	return subtle.ConstantTimeCompare(k.b[:], other.b[:]) == 1
}

// IsZero reports whether k is the zero value, that is, no key.
func (k PublicKey) IsZero() bool { return k.b == [PublicKeySize]byte{} }

// Base64 returns the key in standard base64 with padding, as it stands in the
// shs part of a multiserver address.
func (k PublicKey) Base64() string { return base64.StdEncoding.EncodeToString(k.b[:]) }

// Ref returns the key's reference, "@<base64>.ed25519", or "" for the zero key.
func (k PublicKey) Ref() string {
	if k.IsZero() {
		return ""
	}
	return "@" + k.Base64() + refSuffix
}

// String returns the key's reference, as [PublicKey.Ref] does.
func (k PublicKey) String() string { return k.Ref() }

// Short returns the first six characters of the reference after the sigil,
// such as "@1b9KP8", for logs. It does not identify a peer.
func (k PublicKey) Short() string {
	if k.IsZero() {
		return "@?"
	}
	return "@" + k.Base64()[:6]
}

// MarshalText returns the key's reference; the zero key gives no text.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.Ref()), nil }

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

// Verify reports whether sig is this key's signature over msg. Keys of small
// order, for which anybody can make signatures, verify nothing.
func (k PublicKey) Verify(msg, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize && usable(&k.b) && ed25519.Verify(k.b[:], msg, sig)
}

// X25519 returns the key's X25519 form, with which a shared secret can be made.
// It fails for bytes that are not a point of the curve and for points of small
// order. See docs/PROTOCOL.md §1.
func (k PublicKey) X25519() (*ecdh.PublicKey, error) {
	if !usable(&k.b) {
		return nil, errWeakKey
	}
	p, err := new(edwards25519.Point).SetBytes(k.b[:])
	if err != nil {
		return nil, errWeakKey
	}
	return ecdh.X25519().NewPublicKey(p.BytesMontgomery())
}

// smallOrder reports whether y (little endian, in four words) is the y
// coordinate of one of the eight points whose order divides 8. The sign of x
// does not matter.
func smallOrder(y *[4]uint64) bool {
	switch *y {
	case [4]uint64{1}, // the neutral element
		[4]uint64{1<<64 - 20, 1<<64 - 1, 1<<64 - 1, 1<<63 - 1}, // order 2: y = -1
		[4]uint64{}, // order 4
		[4]uint64{0xb027b2c28f95e826, 0xf098eff289f4c345, 0x3933c6d305acdfd5, 0x05fc536d880238b1}, // order 8
		[4]uint64{0x4fd84d3d706a17c7, 0x0f67100d760b3cba, 0xc6cc392cfa53202a, 0x7a03ac9277fdc74e}: // order 8
		return true
	}
	return false
}

// usable reports whether b is a canonical encoding (y < p) of a point that is
// not of small order. It does not tell whether there is such a point.
func usable(b *[PublicKeySize]byte) bool {
	var y [4]uint64
	for i := range y {
		y[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	y[3] &= 1<<63 - 1
	return !smallOrder(&y) && canonical(&y)
}

// canonical reports whether y < p = 2^255 - 19.
func canonical(y *[4]uint64) bool {
	const max = 1<<64 - 1
	return y[3] != max>>1 || y[2] != max || y[1] != max || y[0] < max-18
}
