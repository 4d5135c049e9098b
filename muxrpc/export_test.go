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
