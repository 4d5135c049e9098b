package secrezapi

import (
	"crypto/sha256"
	"sync"
	"time"
)

// attempts remembers registrations by the digest of their payload, from their beginning until the payload is too old to
// be sent again, so that the same one is answered and not done twice. A registration that failed is forgotten at once.
type attempts struct {
	max int
	now func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]*attempt // guarded by mu
	queue []*attempt                     // those that have an answer, in the order of their ends; guarded by mu
}

// An attempt is one registration.
type attempt struct {
	digest [sha256.Size]byte
	ended  time.Time     // guarded by attempts.mu
	done   chan struct{} // closed when res or err is there
	res    registered
	err    error
}

func newAttempts(most int, now func() time.Time) *attempts {
	return &attempts{max: most, now: now, known: map[[sha256.Size]byte]*attempt{}}
}

// begin gives the attempt of a payload, and reports whether it is the caller's to make. If so, he must end it.
func (as *attempts) begin(digest [sha256.Size]byte) (at *attempt, mine bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if at := as.known[digest]; at != nil {
		return at, false
	}
	at = &attempt{digest: digest, done: make(chan struct{})}
	as.known[digest] = at
	return at, true
}

// end tells everybody who waits for an attempt what has become of it.
func (as *attempts) end(at *attempt, res registered, err error) {
	at.res, at.err = res, err
	as.mu.Lock()
	if err != nil {
		delete(as.known, at.digest)
	} else {
		at.ended = as.now()
		as.queue = append(as.queue, at)
		as.prune()
	}
	as.mu.Unlock()
	close(at.done)
}

// prune forgets what is too old to matter, and the oldest when there are too many: whoever repeats that one is told that
// it was used. The caller holds mu.
func (as *attempts) prune() {
	now := as.now()
	n := 0
	// A payload can be signed a window ahead of its attempt, and is fresh until a window after that.
	for n < len(as.queue) && (len(as.queue)-n > as.max || now.Sub(as.queue[n].ended) > 2*window) {
		delete(as.known, as.queue[n].digest)
		n++
	}
	clear(as.queue[:n])
	as.queue = as.queue[n:]
}
