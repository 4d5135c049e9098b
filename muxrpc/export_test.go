package muxrpc

// Rest sends home the goroutines of a session that wait for work, as time would.
func Rest(s *Session) (resting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crew.dismiss(len(s.crew.resting))
	s.trim()
	s.park()
	return len(s.crew.resting)
}

// CanWaitForEnd reports whether what it takes to wait for the end of a session's context has been made.
func CanWaitForEnd(s *Session) bool { return s.ctx.ending.Load() != nil }
