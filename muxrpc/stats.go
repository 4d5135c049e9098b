package muxrpc

import (
	"sync/atomic"
	"time"
)

// meter counts the bytes of a connection and remembers when the last of them passed.
type meter struct {
	in, out atomic.Uint64
	begun   time.Time    // set by start; its monotonic part keeps a clock that is set from counting as idleness
	latest  atomic.Int64 // nanoseconds since begun
}

func (m *meter) start() { m.begun = time.Now() }

// age is how long ago the meter was started.
func (m *meter) age() time.Duration { return time.Since(m.begun) }

func (m *meter) tick() { m.latest.Store(int64(m.age())) }

func (m *meter) read(n int) {
	if n > 0 {
		m.in.Add(uint64(n))
		m.tick()
	}
}

func (m *meter) wrote(n int) {
	if n > 0 {
		m.out.Add(uint64(n))
		m.tick()
	}
}

// meteredReader is the side of the connection that packets are read from.
type meteredReader struct{ s *Session }

func (r meteredReader) Read(p []byte) (int, error) {
	if r.s.begun.reading {
		r.s.packetBegins()
	}
	n, err := r.s.conn.Read(p)
	r.s.meter.read(n)
	return n, err
}

// Stats is what a session is doing at a moment.
type Stats struct {
	BytesRead    uint64    // from the connection
	BytesWritten uint64    // to the connection
	LastActivity time.Time // when bytes last passed in either direction; when the session began if none did
	Calls        int       // async and sync calls that wait for the peer's answer
	Streams      int       // streams open, whoever opened them
	Handlers     int       // async and sync calls of the peer being served
	Buffered     int       // bytes that arrived for streams and were not read
	Pending      int       // bytes that wait to be written
	Credit       bool      // the peer knows stream windows
}

// Stats returns what the session is doing.
func (s *Session) Stats() Stats {
	stats := Stats{
		BytesRead:    s.meter.in.Load(),
		BytesWritten: s.meter.out.Load(),
		LastActivity: s.Activity(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stats.Calls = len(s.calls)
	stats.Streams = len(s.mine) + s.serving
	stats.Handlers = s.handlers
	stats.Buffered = s.buffered
	stats.Pending = s.out.size
	stats.Credit = s.credit.mode == creditOn
	return stats
}

// Activity returns when bytes last passed in either direction, or when the session began.
func (s *Session) Activity() time.Time {
	return s.meter.begun.Add(time.Duration(s.meter.latest.Load()))
}
