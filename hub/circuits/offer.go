package circuits

import (
	"crypto/subtle"
	"net"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/keys"
)

// Offer is a circuit that waits for its ends.
type Offer struct {
	// Visitor and Target are the tokens, each for the key of that name and nobody else.
	Visitor, Target circuit.Token
	// Lifetime is how long from now both may take to present them.
	Lifetime time.Duration

	t *Table
	p *pair
}

// Refuse gives the circuit up unless it has been joined, as when the target does not want it: whoever comes, or waits
// already, is answered so.
func (o *Offer) Refuse(answer circuit.Answer) { o.t.fail(o.p, answer) }

// pair is a circuit. What changes is guarded by Table.mu.
type pair struct {
	visitor, target door
	first           *door // whose end was there first; nil: nobody's
	offered, joined time.Time
	timer           *time.Timer    // ends the set-up, and later the memory of it
	over            bool           // will not be joined, or has ended
	why             circuit.Answer // once over without having been joined: what ends are told
	matched         bool           // both ends are there
	inKernel        bool
	link            *circuit.Link // nil: not joined, or about to be
	unwanted        error         // why the link is to be cut as soon as there is one
}

// door is one side of a circuit.
type door struct {
	pair  *pair
	key   keys.PublicKey
	token circuit.Token
	conn  net.Conn // that has presented the token; nil: nobody has
	other *door
}

// Offer makes the tokens of a circuit. Its error is ErrFull, ErrVisitorLimit, ErrTargetLimit or ErrClosed.
func (t *Table) Offer(visitor, target keys.PublicKey) (*Offer, error) {
	p := &pair{offered: time.Now()}
	p.visitor = door{pair: p, key: visitor, token: circuit.NewToken(), other: &p.target}
	p.target = door{pair: p, key: target, token: circuit.NewToken(), other: &p.visitor}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.room(visitor, target); err != nil {
		t.stats.Limited++
		return nil, err
	}
	t.stats.Offered++
	t.pending++
	t.pairs[p] = struct{}{}
	t.accounts.open(p)
	for _, d := range []*door{&p.visitor, &p.target} {
		t.doors[d.token.Name()] = d
	}
	p.timer = time.AfterFunc(t.limits.Setup, func() { t.fail(p, circuit.Expired) })
	return &Offer{Visitor: p.visitor.token, Target: p.target.token, Lifetime: t.limits.Setup, t: t, p: p}, nil
}

// room says whether there may be another circuit. The caller holds mu.
func (t *Table) room(visitor, target keys.PublicKey) error {
	from, to := t.accounts.of(visitor), t.accounts.of(target)
	switch {
	case t.closed:
		return ErrClosed
	case from.visits >= t.limits.MaxPerVisitor, from.pending >= t.limits.MaxPendingPerKey:
		return ErrVisitorLimit
	case to.visited >= t.limits.MaxPerTarget, to.pending >= t.limits.MaxPendingPerKey:
		return ErrTargetLimit
	case len(t.pairs) >= t.limits.Max, t.pending >= t.limits.MaxPending:
		return ErrFull
	}
	return nil
}

// take returns the door that a token opens, which it does once. The caller holds mu.
func (t *Table) take(token circuit.Token) *door {
	name := token.Name()
	d := t.doors[name]
	if d == nil || subtle.ConstantTimeCompare(d.token[:], token[:]) != 1 {
		return nil
	}
	delete(t.doors, name)
	return d
}

// fail gives up a circuit that is not joined: an end that waits is told now, one that comes later then.
func (t *Table) fail(p *pair, why circuit.Answer) {
	t.mu.Lock()
	if p.over || p.matched {
		t.mu.Unlock()
		return
	}
	p.over, p.why = true, why
	view := p.view()
	t.leave(p)
	t.stats.Failed++
	t.linger(p)
	first := p.first
	if first != nil {
		t.wg.Add(1) // before Close can wait
	}
	t.mu.Unlock()

	if first != nil {
		if why == circuit.Expired {
			why = circuit.Absent // this end has come, and the other has not
		}
		t.turnAway(first.conn, why)
		t.wg.Done()
	}
	view.Ended, view.Err = time.Now(), why.Err()
	t.ended(view)
}

// leave takes a circuit out of those that there are. The caller holds mu.
func (t *Table) leave(p *pair) {
	delete(t.pairs, p)
	if !p.matched {
		t.pending--
	}
	t.accounts.close(p)
	t.signalIdle()
}

// linger keeps the tokens of a circuit that has failed for a while, so that whoever comes learns why. The caller holds
// mu.
func (t *Table) linger(p *pair) {
	p.timer.Stop()
	if t.closed || t.lingering >= t.limits.MaxPending {
		t.dropTokens(p)
		return
	}
	t.lingering++
	p.timer = time.AfterFunc(t.limits.Setup, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.lingering--
		t.dropTokens(p)
	})
}

// dropTokens forgets what is left of the tokens of a circuit. The caller holds mu.
func (t *Table) dropTokens(p *pair) {
	for _, d := range []*door{&p.visitor, &p.target} {
		if name := d.token.Name(); t.doors[name] == d {
			delete(t.doors, name)
		}
	}
}
