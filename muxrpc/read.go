package muxrpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/secretstack/secretstack/packetstream"
)

// read reads and dispatches packets until the connection ends. It never writes; what it has to answer is queued.
//
// What waits for a packet and what handles it are apart, so that a goroutine which has only waited has a small stack.
func (s *Session) read() {
	for {
		switch s.awaitPacket() {
		case waitFresh:
			go s.read()
			return
		case waitFailed:
			return
		}
		if !s.readPackets() {
			return
		}
	}
}

// readPackets handles the packets that have begun to arrive, and reports whether others may follow.
func (s *Session) readPackets() bool {
	for {
		s.begun.reading = true
		h, body, err := s.reader.Next()
		s.begun.stop()
		if err != nil {
			s.readEnded(readError(err))
			return false
		}
		s.arrived()
		s.dispatch(h, Value{h.Type, body})
		if s.reader.Buffered() == 0 {
			return true
		}
	}
}

// readEnded ends the session because nothing more can be read.
func (s *Session) readEnded(reason error) {
	s.end(reason)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readDone = true
	s.idle.broadcast()
}

// readError returns why reading ended, or nil after the peer's goodbye.
func readError(err error) error {
	switch {
	case isEnd(err):
		return nil
	case errors.Is(err, packetstream.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return fmt.Errorf("muxrpc: reading: %w", err)
}

// dispatch handles one packet, docs/PROTOCOL.md §4. Its body is valid until the next one is read.
func (s *Session) dispatch(h packetstream.Header, v Value) {
	if !s.begun.later {
		s.begun.later = true
		s.heard(h.Credit)
	}
	switch {
	case h.ID == 0:
		s.handleExtension(v)
	case !h.Stream && h.ID > 0 && !h.End:
		s.handleRequest(h.ID, v.Kind)
	case !h.Stream && h.ID < 0:
		s.handleAnswer(-h.ID, h.End, v.Kind)
	case h.Stream:
		s.handleStream(h, v)
	}
	s.throttle()
}

// detached returns the current packet's body as memory that may be kept. It belongs to the read loop.
func (s *Session) detached(kind Kind) Value { return Value{kind, s.reader.Detach()} }

// throttle waits while the peer takes nothing of what was answered to it, so that a peer that asks and never listens
// cannot make the answers pile up. Limits.WriteTimeout ends the wait.
func (s *Session) throttle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.out.control >= controlLimit && !s.ended {
		_ = s.waitUnlocked(context.Background(), s.out.space.wait(), s.room.wait())
	}
}

// handleAnswer gives the answer to one of our async calls to whoever waits for it.
func (s *Session) handleAnswer(id int32, isError bool, kind Kind) {
	s.mu.Lock()
	c := s.calls[id]
	delete(s.calls, id)
	s.idle.broadcast()
	s.mu.Unlock()
	if c == nil {
		return // given up, or never asked
	}
	v := s.detached(kind)
	if isError {
		c <- answer{err: parseRemoteError(v)}
		return
	}
	c <- answer{value: v}
}

// handleStream handles a packet with the stream flag.
func (s *Session) handleStream(h packetstream.Header, v Value) {
	if len(v.Bytes) >= smallBody {
		v = s.detached(v.Kind)
	}
	s.mu.Lock()
	st := s.theirs[h.ID]
	if h.ID < 0 {
		st = s.mine[-h.ID]
	}
	opens := false
	switch {
	case st != nil && h.End:
		st.peerEnded(v)
	case st != nil:
		s.handleItem(st, v)
	case h.ID < 0 || !s.used.use(h.ID):
		// a late packet of a stream that is over, or of one that never was
	case h.End:
		// The end of a stream that never was is answered once, so that the peer can forget it too.
		s.out.putControl(packetstream.Header{Stream: true, End: true, Type: KindJSON, ID: -h.ID}, endOK)
		s.flushSoon()
	default:
		opens = true
	}
	s.mu.Unlock()
	if opens {
		s.handleStreamRequest(h.ID, v.Kind)
	}
}

// handleItem queues one item for the reader of a stream, as soon as there is room. Called with mu held.
func (s *Session) handleItem(st *stream, v Value) {
	cost := packetCost(len(v.Bytes))
	if !s.awaitRoom(st, cost) {
		return
	}
	if !v.Kind.Valid() {
		st.abort(errBadKind)
		return
	}
	st.arrived.push(v.Kind, v.Bytes)
	st.held += cost
	s.buffered += cost
	s.account()
	if st.timer != nil {
		st.awaitEnd() // once more: the peer has more to send
	}
	st.changed.broadcast()
}

// awaitRoom waits until there is room for an item of st that costs so much, and reports whether anybody still wants it. While it waits
// nothing is read, so the peer is held back; but a stream whose reader makes the session wait for SlowReaderGrace in all
// before it has taken half of its buffer is ended. Called with mu held. See docs/PROTOCOL.md §5.1.
func (s *Session) awaitRoom(st *stream, cost int) bool {
	for {
		full := s.fullStream(st, cost)
		if full == nil {
			return st.recvErr == nil && !st.deaf
		}
		left := s.limits.SlowReaderGrace - full.stalled
		if left <= 0 {
			s.endSlow(full)
			continue
		}
		waited := s.pause(left) // the stream may have had room meanwhile
		full.stalled += waited
	}
}

// fullStream returns the stream that has to be read before an item of st can be taken: st itself, or the one that holds
// most if all together hold too much. It returns nil if there is room. Called with mu held.
func (s *Session) fullStream(st *stream, cost int) *stream {
	if st.recvErr != nil || st.deaf {
		return nil
	}
	if st.held >= s.limits.StreamBuffer {
		return st
	}
	if s.buffered < s.limits.SessionBuffer && s.mayHold(cost) {
		return nil
	}
	fullest := st
	for _, table := range [...]map[int32]*stream{s.mine, s.theirs} {
		for _, other := range table {
			if other.held > fullest.held {
				fullest = other
			}
		}
	}
	for other := range s.unread {
		if other.held > fullest.held {
			fullest = other
		}
	}
	return fullest
}

// pause waits for room, and returns how long it took. Called with mu held; nothing is read meanwhile.
func (s *Session) pause(limit time.Duration) time.Duration {
	if s.limits.budget != nil {
		limit = min(limit, budgetLook) // others may have made the room
	}
	start := time.Now()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	room := s.room.wait()
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-room:
	case <-timeout.C:
	}
	return time.Since(start)
}

// endSlow ends a stream whose reader fell behind, both ways. Called with mu held, which it gives up while it logs.
func (s *Session) endSlow(st *stream) {
	held := st.held
	st.recvErr = ErrSlowReader // even if the end has come: what is dropped now came before it
	st.abort(ErrSlowReader)
	s.mu.Unlock()
	defer s.mu.Lock()
	s.log.WarnContext(&s.ctx, "muxrpc: reader too slow, stream ended", "type", st.typ, "id", st.id, "held", held)
}
