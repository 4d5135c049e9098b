package muxrpc

import (
	"sync/atomic"
	"time"
)

// packetClock bounds how long a packet may take once it has begun to arrive. Most packets arrive at once and cost it
// nothing; for others it notes when they began, and a timer that runs while there are such packets looks now and then.
type packetClock struct {
	since   atomic.Int64 // when the packet began, in nanoseconds by the meter; 0 while none waits for its rest
	timer   *time.Timer  // guarded by Session.mu
	armed   atomic.Bool  // the timer runs
	reading bool         // owned by Session.read: it wants the rest of a packet
	later   bool         // owned by Session.read: it is not the first packet
}

// stop says that the packet is there.
func (c *packetClock) stop() {
	c.reading = false
	if c.since.Load() != 0 {
		c.since.Store(0)
	}
}

// packetBegins notes that the rest of a packet has to be waited for. It belongs to read.
func (s *Session) packetBegins() {
	c := &s.begun
	if c.since.Load() != 0 {
		return
	}
	c.since.Store(int64(s.meter.age()) + 1) // never 0
	if c.armed.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || c.armed.Load() {
		return
	}
	c.armed.Store(true)
	c.timer = time.AfterFunc(s.limits.PacketTimeout, s.lookForLatePacket)
}

// lookForLatePacket ends the session if the packet that is being read has taken too long.
func (s *Session) lookForLatePacket() {
	if !s.packetIsLate() {
		return
	}
	s.end(ErrPacketTimeout)
	s.hangUpNow()
}

// packetIsLate reports whether a packet is late, and otherwise sets the timer again if one has begun.
func (s *Session) packetIsLate() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.begun
	c.armed.Store(false) // before the look, so that a packet that begins after it sets the timer
	since := time.Duration(c.since.Load())
	if since == 0 || s.ended {
		return false
	}
	left := s.limits.PacketTimeout - (s.meter.age() - since)
	if left <= 0 {
		return true
	}
	c.armed.Store(true)
	c.timer.Reset(left)
	return false
}

// rest stops the timer if no packet needs it. Called with Session.mu held.
func (c *packetClock) rest() {
	c.armed.Store(false) // before the look, so that a packet that begins after it sets the timer
	if c.since.Load() != 0 {
		c.armed.Store(true)
		return
	}
	c.close()
}

// close stops the timer. Called with Session.mu held.
func (c *packetClock) close() {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
