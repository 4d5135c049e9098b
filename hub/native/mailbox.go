package native

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// The methods of mailboxes. See docs/PROTOCOL.md §14.
const (
	MethodDeposit       = "hub.deposit"       // async: DepositRequest → Deposited
	MethodMailbox       = "hub.mailbox"       // source: MailboxRequest → Waiting, one for each envelope
	MethodAcknowledge   = "hub.acknowledge"   // async: AcknowledgeRequest → nothing
	MethodAllow         = "hub.allow"         // async: AllowRequest → MailboxStatus
	MethodMailboxStatus = "hub.mailboxStatus" // async: nothing → MailboxStatus
)

// NoticeMail says that something has come into the courier's mailbox. It is not repeated before the courier has looked.
const NoticeMail = "mail"

// The refusals of mailboxes.
const (
	NoMailbox   Code = "no-mailbox"   // the recipient has no mailbox here
	NotAllowed  Code = "not-allowed"  // the recipient takes nothing from this sender
	MailboxFull Code = "mailbox-full" // the recipient must fetch what waits for it first
	SenderFull  Code = "sender-full"  // so much of this sender waits that some of it must be fetched first
	HubFull     Code = "hub-full"     // the hub keeps as much as it can
)

const (
	// MaxAcknowledged bounds the envelopes in one AcknowledgeRequest.
	MaxAcknowledged = 256
	// tokenHashSize is the length of the hash of a token, in bytes.
	tokenHashSize = sha256.Size
	// MaxToken bounds a token, in bytes.
	MaxToken = 64
)

// DepositRequest leaves a sealed envelope for somebody.
type DepositRequest struct {
	Recipient keys.PublicKey `json:"recipient"`
	Envelope  []byte         `json:"envelope"`
	// Token is what the recipient has given to its sender, for whom it allows by token. Nil: none.
	Token []byte `json:"token,omitempty"`
}

// Deposited says that an envelope is kept.
type Deposited struct {
	// Expires is when it is thrown away if it is not fetched, in ms since 1970, by the hub's clock.
	Expires int64 `json:"expires"`
	// Request says that it lies in the recipient's request box, as a stranger's.
	Request bool `json:"request,omitempty"`
}

// MailboxRequest asks for what waits in the courier's own mailbox.
type MailboxRequest struct {
	// Live asks for what comes later as well. Otherwise the source ends when there is nothing more.
	Live bool `json:"live,omitempty"`
}

// Waiting is an envelope in a mailbox. It comes again, with each new source, until it is acknowledged.
type Waiting struct {
	// ID names it in this mailbox. It tells nothing.
	ID       string `json:"id"`
	Envelope []byte `json:"envelope"`
	// Time is when it was deposited, in ms since 1970, by the hub's clock.
	Time int64 `json:"time"`
	// Request says that it was left by a stranger.
	Request bool `json:"request,omitempty"`
}

// AcknowledgeRequest says which envelopes the courier has, so that the hub can forget them. Unknown ones mean nothing.
type AcknowledgeRequest struct {
	IDs []string `json:"ids"`
}

// AllowRequest opens the courier's mailbox and says who may leave something in it, in place of what was said before; or
// closes it.
type AllowRequest struct {
	Keys []keys.PublicKey `json:"keys,omitempty"`
	// Tokens are the SHA-256 of tokens. Whoever shows the token may deposit.
	Tokens [][]byte `json:"tokens,omitempty"`
	// Strangers opens the request box, for everybody else.
	Strangers bool `json:"strangers,omitempty"`
	// Close closes the mailbox instead, and throws away what is in it.
	Close bool `json:"close,omitempty"`
}

// digestLabel separates digests of AllowRequest from everything else that is hashed.
const digestLabel = "secretstack mailbox allow 1\x00"

// Digest names what a request says, whatever the order of its lists: SHA-256 of a label, one byte for Strangers, the number
// of keys in 4 bytes and the sorted keys, and the same for tokens.
func (r AllowRequest) Digest() []byte {
	raw := make([][]byte, len(r.Keys))
	for i, k := range r.Keys {
		raw[i] = k.Bytes()
	}
	h := sha256.New()
	h.Write([]byte(digestLabel))
	if r.Strangers {
		h.Write([]byte{1})
	} else {
		h.Write([]byte{0})
	}
	for _, list := range [][][]byte{raw, r.Tokens} {
		sorted := slices.Clone(list)
		slices.SortFunc(sorted, bytes.Compare)
		sorted = slices.CompactFunc(sorted, bytes.Equal)
		_ = binary.Write(h, binary.BigEndian, uint32(len(sorted)))
		for _, one := range sorted {
			h.Write(one)
		}
	}
	return h.Sum(nil)
}

// MailboxStatus is what a courier may know of its own mailbox.
type MailboxStatus struct {
	// Open says that the courier has a mailbox here, and Digest what it has allowed last, as [AllowRequest.Digest] names it.
	Open   bool   `json:"open"`
	Digest []byte `json:"digest,omitempty"`
	// Mail and Requests are what waits, from those who are allowed and from strangers.
	Mail     Amount `json:"mail"`
	Requests Amount `json:"requests"`
	// MaxAllowed is how many keys and tokens may be allowed, MaxMail and MaxRequests what may wait.
	MaxAllowed  int    `json:"maxAllowed"`
	MaxMail     Amount `json:"maxMail"`
	MaxRequests Amount `json:"maxRequests"`
}

// Amount is so much of envelopes.
type Amount struct {
	Count int   `json:"count"`
	Bytes int64 `json:"bytes"`
}

// Keep is until when the envelope is kept, as a time.
func (d Deposited) Keep() time.Time { return time.UnixMilli(d.Expires) }
