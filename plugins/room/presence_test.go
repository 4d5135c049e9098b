package room

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// TestSubscribersThatFallFarBehindGetAFreshState: nothing is kept for them.
func TestSubscribersThatFallFarBehindGetAFreshState(t *testing.T) {
	p := newPresence()
	for i := range 5 * keptEvents {
		p.note(event{joined: true, key: number(i)})
		if len(p.events) > 2*keptEvents {
			t.Fatalf("%d events are kept", len(p.events))
		}
	}
	if _, _, ok := p.since(0); ok {
		t.Error("the first events are still there")
	}
	events, _, ok := p.since(p.seq - keptEvents)
	if !ok || len(events) != keptEvents || events[keptEvents-1].key != number(5*keptEvents-1) {
		t.Errorf("the last %d events are not there: %v, %d", keptEvents, ok, len(events))
	}
	if events, _, ok := p.since(p.seq); !ok || len(events) != 0 {
		t.Errorf("after the last event: %v, %v", events, ok)
	}
}

// number is a key.
func number(n int) (key [32]byte) {
	binary.LittleEndian.PutUint64(key[:], uint64(n))
	return key
}

func TestChangesWithoutEffectAreLeftOut(t *testing.T) {
	events := func(text string) []event {
		var list []event
		for _, word := range strings.Fields(text) {
			list = append(list, event{joined: word[0] == '+', key: [32]byte{word[1]}})
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
	var open []*usage
	for i, step := range []struct {
		id   [32]byte
		want bool
	}{{alice, true}, {alice, true}, {alice, false}, {bob, true}, {bob, false}} {
		u, ok := n.enter(step.id, cfg)
		if ok != step.want {
			t.Errorf("step %d: %v", i, ok)
		}
		if ok {
			open = append(open, u)
		}
	}
	n.leave(open[0])
	u, ok := n.enter(bob, cfg)
	if !ok || n.count() != 3 {
		t.Errorf("%d tunnels", n.count())
	}
	for _, u := range append(open[1:], u) {
		n.leave(u)
		n.leave(u) // does nothing
	}
	if n.count() != 0 || len(n.byID) != 0 {
		t.Errorf("%d tunnels, %d peers are left", n.count(), len(n.byID))
	}
}

// TestThoseWithManyTunnelsGiveWay: nobody can keep the others out with the tunnels of some keys.
func TestThoseWithManyTunnelsGiveWay(t *testing.T) {
	var n tunnels
	cfg := Config{MaxTunnels: 9, MaxTunnelsPerPeer: 4}
	var first *usage
	for key := range byte(3) {
		for i := range 3 {
			u, ok := n.enter([32]byte{key}, cfg)
			if !ok {
				t.Fatal("no room for the first nine")
			}
			u.last.Store(int64(100*i + int(key)))
			if key == 1 && i == 1 {
				u.last.Store(-1)
				first = u // idle for longest
			}
		}
	}
	mallory, _ := n.enter([32]byte{1}, cfg)
	if mallory != nil {
		t.Error("somebody who has many gets one more")
	}
	_, _ = n.enter([32]byte{1}, cfg)
	for i := range 2 {
		if _, ok := n.enter([32]byte{10}, cfg); !ok {
			t.Errorf("no room for the honest one's tunnel %d", i)
		}
	}
	if n.count() != 9 {
		t.Errorf("%d tunnels", n.count())
	}
	evicted := 0
	for key := range byte(3) {
		evicted += 3 - len(n.byID[[32]byte{key}])
	}
	if evicted != 2 {
		t.Errorf("%d tunnels made room", evicted)
	}
	if len(n.byID[[32]byte{1}]) < 3 {
		select {
		case <-first.evicted:
		default:
			t.Error("another one than that which was idle for longest made room")
		}
	}
}
