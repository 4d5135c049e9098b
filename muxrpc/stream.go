package muxrpc

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/packetstream"
)

// releaseStep is how many bytes a reader takes before it tells the session, so that it need not lock for each item. It
// is less while the window is small, for a release may let the peer send more.
const releaseStep = 32 << 10

// stream is one end of a source, sink or duplex call.
//
// Its life is two facts: whether our end packet was sent and whether the peer's came. A stream leaves the session's
// tables as soon as nobody here has an interest in it; what still arrives for it is dropped. Docs/PROTOCOL.md §4.2.
type stream struct {
	s      *Session
	id     int32 // as in our own packets: positive if we asked, negative if the peer did
	typ    CallType
	cancel context.CancelCauseFunc // cancels the handler's context; nil if we asked
	stop   func() bool             // stops watching the caller's context; guarded by s.mu, may be nil

	// Sending, guarded by s.mu.
	sendErr error  // why nothing can be sent any more
	endSent bool   // our end packet was sent; nothing follows it
	sent    uint64 // cost of what was sent
	limit   uint64 // what the peer has granted

	// Receiving, guarded by s.mu.
	recvErr    error // what the reader gets after the last item: io.EOF after an orderly end
	deaf       bool  // nobody will read: what arrives is dropped
	arrived    queue
	held       int // cost of what arrived and was not released, part of s.buffered
	consumed   uint64
	granted    uint64
	window     int
	grantDirty bool
	nextDirty  *stream
	stalled    time.Duration // how long reading from the peer has paused for this stream…
	progress   int           // …since its reader took half of StreamBuffer, or all there was; what it took since

	changed signal      // guarded by s.mu: anything above changed
	timer   *time.Timer // guarded by s.mu: ends the wait for an end that may never come

	// Owned by the reader.
	batch  queue         // taken from arrived
	taken  int           // cost of what was popped and not released
	step   int           // how much of that is worth a release
	popped atomic.Uint32 // items so far; read by the timer too
}

// remote reports whether the peer opened the stream.
func (st *stream) remote() bool { return st.id < 0 }

func (st *stream) sends() bool { return st.typ == TypeDuplex || (st.typ == TypeSource) == st.remote() }
func (st *stream) reads() bool { return st.typ == TypeDuplex || (st.typ == TypeSink) == st.remote() }

func (st *stream) header(kind Kind, end bool) packetstream.Header {
	return packetstream.Header{Stream: true, End: end, Type: kind, ID: st.id}
}

// endOK is the body of an orderly end.
var endOK = []byte("true")

// send sends one item. It waits while the peer's window or the outbox is full.
func (st *stream) send(ctx context.Context, item any) error {
	if emptyBuffer(item) {
		return nil // an empty body would be the goodbye
	}
	scratch := newScratch()
	defer scratch.free()
	kind, body, err := scratch.encode(item)
	if err != nil {
		return err
	}
	return st.sendBody(ctx, kind, body)
}

func (st *stream) sendBody(ctx context.Context, kind Kind, body []byte) error {
	s := st.s
	if len(body) > s.limits.MaxPacket {
		return ErrTooLarge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var space <-chan struct{}
		switch {
		case st.sendErr != nil:
			return st.sendErr
		case ctx.Err() != nil:
			return ctx.Err()
		case !s.mayWrite(st):
			// wait for the peer to grant more
		case s.out.size >= pendingLimit:
			space = s.out.space.wait()
		default:
			s.out.put(st.header(kind, false), body)
			st.sent += uint64(packetCost(len(body)))
			s.flushSoon()
			return nil
		}
		_ = s.waitUnlocked(ctx, st.changed.wait(), space)
	}
}

// waitUnlocked gives up mu until one of two channels is closed; either may be nil. Called with mu held.
func (s *Session) waitUnlocked(ctx context.Context, a, b <-chan struct{}) error {
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-a:
		return nil
	case <-b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// next returns the next item. Its bytes belong to the caller if owned is true, and are otherwise valid until the
// following call. Not safe for concurrent use.
func (st *stream) next(ctx context.Context) (v Value, owned bool, err error) {
	if st.batch.empty() || ctx.Err() != nil {
		if err := st.fetch(ctx); err != nil {
			return Value{}, false, err
		}
	}
	v, owned = st.batch.pop()
	st.taken += packetCost(len(v.Bytes))
	st.popped.Add(1)
	if st.taken >= st.step {
		st.s.mu.Lock()
		st.release()
		st.s.mu.Unlock()
	}
	return v, owned, nil
}

// fetch waits for items and takes all that have arrived. When ctx has ended, the reason that the stream ended comes
// first: it may be why.
func (st *stream) fetch(ctx context.Context) error {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return st.interrupted(err)
	}
	st.batch.reset()
	st.release()
	for st.arrived.empty() {
		if st.recvErr != nil {
			st.collected()
			return st.recvErr
		}
		if err := s.waitUnlocked(ctx, st.changed.wait(), nil); err != nil {
			return st.interrupted(err)
		}
	}
	st.batch, st.arrived = st.arrived, queue{}
	return nil
}

