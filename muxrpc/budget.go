package muxrpc

import (
	"sync/atomic"
	"time"
)

const (
	// ownShare is how many bytes a session may hold that do not count for its Budget.
	ownShare = 64 << 10
	// budgetStep is the unit in which a session takes from its Budget and gives back.
	budgetStep = 64 << 10
	// budgetLook is how often a session that waits looks whether others have given something back.
	budgetLook = 20 * time.Millisecond
)

// Budget bounds what many sessions together hold of what their peers have sent: items that nobody has read yet, the
// arguments of calls being served, and large packets that have arrived in part. The first 64 KiB of each session do not
// count. See docs/PROTOCOL.md §5.1.
//
// A session may take as much as is still free after it, at most: one alone half of the budget, two a third each, and so
// on, so that there is always something for the next. One that has its part stops reading, as it does when its own limits
// are reached.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a budget of that many bytes. For a session it is never less than four packets of Limits.MaxPacket.
func NewBudget(bytes int) *Budget { return &Budget{limit: int64(bytes)} }

// Used returns how many bytes the sessions hold, in steps of 64 KiB.
func (b *Budget) Used() int { return int(b.used.Load()) }

// allows reports whether a session that has taken some may have want instead, if the budget has atLeast so many bytes.
func (b *Budget) allows(taken, want, atLeast int) bool {
	return want <= taken || int64(want) <= max(b.limit, int64(atLeast))-b.used.Load()-int64(want-taken)
}

// held is what counts for the Budget if the session holds n bytes more. Called with mu held.
func (s *Session) held(n int) int {
	return max(0, s.buffered+s.arguments+s.arriving+n-ownShare)
}

// mayHold reports whether the Budget lets the session hold n bytes more. A session that holds nothing may hold any one
// packet. Called with mu held.
func (s *Session) mayHold(n int) bool {
	b := s.limits.budget
	return b == nil || s.buffered+s.arguments+s.arriving == 0 || b.allows(s.taken, s.held(n), 4*s.limits.MaxPacket)
}

// account takes from the Budget what the session has come to hold, or gives back what it no longer does. Called with mu
// held after every change.
func (s *Session) account() {
	b := s.limits.budget
	if b == nil {
		return
	}
	want := s.held(0)
	if s.over {
		want = 0 // what is left is ours, the peer cannot make it more
	}
	if want > s.taken || want <= s.taken-2*budgetStep || want == 0 && s.taken > 0 {
		want = (want + budgetStep - 1) / budgetStep * budgetStep
		b.used.Add(int64(want - s.taken))
		s.taken = want
	}
}

// GrowBody waits until the session may hold a body of n bytes of which a part has arrived, for at most
// Limits.PacketTimeout. The session's packetstream.Reader calls it.
func (r meteredReader) GrowBody(n int) error {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.mayHold(n-s.arriving) && !s.ended {
		s.pause(s.limits.PacketTimeout)
	}
	s.arriving = n
	s.account()
	return nil
}

// arrived says that the body of a packet is not arriving any more. It belongs to read.
func (s *Session) arrived() {
	if s.arriving == 0 { // only read changes it
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arriving = 0
	s.account()
}
