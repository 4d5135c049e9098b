package registry

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// An entry is a record in memory. It never changes once it is in a directory.
type entry struct {
	key       [keySize]byte
	id        secrez.ID
	sequence  uint64
	since     int64 // ms
	box       *[boxSize]byte
	digest    uint64 // of the evidence, to know a repeated registration
	confirmed bool   // the owner has signed a statement that names the id
	retired   bool   // the id was given up; nobody gets it again

	message uint64 // where the evidence is: the message of the log
	index   int    // and which deed in it
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
		digest: digest, confirmed: confirmed, message: message, index: index,
	}
}

// A directory holds all records in memory. It changes only by applying the messages of the log, in their order, so that
// every node that reads the log has the same one.
type directory struct {
	mu      sync.RWMutex
	byKey   map[[keySize]byte]*entry // guarded by mu
	byID    map[secrez.ID]*entry     // with the retired ones; guarded by mu
	applied uint64                   // up to where the log is known; guarded by mu
	message uint64                   // last message up to there; guarded by mu
	moved   chan struct{}            // closed and replaced when applied grows; guarded by mu
}

func newDirectory() *directory {
	return &directory{
		byKey: map[[keySize]byte]*entry{},
		byID:  map[secrez.ID]*entry{},
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

// apply takes in one message of the log and reports how many of its deeds contradict what came before, which are left out.
// A message that was applied before is passed over. Its error is errGap.
func (d *directory) apply(message, previous uint64, deeds []deed) (refused int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if message <= d.applied {
		return 0, nil
	}
	if previous != d.message {
		return 0, errGap
	}
	for i := range deeds {
		if !d.applyOne(deeds[i].entry(message, i)) {
			refused++
		}
	}
	d.message = message
	d.moveTo(message)
	return refused, nil
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

// applyOne keeps two rules, whatever the log says: a key's sequence only grows, and an id stays its first owner's.
func (d *directory) applyOne(e *entry) bool {
	if holder := d.byID[e.id]; holder != nil && holder.key != e.key {
		return false
	}
	old := d.byKey[e.key]
	if old != nil {
		if e.sequence < old.sequence || e.sequence == old.sequence && e.id != old.id {
			return false
		}
		if e.id != old.id {
			d.byID[old.id] = &entry{key: old.key, id: old.id, retired: true}
		}
	}
	d.byKey[e.key] = e
	d.byID[e.id] = e
	return true
}
