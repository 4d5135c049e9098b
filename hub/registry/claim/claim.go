package claim

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

const (
	statementLabel = "secretstack hub statement v1\x00"
	receiptLabel   = "secretstack hub receipt v1\x00"

	keySize       = keys.PublicKeySize
	boxSize       = 32
	idSize        = len("xx-xxx-xx")
	signatureSize = 64

	// MaxSize bounds the bytes of a statement and of a receipt.
	MaxSize = 256
)

// The errors of this package. None repeats its input.
var (
	// ErrMalformed says that bytes are no statement, or no receipt.
	ErrMalformed = errors.New("claim: malformed")

	// ErrSignature says that the signature is not that of the key it should be of.
	ErrSignature = errors.New("claim: wrong signature")
)

// Action is what a statement asks for.
type Action byte

// The actions.
const (
	Register Action = 1 // the id of the key, a new one if it has none
	Reset    Action = 2 // a new id, in place of the one named
)

// Statement is what a courier signs to register. The package comment gives its bytes.
type Statement struct {
	Hub keys.PublicKey // whose hub it is meant for
	Key keys.PublicKey // who signs

	// Box is the box half of the signer's Secrez public key, 32 bytes. Nil: nothing is said about it, and people who seal
	// messages for the signer use the X25519 form of Key.
	Box []byte

	Action Action

	// ID is the id that the signer holds as far as it knows; in a reset, the one it gives up. Zero: it knows of none.
	ID secrez.ID

	// Sequence counts the ids that the key has had at the hub: that of ID, or in a reset that of the id to come. Zero: unknown.
	Sequence uint64

	Time time.Time // of signing, to the millisecond
}

// MarshalBinary writes the bytes that are signed. Its error is [ErrMalformed]: for a box half of another length than 32.
func (s Statement) MarshalBinary() ([]byte, error) {
	if len(s.Box) != 0 && len(s.Box) != boxSize {
		return nil, fmt.Errorf("%w: a box half has %d bytes", ErrMalformed, boxSize)
	}
	b := make([]byte, 0, MaxSize)
	b = append(b, statementLabel...)
	b = append(b, s.Hub.Bytes()...)
	b = append(b, s.Key.Bytes()...)
	b = append(b, byte(s.Action), byte(len(s.Box)))
	b = append(b, s.Box...)
	id := s.ID.String()
	b = append(b, byte(len(id)))
	b = append(b, id...)
	b = binary.BigEndian.AppendUint64(b, s.Sequence)
	return binary.BigEndian.AppendUint64(b, uint64(s.Time.UnixMilli())), nil
}

// UnmarshalBinary reads what MarshalBinary writes, and nothing else. Its error is [ErrMalformed].
func (s *Statement) UnmarshalBinary(b []byte) error {
	r := reader{rest: b}
	r.label(statementLabel)
	out := Statement{Hub: r.key(), Key: r.key(), Action: Action(r.byte())}
	if n := r.byte(); n == boxSize {
		out.Box = bytes.Clone(r.take(boxSize))
	} else if n != 0 {
		r.fail()
	}
	if n := r.byte(); n == byte(idSize) {
		out.ID = r.id()
	} else if n != 0 {
		r.fail()
	}
	out.Sequence = r.uint64()
	out.Time = time.UnixMilli(int64(r.uint64())).UTC()
	if out.Action != Register && out.Action != Reset {
		r.fail()
	}
	if err := r.end("statement"); err != nil {
		return err
	}
	*s = out
	return nil
}

// Sign signs the statement with the identity whose public key must be s.Key.
func (s Statement) Sign(id *keys.Identity) (Signed, error) {
	b, err := s.MarshalBinary()
	if err != nil {
		return Signed{}, err
	}
	if !id.Public().Equal(s.Key) {
		return Signed{}, fmt.Errorf("%w: the statement names another key", ErrSignature)
	}
	return Signed{Statement: b, Signature: id.Sign(b)}, nil
}

// Signed is a statement as it travels. Nothing about it is checked yet.
type Signed struct {
	Statement []byte `json:"statement"`
	Signature []byte `json:"signature"`
}

