package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestWhatOthersSayOfThemselvesIsBounded: a node that talks too much, or is another one for each link, is not remembered.
func TestWhatOthersSayOfThemselvesIsBounded(t *testing.T) {
	s := engine(t)
	b := newBus(t, s)
	n := open(t, configOf(t, b, "a"))
	conn, _ := b.Conn()
	say := func(h hello) {
		t.Helper()
		data, err := json.Marshal(h)
		if err == nil {
			err = conn.Publish(subjectHello, data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	say(hello{Version: version, Place: Place{Node: strings.Repeat("x", longestHello)}})
	say(hello{Version: version, Place: Place{Node: "b"}, Load: Load{Public: strings.Repeat("x", longestHello)}})
	say(hello{Version: version, Time: -1 << 63, Place: Place{Node: "c"}}) // absurd, and short
	eventually(t, "what came last is heard", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.others["c"] != nil
	})
	n.mu.Lock()
	known := len(n.others)
	n.mu.Unlock()
	if known != 1 {
		t.Errorf("%d nodes are remembered", known)
	}

	for i := range 3 {
		name := fmt.Sprintf("without an address %d", i)
		if life := n.partner(Place{Node: name, Key: identity(t, name).Public()}, "run"); life.Err() != nil {
			t.Error("links of a node without an address are ended at once")
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.partners) != 0 {
		t.Errorf("%d nodes that cannot be asked are remembered", len(n.partners))
	}
}
