package admission

import (
	"hash/maphash"
	"math/bits"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/internal/netaddr"
)

const (
	// ways is how many clients share a set. A client's place is in one set only, so a look is at no more than these.
	ways = 8

	// stripes is how many locks the sets share.
	stripes = 64

	defaultTracked = 65536
)

// A client is who is counted: an address's block, or a key.
type client interface{ [16]byte | [32]byte }

// A slot holds the buckets of a client. For each kind it has the time at which the bucket will be full, in nanoseconds of the
// table's clock. Nothing else is needed: a bucket fills at a constant rate. A slot whose times have all passed says nothing,
// and is as good as an empty one.
type slot[C client] struct {
	client C
	full   [kinds]int64
}

func (s *slot[C]) latest() int64 {
	latest := s.full[0]
	for _, at := range s.full[1:] {
		latest = max(latest, at)
	}
	return latest
}

// A table holds the buckets of many clients in a fixed number of slots. Which set a client belongs to nobody outside can
// know, so nobody can aim at somebody else's.
type table[C client] struct {
	seed    maphash.Seed
	evicted atomic.Uint64 // buckets that were forgotten before they were full

	locks [stripes]struct {
		sync.Mutex
		_ [64 - 8]byte // a cache line each
	}
	sets []*[ways]slot[C] // made when first used; each guarded by locks[its index % stripes]
}

// newTable makes a table for at least so many clients.
func newTable[C client](clients int) *table[C] {
	sets := max(stripes, (clients+ways-1)/ways)
	sets = 1 << bits.Len(uint(sets-1)) // a power of two
	return &table[C]{seed: maphash.MakeSeed(), sets: make([]*[ways]slot[C], sets)}
}

// take takes one token of a client's bucket. If there is none it tells how long it takes until there is one, and zero
// otherwise.
func (t *table[C]) take(who C, kind Kind, b bucket, now int64) time.Duration {
	if b.every == 0 {
		return 0
	}
	i := maphash.Comparable(t.seed, who) & uint64(len(t.sets)-1)
	lock := &t.locks[i%stripes]
	lock.Lock()
	defer lock.Unlock()
	if t.sets[i] == nil {
		t.sets[i] = new([ways]slot[C])
	}
	s := t.place(t.sets[i], who, now)
	full := min(max(s.full[kind], now), now+b.window) // more than empty it was only by an earlier, longer rate
	if wait := full + b.every - now - b.window; wait > 0 {
		s.full[kind] = full
		return time.Duration(wait)
	}
	s.full[kind] = full + b.every
	return 0
}

// place finds a client's slot, or gives it the one that says the least. The caller holds the lock.
func (t *table[C]) place(set *[ways]slot[C], who C, now int64) *slot[C] {
	least, at := -1, int64(0)
	for i := range set {
		if set[i].client == who {
			return &set[i]
		}
		if latest := set[i].latest(); least < 0 || latest < at {
			least, at = i, latest
		}
	}
	if at > now {
		t.evicted.Add(1)
	}
	set[least] = slot[C]{client: who}
	return &set[least]
}

// block is what an address is counted by.
func block(addr netip.Addr) [16]byte { return netaddr.Customer(addr).As16() }
