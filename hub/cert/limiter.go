package cert

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// A network may ask as many questions over UDP at once, and as many a second: more than authorities and resolvers ask,
// and not enough to be felt by whoever is sent the answers.
const (
	questionBurst = 60
	questionRate  = 20
)

// verdict is what to do with a question over UDP.
type verdict int

const (
	reply   verdict = iota // answer it
	shorten                // answer that TCP should be used, which does not take more bytes than the question
	drop                   // do not answer
)

// limiter counts questions by network, in a table whose size is fixed; networks that fall on the same row share it.
type limiter struct {
	seed maphash.Seed
	mu   *sync.Mutex
	rows *[1024]row // guarded by mu
}

type row struct {
	tokens float64
	at     time.Time
	over   uint // questions that were too many
}

func newLimiter() limiter {
	return limiter{seed: maphash.MakeSeed(), mu: new(sync.Mutex), rows: new([1024]row)}
}

func (l limiter) verdict(from netip.Addr, now time.Time) verdict {
	network := networkOf(from).As16()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &l.rows[maphash.Bytes(l.seed, network[:])%uint64(len(l.rows))]
	if r.at.IsZero() {
		r.tokens = questionBurst
	} else {
		r.tokens = min(questionBurst, r.tokens+max(now.Sub(r.at).Seconds(), 0)*questionRate)
	}
	r.at = now
	if r.tokens >= 1 {
		r.tokens--
		return reply
	}
	if r.over++; r.over%2 == 0 {
		return shorten
	}
	return drop
}

// networkOf returns the address of the network, as far as anybody could pretend to be all of it.
func networkOf(addr netip.Addr) netip.Addr {
	bits := 56
	if addr.Is4() {
		bits = 24
	}
	network, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return netip.IPv6Unspecified()
	}
	return network.Addr()
}