// interrupted returns what a reader gets whose context ended with err. Called with s.mu held.
func (st *stream) interrupted(err error) error {
	if st.recvErr != nil && !isEnd(st.recvErr) {
		return st.recvErr
	}
	return err
}

// release gives back the room of what the reader has popped. Called with s.mu held.
func (st *stream) release() {
	n := st.taken
	if n == 0 {
		return
	}
	st.taken, st.step = 0, min(releaseStep, st.window/2)
	st.consumed += uint64(n)
	st.free(min(n, st.held)) // nothing is held any more once the stream is deaf
	st.s.grant(st)
}

// free takes n bytes off what the stream holds. Called with s.mu held.
func (st *stream) free(n int) {
	st.held -= n
	st.s.buffered -= n
	st.s.account()
	st.progress += n
	if st.held == 0 || st.progress >= st.s.limits.StreamBuffer/2 {
		st.stalled, st.progress = 0, 0
	}
	if st.held == 0 {
		delete(st.s.unread, st)
	}
	st.s.room.broadcast()
}

// deafen drops what has arrived and what will. Called with s.mu held.
func (st *stream) deafen() {
	st.deaf = true
	st.arrived.reset()
	st.free(st.held)
}

// sendEnd sends our end packet unless it was sent, and leaves err for later senders. A nil body is an orderly end.
// Called with s.mu held.
func (st *stream) sendEnd(kind Kind, body []byte, err error) {
	if st.sendErr == nil {
		st.sendErr = err
	}
	if !st.endSent {
		st.endSent = true
		if body == nil {
			kind, body = KindJSON, endOK
		}
		st.s.out.putControl(st.header(kind, true), body)
		st.s.flushSoon()
	}
	st.changed.broadcast()
}

// sendEndError sends an end with the part of err that the peer may know. Called with s.mu held.
func (st *stream) sendEndError(err, forSenders error) {
	message, _ := wireMessage(err)
	st.sendEnd(KindJSON, appendWireError(nil, message), forSenders)
}

// endErrorOf returns the error of an end packet, or io.EOF if it is an orderly end. It keeps nothing of v.
func endErrorOf(v Value) error {
	if v.Kind == KindJSON {
		switch string(bytes.TrimSpace(v.Bytes)) {
		case "true", "false", "null":
			return io.EOF
		}
	}
	return parseRemoteError(Value{v.Kind, v.keep(false)})
}

// isEnd reports whether err is the orderly end of a stream: io.EOF itself, not an error that wraps one, as the reason of
// an aborted session may.
func isEnd(err error) bool { return err == io.EOF } //nolint:errorlint // see above

// longestEcho is the longest end error that is sent back as it came.
const longestEcho = 4 << 10

// peerEnded handles the peer's end packet. Called with s.mu held.
func (st *stream) peerEnded(v Value) {
	if st.recvErr != nil {
		return
	}
	err := endErrorOf(v)
	st.recvErr = err
	orderly := isEnd(err)
	switch {
	case orderly && st.typ == TypeDuplex && !st.deaf:
		// The reader may have items left, and may answer them; our end follows when it has come to theirs.
		st.awaitReader()
	case orderly && st.typ == TypeSink && st.remote():
		// The items are complete. Our end is the handler's result.
	default:
		st.echoEnd(v, err)
		st.stopHandler(err)
		st.s.forget(st)
	}
	st.changed.broadcast()
}

// echoEnd answers an end with the same end, as JavaScript does. Called with s.mu held.
func (st *stream) echoEnd(v Value, err error) {
	if isEnd(err) || len(v.Bytes) > longestEcho || !v.Kind.Valid() {
		st.sendEnd(KindJSON, nil, err)
		return
	}
	st.sendEnd(v.Kind, v.Bytes, err)
}

