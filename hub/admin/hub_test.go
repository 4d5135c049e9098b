package admin_test

import (
	"slices"
	"sync"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/keys"
)

// fakeHub is a hub of which a test decides everything.
type fakeHub struct {
	mu       sync.Mutex
	about    admin.About
	status   admin.Status
	couriers []admin.Courier
}

func (h *fakeHub) About() admin.About {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.about
}

func (h *fakeHub) Status() admin.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

func (h *fakeHub) Couriers() []admin.Courier {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.couriers)
}

func (h *fakeHub) Disconnect(key keys.PublicKey) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := len(h.couriers)
	h.couriers = slices.DeleteFunc(h.couriers, func(c admin.Courier) bool { return c.Key.Equal(key) })
	return before - len(h.couriers)
}

func (h *fakeHub) InviteLink(code string) string { return "net:hub.example.org:8433~shs:KEY:" + code }

// set changes how the hub is doing.
func (h *fakeHub) set(change func(*fakeHub)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}
