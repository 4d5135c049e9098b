package main

import "testing"

const (
	statBefore = "cpu  100 10 50 1000 40 5 5 0 7 0\ncpu0 1 2 3\n"
	statAfter  = "cpu  200 10 80 1050 50 5 5 10 7 0\ncpu0 1 2 3\n"
	selfBefore = "42 (a (b) c) R 1 1 1 0 -1 4194560 1 1 1 1 10 20 5 5 20 0 1"
	selfAfter  = "42 (a (b) c) R 1 1 1 0 -1 4194560 1 1 1 1 60 30 15 5 20 0 1"
)

func TestWorkOfOtherProgramsIsToldFromOurOwn(t *testing.T) {
	before, err := parseCPUTicks(statBefore, selfBefore)
	if err != nil {
		t.Fatal(err)
	}
	after, err := parseCPUTicks(statAfter, selfAfter)
	if err != nil {
		t.Fatal(err)
	}
	// Of 200 ticks 140 were busy, 70 of them ours.
	if got := after.busyWithOthers(before); got != 0.35 {
		t.Errorf("others took %g, want 0.35", got)
	}
	if got := before.busyWithOthers(before); got != 0 {
		t.Errorf("others took %g of no time", got)
	}
}

func TestBrokenCountersAreAnError(t *testing.T) {
	for _, c := range [][2]string{{"", selfBefore}, {statBefore, ""}, {"cpu 1 2 x 4 5 6 7 8", selfBefore}} {
		if _, err := parseCPUTicks(c[0], c[1]); err == nil {
			t.Errorf("%q was accepted", c)
		}
	}
}

func TestOnlyABusyMachineIsWarnedOf(t *testing.T) {
	if got := warning(0.01); got != "" {
		t.Errorf("a quiet machine: %q", got)
	}
	if warning(0.5) == "" {
		t.Error("no warning of a busy machine")
	}
}
