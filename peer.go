package secretstack

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// ErrInactive ends a connection over which no byte has gone for the time of [Config.Inactivity].
var ErrInactive = errors.New("secretstack: the connection was idle for too long")

// Peer is one connection to another app: a muxrpc session with the key that the other side has proved. There may be
// several with the same key. Give it to the functions of package muxrpc to call the other side's methods.
type Peer struct {
	*muxrpc.Session // set before the peer's first byte is read

	app      *App
	key      keys.PublicKey
	address  string
	isClient bool
}

// PeerFrom returns who has called the method whose handler was given ctx. It is nil where nobody has: in hooks that the
// app itself runs, such as those of "auth". Calls through [App.Self] come from a Peer with the app's own key.
func PeerFrom(ctx context.Context) *Peer {
	p, _ := muxrpc.PeerFrom(ctx).(*Peer)
	return p
}

// Key returns the key that the other side has proved. The nil Peer has the zero key.
func (p *Peer) Key() keys.PublicKey {
	if p == nil {
		return keys.PublicKey{}
	}
	return p.key
}

// Address returns the multiserver address of the other side, as far as it is known. For a connection that was accepted
// it says where the peer dialled from, which cannot be dialled as a rule. It is not for telling other peers.
func (p *Peer) Address() string { return p.address }

// IsClient reports whether we have dialled.
func (p *Peer) IsClient() bool { return p.isClient }

// App returns the app whose connection it is.
func (p *Peer) App() *App { return p.app }

// gate is the connection under a session. It holds back what the peer sends until the plugins know about it, and tells
// the app when the session closes it: no goroutine has to wait for that as long as the session lives.
type gate struct {
	*multiserver.Conn
	open      chan struct{}
	once      sync.Once
	onClose   func()
	stopWatch func() bool // nil: nobody watches; set before open is closed
}

func (g *gate) Read(b []byte) (int, error) {
	<-g.open
	return g.Conn.Read(b)
}

func (g *gate) Close() error {
	g.once.Do(g.onClose)
	return g.Conn.Close()
}

// watch ends the connection when it has been idle for limit, until stop is called.
func (p *Peer) watch(limit time.Duration) (stop func() bool) {
	var timer *time.Timer
	armed := make(chan struct{})
	timer = time.AfterFunc(limit, func() {
		<-armed
		if idle := time.Since(p.Activity()); idle < limit {
			timer.Reset(limit - idle)
			return
		}
		p.Abort(ErrInactive)
	})
	close(armed)
	return timer.Stop
}
