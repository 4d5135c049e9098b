package muxrpc

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestAnIDIsUsedOnce(t *testing.T) {
	var w idWindow
	for id := int32(1); id <= 5000; id++ {
		if !w.use(id) {
			t.Fatalf("%d counts as used before it was", id)
		}
		if w.use(id) || w.use(max(1, id-1)) || w.use(max(1, id-idSpan-7)) {
			t.Fatalf("an id was used twice around %d", id)
		}
	}
}

func TestIDsMayArriveOutOfOrder(t *testing.T) {
	var w idWindow
	ids := make([]int32, 5000)
	for i := range ids {
		ids[i] = int32(i + 1)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range ids { // move each by less than the window
		j := min(len(ids)-1, i+rng.IntN(64))
		ids[i], ids[j] = ids[j], ids[i]
	}
	for _, id := range ids {
		if !w.use(id) {
			t.Fatalf("%d counts as used before it was", id)
		}
	}
	for _, id := range ids {
		if w.use(id) {
			t.Fatalf("%d was used twice", id)
		}
	}
}

func TestIDsThatFellOutOfTheWindowCountAsUsed(t *testing.T) {
	var w idWindow
	w.use(10 * idSpan)
	for _, id := range []int32{1, 9*idSpan - 1, 9 * idSpan} {
		if w.use(id) {
			t.Errorf("%d is far behind and counts as unused", id)
		}
	}
	if !w.use(9*idSpan + 1) {
		t.Error("an id inside the window counts as used")
	}
}

func TestIDsWrapAround(t *testing.T) {
	var w idWindow
	for _, id := range []int32{math.MaxInt32 - 1, math.MaxInt32, 2, 1, 3} {
		if !w.use(id) {
			t.Errorf("%d counts as used", id)
		}
		if w.use(id) {
			t.Errorf("%d was used twice", id)
		}
	}
	if w.use(math.MaxInt32 - 1) {
		t.Error("an id from before the turn was used twice")
	}
}

func TestAnyFirstIDIsUnused(t *testing.T) {
	for _, id := range []int32{1, 77, math.MaxInt32} {
		var w idWindow
		if !w.use(id) || w.use(id) {
			t.Errorf("first id %d", id)
		}
	}
}

// TestIDWindowAgreesWithAList compares with what is said of it, for ids that jump, repeat, stay in order for long and go
// around.
func TestIDWindowAgreesWithAList(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var w idWindow
		newest := rng.Int32N(math.MaxInt32) + 1
		used := map[int32]bool{}
		for n := range 20_000 {
			id := newest
			switch {
			case n == 0:
			case n%5000 < 3000:
				id += 1 - 2*rng.Int32N(2)*rng.Int32N(2)*rng.Int32N(2) // as a rule the next
			default:
				id += rng.Int32N(2200) - 1100
			}
			if id <= 0 {
				id += math.MaxInt32 // around
			}
			ahead, behind := idDistance(newest, id)
			want := !used[id] && (n == 0 || ahead <= behind || behind < idSpan)
			if got := w.use(id); got != want {
				t.Fatalf("use(%d) is %v when the newest is %d", id, got, newest)
			}
			used[id] = true
			if ahead <= behind {
				newest = id
			}
		}
	}
}
