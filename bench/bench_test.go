package main

import (
	"errors"
	"math"
	"os"
	"testing"
	"time"
)

// TestEveryPeerWorks measures everything for a moment: it checks that the peers run and answer rightly, not how fast.
func TestEveryPeerWorks(t *testing.T) {
	for _, r := range allRows("js", "") {
		if r.Shared != nil { // started once, by the first who needs them
			r.Shared.hold()
			t.Cleanup(func() {
				if err := r.Shared.leave(); err != nil {
					t.Error(err)
				}
			})
		}
		for _, p := range append([]peer{r.Ours}, r.Peers...) {
			rounds := 2
			if r.Unit == "KiB" {
				rounds = 1 // the server is a new one each time
			}
			t.Run(r.Key+"/"+p.Name, func(t *testing.T) {
				t.Parallel()
				runPeer(t, p, rounds)
			})
		}
	}
}

func runPeer(t *testing.T, p peer, rounds int) {
	m, err := p.Start(t.Context())
	for _, absent := range []error{errNoNode, errNoHaproxy} {
		if errors.Is(err, absent) && os.Getenv("CI") != "true" {
			t.Skip(absent)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for range rounds {
		rate, err := measureSome(t, m)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip("this system does not tell")
		}
		if m, ok := m.(manifold); ok && err == nil {
			for _, figure := range m.Also() {
				if figure < 0 || math.IsNaN(figure) || math.IsInf(figure, 0) {
					t.Errorf("also measured %v", m.Also())
				}
			}
		}
		if err != nil || rate <= 0 {
			t.Errorf("measured %g, %v", rate, err)
		}
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// measureSome measures for a moment, or for longer if nothing happened in it: the machine may have had other things to do.
func measureSome(t *testing.T, m meter) (rate float64, err error) {
	t.Helper()
	for d := 50 * time.Millisecond; d < 10*time.Second; d *= 2 {
		rate, err = m.Measure(t.Context(), d)
		if rate > 0 || err != nil && !errors.Is(err, errNothingMoved) {
			break
		}
	}
	return rate, err
}

func TestGaugesCount(t *testing.T) {
	for _, r := range allRows("js", "") {
		for _, g := range r.Gauges {
			value, err := g.Measure(t.Context())
			if err != nil || value < 0 {
				t.Errorf("%s: %g, %v", g.Name, value, err)
			}
		}
	}
}
