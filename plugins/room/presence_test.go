package room

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestSubscribersThatFallFarBehindGetAFreshState: nothing is kept for them.
func TestSubscribersThatFallFarBehindGetAFreshState(t *testing.T) {
	p := newPresence()
	for i := range 5 * keptEvents {
		p.note(event{joined: true, ref: fmt.Sprint(i)})
		if len(p.events) > 2*keptEvents {
			t.Fatalf("%d events are kept", len(p.events))
		}
	}
	if _, _, ok := p.since(0); ok {
		t.Error("the first events are still there")
	}
	events, _, ok := p.since(p.seq - keptEvents)
	if !ok || len(events) != keptEvents || events[keptEvents-1].ref != fmt.Sprint(5*keptEvents-1) {
		t.Errorf("the last %d events are not there: %v, %d", keptEvents, ok, len(events))
	}
	if events, _, ok := p.since(p.seq); !ok || len(events) != 0 {
		t.Errorf("after the last event: %v, %v", events, ok)
	}
}

func TestChangesWithoutEffectAreLeftOut(t *testing.T) {
	events := func(text string) []event {
		var list []event
		for _, word := range strings.Fields(text) {
			list = append(list, event{joined: word[0] == '+', ref: word[1:]})
		}
		return list
	}
	for all, want := range map[string]string{
		"":                        "",
		"+a":                      "+a",
		"+a -a":                   "",
		"-a +a":                   "",
		"+a -a +a":                "+a",
		"-a +b +a -a -b +c":       "-a +c",
		"+a +b -a +a -b":          "+a",
		"+a +b +c -b":             "+a +c",
		"-a +a -a +a -a +a -a":    "-a",
		"+x -x +x -x +y +x -x +z": "+y +z",
	} {
		if got := outcome(events(all)); !slices.Equal(got, events(want)) {
			t.Errorf("%q comes to %v, want %q", all, got, want)
		}
	}
}

func TestTunnelsAreCountedByWhoOpensThem(t *testing.T) {
	var n tunnels
	cfg := Config{MaxTunnels: 3, MaxTunnelsPerPeer: 2}
	alice, bob := [32]byte{1}, [32]byte{2}
	for i, step := range []struct {
		id   [32]byte
		want bool
	}{{alice, true}, {alice, true}, {alice, false}, {bob, true}, {bob, false}} {
		if got := n.enter(step.id, cfg); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	n.leave(alice)
	if !n.enter(bob, cfg) || n.count() != 3 {
		t.Errorf("%d tunnels", n.count())
	}
	for _, id := range [][32]byte{alice, bob, bob} {
		n.leave(id)
	}
	if n.count() != 0 || len(n.byID) != 0 {
		t.Errorf("%d tunnels, %d peers are left", n.count(), len(n.byID))
	}
}
