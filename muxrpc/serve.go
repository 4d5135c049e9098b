package muxrpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime/debug"
	"strings"

	"github.com/secretstack/secretstack/packetstream"
)

// handleRequest starts an async or sync call of the peer. It belongs to the read loop.
func (s *Session) handleRequest(id int32, kind Kind) {
	s.mu.Lock()
	s.used.use(id)
	s.mu.Unlock()
	r, m, err := s.route(kind, false)
	if err == nil {
		err = s.admitCall(r.size)
	}
	if err != nil {
		s.answerError(id, err)
		return
	}
	go s.serveCall(id, r.size, m, &CallInfo{Path: m.path, Type: m.typ, Args: r.args})
}

// route parses the request in the current packet and finds its method. It belongs to the read loop.
func (s *Session) route(kind Kind, isStream bool) (*request, *method, error) {
	r, err := parseRequest(s.detached(kind), isStream)
	if err != nil {
		return nil, nil, err
	}
	t := r.typ
	switch {
	case !isStream:
		t = TypeAsync
	case !t.streams():
		return nil, nil, Errorf("unsupported stream type: %s", cmp.Or(t, "undefined"))
	}
	if err := s.perms.Load().check(r.path); err != nil {
		return nil, nil, err
	}
	if r.named && r.path[0] == "emit" && !isStream {
		return nil, nil, Errorf("emit has been removed")
	}
	m := s.mux.lookup(r.path)
	if m == nil || m.typ != t && !(t == TypeAsync && m.typ == TypeSync) {
		return nil, nil, Errorf("no %s:%s", t, strings.Join(r.path, ","))
	}
	return r, m, nil
}

// admitCall takes a place among the calls being served, for one whose request has size bytes. When all are taken it
// waits, and nothing is read meanwhile, but for no longer than SlowReaderGrace until half of the places are free again.
func (s *Session) admitCall(size int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for (s.handlers >= s.limits.MaxHandlers || !s.fitsArguments(size)) && !s.closing && !s.ended {
		left := s.limits.SlowReaderGrace - s.callsStalled
		if left <= 0 {
			return ErrTooManyCalls
		}
		s.callsStalled += s.pause(left)
	}
	if s.closing || s.ended {
		return ErrClosing
	}
	s.handlers++
	s.arguments += size
	return nil
}

// fitsArguments reports whether the session may hold the arguments of one more call. Called with mu held.
func (s *Session) fitsArguments(size int) bool {
	return s.arguments == 0 || s.arguments+size <= s.limits.SessionBuffer
}

// serveCall runs the handler of an async or sync call and answers, even if the handler exits its goroutine.
func (s *Session) serveCall(id int32, size int, m *method, info *CallInfo) {
	defer s.callServed(size)
	var result any
	err := errPanicked
	defer func() { s.reply(id, info, result, err) }()
	result, err = s.run(s.ctx, m.handler, info)
}

// reply answers an async or sync call of the peer.
func (s *Session) reply(id int32, info *CallInfo, result any, err error) {
	if err != nil {
		s.answerError(id, err)
		return
	}
	scratch := newScratch()
	defer scratch.free()
	kind, body, err := scratch.encode(result)
	if err == nil && len(body) > s.limits.MaxPacket {
		err = ErrTooLarge
	}
	if err != nil {
		s.logFailure(info, err)
		s.answerError(id, err)
		return
	}
	s.answer(packetstream.Header{Type: kind, ID: -id}, body)
}

func (s *Session) callServed(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers--
	s.arguments -= size
	if s.handlers < (s.limits.MaxHandlers+1)/2 {
		s.callsStalled = 0
	}
	s.room.broadcast()
	s.idle.broadcast()
}

// answer queues the answer to a call of the peer, when there is room for it.
func (s *Session) answer(h packetstream.Header, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.out.size() >= pendingLimit && !s.ended {
		if s.waitUnlocked(s.ctx, s.out.space.wait(), nil) != nil {
			return // the session is ending
		}
	}
	s.out.put(h, body)
	s.flushSoon()
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
	r, m, err := s.route(kind, true)
	if err == nil {
		var st *stream
		if st, err = s.admitStream(id, r); err == nil {
			ctx, cancel := context.WithCancelCause(s.ctx)
			st.cancel = cancel
			go s.serveStream(ctx, st, m, r)
			return
		}
	}
	message, _ := wireMessage(err)
	body := appendWireError(nil, message)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.putControl(packetstream.Header{Stream: true, End: true, Type: KindJSON, ID: -id}, body)
	s.flushSoon()
}

// admitStream adds a stream that the peer opened.
func (s *Session) admitStream(id int32, r *request) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing || s.ended:
		return nil, ErrClosing
	case s.serving >= s.limits.MaxStreams || !s.fitsArguments(r.size):
		return nil, ErrTooManyStreams
	}
	s.serving++
	s.arguments += r.size
	return s.newStream(-id, r.typ), nil
}

// serveStream runs the handler of a stream and ends it, even if the handler exits its goroutine.
func (s *Session) serveStream(ctx context.Context, st *stream, m *method, r *request) {
	err := errPanicked
	defer func() { s.streamServed(st, r.size, err) }()
	info := &CallInfo{Path: m.path, Type: m.typ, Args: r.args}
	if st.reads() {
		info.Stream = &Stream[Value, any]{st}
	}
	result, err := s.run(ctx, m.handler, info)
	if err == nil && st.typ == TypeSource {
		_, err = s.run(ctx, st.pump(result), info)
	}
}

// streamServed ends a stream whose handler is done, unless it has ended already.
func (s *Session) streamServed(st *stream, size int, err error) {
	st.cancel(context.Canceled)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == io.EOF {
		err = nil // the handler passed on that the peer's items have ended
	}
	st.abort(err)
	s.serving--
	s.arguments -= size
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

// run calls a handler. A panic becomes an error, and what the peer must not see is logged.
func (s *Session) run(ctx context.Context, h Handler, info *CallInfo) (result any, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		err = errPanicked
		s.log.Error("muxrpc: handler panicked", "method", info.Name(), "panic", recover(), "stack", string(debug.Stack()))
	}()
	result, err = h(ctx, info)
	returned = true
	if err != nil && ctx.Err() == nil {
		s.logFailure(info, err)
	}
	return result, err
}

// logFailure logs an error that the peer is told nothing of.
func (s *Session) logFailure(info *CallInfo, err error) {
	if _, complete := wireMessage(err); !complete {
		s.log.Warn("muxrpc: call failed", "method", info.Name(), "type", info.Type, "error", err)
	}
}
