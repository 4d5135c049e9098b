package admission

import "sync/atomic"

// Stats counts what has been decided since Open, and what there is.
type Stats struct {
	Denied    uint64          // refusals with ErrDenied
	Uninvited uint64          // refusals with ErrInviteNeeded and ErrInvite
	Limited   map[Kind]uint64 // refusals with RateError
	Crowded   uint64          // refusals with ErrFull and ErrCrowded by the Gate
	Redeemed  uint64          // invites redeemed on this node

	// Evicted is how many buckets were forgotten before they were full, because more addresses or keys were active than
	// Config.Tracked. It grows under a flood from many addresses.
	Evicted uint64

	Connections int // in Gate
	Rules       int // stored and fixed
	Invites     int
	Members     int
}

// counts are the counters behind Stats.
type counts struct {
	denied    atomic.Uint64
	uninvited atomic.Uint64
	redeemed  atomic.Uint64
	limited   [kinds]atomic.Uint64
}

func (c *counts) deny() error {
	c.denied.Add(1)
	return ErrDenied
}

// Stats tells what has been decided and what there is.
func (a *Admission) Stats() Stats {
	s := Stats{
		Denied:    a.counts.denied.Load(),
		Uninvited: a.counts.uninvited.Load(),
		Limited:   map[Kind]uint64{},
		Redeemed:  a.counts.redeemed.Load(),
		Evicted:   a.addresses.evicted.Load() + a.proved.evicted.Load(),
	}
	s.Connections, s.Crowded = a.gate.Count()
	for kind := range a.counts.limited {
		s.Limited[Kind(kind)] = a.counts.limited[kind].Load()
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	s.Rules = len(a.rules) + len(a.fixed)
	s.Invites = len(a.invites)
	s.Members = len(a.members)
	return s
}
