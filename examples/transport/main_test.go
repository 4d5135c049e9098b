package main

import (
	"strings"
	"testing"
)

func TestAppsMeetOverTheTransportOfThePlugin(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != "bob has reached mem:alice\n" {
		t.Errorf("it prints %q", out.String())
	}
}

func TestNobodyListensUnderAnUnknownName(t *testing.T) {
	meeting := &network{listeners: map[string]*listener{}}
	alice, err := start(t.Context(), meeting, "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close(t.Context())
	address := strings.Replace(alice.Address("device"), "mem:alice", "mem:carol", 1)
	if _, err := alice.Connect(t.Context(), address); err == nil || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("dialling %s gives %v", address, err)
	}
}
