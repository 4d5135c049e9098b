// Package shs is the secret handshake, version 1: two peers prove to each other
// who they are and agree on keys, and a listener learns nothing about either.
// See docs/PROTOCOL.md §1.
//
// [ClientState] and [ServerState] are the protocol on bytes, without I/O.
// [Client] and [Server] run it over an io.ReadWriter. They start no goroutine
// and know no time: set a deadline for the whole handshake on the connection,
// and clear it afterwards.
//
// The client must know the server's public key; the server learns the client's
// and decides. They read no byte past the handshake, so what follows belongs to
// the stream that the [Session]'s keys are for.
package shs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/secretstack/secretstack/keys"
)

// Lengths of the four messages in bytes. The client sends the first.
const (
	ChallengeSize = 64  // messages 1 and 2
	HelloSize     = 112 // message 3
	AcceptSize    = 80  // message 4
)

// Config is what both roles need.
type Config struct {
	// Identity is who this side is. It is required.
	Identity *keys.Identity
	// AppKey is the network; both sides must have the same. It is required.
	AppKey keys.AppKey
	// Rand gives 32 bytes for the ephemeral key. If it is nil, crypto/rand is
	// used. A source that repeats itself makes sessions readable: it is for tests.
	Rand io.Reader
}

// check refuses a configuration that cannot work.
func (c *Config) check() error {
	switch {
	case c.Identity.IsZero():
		return errors.New("shs: no identity configured")
	case c.AppKey.IsZero():
		return errors.New("shs: no app key configured")
	}
	return nil
}

// Session is what a handshake gives: who the other side is, and a key and first
// nonce of a box stream for each direction. Printing one shows the peer only.
type Session struct {
	_ [0]func() // not comparable

	Remote       keys.PublicKey
	SendKey      [32]byte
	ReceiveKey   [32]byte
	SendNonce    [24]byte
	ReceiveNonce [24]byte
}

// String shows the peer only.
func (s Session) String() string { return "shs.Session(" + s.Remote.Ref() + ")" }

// Format implements [fmt.Formatter]; every verb prints what String returns.
func (s Session) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalJSON writes what String returns. It cannot be read back.
func (s Session) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// MarshalText writes what String returns. It cannot be read back.
func (s Session) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
