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

// lost ends what an id is reached by here that its key has lost, at whichever node that was asked for. The connection of a key
// that was given up for another is told, and ended after a while.
func (h *Hub) lost(rec registry.Record) {
	if !h.ready.Load() {
		return // nobody is here yet
	}
	h.pools.Remove(rec.ID)
	if _, known := h.registry.LookupKey(rec.Key); known {
		return // it has another id
	}
	h.log.Info("hub: a key was given up for another", "courier", rec)
	p := h.directory.withdraw(rec.Key)
	h.present(rec.Key)
	if p != nil {
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
