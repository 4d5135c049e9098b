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
