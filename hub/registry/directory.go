package registry

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/secrez"
)

// An entry is a record in memory. It never changes once it is in a directory.
type entry struct {
	key       [keySize]byte
	id        secrez.ID
	confirmed bool // the owner has signed a statement that names the id
	retired   bool // the id was given up; nobody gets it again

	index   uint32 // where the evidence is: which deed it is
	message uint64 // in which message of the log

	sequence uint64
	since    int64 // ms
	box      *[boxSize]byte
	digest   uint64 // of the evidence, to know a repeated registration

	rotation *rotation.Statement // by which the key has come into the place of another; nil: it has not
}

// same reports whether another entry is the same but for its evidence.
func (e *entry) same(other *entry) bool {
	boxes := e.box == nil && other.box == nil || e.box != nil && other.box != nil && *e.box == *other.box
	return e.id == other.id && e.sequence == other.sequence && e.retired == other.retired && boxes
}

func (e *entry) record() Record {
	key, _ := keys.NewPublicKey(e.key[:]) // it has the length
	r := Record{ID: e.id, Key: key, Sequence: e.sequence, Since: time.UnixMilli(e.since).UTC()}
	if e.box != nil {
		r.Box = bytes.Clone(e.box[:])
	}
	return r
}

func (d *deed) entry(message uint64, index int) *entry {
	digest, confirmed := d.evidence.summary()
	return &entry{
		key: d.key, id: d.id, sequence: d.sequence, since: d.since, box: d.box,
		digest: digest, confirmed: confirmed, rotation: d.evidence.Rotation, message: message, index: uint32(index),
	}
}

// A directory holds all records in memory. It changes only by applying the messages of the log, in their order, so that
// every node that reads the log has the same one.
type directory struct {
	mu      sync.RWMutex
	byKey   map[[keySize]byte]*entry        // guarded by mu
	byID    map[secrez.ID]*entry            // with the retired ones; guarded by mu
	heirs   map[[keySize]byte][keySize]byte // for which keys others were given up; guarded by mu
	before  map[[keySize]byte][keySize]byte // the same the other way round; guarded by mu
	applied uint64                          // up to where the log is known; guarded by mu
	message uint64                          // last message up to there; guarded by mu
	moved   chan struct{}                   // closed and replaced when applied grows; guarded by mu
}

func newDirectory() *directory {
	return &directory{
		byKey: map[[keySize]byte]*entry{},
		byID:  map[secrez.ID]*entry{},
		heirs: map[[keySize]byte][keySize]byte{}, before: map[[keySize]byte][keySize]byte{},
		moved: make(chan struct{}),
	}
}

func (d *directory) keyed(key [keySize]byte) *entry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byKey[key]
}

func (d *directory) identified(id secrez.ID) *entry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byID[id]
}

// givenUp reports whether a key was given up for another.
func (d *directory) givenUp(key [keySize]byte) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, gone := d.heirs[key]
	return gone
}

// heir gives the entry of the key for which another was given up in the end, or nil. Chains end: who was given up never
// comes back.
func (d *directory) heir(key [keySize]byte) *entry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for next, gone := d.heirs[key]; gone; next, gone = d.heirs[key] {
		key = next
	}
	return d.byKey[key]
}

// ancestors lists the keys that were given up for one, the latest first.
func (d *directory) ancestors(key [keySize]byte) (all [][keySize]byte) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for old, known := d.before[key]; known; old, known = d.before[old] {
		all = append(all, old)
	}
	return all
}

func (d *directory) counts() (live, ids int, applied uint64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.byKey), len(d.byID), d.applied
}

// position tells what has been applied, with a channel that is closed when that changes.
func (d *directory) position() (applied uint64, moved <-chan struct{}) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.applied, d.moved
}

// all copies the live entries, in the order of the log.
func (d *directory) all() []*entry {
	d.mu.RLock()
	entries := make([]*entry, 0, len(d.byKey))
	for _, e := range d.byKey {
		entries = append(entries, e)
	}
	d.mu.RUnlock()
	slices.SortFunc(entries, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.message, b.message), cmp.Compare(a.index, b.index))
	})
	return entries
}

// last gives the last message of the log that has been applied.
func (d *directory) last() uint64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.message
}

// errGap says that a message of the log is missing.
var errGap = errors.New("the one before it is missing")

// apply takes in one message of the log, and gives the entries that hold no more because of it. It reports how many deeds
// contradict what came before, which are left out. A message that was applied before is passed over. Its error is errGap.
func (d *directory) apply(message, previous uint64, deeds []deed) (lost []*entry, refused int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if message <= d.applied {
		return nil, 0, nil
	}
	if previous != d.message {
		return nil, 0, errGap
	}
	for i := range deeds {
		over, ok := d.applyOne(deeds[i].entry(message, i))
		lost = append(lost, over...)
		if !ok {
			refused++
		}
	}
	d.message = message
	d.moveTo(message)
	return lost, refused, nil
}

// skip passes over a gap at the end of the log: a write that failed.
func (d *directory) skip(to uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if to > d.applied {
		d.moveTo(to)
	}
}

// moveTo is called with mu held.
func (d *directory) moveTo(applied uint64) {
	d.applied = applied
	close(d.moved)
	d.moved = make(chan struct{})
}

// applyOne keeps three rules, whatever the log says: a key's sequence only grows, an id stays its first owner's unless he
// gives up his key for another, and a key that was given up gets nothing. It gives the entries of ids that a key has lost.
func (d *directory) applyOne(e *entry) (lost []*entry, ok bool) {
	if _, gone := d.heirs[e.key]; gone {
		return nil, false
	}
	if holder := d.byID[e.id]; holder != nil && holder.key != e.key && !e.follows(holder) {
		return nil, false
	}
	from := d.predecessor(e)
	if from != nil && e.sequence <= from.sequence {
		return nil, false
	}
	old := d.byKey[e.key]
	if old != nil {
		if e.sequence < old.sequence || e.sequence == old.sequence && e.id != old.id {
			return nil, false
		}
		if e.id != old.id {
			d.byID[old.id] = &entry{key: old.key, id: old.id, retired: true}
			lost = append(lost, old)
		}
	}
	if from != nil {
		lost = append(lost, from)
		if from.id != e.id { // of an older backup
			d.byID[from.id] = &entry{key: from.key, id: from.id, retired: true}
		}
	}
	if e.rotation != nil {
		given := e.rotation.Old.Array()
		delete(d.byKey, given)
		d.heirs[given], d.before[e.key] = e.key, given
	}
	d.byKey[e.key] = e
	d.byID[e.id] = e
	return lost, true
}

// predecessor gives the live entry of the key that an entry's key has come in the place of, or nil.
func (d *directory) predecessor(e *entry) *entry {
	if e.rotation == nil {
		return nil
	}
	return d.byKey[e.rotation.Old.Array()]
}

// follows reports whether an entry may take the id of another: its key was given up for the entry's.
func (e *entry) follows(holder *entry) bool {
	return e.rotation != nil && !holder.retired && e.rotation.Old.Array() == holder.key && e.sequence > holder.sequence
}
