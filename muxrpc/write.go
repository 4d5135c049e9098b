package muxrpc

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/secretstack/secretstack/packetstream"
)

// writeChunk is what is written at once, so that slow progress counts as progress.
const writeChunk = 64 << 10

// outbox holds the packets that wait to be written. Whoever adds a packet makes sure that somebody flushes; nobody does
// while nothing waits, so an idle session needs no goroutine and no memory for writing. Guarded by Session.mu.
type outbox struct {
	pending   *arena // nil while nothing waits
	flushing  bool   // somebody is writing, and will write what is pending too
	control   int    // bytes among the pending ones that were added without waiting for space
	announced bool   // the first packet was added
	closed    bool   // the goodbye was added: nothing follows it
	failed    bool   // the connection failed: nothing can be written
	space     signal // pending was taken, or the outbox was closed
}

func (o *outbox) size() int {
	if o.pending == nil {
		return 0
	}
	return len(o.pending.b)
}

func (o *outbox) isIdle() bool { return o.failed || !o.flushing && o.pending == nil }

// put adds a packet, whatever is pending already. The body must not be empty. The first packet announces that windows
// are known, docs/PROTOCOL.md §5.2.
func (o *outbox) put(h packetstream.Header, body []byte) {
	if o.closed || o.failed {
		return
	}
	h.Credit = !o.announced
	o.announced = true
	o.pending = o.pending.withRoom(packetCost(len(body)))
	o.pending.b = packetstream.AppendPacket(o.pending.b, h, body)
}

// putControl adds a packet that cannot wait: an end, or a refusal made while reading. See throttle.
func (o *outbox) putControl(h packetstream.Header, body []byte) {
	o.put(h, body)
	o.control += packetCost(len(body))
}

// close adds the goodbye.
func (o *outbox) close() {
	if o.closed || o.failed {
		return
	}
	o.pending = o.pending.withRoom(packetstream.HeaderSize)
	o.pending.b = packetstream.AppendGoodbye(o.pending.b)
	o.closed = true
	o.space.broadcast()
}

// take returns what is pending, or nil if nothing is.
func (o *outbox) take() *arena {
	a := o.pending
	o.pending, o.control = nil, 0
	o.space.broadcast()
	return a
}

// fail drops what is pending for good.
func (o *outbox) fail() {
	o.failed = true
	o.pending, o.control = nil, 0
	o.space.broadcast()
}

// flushSoon makes sure that what is pending gets written. Called with mu held.
func (s *Session) flushSoon() {
	if !s.out.flushing && (s.out.pending != nil || len(s.credit.dirty) > 0) {
		s.out.flushing = true
		s.start((*flushing)(s))
	}
}

// flushing is the task of writing what is pending.
type flushing Session

func (f *flushing) run() { (*Session)(f).flush() }

// flushNow writes what is pending, unless somebody does already.
func (s *Session) flushNow() {
	s.mu.Lock()
	if s.out.flushing || s.out.pending == nil {
		s.mu.Unlock()
		return
	}
	s.out.flushing = true
	s.mu.Unlock()
	s.flush()
}

// flush writes until nothing is pending. Its caller has set out.flushing.
func (s *Session) flush() {
	runtime.Gosched() // whoever is about to send something more does it now, and shares the write
	for {
		s.mu.Lock()
		s.putGrants()
		a := s.out.take()
		if a == nil || s.out.failed {
			s.out.flushing = false
			s.idle.broadcast()
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()

		err := s.write(a.b)
		a.free()
		if err != nil {
			s.mu.Lock()
			s.out.fail()
			s.idle.broadcast()
			s.mu.Unlock()
			s.end(err)
			s.hangUpNow()
		}
	}
}

// write writes b whole. Only the goroutine that flushes calls it.
func (s *Session) write(b []byte) error {
	for len(b) > 0 {
		chunk := b
		if len(b) > writeChunk+writeChunk/2 { // no small rest
			chunk = b[:writeChunk]
		}
		s.armWrite()
		n, err := s.conn.Write(chunk)
		s.meter.wrote(n)
		if err != nil {
			s.disarmWrite()
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return ErrWriteTimeout
			}
			return fmt.Errorf("muxrpc: writing: %w", err)
		}
		b = b[len(chunk):]
	}
	s.disarmWrite()
	return nil
}

// writeDeadliner is what connections with deadlines implement.
type writeDeadliner interface{ SetWriteDeadline(t time.Time) error }

// armWrite bounds the next write. Connections that know deadlines get one, and it is renewed only when an eighth of it
// has passed, because that is not free; others are closed when the write takes too long.
func (s *Session) armWrite() {
	timeout := s.limits.WriteTimeout
	d, ok := s.conn.(writeDeadliner)
	if !ok && s.writeWatch != nil {
		s.writeWatch.Reset(timeout)
		return
	}
	if !ok {
		s.writeWatch = time.AfterFunc(timeout, func() {
			s.end(ErrWriteTimeout)
			s.hangUpNow()
		})
		return
	}
	now := time.Now()
	if now.Before(s.writeRenew) {
		return
	}
	s.writeRenew = now.Add(timeout / 8)
	_ = d.SetWriteDeadline(now.Add(timeout)) // a connection that fails here fails the write too
}

func (s *Session) disarmWrite() {
	if s.writeWatch != nil {
		s.writeWatch.Stop()
		s.writeWatch = nil
	}
}