// Verify reads the statement and checks that its key signed it. It looks at no clock, and whether the statement is meant
// for this hub is for the caller to see. Its error is [ErrMalformed] or [ErrSignature].
func (s Signed) Verify() (Statement, error) {
	var out Statement
	if err := out.UnmarshalBinary(s.Statement); err != nil {
		return Statement{}, err
	}
	if !out.Key.Verify(s.Statement, s.Signature) {
		return Statement{}, ErrSignature
	}
	return out, nil
}

// Receipt is what a hub signs when it gives an id. The package comment gives its bytes.
type Receipt struct {
	Hub       keys.PublicKey
	Key       keys.PublicKey // whose id it is
	ID        secrez.ID
	Sequence  uint64 // how many ids Key has had, this one included
	Time      time.Time
	Signature []byte
}

// Sign gives the receipt with the signature of the hub's identity, whose public key it takes as Hub.
func (r Receipt) Sign(hub *keys.Identity) Receipt {
	r.Hub = hub.Public()
	r.Signature = hub.Sign(r.body())
	return r
}

// Verify checks that hub signed the receipt. Its error is [ErrSignature].
func (r Receipt) Verify(hub keys.PublicKey) error {
	if !r.Hub.Equal(hub) || !hub.Verify(r.body(), r.Signature) {
		return fmt.Errorf("%w: this hub did not write the receipt", ErrSignature)
	}
	return nil
}

func (r Receipt) body() []byte {
	b := make([]byte, 0, MaxSize)
	b = append(b, receiptLabel...)
	b = append(b, r.Hub.Bytes()...)
	b = append(b, r.Key.Bytes()...)
	b = append(b, r.ID.String()...)
	b = binary.BigEndian.AppendUint64(b, r.Sequence)
	return binary.BigEndian.AppendUint64(b, uint64(r.Time.UnixMilli()))
}

// MarshalBinary writes the receipt. Its error is [ErrMalformed]: for one without an id or not signed.
func (r Receipt) MarshalBinary() ([]byte, error) {
	if r.ID.IsZero() || len(r.Signature) != signatureSize {
		return nil, fmt.Errorf("%w: the receipt is not signed", ErrMalformed)
	}
	return append(r.body(), r.Signature...), nil
}

// UnmarshalBinary reads what MarshalBinary writes, and nothing else. The signature is not checked. Its error is
// [ErrMalformed].
func (r *Receipt) UnmarshalBinary(b []byte) error {
	in := reader{rest: b}
	in.label(receiptLabel)
	out := Receipt{Hub: in.key(), Key: in.key(), ID: in.id(), Sequence: in.uint64()}
	out.Time = time.UnixMilli(int64(in.uint64())).UTC()
	out.Signature = bytes.Clone(in.take(signatureSize))
	if err := in.end("receipt"); err != nil {
		return err
	}
	*r = out
	return nil
}

// MarshalText writes the receipt in base64, as it stands in JSON.
func (r Receipt) MarshalText() ([]byte, error) {
	b, err := r.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText reads what MarshalText writes. Its error is [ErrMalformed].
func (r *Receipt) UnmarshalText(text []byte) error {
	if len(text) > 2*MaxSize {
		return fmt.Errorf("%w: too long for a receipt", ErrMalformed)
	}
	b, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("%w: not base64", ErrMalformed)
	}
	return r.UnmarshalBinary(b)
}

// A reader takes fields off the front of bytes. After a failure every field is zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) fail() { r.bad, r.rest = true, nil }

func (r *reader) take(n int) []byte {
	if len(r.rest) < n {
		r.fail()
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) label(want string) {
	if string(r.take(len(want))) != want {
		r.fail()
	}
}

func (r *reader) byte() byte { return r.take(1)[0] }

func (r *reader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *reader) key() keys.PublicKey {
	k, err := keys.NewPublicKey(r.take(keySize))
	if err != nil {
		r.fail()
	}
	return k
}

func (r *reader) id() secrez.ID {
	id, err := secrez.ParseID(string(r.take(idSize)))
	if err != nil {
		r.fail()
	}
	return id
}

func (r *reader) end(what string) error {
	if r.bad || len(r.rest) > 0 {
		return fmt.Errorf("%w: not a %s", ErrMalformed, what)
	}
	return nil
}