// collected ends our side of a duplex that the peer ended, because the reader has come to the end. Called with s.mu
// held.
func (st *stream) collected() {
	if st.typ != TypeDuplex || !isEnd(st.recvErr) {
		return
	}
	st.sendEnd(KindJSON, nil, io.EOF)
	st.stopHandler(io.EOF)
	st.s.forget(st)
}

// awaitReader ends our side of a duplex that the peer ended, when the reader has taken nothing for SlowReaderGrace, or
// up to twice that. It may still come for what it has not read. Called with s.mu held.
func (st *stream) awaitReader() {
	popped := st.popped.Load()
	st.after(st.s.limits.SlowReaderGrace, func() {
		if st.popped.Load() != popped {
			st.awaitReader()
			return
		}
		st.sendEnd(KindJSON, nil, io.EOF)
		if st.held == 0 {
			st.stopHandler(io.EOF)
		}
		st.s.forget(st)
	})
}

// after runs f, with s.mu held, in d. There is one f at a time. Called with s.mu held.
func (st *stream) after(d time.Duration, f func()) {
	st.stopTimer()
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		st.s.mu.Lock()
		defer st.s.mu.Unlock()
		if st.timer == timer {
			f()
		}
	})
	st.timer = timer
}

// stopTimer cancels what after was given. Called with s.mu held.
func (st *stream) stopTimer() {
	if st.timer != nil {
		st.timer.Stop()
		st.timer = nil
	}
}

// unwatch stops waiting for anything that could end the stream. Called with s.mu held.
func (st *stream) unwatch() {
	st.stopTimer()
	if st.stop != nil {
		st.stop()
	}
}

// stopHandler cancels the context of the handler that serves the stream.
func (st *stream) stopHandler(cause error) {
	if st.cancel != nil {
		st.cancel(cause)
	}
}

// closeSend ends our side in an orderly way. A JavaScript peer may never answer the end of a duplex, so the stream waits
// for CloseTimeout after the latest item, and then counts as ended. Called with s.mu held.
func (st *stream) closeSend() {
	if st.endSent || st.sendErr != nil {
		return
	}
	st.sendEnd(KindJSON, nil, ErrStreamClosed)
	switch {
	case st.recvErr != nil:
		st.s.forget(st)
	case st.typ == TypeDuplex:
		st.awaitEnd()
	}
}

// awaitEnd takes the peer's end for granted when nothing has come for CloseTimeout. Called with s.mu held.
func (st *stream) awaitEnd() {
	st.after(st.s.limits.CloseTimeout, func() {
		st.recvErr = io.EOF
		st.s.forget(st)
		st.changed.broadcast()
	})
}

// abort ends the stream at once in both directions. A nil err is an orderly end for the peer. Called with s.mu held.
func (st *stream) abort(err error) {
	if err == nil {
		st.sendEnd(KindJSON, nil, ErrStreamClosed)
	} else {
		st.sendEndError(err, err)
	}
	if st.recvErr == nil {
		st.recvErr = cmp.Or(err, ErrStreamClosed)
	}
	st.deafen()
	st.stopHandler(err)
	st.s.forget(st)
	st.changed.broadcast()
}

// leave ends a stream that its reader is done with.
func (st *stream) leave() {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.abort(nil)
}

// errAborted is what a peer is told of an Abort without a reason.
var errAborted = Errorf("stream was aborted")

// cancelled aborts the stream with an error that the peer is told.
func (st *stream) cancelled(err error) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.abort(cmp.Or(err, errAborted))
}

// over reports whether the stream has ended both ways. Called with s.mu held.
func (st *stream) over() bool { return st.endSent && st.recvErr != nil }

// close ends our side and waits for the peer's end. What the peer still sends is dropped.
func (st *stream) close(ctx context.Context) error {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	st.closeSend()
	st.deafen()
	for st.recvErr == nil {
		if err := s.waitUnlocked(ctx, st.changed.wait(), nil); err != nil {
			st.abort(err)
			return err
		}
	}
	s.forget(st)
	if isEnd(st.recvErr) {
		return nil
	}
	return st.recvErr
}

// sessionEnded makes everybody who waits return err. Called with s.mu held.
func (st *stream) sessionEnded(err error) {
	st.endSent = true // nothing can be sent any more
	if st.sendErr == nil {
		st.sendErr = err
	}
	if st.recvErr == nil {
		st.recvErr = err
	}
	st.unwatch()
	st.changed.broadcast()
}
