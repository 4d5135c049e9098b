package muxrpc

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/secretstack/secretstack/packetstream"
)

const (
	// writeChunk is what is written at once, so that slow progress counts as progress.
	writeChunk = 64 << 10
	// fullArena is how much is in an arena that waits to be written when another one follows it: to move so much into a
	// larger one costs more than one write more.
	fullArena = 64 << 10
)

// outbox holds the packets that wait to be written. Whoever adds a packet makes sure that somebody flushes; nobody does
// while nothing waits, so an idle session needs no goroutine and no memory for writing. Guarded by Session.mu.
type outbox struct {
	pending   *arena // the first of those that wait, nil while nothing does
	last      *arena // the last of them
	size      int    // bytes in all of them
	control   int    // bytes among them that were added without waiting for space
	flushing  bool   // somebody is writing, and will write what is pending too
	announced bool   // the first packet was added
	closed    bool   // the goodbye was added: nothing follows it
	failed    bool   // the connection failed: nothing can be written
	space     signal // pending was taken, or the outbox was closed
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
	n := packetCost(len(body))
	a := o.room(n)
	a.b = packetstream.AppendPacket(a.b, h, body)
	o.size += n
}

// room returns the arena that the next n bytes go into.
func (o *outbox) room(n int) *arena {
	switch {
	case o.pending == nil:
		o.pending = newArena(n)
		o.last = o.pending
	case len(o.last.b) >= fullArena && !o.last.fits(n):
		o.last.next = newArena(n)
		o.last = o.last.next
	default:
		o.last = o.last.withRoom(n)
	}
	return o.last
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
	a := o.room(packetstream.HeaderSize)
	a.b = packetstream.AppendGoodbye(a.b)
	o.size += packetstream.HeaderSize
	o.closed = true
	o.space.broadcast()
}

// take empties the outbox and returns what was pending, or nil if nothing was.
func (o *outbox) take() *arena {
	a := o.pending
	o.pending, o.last, o.size, o.control = nil, nil, 0, 0
	o.space.broadcast()
	return a
}

// fail drops what is pending for good.
func (o *outbox) fail() {
	o.failed = true
	o.take()
}

// flushSoon makes sure that what is pending gets written. Called with mu held.
func (s *Session) flushSoon() {
	if !s.out.flushing && (s.out.pending != nil || s.credit.dirty != nil) {
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

		if err := s.writeAll(a); err != nil {
			s.mu.Lock()
			s.out.fail()
			s.idle.broadcast()
			s.mu.Unlock()
			s.end(err)
			s.hangUpNow()
		}
	}
}

// writeAll writes an arena and those that follow it, and gives them back.
func (s *Session) writeAll(a *arena) error {
	for a != nil {
		if err := s.write(a.b); err != nil {
			return err
		}
		next := a.next
		a.free()
		a = next
	}
	return nil
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
	now := s.meter.age()
	if now < s.writeRenew {
		return
	}
	s.writeRenew = now + timeout/8
	_ = d.SetWriteDeadline(time.Now().Add(timeout)) // a connection that fails here fails the write too
}

func (s *Session) disarmWrite() {
	if s.writeWatch != nil {
		s.writeWatch.Stop()
		s.writeWatch = nil
	}
}
