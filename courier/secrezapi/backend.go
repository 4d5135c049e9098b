package secrezapi

import (
	"context"
	"errors"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// Errors of a [Backend] that are told to the owner.
var (
	// ErrURLTaken says that a url is another contact's.
	ErrURLTaken = errors.New("secrezapi: the url is another contact's")
	// ErrKeyChanged says that a contact's box half is another one than before.
	ErrKeyChanged = errors.New("secrezapi: the contact's key has changed")
	// ErrUnknown says that nobody has a key.
	ErrUnknown = errors.New("secrezapi: not known")
	// ErrNotForUs says that a message is not sealed for the owner.
	ErrNotForUs = errors.New("secrezapi: not for the owner")
	// ErrOffline says that a hub or a courier does not answer, or answers with an error.
	ErrOffline = errors.New("secrezapi: nobody answers there")
)

// The directions of messages, with Secrez's numbers.
const (
	Received = 1
	Sent     = 2
)

// Contact is somebody whom the owner trusts.
type Contact struct {
	PublicKey secrez.PublicKey
	URL       string // empty: not known
}

// Message is a message that was sent or received.
type Message struct {
	Time      time.Time // of keeping it
	Direction int
	Peer      secrez.PublicKey // the other side
	Signed    secrez.Signed
	Digest    [32]byte // of the payload
}

// Query selects messages between two times, both included.
type Query struct {
	Min, Max  time.Time
	Direction int              // zero: both
	Peer      secrez.PublicKey // zero: of all
	Limit     int
}

// Published is where the owner can be reached. The zero value: nowhere.
type Published struct {
	ID  secrez.ID
	URL string
}

// Backend keeps what the API is about.
type Backend interface {
	// Owner gives the owner's key, or the zero key.
	Owner(ctx context.Context) (secrez.PublicKey, error)
	// SetOwner keeps the first owner.
	SetOwner(ctx context.Context, key secrez.PublicKey) error
	// Trust keeps a contact, and reports whether it is new and whether its url has changed. An empty url leaves the old one.
	// Its error is [ErrURLTaken] or [ErrKeyChanged].
	Trust(ctx context.Context, c Contact) (added, changed bool, err error)
	// Trusted finds a contact by the sign half of its key. Its error is [ErrUnknown].
	Trusted(ctx context.Context, key keys.PublicKey) (Contact, error)
	// Keep keeps a message that was sent.
	Keep(ctx context.Context, m Message) error
	// Receive keeps a message of a contact, once. Its error is [ErrNotForUs].
	Receive(ctx context.Context, m Message, p *secrez.Payload) error
	// Messages gives messages, the oldest first.
	Messages(ctx context.Context, q Query) ([]Message, error)
	// Published tells where the owner can be reached now.
	Published() Published
	// Publish makes the owner reachable, with a payload that he has just signed. Its error is [ErrOffline].
	Publish(ctx context.Context, signed secrez.Signed) (Published, error)
	// Hub is the address of the hub, for people.
	Hub() string
}
