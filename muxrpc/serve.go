package muxrpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"strings"

	"github.com/secretstack/secretstack/packetstream"
)

// inbound is a call of the peer.
type inbound struct {
	CallInfo
	s    *Session
	id   int32 // of the request
	size int   // of the request in bytes
	m    *method
	st   *stream         // nil for async and sync calls
	ctx  context.Context // of the handler
}

// run serves the call.
func (in *inbound) run() {
	if in.st != nil {
		in.serveStream()
	} else {
		in.serveCall()
	}
}

// handleRequest starts an async or sync call of the peer. It belongs to the read loop.
func (s *Session) handleRequest(id int32, kind Kind) {
	in, err := s.route(id, kind, false)
	if err == nil {
		err = s.admitCall(in)
	}
	if err != nil {
		s.answerError(id, err)
	}
}

// route parses the request in the current packet and finds its method. It belongs to the read loop.
func (s *Session) route(id int32, kind Kind, isStream bool) (*inbound, error) {
	r, err := parseRequest(s.detached(kind), isStream)
	if err != nil {
		return nil, err
	}
	t := TypeAsync
	if isStream {
		if t = r.typ; !t.streams() {
			return nil, Errorf("unsupported stream type: %s", cmp.Or(t, "undefined"))
		}
	}
	m := s.mux.named(r.name)
	if m == nil {
		return nil, s.refusal(&r, t)
	}
	if err := s.perms.Load().check(m.path, m.keys); err != nil {
		return nil, err
	}
	if fits := m.typ == t || m.typ == TypeSync && t == TypeAsync; !fits {
		return nil, noMethod(t, m.path)
	}
	return &inbound{CallInfo: CallInfo{Path: m.path, Type: m.typ, Args: r.args}, s: s, id: id, size: r.size, m: m, ctx: &s.ctx}, nil
}

// refusal returns the answer to a request for a method that does not exist. Permissions come first, so that a peer
// without them learns nothing.
func (s *Session) refusal(r *request, t CallType) error {
	path, isString := parseName(r.name)
	if err := s.perms.Load().check(path, pathKeys(path)); err != nil {
		return err
	}
	if isString && path[0] == "emit" && t == TypeAsync {
		return Errorf("emit has been removed")
	}
	return noMethod(t, path)
}

func noMethod(t CallType, path []string) error {
	return Errorf("no %s:%s", t, strings.Join(path, ","))
}

// admitCall starts a call when there is a place among those being served. When all are taken it waits, and nothing is
// read meanwhile, but for no longer than SlowReaderGrace in all before half as many calls as there are places are done.
func (s *Session) admitCall(in *inbound) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used.use(in.id)
	for (s.handlers >= s.limits.MaxHandlers || !s.fitsArguments(in.size)) && !s.closing && !s.ended {
		left := s.limits.SlowReaderGrace - s.callsStalled
		if left <= 0 {
			return ErrTooManyCalls
		}
		waited := s.pause(left) // places may have been free meanwhile
		s.callsStalled += waited
	}
	if s.closing || s.ended {
		return ErrClosing
	}
	s.handlers++
	s.arguments += in.size
	s.account()
	s.start(in)
	return nil
}

// fitsArguments reports whether the session may hold the arguments of one more call. Called with mu held.
func (s *Session) fitsArguments(size int) bool {
	return s.arguments == 0 || s.arguments+size <= s.limits.SessionBuffer && s.mayHold(size)
}

// serveCall runs the handler of an async or sync call and answers, even if the handler exits its goroutine.
func (in *inbound) serveCall() {
	defer in.s.flushNow()
	defer in.callServed()
	var result any
	err := errPanicked
	defer func() { in.answer(result, err) }()
	result, err = in.call(in.m.handler)
}

// answer answers an async or sync call of the peer.
func (in *inbound) answer(result any, err error) {
	if err != nil {
		in.s.answerError(in.id, err)
		return
	}
	scratch := newScratch()
	defer scratch.free()
	kind, body, err := scratch.encode(result)
	if err == nil && len(body) > in.s.limits.MaxPacket {
		err = ErrTooLarge
	}
	if err != nil {
		in.logFailure(err)
		in.s.answerError(in.id, err)
		return
	}
	in.s.putAnswer(packetstream.Header{Type: kind, ID: -in.id}, body)
}

