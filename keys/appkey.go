package keys

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// AppKeySize is the length of an app key in bytes.
const AppKeySize = 32

// AppKey separates networks: peers with different app keys cannot finish a
// handshake. It is shared by all peers of a network and shown to nobody else,
// so it is never printed. The zero value means "no app key".
type AppKey struct {
	k hiding[[AppKeySize]byte]
}

// NewAppKey makes an app key from 32 bytes, which may not all be zero.
func NewAppKey(b []byte) (AppKey, error) {
	if len(b) != AppKeySize {
		return AppKey{}, fmt.Errorf("keys: an app key has %d bytes, not %d", AppKeySize, len(b))
	}
	k := [AppKeySize]byte(b)
	if k == [AppKeySize]byte{} {
		return AppKey{}, errors.New("keys: an app key of zeros only is no app key")
	}
	return AppKey{k: hide(&k)}, nil
}

// ParseAppKey reads an app key in standard base64, as it stands in a
// configuration under caps.shs. A suffix that starts with "." is ignored.
func ParseAppKey(s string) (AppKey, error) {
	text, _, _ := strings.Cut(s, ".")
	b, err := decodeStrict(text)
	if err != nil {
		return AppKey{}, fmt.Errorf("keys: not an app key: %w", err)
	}
	return NewAppKey(b[:])
}

// MainNet returns the app key of the Secure Scuttlebutt main network.
func MainNet() AppKey {
	return AppKey{k: hide(&[AppKeySize]byte{
		0xd4, 0xa1, 0xcb, 0x88, 0xa6, 0x6f, 0x02, 0xf8, 0xdb, 0x63, 0x5c, 0xe2, 0x64, 0x41, 0xcc, 0x5d,
		0xac, 0x1b, 0x08, 0x42, 0x0c, 0xea, 0xac, 0x23, 0x08, 0x39, 0xb7, 0x55, 0x84, 0x5a, 0x9f, 0xfb,
	})}
}

// Bytes returns a copy of the key's 32 bytes, or nil for the zero value.
func (k AppKey) Bytes() []byte {
	if k.k == nil {
		return nil
	}
	return append([]byte(nil), k.k()[:]...)
}

// Equal reports, in constant time, whether the two app keys are the same.
func (k AppKey) Equal(other AppKey) bool {
	if k.k == nil || other.k == nil {
		return k.IsZero() && other.IsZero()
	}
	return subtle.ConstantTimeCompare(k.k()[:], other.k()[:]) == 1
}

// IsZero reports whether k is the zero value, that is, no app key.
func (k AppKey) IsZero() bool { return k.k == nil }

// String says what k is and not which.
func (k AppKey) String() string { return "keys.AppKey(hidden)" }

// Format implements [fmt.Formatter]; every verb prints what String returns.
func (k AppKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalJSON writes what String returns. It cannot be read back.
func (k AppKey) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }

// MarshalText writes what String returns. It cannot be read back.
func (k AppKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
