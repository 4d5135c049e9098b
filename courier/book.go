package courier

import (
	"context"
	"errors"
	"sync"

	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/keys"
)

// book tells plugins who the owner's contacts are.
type book struct {
	store *store.Store

	mu      sync.Mutex
	changed chan struct{} // closed with the next change; guarded by mu
}

func newBook(s *store.Store) *book { return &book{store: s, changed: make(chan struct{})} }

// Contact finds the contact who has the key, or has had it. present is the contact's key now, zero for nobody's.
func (b *book) Contact(ctx context.Context, key keys.PublicKey) (present keys.PublicKey, blocked bool, err error) {
	c, err := b.store.ContactByKey(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return keys.PublicKey{}, false, nil
	}
	return c.Key, c.Blocked, err
}

// ContactsChanged gives a channel that is closed with the next change of the contacts.
func (b *book) ContactsChanged() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *book) change() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
}
