package room

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

// connect joins the caller with an attendant. What they send each other passes through as it comes, as bytes that the
// portal cannot read.
func (r *Room) connect(ctx context.Context, args muxrpc.Args, in *muxrpc.Stream[muxrpc.Value, muxrpc.Value]) error {
	caller := secretstack.PeerFrom(ctx)
	request, err := rooms.ReadConnectRequest(args, longestRequest)
	if err != nil {
		return err
	}
	target, err := r.target(caller.Key(), request)
	if err != nil {
		return err
	}
	return r.tunnel(ctx, caller.Key(), target, request, in, r.anywhere)
}

// Half is one half of a tunnel.
type Half interface {
	// Recv gives the next item. Its error is io.EOF after an end in order, or a [muxrpc.RemoteError] that the other side has ended
	// it with.
	Recv(ctx context.Context) (muxrpc.Value, error)
	Send(ctx context.Context, item muxrpc.Value) error
	// Close ends it in order, Abort with an error that the other side is told.
	Close(ctx context.Context) error
	Abort(err error)
}

// Join joins a tunnel that comes from another part of the room with an attendant of this one, and returns when it has ended.
// Its error is for the other side; the caller ends the half with it.
func (r *Room) Join(ctx context.Context, origin, target keys.PublicKey, request []byte, in Half) error {
	var c rooms.ConnectRequest
	if len(request) > longestForwarded || json.Unmarshal(request, &c) != nil {
		return rooms.ErrNoRequest
	}
	return r.tunnel(ctx, origin, target, &c, in, r.here)
}

// opening opens the half of a tunnel to a target. gone is closed when the target has gone away; nil if that is not known.
type opening func(ctx context.Context, origin, target keys.PublicKey, request *rooms.ConnectRequest) (out Half, gone <-chan struct{}, err error)

// here opens it over a session of the target with this app.
func (r *Room) here(ctx context.Context, origin, target keys.PublicKey, request *rooms.ConnectRequest) (Half, <-chan struct{}, error) {
	session := r.presence.session(target.Array())
	if session == nil {
		return nil, nil, couldNotConnect(request.Target)
	}
	request.Origin = origin.Ref()
	out, err := muxrpc.Duplex[muxrpc.Value, muxrpc.Value](ctx, session, rooms.MethodConnect, request)
	if err != nil {
		return nil, nil, couldNotConnect(request.Target)
	}
	return out, session.Done(), nil
}

// anywhere opens it here, or else in another part of the room.
func (r *Room) anywhere(ctx context.Context, origin, target keys.PublicKey, request *rooms.ConnectRequest) (Half, <-chan struct{}, error) {
	if r.cfg.Elsewhere == nil || r.Has(target) {
		return r.here(ctx, origin, target, request)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, nil, err
	}
	out, gone, err := r.cfg.Elsewhere(ctx, origin, target, body)
	if err != nil {
		return nil, nil, couldNotConnect(request.Target)
	}
	return out, gone, nil
}

// tunnel joins the half of a caller with one to the target.
func (r *Room) tunnel(ctx context.Context, origin, target keys.PublicKey, request *rooms.ConnectRequest, in Half, open opening) error {
	use, ok := r.tunnels.enter(origin.Array(), r.cfg)
	if !ok {
		return muxrpc.Errorf("too many tunnels are open")
	}
	defer r.tunnels.leave(use)

	// The end of the caller's half must not cut the target's off: join ends it the way the caller's ended.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	out, gone, err := open(life, origin, target, request)
	if err != nil {
		return err
	}
	t := &tunnel{
		usage: use, mayIdle: r.cfg.TunnelIdle, in: in, out: out,
		callerGone: ctx.Done(), targetGone: gone, closing: r.closing,
	}
	return t.run(life, cancel)
}

const (
	// longestRequest bounds what is passed on to a target, which has to keep it as long as the tunnel lasts.
	longestRequest = 1 << 10
	// longestForwarded is what a request becomes at most when it is written anew.
	longestForwarded = 8 * longestRequest
	// longestReason bounds the text of an error that is passed on.
	longestReason = 1 << 10
)

