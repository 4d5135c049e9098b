package muxrpc

import (
	"context"
	"fmt"
	"iter"
	"reflect"

	"github.com/secretstack/secretstack/packetstream"
)

// Caller is what calls can be made on: a *Session, or anything that embeds one.
type Caller interface{ session() *Session }

// call is an async call that waits for its answer. It has room for it, and gets one at most.
type call chan answer

type answer struct {
	value Value
	err   error
}

// appendManifestRequest appends the request that asks for a manifest, as JavaScript clients write it.
func appendManifestRequest(dst []byte) ([]byte, error) {
	return append(dst, `{"name":"manifest","args":[]}`...), nil
}

// Call calls an async or sync method and returns its answer. The name is dotted: "blobs.get". When ctx ends first, the
// call is given up on this side; the protocol cannot tell the peer.
func Call[R any](ctx context.Context, c Caller, name string, args ...any) (R, error) {
	var result R
	v, err := c.session().call(ctx, func(dst []byte) ([]byte, error) {
		return appendRequest(dst, name, TypeAsync, args)
	})
	if err != nil {
		return result, err
	}
	if err := decode(v, true, &result); err != nil {
		return result, fmt.Errorf("muxrpc: decoding the answer of %s: %w", name, err)
	}
	return result, nil
}

// call makes an async call with the body that request appends, and waits for its answer.
func (s *Session) call(ctx context.Context, request func(dst []byte) ([]byte, error)) (Value, error) {
	id, c, err := s.ask(ctx, request)
	if err != nil {
		return Value{}, err
	}
	select {
	case a := <-c:
		return a.value, a.err
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.calls, id)
		s.idle.broadcast()
		return Value{}, ctx.Err()
	}
}

// ask sends the request of an async call.
func (s *Session) ask(ctx context.Context, request func(dst []byte) ([]byte, error)) (int32, call, error) {
	scratch := newScratch()
	defer scratch.free()
	body, err := request(scratch.req[:0])
	if err != nil {
		return 0, nil, err
	}
	scratch.req = body
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.awaitOutbox(ctx, len(body)); err != nil {
		return 0, nil, err
	}
	id, c := s.newID(), make(call, 1)
	s.calls = put(s.calls, id, c)
	s.out.put(packetstream.Header{Type: KindJSON, ID: id}, body)
	s.flushSoon()
	return id, c, nil
}

// awaitOutbox waits until a call with a body of n bytes can be made. Called with mu held.
func (s *Session) awaitOutbox(ctx context.Context, n int) error {
	if n > s.limits.MaxPacket {
		return ErrTooLarge
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for {
		if err := s.openError(); err != nil {
			return err
		}
		if s.out.size < pendingLimit {
			return nil
		}
		if err := s.waitUnlocked(ctx, s.out.space.wait(), nil); err != nil {
			return err
		}
	}
}

// open opens a stream.
func (s *Session) open(ctx context.Context, t CallType, name string, args []any) (*stream, error) {
	scratch := newScratch()
	defer scratch.free()
	body, err := appendRequest(scratch.req[:0], name, t, args)
	if err != nil {
		return nil, err
	}
	scratch.req = body
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.awaitOutbox(ctx, len(body)); err != nil {
		return nil, err
	}
	st := s.newStream(s.newID(), t)
	s.out.put(st.header(KindJSON, false), body)
	s.flushSoon()
	return st, nil
}

// Source calls a source and returns its items. The call is made when the iteration starts, and once more for each
// further iteration. Leaving the loop ends it on the wire. The last pair holds the error, if there was one.
func Source[T any](ctx context.Context, c Caller, name string, args ...any) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		s := c.session()
		st, err := s.open(ctx, TypeSource, name, args)
		if err != nil {
			var zero T
			yield(zero, err)
			return
		}
		defer st.leave()
		receive[T](ctx, st)(yield)
	}
}

// receive returns the items of a stream until its end. The last pair holds the error, if there was one.
func receive[T any](ctx context.Context, st *stream) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var item T
		plain := newPlainDecoder(reflect.TypeFor[T]())
		for {
			err := receiveInto(ctx, st, plain, &item)
			if isEnd(err) || !yield(item, err) || err != nil {
				return
			}
		}
	}
}

// receiveInto sets item to the next item of a stream. The decoder is for T, or nil.
func receiveInto[T any](ctx context.Context, st *stream, plain *plainDecoder, item *T) error {
	*item = *new(T)
	v, owned, err := st.next(ctx)
	if err != nil {
		return err
	}
	if v.Kind == KindJSON && plain.decode(v.Bytes, item) {
		return nil
	}
	*item = *new(T)
	if err := decode(v, owned, item); err != nil {
		return &Error{Message: "item is invalid" + jsonDetail(err), err: err}
	}
	return nil
}

