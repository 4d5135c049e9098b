package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakePeer has the rates 1×by, 2×by, … and writes its name down each time that it is measured.
func fakePeer(name string, by float64, log *[]string) peer {
	n := 0.0
	return peer{Name: name, AtLeast: 2, Start: stateless(func(context.Context, time.Duration) (float64, error) {
		*log = append(*log, name)
		n++
		return n * by, nil
	})}
}

func quietPlan(rounds int) plan {
	return plan{Round: time.Millisecond, Rounds: rounds, Say: func(string, ...any) {}}
}

func TestRoundsAlternateAndTheFirstIsNotCounted(t *testing.T) {
	var log []string
	r := row{Ours: fakePeer("ours", 30, &log), Peers: []peer{fakePeer("a", 10, &log), fakePeer("b", 20, &log)}}
	res := measureRow(t.Context(), r, quietPlan(3))[0]
	if want := "ours a b b a ours ours a b b a ours"; strings.Join(log, " ") != want {
		t.Errorf("order %v, want %s", log, want)
	}
	if got := res.Peers[1]; !slices.Equal(got.Rounds, []float64{20, 30, 40}) || got.Median != 30 {
		t.Errorf("rounds of a: %v, median %g", got.Rounds, got.Median)
	}
	if a, b := res.Peers[1], res.Peers[2]; a.Ratio != 3 || !a.met() || b.Ratio != 1.5 || b.met() {
		t.Errorf("ratio to a %g (met: %v), to b %g (met: %v)", a.Ratio, a.met(), b.Ratio, b.met())
	}
}

func TestLessCanBeMore(t *testing.T) {
	var log []string
	r := row{LessIsMore: true, Ours: fakePeer("ours", 10, &log), Peers: []peer{fakePeer("a", 30, &log)}}
	if res := measureRow(t.Context(), r, quietPlan(2))[0]; res.Peers[1].Ratio != 3 {
		t.Errorf("ratio %g", res.Peers[1].Ratio)
	}
}

func TestOneMeasurementCanShowSeveralThings(t *testing.T) {
	start := func(figures ...float64) func(context.Context) (meter, error) {
		return func(context.Context) (meter, error) {
			return &several{
				measure: func(context.Context, time.Duration) ([]float64, error) { return figures, nil },
				close:   func() error { return nil },
			}, nil
		}
	}
	r := row{
		Title: "speed", Also: []aspect{{Title: "delay", LessIsMore: true}},
		Ours:  peer{Name: "ours", Start: start(20, 5)},
		Peers: []peer{{Name: "a", AtLeast: 3, AlsoAtLeast: []float64{2}, Start: start(10, 10)}},
	}
	results := measureRow(t.Context(), r, quietPlan(2))
	if len(results) != 2 || results[0].Title != "speed" || results[1].Title != "delay" {
		t.Fatalf("results %+v", results)
	}
	if a := results[0].Peers[1]; a.Ratio != 2 || a.AtLeast != 3 || a.met() {
		t.Errorf("speed: %+v", a)
	}
	if a := results[1].Peers[1]; a.Ratio != 2 || a.AtLeast != 2 || !a.met() {
		t.Errorf("delay: %+v", a)
	}
}

func TestAPeerThatFailsIsLeftOutWithItsReason(t *testing.T) {
	var log []string
	broken := peer{Name: "broken", AtLeast: 1, Start: func(context.Context) (meter, error) {
		return nil, errors.New("it is not here")
	}}
	r := row{Ours: fakePeer("ours", 1, &log), Peers: []peer{broken, fakePeer("a", 1, &log)}}
	res := measureRow(t.Context(), r, quietPlan(1))[0]
	if got := res.Peers[1]; got.Missing != "it is not here" || got.met() {
		t.Errorf("the broken peer: %+v", got)
	}
	if got := res.Peers[2]; got.Ratio != 1 {
		t.Errorf("the peer after the broken one: %+v", got)
	}
}

func TestRowsAreSelectedByNumberOrByName(t *testing.T) {
	rows := []row{{Key: "1"}, {Key: "3a"}, {Key: "3b"}, {Key: "10"}}
	for only, want := range map[string]string{"3": "3a 3b", "3b": "3b", "1,3a": "1 3a", "10": "10"} {
		chosen, err := selectRows(rows, strings.Split(only, ","))
		var keys []string
		for _, r := range chosen {
			keys = append(keys, r.Key)
		}
		if err != nil || strings.Join(keys, " ") != want {
			t.Errorf("-only %s: %v, %v", only, keys, err)
		}
	}
	if _, err := selectRows(rows, []string{"9"}); err == nil {
		t.Error("a row that does not exist was accepted")
	}
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-seconds", "-1"}, {"-seconds", "x"}, {"-unknown"}, {"-peer", "("}} {
		if _, err := parseFlags(args, io.Discard); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %g, want %g", c.values, got, c.want)
		}
	}
}
