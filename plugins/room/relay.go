package room

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

// connectRequest is the argument of tunnel.connect, docs/PROTOCOL.md §7.
type connectRequest struct {
	Target string `json:"target"`
	// Portal is the room that the caller means; rooms older than that leave it out and send an instance instead.
	Portal   string          `json:"portal,omitempty"`
	Instance json.RawMessage `json:"instance,omitempty"`
	// Origin is who calls. The portal fills it in, whatever the caller wrote.
	Origin string `json:"origin,omitempty"`
}

// connect joins the caller with an attendant. What they send each other passes through as it comes, as bytes that the
// portal cannot read.
func (r *Room) connect(ctx context.Context, args muxrpc.Args, in *muxrpc.Stream[muxrpc.Value, muxrpc.Value]) error {
	caller := secretstack.PeerFrom(ctx)
	var request *connectRequest
	if err := args.Decode(&request); err != nil {
		return err
	}
	target, err := r.target(caller, request)
	if err != nil {
		return err
	}
	if !r.tunnels.enter(caller.Key().Array(), r.cfg) {
		return muxrpc.Errorf("too many tunnels are open")
	}
	defer r.tunnels.leave(caller.Key().Array())

	request.Origin = caller.Key().Ref()
	// The end of the caller's half must not cut the target's off: join ends it the way the caller's ended.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	out, err := muxrpc.Duplex[muxrpc.Value, muxrpc.Value](ctx, target, "tunnel.connect", request)
	if err != nil {
		return couldNotConnect(request.Target)
	}
	return r.join(ctx, cancel, in, out)
}

// target returns the session of the attendant that the caller asks for.
func (r *Room) target(caller *secretstack.Peer, request *connectRequest) (*secretstack.Peer, error) {
	if request == nil {
		return nil, muxrpc.Errorf("opts *must* be provided")
	}
	if request.Portal != "" && request.Portal != r.app.ID().Ref() {
		return nil, muxrpc.Errorf("talking to the wrong room")
	}
	key, err := keys.ParsePublicKey(request.Target)
	if err != nil {
		return nil, couldNotConnect(request.Target)
	}
	if key.Equal(caller.Key()) {
		return nil, muxrpc.Errorf("can't connect to self")
	}
	target := r.presence.session(key.Array())
	if target == nil {
		return nil, couldNotConnect(request.Target)
	}
	return target, nil
}

// couldNotConnect is what room clients are told of a target that is not here.
func couldNotConnect(target string) error {
	const longest = 100 // a reference has 53
	if len(target) > longest {
		target = target[:longest]
	}
	return muxrpc.Errorf("could not connect to: %s", target)
}

// join passes items both ways until one half ends, and then ends the other in the same way, for it is of no use alone.
// What is buffered is bounded by the sessions' limits: a half reads no further than the other takes.
func (r *Room) join(ctx context.Context, cancel func(), in, out *muxrpc.Stream[muxrpc.Value, muxrpc.Value]) error {
	ends := make(chan error, 2)
	var halves sync.WaitGroup
	halves.Go(func() { ends <- pass(ctx, out, in) })
	halves.Go(func() { ends <- pass(ctx, in, out) })
	defer halves.Wait()
	defer cancel()
	select {
	case err := <-ends:
		if err == io.EOF {
			_ = out.Close(expired()) // says so, and does not wait for an answer that may never come
			return nil
		}
		err = forPeer(err)
		out.Abort(err)
		return err
	case <-r.closing:
		out.Abort(errClosing)
		return errClosing
	}
}

var (
	errClosing  = muxrpc.Errorf("the room is closing")
	errGoneAway = muxrpc.Errorf("the other end of the tunnel has gone away")
)

// forPeer keeps what one end has said, and what may be told, from what happened here.
func forPeer(err error) error {
	if _, remote := errors.AsType[*muxrpc.RemoteError](err); remote {
		return err
	}
	if errors.Is(err, muxrpc.ErrSlowReader) {
		return err
	}
	return errGoneAway
}

// pass sends to one half what the other receives, until either ends.
func pass(ctx context.Context, to, from *muxrpc.Stream[muxrpc.Value, muxrpc.Value]) error {
	for {
		item, err := from.Recv(ctx)
		if err != nil {
			return err
		}
		if err := to.Send(ctx, item); err != nil {
			return err
		}
	}
}

// expired is a context for what must not wait.
func expired() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// tunnels counts the tunnels that are open, in all and by who has opened them.
type tunnels struct {
	mu   sync.Mutex
	all  int
	byID map[[32]byte]int
}

// enter counts one more tunnel, unless that is too many.
func (t *tunnels) enter(id [32]byte, cfg Config) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= cfg.MaxTunnels || t.byID[id] >= cfg.MaxTunnelsPerPeer {
		return false
	}
	if t.byID == nil {
		t.byID = map[[32]byte]int{}
	}
	t.all++
	t.byID[id]++
	return true
}

func (t *tunnels) leave(id [32]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.byID[id]--; t.byID[id] == 0 {
		delete(t.byID, id)
	}
}

func (t *tunnels) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}
