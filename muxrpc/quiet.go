package muxrpc

import "time"

// ReadResumer is implemented by connections whose Read can run into a deadline and go on afterwards as if nothing had
// happened. A session over one that is silent for a second or two waits with less memory: it interrupts the Read that
// waits, and begins again in a goroutine whose stack has not grown.
type ReadResumer interface {
	// SetReadDeadline is that of net.Conn.
	SetReadDeadline(t time.Time) error
	// ReadResumes reports whether that is true of the connection. One that wraps another may only learn it from that.
	ReadResumes() bool
}

func readResumes(conn any) bool {
	r, ok := conn.(ReadResumer)
	return ok && r.ReadResumes()
}

// setReadDeadline is for connections that are a ReadResumer. One that fails here fails the next read too.
func (s *Session) setReadDeadline(t time.Time) { _ = s.conn.(ReadResumer).SetReadDeadline(t) }

// quiet is how a session waits for the peer. Guarded by Session.mu.
type quiet struct {
	resumes     bool   // waiting can be interrupted
	waiting     bool   // for a packet
	interrupted bool   // the wait is being ended, to begin again in a fresh goroutine
	parked      bool   // it has begun again there
	waits       uint32 // how often a wait has begun
	seen        uint32 // what that was when somebody last looked
}

// waited is what becomes of a wait.
type waited int

const (
	waitDone   waited = iota // a packet has begun to arrive
	waitFresh                // go on waiting, in a fresh goroutine
	waitFailed               // nothing will come; the session has ended
)

// awaitPacket waits until a packet begins to arrive. It belongs to read, and what it calls on its way to the connection
// decides how much stack an idle session needs.
func (s *Session) awaitPacket() waited {
	s.waitBegins()
	return s.waitEnds(s.reader.Wait())
}

func (s *Session) waitBegins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &s.quiet
	q.waiting = true
	q.waits++
	if q.resumes && !q.parked {
		s.watch()
	}
}

func (s *Session) waitEnds(err error) waited {
	s.mu.Lock()
	q := &s.quiet
	interrupted := q.interrupted
	q.waiting, q.interrupted, q.parked = false, false, interrupted && err != nil
	if interrupted {
		s.setReadDeadline(time.Time{})
	}
	s.mu.Unlock()
	switch {
	case err == nil:
		return waitDone
	case interrupted:
		return waitFresh
	}
	s.readEnded(readError(err))
	return waitFailed
}

// isQuiet reports whether nothing has come since it was last asked. Called with mu held.
func (s *Session) isQuiet() bool {
	q := &s.quiet
	was := q.seen
	q.seen = q.waits
	return !q.resumes || q.waiting && q.waits == was
}

// park lets the session wait in a fresh goroutine. Called with mu held.
func (s *Session) park() {
	q := &s.quiet
	if !q.resumes || !q.waiting || q.interrupted || q.parked {
		return
	}
	q.interrupted = true
	s.setReadDeadline(time.Unix(1, 0))
}
