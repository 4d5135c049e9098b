// Package rotation holds the statement by which somebody gives up a key for another: signed by the old key, which has
// the say, and by the new one, which proves that it is in the same hands. Contacts and hubs that know the old key then
// take the new one in its place.
//
// The bytes are, version 1:
//
//	size  field
//	28    "secretstack key rotation v1" and a zero byte
//	32    the old public key
//	32    the new public key
//	8     the time in ms since 1970, big endian
//	64    the old key's Ed25519 signature over everything before it
//	64    the new key's Ed25519 signature over everything before it
//
// Whoever has stolen the old key can make such a statement, too: it does not mend a theft. The first one that somebody
// has seen counts.
package rotation

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/secretstack/secretstack/keys"
)

const (
	label         = "secretstack key rotation v1\x00"
	keySize       = keys.PublicKeySize
	signatureSize = 64
	textSize      = len(label) + 2*keySize + 8

	// Size is the length of a statement in bytes.
	Size = textSize + 2*signatureSize
)

// ErrStatement says that bytes are no statement of both keys that they name.
var ErrStatement = errors.New("rotation: not a statement of both keys")

// Statement says that New takes the place of Old. It exists only with both signatures, as [New] or [Parse] makes it.
type Statement struct {
	Old, New keys.PublicKey
	Time     time.Time // by the signer's clock, to the millisecond
	bytes    []byte
}

// New makes the statement that the owner of both identities changes from one to the other. Its error is [ErrStatement]:
// for an identity that is none, and when they are the same.
func New(from, to *keys.Identity, when time.Time) (*Statement, error) {
	if from.IsZero() || to.IsZero() || from.Public().Equal(to.Public()) {
		return nil, ErrStatement
	}
	b := make([]byte, 0, Size)
	b = append(b, label...)
	b = append(b, from.Public().Bytes()...)
	b = append(b, to.Public().Bytes()...)
	b = binary.BigEndian.AppendUint64(b, uint64(when.UnixMilli()))
	b = append(b, from.Sign(b)...)
	b = append(b, to.Sign(b)...)
	return Parse(b)
}

// NewAll makes the statements by which an owner's former identities, the oldest first, are given up for the present one: the
// latest first, as hubs want them. The present one among them is left out.
func NewAll(former []*keys.Identity, present *keys.Identity, when time.Time) ([]*Statement, error) {
	var all []*Statement
	for _, from := range slices.Backward(former) {
		if from.Public().Equal(present.Public()) {
			continue
		}
		s, err := New(from, present, when)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Parse reads a statement and checks both signatures. Its error is [ErrStatement].
func Parse(b []byte) (*Statement, error) {
	if len(b) != Size || string(b[:len(label)]) != label {
		return nil, ErrStatement
	}
	from, err := keys.NewPublicKey(b[len(label) : len(label)+keySize])
	if err != nil {
		return nil, ErrStatement
	}
	to, err := keys.NewPublicKey(b[len(label)+keySize : len(label)+2*keySize])
	if err != nil {
		return nil, ErrStatement
	}
	signed := textSize + signatureSize
	if from.Equal(to) || !from.Verify(b[:textSize], b[textSize:signed]) || !to.Verify(b[:signed], b[signed:]) {
		return nil, ErrStatement
	}
	ms := int64(binary.BigEndian.Uint64(b[textSize-8:]))
	return &Statement{Old: from, New: to, Time: time.UnixMilli(ms), bytes: append([]byte(nil), b...)}, nil
}

// Bytes gives the statement as it travels. The caller must not change it.
func (s *Statement) Bytes() []byte { return s.bytes }

// MarshalText writes the statement in base64, as it stands in JSON.
func (s *Statement) MarshalText() ([]byte, error) {
	return []byte(base64.StdEncoding.EncodeToString(s.bytes)), nil
}

// UnmarshalText reads what MarshalText writes and checks both signatures. Its error is [ErrStatement].
func (s *Statement) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil {
		return ErrStatement
	}
	read, err := Parse(b)
	if err != nil {
		return err
	}
	*s = *read
	return nil
}
