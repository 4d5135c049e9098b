package secretstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

func isOnion(host string) bool { return strings.HasSuffix(strings.ToLower(host), ".onion") }

// Connect dials an address such as "net:example.org:8008~shs:KEY", or several joined with ';', each in turn until one
// answers; an address whose transport the app does not have is passed over where there is another. ctx bounds the
// dialling, not the life of the connection. Connecting again to a peer gives a connection of its own. See also
// [AddressOf].
func (a *App) Connect(ctx context.Context, address string) (*Peer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(a.work, func() { cancel(ErrClosed) })()
	if err := a.mayDial(); err != nil {
		return nil, err
	}
	addresses, err := a.server.Known().ParseUsable(address)
	if err != nil {
		return nil, err // it names what is wrong with the address
	}
	conn, err := a.server.Dial(ctx, addresses)
	switch {
	case err == nil:
		return a.admit(conn, true)
	case errors.Is(err, multiserver.ErrServerClosed), errors.Is(context.Cause(ctx), ErrClosed):
		return nil, ErrClosed
	}
	return nil, dialError(err)
}

// dialError puts first what a peer on the way has said, such as a portal: the handshake through it only knows that
// nobody answered.
func dialError(err error) error {
	if remote, ok := errors.AsType[*muxrpc.RemoteError](err); ok && remote.Message != "" {
		return fmt.Errorf("secretstack: %s (%w)", remote.Message, err)
	}
	return err
}

// mayDial returns why nothing can be dialled now, or nil.
func (a *App) mayDial() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.state < running:
		return errNotStarted
	case a.state > running:
		return ErrClosed
	}
	return nil
}

// incoming takes over a connection whose caller has been authorized.
func (a *App) incoming(conn *multiserver.Conn) {
	<-a.ready
	if open := a.connections(); open >= a.cfg.maxPeers {
		a.log.Warn("secretstack: a peer was turned away: too many connections", "peer", conn.Remote().Short(), "open", open)
		_ = conn.Abort()
		return
	}
	if _, err := a.admit(conn, false); err != nil {
		a.log.Debug("secretstack: a connection came while the app closed", "peer", conn.Remote().Short())
	}
}

func (a *App) connections() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open
}

// admit makes a peer of a connection, and tells the plugins.
func (a *App) admit(conn *multiserver.Conn, isClient bool) (*Peer, error) {
	if !a.begin() {
		_ = conn.Close()
		return nil, ErrClosed
	}
	l := &link{Conn: conn, peer: Peer{app: a, conn: conn, isClient: isClient}}
	p := &l.peer
	l.ready.Add(1)
	// The app ends its sessions itself: a context that can end would cost each of them memory.
	p.Session = muxrpc.New(context.Background(), l, muxrpc.Options{
		Mux:         a.mux,
		Permissions: a.permissions(conn.Auth(), isClient),
		Peer:        p,
		Limits:      a.cfg.limits,
		Budget:      a.cfg.budget,
		Logger:      a.peerLog,
	})
	onConnect, surplus := a.enter(p)
	if surplus != nil {
		surplus.Abort(ErrReplaced)
	}
	for _, f := range onConnect {
		f(p)
	}
	l.ready.Done()
	a.log.Debug("secretstack: connected", "peer", p.Key().Short(), "client", isClient, "address", p.Address())
	return p, nil
}

// begin counts a connection whose end Close waits for.
func (a *App) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != running {
		return false
	}
	a.open++
	return true
}

// enter puts the peer into the table. It returns who wants to know about it, and the peer that must go for it, if any.
func (a *App) enter(p *Peer) (onConnect []func(*Peer), surplus *Peer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := p.Key().Array()
	p.older = a.peers[key]
	a.peers[key] = p
	a.watchIdle()
	if a.state != running {
		go p.Abort(ErrClosed) // Close has made its round already
	}
	if !p.isClient && !p.Key().Equal(a.ID()) {
		surplus = oldestOver(a.cfg.maxPerKey, a.peers[key])
	}
	return a.onConnect, surplus
}

// oldestOver returns the oldest peer that has dialled us when there are more than limit, those aside that are on their
// way out.
func oldestOver(limit int, newest *Peer) (oldest *Peer) {
	for p := newest; p != nil; p = p.older {
		if p.replaced {
			continue
		}
		limit--
		if !p.isClient {
			oldest = p
		}
	}
	if limit >= 0 {
		return nil
	}
	oldest.replaced = true
	return oldest
}

// ended follows the end of a session.
func (a *App) ended(l *link) {
	p := &l.peer
	l.ready.Wait()
	<-p.Done()
	for _, f := range a.remove(p) {
		f(p)
	}
	a.logEnd(p)
	_ = p.Close(a.life) // waits for its handlers, whose contexts have ended
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
	a.signal()
}

// logEnd says why a connection has ended. What we have ended ourselves, or is in order, is of interest to few.
func (a *App) logEnd(p *Peer) {
	err, level := p.Err(), slog.LevelInfo
	for _, ours := range []error{nil, ErrClosed, ErrInactive, ErrReplaced, muxrpc.ErrSessionClosed} {
		if errors.Is(err, ours) {
			level = slog.LevelDebug
		}
	}
	a.log.Log(a.life, level, "secretstack: disconnected", "peer", p.Key().Short(), "reason", err)
}

func (a *App) remove(p *Peer) []func(*Peer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := p.Key().Array()
	newest := a.peers[key]
	if newest == p {
		newest = p.older
	}
	for other := newest; other != nil; other = other.older {
		if other.older == p {
			other.older = p.older
		}
	}
	if a.peers[key] = newest; newest == nil {
		delete(a.peers, key)
	}
	return a.onDisconnect
}

// Peers returns the connections that are open. Several may be to the same key; of these the oldest comes first.
func (a *App) Peers() []*Peer {
	a.mu.Lock()
	defer a.mu.Unlock()
	peers := slices.Grow([]*Peer(nil), len(a.peers))
	for _, newest := range a.peers {
		peers = newest.appendOldestFirst(peers)
	}
	return peers
}

// PeersOf returns the connections to a key that are open, the oldest first.
func (a *App) PeersOf(key keys.PublicKey) []*Peer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.peers[key.Array()].appendOldestFirst(nil)
}

// appendOldestFirst appends the peers with the key of p, which is the newest of them. The caller holds App.mu.
func (p *Peer) appendOldestFirst(peers []*Peer) []*Peer {
	n := len(peers)
	for ; p != nil; p = p.older {
		peers = append(peers, p)
	}
	slices.Reverse(peers[n:])
	return peers
}
