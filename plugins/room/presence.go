package room

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"github.com/secretstack/secretstack"
)

// keptEvents is how many changes a subscriber may fall behind before it gets a fresh state instead.
const keptEvents = 1024

// presence knows who is reachable through the room. A peer is present from the first session of it that announced
// itself to the end of the last, whatever the number of methods it called; so it joins once and leaves once.
//
// Nobody is told while the lock is held. Subscribers wait for the channel that the next change closes, and read the
// changes since the one they know; those that are late get a fresh state. So presence keeps nothing for a subscriber,
// and a stalled one costs nobody anything.
type presence struct {
	mu       sync.Mutex
	present  map[[32]byte]*attendant
	joins    uint64  // numbers the attendants in the order of their coming
	events   []event // the last changes; the last has the number seq
	seq      uint64
	changed  chan struct{} // closed by the next change
	snapshot *state        // of seq; nil when not made yet
}

type attendant struct {
	ref      string
	order    uint64
	sessions []*secretstack.Peer // announced, the latest last
}

// event is one change of who is present.
type event struct {
	joined bool
	ref    string
}

// state is who was present after the change seq. It is shared and never written to.
type state struct {
	seq  uint64
	refs []string
	json json.RawMessage // the array of refs
}

func newPresence() *presence {
	return &presence{present: map[[32]byte]*attendant{}, changed: make(chan struct{})}
}

// announce makes the session one through which its peer can be reached.
func (p *presence) announce(session *secretstack.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := session.Key().Array()
	a := p.present[key]
	if a == nil {
		p.joins++
		a = &attendant{ref: session.Key().Ref(), order: p.joins}
		p.present[key] = a
		p.note(event{joined: true, ref: a.ref})
	}
	if !slices.Contains(a.sessions, session) {
		a.sessions = append(a.sessions, session)
	}
}

// leave takes back what announce did; it does nothing for a session that has not announced itself.
func (p *presence) leave(session *secretstack.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := session.Key().Array()
	a := p.present[key]
	if a == nil {
		return
	}
	a.sessions = slices.DeleteFunc(a.sessions, func(s *secretstack.Peer) bool { return s == session })
	if len(a.sessions) == 0 {
		delete(p.present, key)
		p.note(event{ref: a.ref})
	}
}

// note keeps a change and wakes those who wait for one. The caller holds mu.
func (p *presence) note(e event) {
	p.seq++
	if len(p.events) == 2*keptEvents {
		p.events = slices.Clone(p.events[keptEvents:])
	}
	p.events = append(p.events, e)
	p.snapshot = nil
	close(p.changed)
	p.changed = make(chan struct{})
}

// session returns the latest announced session of a peer, or nil.
func (p *presence) session(key [32]byte) *secretstack.Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.present[key]
	if a == nil {
		return nil
	}
	return a.sessions[len(a.sessions)-1]
}

// now returns who is present, and the channel that the next change closes.
func (p *presence) now() (*state, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.snapshot == nil {
		p.snapshot = p.newState()
	}
	return p.snapshot, p.changed
}

func (p *presence) newState() *state {
	present := slices.SortedFunc(maps.Values(p.present), func(a, b *attendant) int {
		return int(int64(a.order) - int64(b.order))
	})
	s := &state{seq: p.seq, refs: make([]string, len(present))}
	for i, a := range present {
		s.refs[i] = a.ref
	}
	s.json, _ = json.Marshal(s.refs) // strings always encode
	return s
}

// since returns the changes after the one numbered seq, and the channel that the next change closes; ok is false when
// some of them are forgotten.
func (p *presence) since(seq uint64) (events []event, changed <-chan struct{}, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	missed := p.seq - seq
	if missed > uint64(len(p.events)) {
		return nil, p.changed, false
	}
	return slices.Clone(p.events[uint64(len(p.events))-missed:]), p.changed, true
}
