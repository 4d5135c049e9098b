package multiserver

import (
	"context"
	"net"

	"github.com/secretstack/secretstack/keys"
)

// NoAuthConfig configures [NoAuth].
type NoAuthConfig struct {
	// Self is our own key. It is taken for the key of everybody who connects.
	Self keys.PublicKey
	// Auth is what [Conn.Auth] returns for connections that were accepted. JavaScript
	// grants everything; nil leaves the decision to the application.
	Auth any
}

// NoAuth is the transform that proves and protects nothing: the bytes of the
// transport are those of the application. Whoever can connect has the rights
// of ourselves, so it belongs on sockets that only we can reach: unix sockets,
// and net in scope device on a machine that nobody else uses. See
// docs/PROTOCOL.md §6.3.
func NoAuth(cfg NoAuthConfig) Transform { return noAuth{cfg: cfg} }

type noAuth struct {
	noAuthParser
	cfg NoAuthConfig
}

func (n noAuth) Address() string { return noauthName }

func (n noAuth) Client(ctx context.Context, raw net.Conn, _ Part) (*Conn, error) {
	return n.conn(ctx, raw, nil)
}

func (n noAuth) Server(ctx context.Context, raw net.Conn) (*Conn, error) {
	return n.conn(ctx, raw, n.cfg.Auth)
}

func (n noAuth) conn(ctx context.Context, raw net.Conn, auth any) (*Conn, error) {
	if ctx.Err() != nil {
		Abort(raw)
		return nil, context.Cause(ctx)
	}
	return NewConn(ConnConfig{
		Raw: raw, Remote: n.cfg.Self, Auth: auth,
		Transform: noauthName + ":" + n.cfg.Self.Base64(),
	}), nil
}
