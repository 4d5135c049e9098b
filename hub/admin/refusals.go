package admin

import "sync"

// ring remembers the latest refusals.
type ring struct {
	mu   sync.Mutex
	kept [keptRefusals]Refusal
	next uint64 // how many there have been; the next one's place, modulo the ring's size
}

func (r *ring) add(refusal Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept[r.next%keptRefusals] = refusal
	r.next++
}

// list gives what is remembered, the latest first.
func (r *ring) list() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(r.next, keptRefusals)
	latest := make([]Refusal, 0, n)
	for i := range n {
		latest = append(latest, r.kept[(r.next-1-i)%keptRefusals])
	}
	return latest
}
