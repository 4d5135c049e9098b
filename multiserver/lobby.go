package multiserver

import (
	"container/list"
	"log/slog"
	"net"
	"sync"
)

// lobby holds the connections that have proved nothing yet. When it is full the one that has been there longest makes
// room for the next: who means well is through within moments, and who only wants to hold the places cannot keep them.
// See docs/PROTOCOL.md §6.4.
type lobby struct {
	limit int
	log   *slog.Logger

	mu      sync.Mutex
	conns   list.List // of net.Conn, oldest first
	evicted uint64
}

// enter adds a connection, and closes the oldest if there are too many now.
// The place is for leave.
func (l *lobby) enter(conn net.Conn) (place *list.Element) {
	l.mu.Lock()
	place = l.conns.PushBack(conn)
	var oldest net.Conn
	if l.conns.Len() > l.limit {
		oldest = l.conns.Remove(l.conns.Front()).(net.Conn)
		l.evicted++
	}
	n := l.evicted
	l.mu.Unlock()
	if oldest == nil {
		return place
	}
	if n&(n-1) == 0 { // not a line for each
		l.log.Warn("too many connections without a proven key", "limit", l.limit, "closed", n)
	}
	Abort(oldest)
	return place
}

// leave takes a connection out that is done, and reports whether it had not
// been closed to make room before.
func (l *lobby) leave(place *list.Element) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.conns.Len()
	l.conns.Remove(place) // does nothing when it is out already
	return l.conns.Len() < before
}

// counts returns how many are there, and how many had to go so far.
func (l *lobby) counts() (present int, evicted uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns.Len(), l.evicted
}
