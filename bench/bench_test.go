package main

import (
	"errors"
	"os"
	"testing"
	"time"
)

// TestEveryPeerWorks measures everything for a moment: it checks that the peers run and answer rightly, not how fast.
func TestEveryPeerWorks(t *testing.T) {
	for _, r := range allRows(newNodeJS("js"), "") {
		for _, p := range append([]peer{r.Ours}, r.Peers...) {
			t.Run(r.Key+"/"+p.Name, func(t *testing.T) { runPeer(t, p) })
		}
	}
}

func runPeer(t *testing.T, p peer) {
	m, err := p.Start(t.Context())
	if errors.Is(err, errNoNode) && os.Getenv("CI") != "true" {
		t.Skip("needs node and npm on the PATH")
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		rate, err := m.Measure(t.Context(), 50*time.Millisecond)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip("this system does not tell")
		}
		if err != nil || rate <= 0 {
			t.Errorf("measured %g, %v", rate, err)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestGaugesCount(t *testing.T) {
	for _, r := range allRows(newNodeJS("js"), "") {
		for _, g := range r.Gauges {
			value, err := g.Measure(t.Context())
			if err != nil || value < 0 {
				t.Errorf("%s: %g, %v", g.Name, value, err)
			}
		}
	}
}
