package multiserver

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// SHSConfig configures [SHS].
type SHSConfig struct {
	// Identity is who we are. It is required.
	Identity *keys.Identity
	// AppKey is the network that peers must be of. It is required.
	AppKey keys.AppKey
	// Authorize decides about a peer that dialled us and proved its key; an
	// error turns it away without a word. remote is the transport part of the
	// address it dialled from. What it returns is [Conn.Auth]. ctx ends with
	// the handshake's deadline; the hook must return then. Nil lets everybody
	// in who has the app key.
	Authorize func(ctx context.Context, peer keys.PublicKey, remote string) (auth any, err error)
	// CloseTimeout bounds the goodbye of [Conn.Close]; 0 means
	// DefaultCloseTimeout.
	CloseTimeout time.Duration
	// Rand is the source of the ephemeral keys; nil means crypto/rand.
	Rand io.Reader
}

// SHS is the transform "shs": the secret handshake, then box streams. See
// docs/PROTOCOL.md §1 and §2.
func SHS(cfg SHSConfig) Transform { return &secretHandshake{cfg: cfg} }

type secretHandshake struct {
	keyParser
	cfg SHSConfig
}

func (s *secretHandshake) Address() string {
	return shsName + ":" + s.cfg.Identity.Public().Base64()
}

func (s *secretHandshake) Client(ctx context.Context, raw net.Conn, part Part) (*Conn, error) {
	abort(raw)
	return nil, errors.New("multiserver: not here yet")
}

func (s *secretHandshake) Server(ctx context.Context, raw net.Conn) (*Conn, error) {
	abort(raw)
	return nil, errors.New("multiserver: not here yet")
}
