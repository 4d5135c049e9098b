package main

import (
	"os"
	"testing"
)

// TestMain lets the test's program play the parts that row idle gives to processes of their own.
func TestMain(m *testing.M) {
	if playRole() {
		return
	}
	os.Exit(m.Run())
}

func TestUnknownRolesAreRefused(t *testing.T) {
	if err := play(t.Context(), []string{"nobody"}); err == nil {
		t.Error("a role that does not exist was played")
	}
}

func TestOnlyAServersPartIsProfiled(t *testing.T) {
	for args, want := range map[[2]string]bool{
		{roleHub, "heap.out"}:           true,
		{idleRoom, "heap.out"}:          true,
		{roleHub, ""}:                   false,
		{roleCourier, "127.0.0.1:1"}:    false, // a profile would take most of its time
		{rolePlain, "127.0.0.1:1"}:      false,
		{roleTunnel, "127.0.0.1:1"}:     false,
		{rolePlainRelay, "127.0.0.1:1"}: false,
	} {
		if got := heapProfiled(args[:]); got != want {
			t.Errorf("%q: %t", args, got)
		}
	}
}
