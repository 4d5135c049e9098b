package secrezapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/secrez"
)

const (
	// pageEntries is how many payloads are written together at most. A page is written anew for each payload, or for as
	// many as have come meanwhile: so it is small.
	pageEntries = 200

	entrySize = 8 + sha256.Size // when signed, in ms, and the digest
)

var errPage = errors.New("secrezapi: not a page of used payloads")

// usedPayloads writes down which payloads have been used, in pages of a [Store]. Those that come together share a write,
// and pages whose payloads are all too old are written over: the store does not grow beyond what a window needs.
type usedPayloads struct {
	store Store
	now   func() time.Time
	turn  chan struct{} // one place: whose it is writes

	mu      sync.Mutex
	waiting []*usedPayload // guarded by mu

	open page   // whose turn it is
	full []page // whose turn it is
}

// A usedPayload waits to be written.
type usedPayload struct {
	entry [entrySize]byte
	when  int64         // ms
	done  chan struct{} // closed when err is there
	err   error
}

// A page is one value of the store.
type page struct {
	name    string
	entries []byte
	first   time.Time // when it was begun
	latest  int64     // ms; when the newest of its payloads was signed
}

func newUsedPayloads(store Store, now func() time.Time) *usedPayloads {
	return &usedPayloads{store: store, now: now, turn: make(chan struct{}, 1)}
}

// load reads what was used before, and tells of what may still be fresh. Its error is errPage, or the store's: where that takes
// too long, it is registry.ErrUnavailable.
func (u *usedPayloads) load(timeout time.Duration, tell func(digest [sha256.Size]byte, signed time.Time)) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), timeout, registry.ErrUnavailable)
	defer cancel()
	oldest := u.now().Add(-window).UnixMilli()
	for item, err := range u.store.All(ctx) {
		if err != nil {
			return err
		}
		p := page{name: item.Key}
		if len(item.Value)%entrySize != 0 {
			return fmt.Errorf("%w: %d bytes", errPage, len(item.Value))
		}
		for entry := range bytesOf(item.Value, entrySize) {
			when := int64(binary.BigEndian.Uint64(entry))
			p.latest = max(p.latest, when)
			if when >= oldest {
				tell([sha256.Size]byte(entry[8:]), time.UnixMilli(when))
			}
		}
		u.full = append(u.full, p)
	}
	return nil
}

// bytesOf goes through b, n bytes at a time.
func bytesOf(b []byte, n int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for ; len(b) >= n; b = b[n:] {
			if !yield(b[:n]) {
				return
			}
		}
	}
}

// add writes a payload down. When it returns without an error, that is on disk.
func (u *usedPayloads) add(ctx context.Context, p *secrez.Payload) error {
	digest := p.Digest()
	w := &usedPayload{when: p.When().UnixMilli(), done: make(chan struct{})}
	binary.BigEndian.PutUint64(w.entry[:], uint64(w.when))
	copy(w.entry[8:], digest[:])
	u.mu.Lock()
	u.waiting = append(u.waiting, w)
	u.mu.Unlock()
	select {
	case <-w.done:
	case u.turn <- struct{}{}:
		u.write(ctx)
		<-u.turn
		<-w.done // by us, or by whose turn it was before
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return w.err
}

// write writes everything that waits. Only whose turn it is calls it.
func (u *usedPayloads) write(ctx context.Context) {
	u.mu.Lock()
	batch := u.waiting
	u.waiting = nil
	u.mu.Unlock()
	for len(batch) > 0 {
		u.turnPage()
		n := min(len(batch), pageEntries-len(u.open.entries)/entrySize)
		err := u.writePage(ctx, batch[:n])
		for _, w := range batch[:n] {
			w.err = err
			close(w.done)
		}
		batch = batch[n:]
	}
}

// turnPage begins a page when there is none, or when the open one is full or so old that it would never be written over.
func (u *usedPayloads) turnPage() {
	now := u.now()
	if u.open.name != "" {
		if len(u.open.entries) < pageEntries*entrySize && now.Sub(u.open.first) < window {
			return
		}
		u.full = append(u.full, u.open)
	}
	u.open = page{name: u.freeName(now), first: now, entries: make([]byte, 0, pageEntries*entrySize)}
}

// freeName takes the name of a page whose payloads are all too old, or makes one up.
func (u *usedPayloads) freeName(now time.Time) string {
	oldest := now.Add(-window).UnixMilli()
	for i, p := range u.full {
		if p.latest < oldest {
			u.full[i] = u.full[len(u.full)-1]
			u.full = u.full[:len(u.full)-1]
			return p.name
		}
	}
	return rand.Text()
}

// writePage writes the open page with more payloads on it. If that fails they are not on it.
func (u *usedPayloads) writePage(ctx context.Context, batch []*usedPayload) error {
	entries, latest := u.open.entries, u.open.latest
	for _, w := range batch {
		entries = append(entries, w.entry[:]...)
		latest = max(latest, w.when)
	}
	if _, err := u.store.Put(ctx, u.open.name, entries); err != nil {
		return err
	}
	u.open.entries, u.open.latest = entries, latest
	return nil
}
