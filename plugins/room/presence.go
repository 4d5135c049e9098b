package room

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
)

const (
	// keptEvents is how many changes a subscriber may fall behind before it gets a fresh state instead.
	keptEvents = 4096
	// rest is how long a session that has left must wait until it can announce itself again: each change is told to
	// everybody, so that whoever comes and goes all the time would cost the room a lot.
	rest = time.Second
)

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
	changed  chan struct{}                   // closed by the next change
	snapshot *state                          // of seq; nil when not made yet
	left     map[*secretstack.Peer]time.Time // when sessions have left, for as long as they rest
	here     uint64                          // counts the changes of who has sessions here
	locals   int                             // attendants who have
}

type attendant struct {
	order     uint64
	sessions  []*secretstack.Peer // announced, the latest last
	elsewhere bool                // in another part of the room
}

// event is one change of who is present.
type event struct {
	joined bool
	key    [32]byte
}

// ref is the reference of the key of a peer.
func ref(key [32]byte) string {
	k, _ := keys.NewPublicKey(key[:]) // the length is right
	return k.Ref()
}

// outcome leaves out of changes what has no effect in the end: who has come and gone, or gone and come back.
func outcome(events []event) []event {
	type span struct{ first, last int }
	spans := map[[32]byte]span{}
	for i, e := range events {
		s, seen := spans[e.key]
		if !seen {
			s.first = i
		}
		s.last = i
		spans[e.key] = s
	}
	var left []event
	for i, e := range events {
		if s := spans[e.key]; i == s.last && e.joined == events[s.first].joined {
			left = append(left, e)
		}
	}
	return left
}

// state is who was present after the change seq. It is shared and never written to.
type state struct {
	seq  uint64
	refs []string
	json json.RawMessage // the array of refs
}

// item is the state as an item of room.attendants.
func (s *state) item() any {
	return json.RawMessage(slices.Concat([]byte(`{"type":"state","ids":`), s.json, []byte("}")))
}

func newPresence() *presence {
	return &presence{
		present: map[[32]byte]*attendant{},
		changed: make(chan struct{}),
		left:    map[*secretstack.Peer]time.Time{},
	}
}

// announce makes the session one through which its peer can be reached.
func (p *presence) announce(session *secretstack.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.join(session.Key().Array())
	if len(a.sessions) == 0 {
		p.here++
		p.locals++
	}
	if !slices.Contains(a.sessions, session) {
		a.sessions = append(a.sessions, session)
	}
}

// join returns an attendant, who comes if he is not present. The caller holds mu.
func (p *presence) join(key [32]byte) *attendant {
	a := p.present[key]
	if a == nil {
		p.joins++
		a = &attendant{order: p.joins}
		p.present[key] = a
		p.note(event{joined: true, key: key})
	}
	return a
}

// part lets an attendant go who is nowhere any more. The caller holds mu.
func (p *presence) part(key [32]byte, a *attendant) {
	if len(a.sessions) == 0 && !a.elsewhere {
		delete(p.present, key)
		p.note(event{key: key})
	}
}

// setElsewhere says who is in other parts of the room, and nobody else.
func (p *presence) setElsewhere(all [][32]byte) {
	there := make(map[[32]byte]bool, len(all))
	for _, key := range all {
		there[key] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range all {
		p.join(key).elsewhere = true
	}
	for key, a := range p.present {
		if a.elsewhere && !there[key] {
			a.elsewhere = false
			p.part(key, a)
		}
	}
}

// local returns who has sessions here, and a number that is another one whenever that changes.
func (p *presence) local() (all [][32]byte, revision uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all = make([][32]byte, 0, p.locals)
	for key, a := range p.present {
		if len(a.sessions) > 0 {
			all = append(all, key)
		}
	}
	return all, p.here
}

// countLocal returns how many local would return, and the number.
func (p *presence) countLocal() (n int, revision uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.locals, p.here
}

// retire takes back what announce did because the session asks for it. It has to rest then.
func (p *presence) retire(session *secretstack.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.left, func(_ *secretstack.Peer, at time.Time) bool { return time.Since(at) > rest })
	if p.remove(session) {
		p.left[session] = time.Now()
	}
}

// resting returns how long the session still has to rest.
func (p *presence) resting(session *secretstack.Peer) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.left[session]
	if !ok {
		return 0
	}
	return rest - time.Since(at)
}

// leave takes back what announce did because the session has ended.
func (p *presence) leave(session *secretstack.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(session)
}

// remove reports whether the session was announced. The caller holds mu.
func (p *presence) remove(session *secretstack.Peer) bool {
	key := session.Key().Array()
	a := p.present[key]
	if a == nil || !slices.Contains(a.sessions, session) {
		return false
	}
	a.sessions = slices.DeleteFunc(a.sessions, func(s *secretstack.Peer) bool { return s == session })
	if len(a.sessions) == 0 {
		p.here++
		p.locals--
		p.part(key, a)
	}
	return true
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
	if a == nil || len(a.sessions) == 0 {
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
	present := slices.SortedFunc(maps.Keys(p.present), func(a, b [32]byte) int {
		return cmp.Compare(p.present[a].order, p.present[b].order)
	})
	s := &state{seq: p.seq, refs: make([]string, len(present))}
	for i, key := range present {
		s.refs[i] = ref(key)
	}
	s.json, _ = json.Marshal(s.refs) // strings always encode
	return s
}

// count returns how many are present.
func (p *presence) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.present)
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
