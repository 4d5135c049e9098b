package room

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// usage is what is known of one tunnel: since when it is idle, and who has opened it.
type usage struct {
	opener  [32]byte
	last    atomic.Int64  // when something has passed, in Unix nanoseconds; at first, when it was opened
	answers atomic.Bool   // something has come from the target
	evicted chan struct{} // closed when the tunnel has to make room for others
}

func (u *usage) touch() { u.last.Store(time.Now().UnixNano()) }

func (u *usage) idle() time.Duration { return time.Since(time.Unix(0, u.last.Load())) }

// tunnels keeps the tunnels that are open, by who has opened them. When there are as many as may be, those who have
// many give way to those who have few: keys cost nothing, and nobody must be able to keep the others out with some.
type tunnels struct {
	mu   sync.Mutex
	all  int
	byID map[[32]byte][]*usage // no empty entries
}

// enter makes one more tunnel, unless that is too many.
func (t *tunnels) enter(opener [32]byte, cfg Config) (*usage, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID[opener]) >= cfg.MaxTunnelsPerPeer {
		return nil, false
	}
	if t.all >= cfg.MaxTunnels && !t.makeRoom(opener) {
		return nil, false
	}
	if t.byID == nil {
		t.byID = map[[32]byte][]*usage{}
	}
	u := &usage{opener: opener, evicted: make(chan struct{})}
	u.touch()
	t.byID[opener] = append(t.byID[opener], u)
	t.all++
	return u, true
}

// makeRoom ends the tunnel that was idle for longest of whoever has most, if that is more than the opener will have. The
// caller holds mu.
func (t *tunnels) makeRoom(opener [32]byte) bool {
	var most []*usage
	for _, list := range t.byID {
		if len(list) > len(most) {
			most = list
		}
	}
	if len(most) <= len(t.byID[opener])+1 {
		return false
	}
	victim := slices.MaxFunc(most, func(a, b *usage) int { return int(b.last.Load() - a.last.Load()) })
	close(victim.evicted)
	t.remove(victim)
	return true
}

// leave takes a tunnel away that has ended.
func (t *tunnels) leave(u *usage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(u)
}

// remove does nothing when the tunnel had to make room before. The caller holds mu.
func (t *tunnels) remove(u *usage) {
	list := t.byID[u.opener]
	i := slices.Index(list, u)
	if i < 0 {
		return
	}
	t.all--
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(t.byID, u.opener)
	} else {
		t.byID[u.opener] = list
	}
}

func (t *tunnels) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}
