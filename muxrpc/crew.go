package muxrpc

import "time"

const (
	crewRest = time.Second // how long a goroutine of the crew stays without work, and up to twice as long
	crewSize = 64          // most that stay
)

// task is what the crew works on.
type task interface{ run() }

// crew runs tasks in goroutines. One that has finished waits a while for the next task, because the stack of a new one
// would have to grow to the same size again, and that costs more than many a call. Guarded by Session.mu.
type crew struct {
	resting []chan task // of those that wait, the one that worked last at the end
	timer   *time.Timer // calls calmDown; nil while the session is calm
	spare   int32       // how many of them have not been needed since the timer was set
	closed  bool
}

// start runs t in a goroutine. Called with mu held.
func (s *Session) start(t task) {
	c := &s.crew
	n := len(c.resting) - 1
	if n < 0 {
		go s.work(t)
		return
	}
	worker := c.resting[n]
	c.resting[n] = nil
	c.resting = c.resting[:n]
	c.spare = min(c.spare, int32(n))
	worker <- t // has room: the worker is waiting for it
}

// work runs t, and then what start gives it.
func (s *Session) work(t task) {
	orders := make(chan task, 1)
	for t != nil {
		t.run()
		if !s.rest(orders) {
			return
		}
		t = <-orders
	}
}

// rest adds a worker to those that wait, and reports whether it may stay.
func (s *Session) rest(orders chan task) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.crew
	if c.closed || len(c.resting) == crewSize {
		return false
	}
	c.resting = append(c.resting, orders)
	s.watch()
	return true
}

// watch makes sure that calmDown will be called. Called with mu held.
func (s *Session) watch() {
	c := &s.crew
	if c.timer == nil && !c.closed {
		c.spare = int32(len(c.resting))
		s.isQuiet() // from now on
		c.timer = time.AfterFunc(crewRest, s.calmDown)
	}
}

// calmDown sends home those that have not been needed for a while, and gives back what a quiet session can do without.
func (s *Session) calmDown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.crew
	if c.timer == nil {
		return
	}
	c.dismiss(min(int(c.spare), len(c.resting)))
	c.spare = int32(len(c.resting))
	if quiet := s.isQuiet(); !quiet || c.spare > 0 {
		c.timer.Reset(crewRest)
		return
	}
	c.timer = nil
	s.trim()
	s.park()
}

// dismiss sends home the n that have waited longest.
func (c *crew) dismiss(n int) {
	for _, worker := range c.resting[:n] {
		worker <- nil
	}
	c.resting = append([]chan task(nil), c.resting[n:]...)
}

// close sends all home, now and from now on.
func (c *crew) close() {
	c.closed = true
	c.dismiss(len(c.resting))
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
}
