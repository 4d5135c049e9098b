package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

const name = "tunnel"

// part is the transport part of the address of target behind portal.
func part(portal, target keys.PublicKey) multiserver.Part {
	return multiserver.NewPart(name, portal.Ref()+":"+target.Ref())
}

// transport is the transport "tunnel": tunnel:PORTAL:TARGET.
type transport struct{ a *Attendant }

func (*transport) Name() string { return name }

func (*transport) ParsePart(p multiserver.Part, mode multiserver.Mode) (multiserver.Part, error) {
	if p.Name != name {
		return multiserver.Part{}, multiserver.ErrOtherPart
	}
	portal, target, err := parsePart(p, mode)
	if err != nil {
		return multiserver.Part{}, err
	}
	return part(portal, target), nil
}

// parsePart reads the keys in a part. What follows them, an instance of old rooms, means nothing any more.
func parsePart(p multiserver.Part, mode multiserver.Mode) (portal, target keys.PublicKey, err error) {
	if len(p.Data) < 2 {
		return portal, target, errors.New("tunnel needs a portal and a target, as in tunnel:@PORTAL.ed25519:@TARGET.ed25519")
	}
	parse := keys.ParsePublicKey
	if mode == multiserver.Loose {
		parse = keys.ParsePublicKeyLenient
	}
	if portal, err = parse(p.Data[0]); err != nil {
		return portal, target, fmt.Errorf("the portal is not a key: %w", err)
	}
	if target, err = parse(p.Data[1]); err != nil {
		return portal, target, fmt.Errorf("the target is not a key: %w", err)
	}
	return portal, target, nil
}

// Listen takes the tunnels that rooms open to us.
func (t *transport) Listen(_ context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	var none struct{}
	if err := in.Decode(&none); err != nil {
		return nil, err
	}
	return &listener{a: t.a, done: make(chan struct{})}, nil
}

type listener struct {
	a    *Attendant
	done chan struct{}
	once sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.a.incoming:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addresses is empty: which rooms we are in is for the application to tell.
func (*listener) Addresses(multiserver.Scope) []multiserver.Part { return nil }

// Dial asks a portal for a tunnel to a target. It does not wait for the answer: what is sent goes the same way.
func (t *transport) Dial(ctx context.Context, p multiserver.Part) (net.Conn, error) {
	portal, target, err := parsePart(p, multiserver.Loose)
	if err != nil {
		return nil, err
	}
	through, err := t.through(ctx, portal, target)
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stream, err := muxrpc.Duplex[[]byte, []byte](life, through, rooms.MethodConnect, rooms.ConnectRequest{Target: target.Ref(), Portal: portal.Ref()})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("tunnel: portal %s: %w", portal, err)
	}
	return newConn(cancel, stream, p), nil
}

// through returns a connection to the portal; if there is none, it is made when the portal's address is known.
func (t *transport) through(ctx context.Context, portal, target keys.PublicKey) (*secretstack.Peer, error) {
	if p := t.a.connected(portal); p != nil {
		return p, nil
	}
	address, known := t.a.portals[portal.Array()]
	if !known {
		return nil, fmt.Errorf("can't connect to %s because room %s is offline or unknown", target, portal)
	}
	p, err := t.a.app.Connect(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("can't connect to %s because room %s is offline or unknown: %w", target, portal, err)
	}
	return p, nil
}

// accepting serves tunnel.connect: a room opens a tunnel to us for somebody. What is not for us goes to next; without
// one it is refused.
func (a *Attendant) accepting(next muxrpc.Handler) muxrpc.Handler {
	return func(ctx context.Context, call *muxrpc.CallInfo) (any, error) {
		request, err := rooms.ReadConnectRequest(call.Args, longestRequest)
		if err != nil {
			return nil, err
		}
		r, origin, err := a.check(secretstack.PeerFrom(ctx), request)
		if err != nil && next != nil {
			return next(ctx, call)
		}
		if err != nil {
			return nil, err
		}
		if !a.addTunnel(r) {
			return nil, muxrpc.Errorf("too many tunnels are open")
		}
		defer a.endTunnel(r)
		return nil, a.accept(ctx, call, origin)
	}
}

// longestRequest bounds what a room may make us keep as long as a tunnel lasts.
const longestRequest = 4 << 10

// check returns who wants to come through, and through which room, if the caller is one that we are in, and means us.
func (a *Attendant) check(caller *secretstack.Peer, request *rooms.ConnectRequest) (*room, keys.PublicKey, error) {
	if request == nil {
		return nil, keys.PublicKey{}, rooms.ErrNoRequest
	}
	origin, err := keys.ParsePublicKey(request.Origin)
	r := a.roomOf(caller)
	if err != nil || request.Target != a.app.ID().Ref() || r == nil {
		return nil, keys.PublicKey{}, couldNotConnect(request.Target)
	}
	return r, origin, nil
}

// roomOf returns the room at the other end of a connection, or nil. Another connection with the same key is not enough:
// one that came through a tunnel must not bring tunnels itself.
func (a *Attendant) roomOf(p *secretstack.Peer) *room {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.rooms, func(r *room) bool { return r.peer == p })
	if i < 0 {
		return nil
	}
	return a.rooms[i]
}

// addTunnel counts a tunnel that a room opens to us, unless it has too many.
func (a *Attendant) addTunnel(r *room) bool {
	limit := a.maxTunnels
	if !r.peer.IsClient() {
		limit = min(limit, maxTunnelsUnasked)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.tunnels >= limit {
		return false
	}
	r.tunnels++
	return true
}

func (a *Attendant) endTunnel(r *room) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.tunnels--
}

func couldNotConnect(target string) error {
	return muxrpc.Errorf("could not connect to %s", rooms.ShownTarget(target))
}

// accept makes the tunnel an incoming connection, and lasts as long as it does.
func (a *Attendant) accept(ctx context.Context, call *muxrpc.CallInfo, origin keys.PublicKey) error {
	from := part(secretstack.PeerFrom(ctx).Key(), origin)
	c := newConn(nil, &valueStream{call.Stream}, from)
	defer func() { _ = c.Close() }()
	select {
	case a.incoming <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.Linger(ctx, lateClose)
	return nil
}

// lateClose is how long the owner of a connection may take to notice that its tunnel has ended.
const lateClose = 5 * time.Second

// valueStream is the stream of an untyped handler, for bytes.
type valueStream struct {
	*muxrpc.Stream[muxrpc.Value, any]
}

func (s *valueStream) Recv(ctx context.Context) ([]byte, error) {
	v, err := s.Stream.Recv(ctx)
	return v.Bytes, err
}

func (s *valueStream) Send(ctx context.Context, b []byte) error { return s.Stream.Send(ctx, b) }
