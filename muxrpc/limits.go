package muxrpc

import "time"

// Limits bounds what a session may hold and how long it waits. The zero value of each field stands for the default
// that its comment names; see docs/PROTOCOL.md §9.
type Limits struct {
	// MaxPacket is the largest packet body accepted, in bytes; a larger one ends the session. Zero means 4 MiB.
	MaxPacket int
	// StreamBuffer is how many bytes one stream may hold that its reader has not taken yet, give or take one packet.
	// Zero means 1 MiB; values under 64 KiB count as 64 KiB.
	StreamBuffer int
	// SessionBuffer is the same for all the streams of the session together, and once more for the arguments of the
	// calls being served. Zero means 16 MiB; it is never less than StreamBuffer.
	SessionBuffer int
	// MaxStreams is how many streams the peer may have open at once; one more is refused with ErrTooManyStreams. Zero
	// means 1024.
	MaxStreams int
	// MaxHandlers is how many async and sync calls of the peer are served at once. For one more, reading from the peer
	// pauses for at most SlowReaderGrace; then it is refused with ErrTooManyCalls. Zero means 256.
	MaxHandlers int
	// SlowReaderGrace is how long reading from the peer may pause, in all, for a slow reader to take half of StreamBuffer,
	// or for half of MaxHandlers to be done. Zero means 5 s.
	SlowReaderGrace time.Duration
	// PacketTimeout is how long the rest of a packet may take once it has begun to arrive; then the session ends. Zero
	// means 2 min.
	PacketTimeout time.Duration
	// WriteTimeout is how long the peer may take nothing of what is sent to it before the session ends. Zero means 30 s.
	WriteTimeout time.Duration
	// CloseTimeout is how long Close waits for open calls when its context has no deadline. Zero means 5 s.
	CloseTimeout time.Duration
	// CreditWait is how long a stream that has sent its first 64 KiB waits, once a session, to hear whether the peer
	// knows windows. Zero means 500 ms.
	CreditWait time.Duration
}

const (
	minStreamBuffer = 64 << 10
	// pendingLimit is how many bytes wait to be written before those who send data or calls have to wait too.
	pendingLimit = 256 << 10
	// controlLimit is how many bytes of ends and refusals wait to be written before nothing more is read that may cause
	// others.
	controlLimit = 256 << 10
	// lingerTimeout is how long an aborted session waits for its goodbye to leave and for the peer's to come.
	lingerTimeout = time.Second
	// hurryTimeout is how long the goodbye may take when there is no more time to wait.
	hurryTimeout = 100 * time.Millisecond
)

// withDefaults returns l with every zero replaced by its default.
func (l Limits) withDefaults() Limits {
	l.MaxPacket = orDefault(l.MaxPacket, 4<<20)
	l.StreamBuffer = max(orDefault(l.StreamBuffer, 1<<20), minStreamBuffer)
	l.SessionBuffer = max(orDefault(l.SessionBuffer, 16<<20), l.StreamBuffer)
	l.MaxStreams = orDefault(l.MaxStreams, 1024)
	l.MaxHandlers = orDefault(l.MaxHandlers, 256)
	l.SlowReaderGrace = orDefault(l.SlowReaderGrace, 5*time.Second)
	l.PacketTimeout = orDefault(l.PacketTimeout, 2*time.Minute)
	l.WriteTimeout = orDefault(l.WriteTimeout, 30*time.Second)
	l.CloseTimeout = orDefault(l.CloseTimeout, 5*time.Second)
	l.CreditWait = orDefault(l.CreditWait, 500*time.Millisecond)
	return l
}

// limits are what bounds a session.
type limits struct {
	Limits
	budget *Budget
}

// sharedLimits returns l in memory that sessions of the Mux share, as long as their limits are the same.
func (m *Mux) sharedLimits(l limits) *limits {
	if m == nil {
		return &l
	}
	if last := m.limits.Load(); last != nil && *last == l {
		return last
	}
	m.limits.Store(&l)
	return &l
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
