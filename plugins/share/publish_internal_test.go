package share

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

// contacts are two: bob, who has had the key old, and eve, who is blocked.
type contacts struct{ bob, old, eve, broken keys.PublicKey }

func (c contacts) Contact(_ context.Context, key keys.PublicKey) (present keys.PublicKey, blocked bool, err error) {
	switch {
	case key.Equal(c.bob), key.Equal(c.old):
		return c.bob, false, nil
	case key.Equal(c.eve):
		return c.eve, true, nil
	case key.Equal(c.broken):
		return keys.PublicKey{}, false, errors.New("the disk is broken")
	}
	return keys.PublicKey{}, false, nil
}

func (contacts) ContactsChanged() <-chan struct{} { return nil }

func testKey(t *testing.T, name string) keys.PublicKey {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return id.Public()
}

func TestPublishedServicesGoByTheContactsOfNow(t *testing.T) {
	known := contacts{testKey(t, "bob"), testKey(t, "old"), testKey(t, "eve"), testKey(t, "broken")}
	stranger := testKey(t, "stranger")
	just := func(all ...keys.PublicKey) []keys.PublicKey { return all }
	for _, c := range []struct {
		name    string
		p       Publish
		allowed []keys.PublicKey
	}{
		{"nobody", Publish{}, nil},
		{"anyone", Publish{Anyone: true}, just(known.bob, stranger)},
		{"all contacts", Publish{AllContacts: true}, just(known.bob)},
		{"a contact", Publish{Contacts: just(known.bob)}, just(known.bob)},
		{"a contact with a new key", Publish{Contacts: just(known.old)}, just(known.bob)},
		{"who was a contact", Publish{Contacts: just(stranger)}, nil},
		{"who is blocked", Publish{Contacts: just(known.eve)}, nil},
		{"keys", Publish{Allow: just(known.old, known.eve, stranger)}, just(stranger)},
	} {
		c.p.Target = "tcp:127.0.0.1:1"
		sv, err := c.p.service(t.Context(), known)
		if err != nil {
			t.Fatal(err)
		}
		for _, peer := range just(known.bob, known.old, known.eve, known.broken, stranger) {
			want := false
			for _, a := range c.allowed {
				want = want || a.Equal(peer)
			}
			if got := sv.Allow(peer); got != want {
				t.Errorf("%s: %s may connect: %v", c.name, peer, got)
			}
		}
	}
	for _, p := range []Publish{{Target: "unix:x", AllContacts: true}, {Target: "unix:x", Contacts: just(known.bob)}} {
		if _, err := p.service(t.Context(), nil); err == nil {
			t.Errorf("%+v is published where there are no contacts", p)
		}
	}
}
