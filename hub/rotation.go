package hub

import (
	"slices"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/secrez"
)

// handover is what a courier gets from a key that was given up for its own.
type handover struct {
	statement *rotation.Statement // nil: nothing
	id        secrez.ID           // that the other key has
}

// handedOver finds what there is to be handed over to a key, with the changes of keys that come with a request. Whoever is
// not welcome here stays so: it cannot hand anything over.
func (h *Hub) handedOver(key keys.PublicKey, r native.PublishRequest) (handover, error) {
	if len(r.Rotations) > native.MaxRotations {
		return handover{}, refusal(native.BadRequest, "too many changes of keys")
	}
	rec, known := h.registry.LookupKey(key)
	if known && (r.Receipt == nil || r.Receipt.Sequence <= rec.Sequence) {
		return handover{}, nil // it has what is its own
	}
	for _, b := range r.Rotations {
		s, err := rotation.Parse(b)
		if err != nil || !s.New.Equal(key) {
			return handover{}, refusal(native.Evidence, "the change of keys is not signed by both, or is to another key")
		}
		old, known := h.registry.LookupKey(s.Old)
		if !known {
			continue
		}
		return handover{s, old.ID}, h.admission.Reach(old.ID, old.Key)
	}
	return handover{}, nil
}

// givenUp ends what the old key has here after a handover: its connection is told, and ended after a while.
func (h *Hub) givenUp(handed handover, rec registry.Record) {
	old := handed.statement.Old
	if _, known := h.registry.LookupKey(old); known {
		return // it has not come to that
	}
	h.log.Info("hub: a key was given up for another", "id", rec.ID, "old", old.Short(), "new", rec.Key.Short())
	h.gone(handed.id)
	if p := h.directory.withdraw(old); p != nil {
		_ = h.background(func() { h.replace(p, "this key was given up for another") })
	}
}

// withdraw makes a courier unreachable, and returns the connection by which it was reached, or nil.
func (d *directory) withdraw(key keys.PublicKey) *secretstack.Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := key.Array()
	delete(d.addresses, k)
	s := d.couriers[k]
	if s == nil {
		return nil
	}
	delete(d.couriers, k)
	s.published = false
	return s.peer
}

// readerOf tells who reads the mail of a recipient: itself, or the key for which it was given up.
func (h *Hub) readerOf(recipient keys.PublicKey) keys.PublicKey {
	if rec, given := h.registry.Heir(recipient); given {
		return rec.Key
	}
	return recipient
}

// mailboxesOf lists the keys whose mail a key may read: those that were given up for it, the oldest mail first, and itself.
func (h *Hub) mailboxesOf(key keys.PublicKey) []keys.PublicKey {
	all := h.registry.Ancestors(key)
	slices.Reverse(all)
	return append(all, key)
}