func (in *inbound) callServed() {
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers--
	s.arguments -= in.size
	s.account()
	s.callsServed++
	if s.handlers == 0 || int(s.callsServed) >= (s.limits.MaxHandlers+1)/2 {
		s.callsStalled, s.callsServed = 0, 0
	}
	s.room.broadcast()
	s.idle.broadcast()
}

// putAnswer queues the answer to a call of the peer when there is room for it.
func (s *Session) putAnswer(h packetstream.Header, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.out.size >= pendingLimit && !s.ended {
		if s.waitUnlocked(&s.ctx, s.out.space.wait(), nil) != nil {
			return // the session is ending
		}
	}
	s.out.put(h, body)
}

// answerError queues an error as the answer to an async call, whether there is room or not: see throttle.
func (s *Session) answerError(id int32, err error) {
	message, _ := wireMessage(err)
	body := appendWireError(nil, message)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.putControl(packetstream.Header{End: true, Type: KindJSON, ID: -id}, body)
	s.flushSoon()
}

// handleStreamRequest starts a stream that the peer opened. It belongs to the read loop.
func (s *Session) handleStreamRequest(id int32, kind Kind) {
	in, err := s.route(id, kind, true)
	if err == nil {
		err = s.admitStream(in)
	}
	if err != nil {
		s.refuseStream(id, err)
	}
}

// admitStream starts a stream unless too many are open.
func (s *Session) admitStream(in *inbound) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing || s.ended:
		return ErrClosing
	case s.serving >= s.limits.MaxStreams || !s.fitsArguments(in.size):
		return ErrTooManyStreams
	}
	s.serving++
	s.arguments += in.size
	s.account()
	in.st = s.newStream(-in.id, in.Type)
	in.ctx, in.st.cancel = context.WithCancelCause(&s.ctx)
	if in.st.reads() {
		in.Stream = &Stream[Value, any]{in.st}
	}
	s.start(in)
	return nil
}

// refuseStream ends a stream of the peer that was not opened.
func (s *Session) refuseStream(id int32, err error) {
	message, _ := wireMessage(err)
	body := appendWireError(nil, message)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.putControl(packetstream.Header{Stream: true, End: true, Type: KindJSON, ID: -id}, body)
	s.flushSoon()
}

// serveStream runs the handler of a stream and ends it, even if the handler exits its goroutine.
func (in *inbound) serveStream() {
	err := errPanicked
	defer func() { in.streamServed(err) }()
	result, err := in.call(in.m.handler)
	if err == nil && in.Type == TypeSource {
		_, err = in.call(in.st.pump(result))
	}
}

// streamServed ends a stream whose handler is done, unless it has ended already.
func (in *inbound) streamServed(err error) {
	in.st.cancel(context.Canceled)
	s := in.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if isEnd(err) {
		err = nil // the handler passed on that the peer's items have ended
	}
	in.st.abort(err)
	s.serving--
	s.arguments -= in.size
	s.account()
	s.room.broadcast()
	s.idle.broadcast()
}

// pump returns a handler that sends the items that the handler of a source returned.
func (st *stream) pump(result any) Handler {
	return func(ctx context.Context, _ *CallInfo) (any, error) {
		var items iter.Seq2[any, error]
		switch result := result.(type) {
		case iter.Seq2[any, error]:
			items = result
		case func(func(any, error) bool):
			items = result
		default:
			return nil, fmt.Errorf("muxrpc: handler of a source returned %T, not iter.Seq2[any, error]", result)
		}
		for item, err := range items {
			if err != nil {
				return nil, err
			}
			if err := st.send(ctx, item); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
}

// errPanicked stands for a handler that did not return.
var errPanicked = errors.New("muxrpc: handler panicked")

// call calls a handler. A panic becomes an error, and what the peer must not see is logged.
func (in *inbound) call(h Handler) (result any, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		err = errPanicked
		in.s.log.ErrorContext(in.ctx, "muxrpc: handler panicked", "method", in.Name(), "panic", recover(), "stack", string(debug.Stack()))
	}()
	result, err = h(in.ctx, &in.CallInfo)
	returned = true
	if err != nil && in.ctx.Err() == nil {
		in.logFailure(err)
	}
	return result, err
}

// logFailure logs an error that the peer is told nothing of.
func (in *inbound) logFailure(err error) {
	if _, complete := wireMessage(err); !complete {
		in.s.log.WarnContext(in.ctx, "muxrpc: call failed", "method", in.Name(), "type", in.Type, "error", err)
	}
}
