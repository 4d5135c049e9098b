package secretstack

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// ErrInactive ends a connection over which no byte has gone for the time of [Config.Inactivity].
var ErrInactive = errors.New("secretstack: the connection was idle for too long")

// ErrReplaced ends the oldest connection of a peer that has made too many: see [Config.MaxPeersPerKey].
var ErrReplaced = errors.New("secretstack: the peer has made other connections")

// Peer is one connection to another app: a muxrpc session with the key that the other side has proved. There may be
// several with the same key. Give it to the functions of package muxrpc to call the other side's methods.
type Peer struct {
	*muxrpc.Session // set before the peer's first byte is read

	app      *App
	conn     *multiserver.Conn // nil: the app itself
	isClient bool
	replaced bool  // guarded by App.mu: it had to go for another with its key
	older    *Peer // guarded by App.mu: the one with its key that came before
}

// PeerFrom returns who has called the method whose handler was given ctx. It is nil where nobody has: in hooks that the
// app itself runs, such as those of "auth". Calls through [App.Self] come from a Peer with the app's own key.
func PeerFrom(ctx context.Context) *Peer {
	p, _ := muxrpc.PeerFrom(ctx).(*Peer)
	return p
}

// Key returns the key that the other side has proved. The nil Peer has the zero key.
func (p *Peer) Key() keys.PublicKey {
	switch {
	case p == nil:
		return keys.PublicKey{}
	case p.conn == nil:
		return p.app.ID()
	}
	return p.conn.Remote()
}

// Address returns the multiserver address of the other side, as far as it is known, and "" for the app itself. For a
// connection that was accepted it says where the peer dialled from, which cannot be dialled as a rule. It is not for
// telling other peers.
func (p *Peer) Address() string {
	if p.conn == nil {
		return ""
	}
	return p.conn.Address()
}

// IsClient reports whether we have dialled.
func (p *Peer) IsClient() bool { return p.isClient }

// App returns the app whose connection it is.
func (p *Peer) App() *App { return p.app }

// link is what lies under the session of a peer. It holds back what the peer sends until the plugins know about it, and
// tells the app when the session closes it: nothing has to wait for that, and hold memory, as long as the session lives.
type link struct {
	*multiserver.Conn
	peer  Peer
	ready sync.WaitGroup // until the plugins know
	once  sync.Once      // closed
}

func (l *link) Read(b []byte) (int, error) {
	l.ready.Wait()
	return l.Conn.Read(b)
}

func (l *link) Close() error {
	l.once.Do(func() { go l.peer.app.ended(l) })
	return l.Conn.Close()
}

// peerLog adds to what sessions log which peer it is about, so that not each of them has to hold a logger.
type peerLog struct{ slog.Handler }

func (h peerLog) Handle(ctx context.Context, r slog.Record) error {
	if p := PeerFrom(ctx); p != nil {
		r.AddAttrs(slog.String("peer", p.Key().Short()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h peerLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return peerLog{h.Handler.WithAttrs(attrs)}
}
func (h peerLog) WithGroup(name string) slog.Handler { return peerLog{h.Handler.WithGroup(name)} }
