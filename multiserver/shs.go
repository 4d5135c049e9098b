package multiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/secretstack/secretstack/boxstream"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/shs"
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

// Address returns shs:KEY, with our own key.
func (s *secretHandshake) Address() string {
	return keyPart(s.cfg.Identity.Public())
}

func keyPart(key keys.PublicKey) string { return shsName + ":" + key.Base64() }

// Client dials as ourselves, or as the seed in the part says.
func (s *secretHandshake) Client(ctx context.Context, raw net.Conn, part Part) (*Conn, error) {
	cfg := s.config()
	remote, seed, _, err := ParseKeyPart(part, Loose)
	if err == nil && seed != nil {
		cfg.Identity, err = keys.FromSeed(seed)
	}
	if err != nil {
		Abort(raw)
		return nil, err
	}
	var session *shs.Session
	err = handshake(ctx, raw, func() (err error) {
		session, err = shs.Client(raw, cfg, remote)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.conn(raw, session, nil), nil
}

// Server lets the peer prove its key, and asks the application about it.
func (s *secretHandshake) Server(ctx context.Context, raw net.Conn) (*Conn, error) {
	var auth any
	authorize := func(peer keys.PublicKey) (err error) {
		if s.cfg.Authorize != nil {
			auth, err = s.cfg.Authorize(ctx, peer, PeerPart(raw).String())
		}
		return err
	}
	var session *shs.Session
	err := handshake(ctx, raw, func() (err error) {
		session, err = shs.Server(raw, s.config(), authorize)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.conn(raw, session, auth), nil
}

func (s *secretHandshake) config() shs.Config {
	return shs.Config{Identity: s.cfg.Identity, AppKey: s.cfg.AppKey, Rand: s.cfg.Rand}
}

// handshake runs one and ends it with ctx. When it fails, raw is closed.
func handshake(ctx context.Context, raw net.Conn, run func() error) error {
	stop := context.AfterFunc(ctx, func() {
		if raw.SetDeadline(longAgo()) != nil {
			Abort(raw)
		}
	})
	err := run()
	if !stop() { // the deadlines are gone
		err = endedError(err, context.Cause(ctx))
	}
	if err != nil {
		Abort(raw)
	}
	return err
}

// endedError is the error of a handshake during which its context ended.
func endedError(err, cause error) error {
	if !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	if err == nil {
		err = shs.ErrTimeout
	}
	return fmt.Errorf("%w (%w)", err, cause)
}

// conn starts the box streams. The session's keys are not kept.
func (s *secretHandshake) conn(raw net.Conn, session *shs.Session, auth any) *Conn {
	raw = proved(raw)
	conn := NewConn(ConnConfig{
		Raw:          raw,
		Reader:       boxstream.NewReader(raw, &session.ReceiveKey, &session.ReceiveNonce),
		Writer:       boxstream.NewWriter(raw, &session.SendKey, &session.SendNonce),
		Remote:       session.Remote,
		Auth:         auth,
		CloseTimeout: s.cfg.CloseTimeout,
	})
	clear(session.ReceiveKey[:])
	clear(session.SendKey[:])
	return conn
}