// Recycle takes back the memory of an item, a []byte or the Bytes of a [Value], for items to come. Nobody may use it, or
// what shares memory with it, after that: give the item as it was received. It spares those who read large items most of
// the garbage collector's work; nobody has to call it.
func Recycle(item []byte) { packetstream.Recycle(item) }

// Writer sends items to a sink.
type Writer[T any] struct{ st *stream }

// Sink calls a sink. The Writer must be ended with Close or Abort; cancelling ctx aborts it.
func Sink[T any](ctx context.Context, c Caller, name string, args ...any) (*Writer[T], error) {
	st, err := c.session().openFor(ctx, TypeSink, name, args)
	if err != nil {
		return nil, err
	}
	return &Writer[T]{st}, nil
}

// openFor opens a stream that is aborted when ctx ends.
func (s *Session) openFor(ctx context.Context, t CallType, name string, args []any) (*stream, error) {
	st, err := s.open(ctx, t, name, args)
	if err != nil || ctx.Done() == nil {
		return st, err
	}
	stop := context.AfterFunc(ctx, func() { st.cancelled(ctx.Err()) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.over() {
		stop()
	}
	st.stop = stop
	return st, nil
}

// Send sends one item; empty bytes are not sent. It waits while the peer is not ready for it, until ctx ends. After the
// peer has ended the stream it returns io.EOF, or the peer's error.
func (w *Writer[T]) Send(ctx context.Context, item T) error { return w.st.send(ctx, item) }

// Close says that there are no more items, and waits for the peer's result: nil, or the error it answered.
func (w *Writer[T]) Close(ctx context.Context) error { return w.st.close(ctx) }

// Abort ends the stream with an error, of which the peer is told what an error of a handler would tell it. Once the
// stream has ended it tells nothing.
func (w *Writer[T]) Abort(err error) { w.st.cancelled(err) }

// Stream is one end of a duplex: it receives In and sends Out. Its two halves may be used at the same time, and Send by
// several goroutines; Recv and All by one at a time.
//
// The protocol has no half-close. When the peer ends the stream, what it sent before can still be received, and answers
// can be sent until then; when Recv has returned io.EOF, or the reader has not come for Limits.SlowReaderGrace, this
// side ends too.
type Stream[In, Out any] struct{ st *stream }

// Duplex calls a duplex. The Stream must be ended with Close or Abort; cancelling ctx aborts it.
func Duplex[In, Out any](ctx context.Context, c Caller, name string, args ...any) (*Stream[In, Out], error) {
	st, err := c.session().openFor(ctx, TypeDuplex, name, args)
	if err != nil {
		return nil, err
	}
	return &Stream[In, Out]{st}, nil
}

// Send sends one item; empty bytes are not sent. It waits while the peer is not ready for it, until ctx ends. After the
// peer has ended the stream it returns io.EOF, or the peer's error.
func (s *Stream[In, Out]) Send(ctx context.Context, item Out) error { return s.st.send(ctx, item) }

// Recv returns the next item. It returns io.EOF after an orderly end, and the peer's error after another one.
func (s *Stream[In, Out]) Recv(ctx context.Context) (item In, err error) {
	err = receiveInto(ctx, s.st, nil, &item)
	return item, err
}

// All returns the items until the end. The last pair holds the error, if there was one.
func (s *Stream[In, Out]) All(ctx context.Context) iter.Seq2[In, error] {
	return receive[In](ctx, s.st)
}

// CloseSend says that this side has no more items. The peer will end the stream, but what it sends before that can be
// received. A peer that does not answer, as JavaScript may, counts as ended after Limits.CloseTimeout without an item.
func (s *Stream[In, Out]) CloseSend() error {
	s.st.s.mu.Lock()
	defer s.st.s.mu.Unlock()
	s.st.closeSend()
	return nil
}

// Close ends the stream and waits for the peer's end, at most for Limits.CloseTimeout; what was not received by then is
// dropped. It returns the peer's error if the peer ended with one. Closing again is harmless.
func (s *Stream[In, Out]) Close(ctx context.Context) error { return s.st.close(ctx) }

// Abort ends the stream with an error, of which the peer is told what an error of a handler would tell it, and drops
// what was not received. Once the stream has ended it tells nothing.
func (s *Stream[In, Out]) Abort(err error) { s.st.cancelled(err) }
