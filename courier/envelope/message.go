package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/secretstack/secretstack/keys"
)

const (
	messageLabel      = "secretstack courier message v1\x00"
	conversationLabel = "secretstack conversation v1\x00"

	version       = 1
	keySize       = keys.PublicKeySize
	signatureSize = 64
	headerSize    = 1 + 2*keySize + ConversationSize + SeriesSize + 8 + 8 + 1
)

const (
	// ConversationSize is the length of a [Conversation] in bytes.
	ConversationSize = 16
	// SeriesSize is the length of a [Series] in bytes.
	SeriesSize = 8
	// HashSize is the length of a [Hash] in bytes.
	HashSize = sha256.Size
	// MaxBody bounds the body of a message, in bytes. A message with such a body, signed and sealed, has 256 KiB.
	MaxBody = 256<<10 - 512
	// MaxSigned bounds a signed message, in bytes.
	MaxSigned = headerSize + MaxBody + signatureSize
)

var (
	// ErrMalformed says that bytes are no message or no envelope, or that a message has what its kind does not allow.
	ErrMalformed = errors.New("envelope: malformed")
	// ErrSignature says that the sender named in a message has not signed it.
	ErrSignature = errors.New("envelope: wrong signature")
	// ErrSealed says that an envelope was altered, or is not for the one who tries to open it.
	ErrSealed = errors.New("envelope: could not be opened")
)

// Kind says what the body of a message is.
type Kind byte

// The kinds of message.
const (
	Text     Kind = 1 // UTF-8, at least one byte
	File     Kind = 2 // a [FileInfo]: a file whose chunks follow
	Chunk    Kind = 3 // a [FileChunk]
	Receipt  Kind = 4 // hashes of messages that have arrived; see [Receipts]
	Rotation Kind = 5 // a statement of package keys/rotation that leads to the sender's key
)

// Conversation names what two people say to each other, in both directions.
type Conversation [ConversationSize]byte

// ConversationOf names the conversation of two keys, in whatever order.
func ConversationOf(a, b keys.PublicKey) Conversation {
	first, second := a.Bytes(), b.Bytes()
	if bytes.Compare(first, second) > 0 {
		first, second = second, first
	}
	h := sha256.New()
	h.Write([]byte(conversationLabel))
	h.Write(first)
	h.Write(second)
	var c Conversation
	copy(c[:], h.Sum(nil))
	return c
}

// Series names a run of numbers of one sender. A sender that has lost count, with all its data, begins another.
type Series [SeriesSize]byte

// Hash names a message: the SHA-256 of what is signed. It does not depend on the signature.
type Hash [HashSize]byte

// Message is what one person says to another.
type Message struct {
	Sender    keys.PublicKey
	Recipient keys.PublicKey
	Series    Series
	Number    uint64    // 1 for the first message of the series in the conversation
	Time      time.Time // by the sender's clock, to the millisecond; for people, nothing is decided by it
	Kind      Kind
	Body      []byte
}

// Conversation names the conversation that the message belongs to.
func (m Message) Conversation() Conversation { return ConversationOf(m.Sender, m.Recipient) }

// Sign signs the message with the identity whose public key must be m.Sender. Its error is [ErrMalformed]: for a body
// that is too long or not what the kind says, for a number or a key that is zero.
func (m Message) Sign(id *keys.Identity) (*Signed, error) {
	if !id.Public().Equal(m.Sender) {
		return nil, fmt.Errorf("%w: the sender is somebody else", ErrMalformed)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, headerSize+len(m.Body)+signatureSize)
	b = append(b, version)
	b = append(b, m.Sender.Bytes()...)
	b = append(b, m.Recipient.Bytes()...)
	conversation := m.Conversation()
	b = append(b, conversation[:]...)
	b = append(b, m.Series[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Number)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Time.UnixMilli()))
	b = append(b, byte(m.Kind))
	b = append(b, m.Body...)
	hash := hashOf(b)
	b = append(b, id.Sign(signedText(hash))...)
	m.Time = time.UnixMilli(m.Time.UnixMilli())
	m.Body = b[headerSize : len(b)-signatureSize]
	return &Signed{Message: m, bytes: b, hash: hash}, nil
}

// check refuses what no message may be.
func (m Message) check() error {
	switch {
	case m.Sender.IsZero() || m.Recipient.IsZero() || m.Sender.Equal(m.Recipient):
		return fmt.Errorf("%w: sender or recipient", ErrMalformed)
	case m.Number == 0:
		return fmt.Errorf("%w: number", ErrMalformed)
	case len(m.Body) > MaxBody:
		return fmt.Errorf("%w: too long", ErrMalformed)
	}
	return checkBody(m.Kind, m.Body)
}

// Signed is a message with its sender's signature. It exists only with a signature that is right.
type Signed struct {
	Message
	bytes []byte
	hash  Hash
}

// Bytes gives the signed message as it travels. The caller must not change it.
func (s *Signed) Bytes() []byte { return s.bytes }

// Hash gives what names the message.
func (s *Signed) Hash() Hash { return s.hash }

// Parse reads a signed message and checks its signature, its conversation and its body. It looks at no clock, and
// whether the message is for the reader is for the caller to see. Its error is [ErrMalformed] or [ErrSignature]. The
// message keeps b.
func Parse(b []byte) (*Signed, error) {
	if len(b) < headerSize+signatureSize || len(b) > MaxSigned || b[0] != version {
		return nil, fmt.Errorf("%w: length or version", ErrMalformed)
	}
	var m Message
	r := b[1:]
	m.Sender, r = takeKey(r)
	m.Recipient, r = takeKey(r)
	var conversation Conversation
	r = r[copy(conversation[:], r):]
	r = r[copy(m.Series[:], r):]
	m.Number = binary.BigEndian.Uint64(r)
	m.Time = time.UnixMilli(int64(binary.BigEndian.Uint64(r[8:])))
	m.Kind = Kind(r[16])
	m.Body = b[headerSize : len(b)-signatureSize]
	if err := m.check(); err != nil {
		return nil, err
	}
	if conversation != m.Conversation() {
		return nil, fmt.Errorf("%w: conversation", ErrMalformed)
	}
	hash := hashOf(b[:len(b)-signatureSize])
	if !m.Sender.Verify(signedText(hash), b[len(b)-signatureSize:]) {
		return nil, ErrSignature
	}
	return &Signed{Message: m, bytes: b, hash: hash}, nil
}

func takeKey(b []byte) (keys.PublicKey, []byte) {
	k, err := keys.NewPublicKey(b[:keySize])
	if err != nil {
		return keys.PublicKey{}, b[keySize:] // unreachable: the length is right
	}
	return k, b[keySize:]
}

// hashOf hashes what is signed.
func hashOf(b []byte) Hash { return sha256.Sum256(b) }

// signedText is what the signature is over: the label keeps it from being a signature of anything else.
func signedText(h Hash) []byte { return append([]byte(messageLabel), h[:]...) }
