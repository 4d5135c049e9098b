package hub_test

import (
	"slices"
	"testing"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

// A room tells whoever may use the hub who is in it. A hub that is closed tells nobody else, by neither way of asking, and
// stops telling those who listened before it was closed.
func TestAClosedHubTellsStrangersNotWhoIsInTheRoom(t *testing.T) {
	var rules []admission.Rule
	for _, name := range []string{"alice", "carol"} {
		rule, err := admission.ParseRule("allow " + identity(t, name).Public().Ref())
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, rule)
	}
	h := start(t, hub.Config{Mode: admission.ModeOpen, Rules: rules})
	peer(t, "alice", tunnel.Plugin(tunnel.Config{Portals: []string{h.address()}}))
	alice := identity(t, "alice").Public().Ref()

	mallory := peer(t, "mallory")
	before := connect(t, mallory, h.address())
	told, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		for change, err := range muxrpc.Source[rooms.Change](t.Context(), before, "room.attendants") {
			if err != nil {
				ended <- err
				return
			}
			if change.ID == alice || slices.Contains(change.IDs, alice) {
				told <- struct{}{}
			}
		}
		ended <- nil
	}()
	<-told // as long as the hub is open
	if err := h.Admission().SetMode(admission.ModeClosed); err != nil {
		t.Fatal(err)
	}
	<-ended
	<-before.Done()
	if p, err := mallory.Connect(t.Context(), h.address()); err == nil {
		t.Errorf("%s is let in", p.Key().Short())
	}

	carol := connect(t, peer(t, "carol"), h.address())
	for keys, err := range muxrpc.Source[[]string](t.Context(), carol, "tunnel.endpoints") {
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(keys, alice) {
			break
		}
	}
}
