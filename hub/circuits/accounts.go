package circuits

import (
	"container/list"

	"github.com/secretstack/secretstack/keys"
)

// Usage is what one key has used.
type Usage struct {
	Key keys.PublicKey
	// Visits are the circuits that the key has asked for, and Visited those that lead to it, as far as they are not over.
	Visits, Visited int
	// Circuits counts those that were joined, on either side.
	Circuits uint64
	// Sent and Received are bytes that came from the key's ends and went to them, also in circuits that are not over.
	Sent, Received uint64
}

func add(u *Usage, sent, received uint64) {
	u.Sent += sent
	u.Received += received
}

// UsageOf returns what a key has used, as far as it is remembered.
func (t *Table) UsageOf(key keys.PublicKey) Usage {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.accounts.byKey[key.Array()]
	if a == nil {
		return Usage{Key: key}
	}
	u := a.usage()
	for p := range t.pairs {
		c := p.view()
		if p.visitor.key.Equal(key) {
			add(u, c.FromVisitor, c.FromTarget)
		}
		if p.target.key.Equal(key) {
			add(u, c.FromTarget, c.FromVisitor)
		}
	}
	return *u
}

// account is what is kept about a key. Its traffic is that of circuits that are over.
type account struct {
	Usage
	pending int
	resting *list.Element // in accounts.resting; nil: it has circuits
}

func (a *account) usage() *Usage {
	u := a.Usage
	return &u
}

// accounts are those of the keys that have circuits, and of some others. They are guarded by Table.mu.
type accounts struct {
	byKey   map[[32]byte]*account
	resting *list.List // of those without a circuit, the latest first
	max     int        // resting
}

func newAccounts(limit int) accounts {
	return accounts{byKey: map[[32]byte]*account{}, resting: list.New(), max: limit}
}

// of returns a copy of the account of a key.
func (as *accounts) of(key keys.PublicKey) account {
	if a := as.byKey[key.Array()]; a != nil {
		return *a
	}
	return account{}
}

// wake returns the account of a key that is about to have a circuit.
func (as *accounts) wake(key keys.PublicKey) *account {
	a := as.byKey[key.Array()]
	if a == nil {
		a = &account{Usage: Usage{Key: key}}
		as.byKey[key.Array()] = a
	}
	if a.resting != nil {
		as.resting.Remove(a.resting)
		a.resting = nil
	}
	return a
}

// rest lets the account of a key without a circuit be forgotten in time.
func (as *accounts) rest(a *account) {
	if a.Visits+a.Visited > 0 || a.resting != nil {
		return
	}
	a.resting = as.resting.PushFront(a)
	if as.resting.Len() <= as.max {
		return
	}
	oldest, _ := as.resting.Remove(as.resting.Back()).(*account)
	delete(as.byKey, oldest.Key.Array())
}

// open counts a circuit that is offered.
func (as *accounts) open(p *pair) {
	from, to := as.wake(p.visitor.key), as.wake(p.target.key)
	from.Visits++
	from.pending++
	to.Visited++
	to.pending++
}

// join counts that a circuit has been joined.
func (as *accounts) join(p *pair) {
	for _, key := range []keys.PublicKey{p.visitor.key, p.target.key} {
		a := as.wake(key)
		a.pending--
		a.Circuits++
	}
}

// close counts that a circuit is over.
func (as *accounts) close(p *pair) {
	from, to := as.wake(p.visitor.key), as.wake(p.target.key)
	from.Visits--
	to.Visited--
	if !p.matched {
		from.pending--
		to.pending--
	}
	c := p.view()
	add(&from.Usage, c.FromVisitor, c.FromTarget)
	add(&to.Usage, c.FromTarget, c.FromVisitor)
	as.rest(from)
	as.rest(to)
}
