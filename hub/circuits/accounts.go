package circuits

import "github.com/secretstack/secretstack/keys"

// account counts the circuits of one key that are not over.
type account struct {
	visits, visited int // that the key has asked for, and that lead to it
	pending         int // of both, those that are not joined
}

// accounts are those of the keys that have circuits. They are guarded by Table.mu.
type accounts map[[keys.PublicKeySize]byte]account

func (as accounts) of(key keys.PublicKey) account { return as[key.Array()] }

func (as accounts) add(key keys.PublicKey, change account) {
	a := as.of(key)
	a.visits += change.visits
	a.visited += change.visited
	a.pending += change.pending
	if a == (account{}) {
		delete(as, key.Array())
	} else {
		as[key.Array()] = a
	}
}

// open counts a circuit that is offered.
func (as accounts) open(p *pair) {
	as.add(p.visitor.key, account{visits: 1, pending: 1})
	as.add(p.target.key, account{visited: 1, pending: 1})
}

// join counts that a circuit has been joined.
func (as accounts) join(p *pair) {
	as.add(p.visitor.key, account{pending: -1})
	as.add(p.target.key, account{pending: -1})
}

// close counts that a circuit is over.
func (as accounts) close(p *pair) {
	pending := -1
	if p.matched {
		pending = 0
	}
	as.add(p.visitor.key, account{visits: -1, pending: pending})
	as.add(p.target.key, account{visited: -1, pending: pending})
}
