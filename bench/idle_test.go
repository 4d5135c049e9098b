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