// target returns whom the caller asks for.
func (r *Room) target(caller keys.PublicKey, request *rooms.ConnectRequest) (key keys.PublicKey, err error) {
	if request == nil {
		return key, rooms.ErrNoRequest
	}
	if request.Portal != "" && request.Portal != r.app.ID().Ref() {
		return key, muxrpc.Errorf("talking to the wrong room")
	}
	if key, err = keys.ParsePublicKey(request.Target); err != nil {
		return key, couldNotConnect(request.Target)
	}
	if key.Equal(caller) {
		return key, muxrpc.Errorf("can't connect to self")
	}
	return key, nil
}

// couldNotConnect is what room clients are told of a target that is not here.
func couldNotConnect(target string) error {
	return muxrpc.Errorf("could not connect to: %s", rooms.ShownTarget(target))
}

// tunnel is two halves that are joined: that of the caller, in, and that to the target, out.
type tunnel struct {
	*usage
	mayIdle                         time.Duration
	in, out                         Half
	callerGone, targetGone, closing <-chan struct{}
}

const (
	// drain is how long what has arrived before an end of the tunnel went away may take to reach the other.
	drain = time.Second
	// firstAnswer is how long a target may take to send anything at all: the handshake inside has a shorter time.
	firstAnswer = 30 * time.Second
)

// run passes items both ways until one half ends, and then ends the other in the same way, for it is of no use alone.
// What is buffered is bounded by the sessions' limits: a half reads no further than the other takes.
func (t *tunnel) run(ctx context.Context, cancel func()) error {
	ends := make(chan error, 2)
	var halves sync.WaitGroup
	halves.Go(func() { ends <- pass(ctx, t.out, t.in, t.touch) })
	halves.Go(func() { ends <- pass(ctx, t.in, t.out, t.answered) })
	defer halves.Wait()
	defer cancel()
	err := t.wait(ends)
	if errors.Is(err, io.EOF) {
		_ = t.out.Close(expired()) // says so, and does not wait for an answer that may never come
		return nil
	}
	err = forPeer(err)
	t.out.Abort(err)
	return err
}

func (t *tunnel) answered() {
	t.answers.Store(true)
	t.touch()
}

// wait returns how the tunnel ended. That an end has gone away does not show while both halves wait for the one that is
// left to take something, so it is watched.
func (t *tunnel) wait(ends <-chan error) error {
	idle := time.NewTimer(min(firstAnswer, t.mayIdle))
	defer idle.Stop()
	for gone := false; !gone; {
		select {
		case err := <-ends:
			return err
		case <-t.closing:
			return errClosing
		case <-t.evicted:
			return errMadeRoom
		case <-idle.C:
			left := t.timeLeft()
			if left <= 0 {
				return errIdle
			}
			idle.Reset(left)
		case <-t.callerGone:
			gone = true
		case <-t.targetGone:
			gone = true
		}
	}
	late := time.NewTimer(drain)
	defer late.Stop()
	select {
	case err := <-ends:
		return err
	case <-late.C:
		return errGoneAway
	}
}

// timeLeft is how long the tunnel may stay as it is.
func (t *tunnel) timeLeft() time.Duration {
	if !t.answers.Load() {
		return 0
	}
	return t.mayIdle - t.idle()
}

var (
	errClosing  = muxrpc.Errorf("the room is closing")
	errGoneAway = muxrpc.Errorf("the other end of the tunnel has gone away")
	errIdle     = muxrpc.Errorf("nothing has gone through the tunnel for too long")
	errMadeRoom = muxrpc.Errorf("the tunnel had to make room for others")
)

// forPeer keeps what one end has said, and what may be told, from what happened here.
func forPeer(err error) error {
	for _, ours := range []error{errClosing, errIdle, errMadeRoom, muxrpc.ErrSlowReader} {
		if errors.Is(err, ours) {
			return err
		}
	}
	remote, ok := errors.AsType[*muxrpc.RemoteError](err)
	if !ok {
		return errGoneAway
	}
	return muxrpc.Errorf("%s", rooms.Cut(remote.Message, longestReason))
}

// pass sends to one half what the other receives, until either ends, and says when something has passed.
func pass(ctx context.Context, to, from Half, passed func()) error {
	for {
		item, err := from.Recv(ctx)
		if err != nil {
			return err
		}
		err = to.Send(ctx, item)
		muxrpc.Recycle(item.Bytes)
		if err != nil {
			return err
		}
		passed()
	}
}

// expired is a context for what must not wait.
func expired() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
