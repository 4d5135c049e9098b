package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestNotesNameTheInstalledVersions(t *testing.T) {
	raw, err := os.ReadFile("js/package.json")
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct{ Dependencies map[string]string }
	if err := json.Unmarshal(raw, &manifest); err != nil {
		t.Fatal(err)
	}
	var notes []string
	for _, r := range allRows(newNodeJS("js"), "") {
		for _, p := range r.Peers {
			notes = append(notes, p.Note)
		}
	}
	for _, name := range []string{"secret-handshake", "pull-box-stream", "muxrpc", "multiserver"} {
		want := name + " " + manifest.Dependencies[name]
		if !slices.ContainsFunc(notes, func(note string) bool { return strings.Contains(note, want) }) {
			t.Errorf("no note names %q", want)
		}
	}
}

func TestLockfileNamesNoRegistry(t *testing.T) {
	raw, err := os.ReadFile("js/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"resolved", "registry"} {
		if strings.Contains(string(raw), word) {
			t.Errorf("js/package-lock.json contains %q", word)
		}
	}
}

func TestItemsHaveTheSizeThatTheRowNames(t *testing.T) {
	for _, n := range []int{0, 1, 899_999, 900_000} {
		raw, err := json.Marshal(newItem(n))
		if err != nil || len(raw) != itemSize {
			t.Errorf("item %d is %d bytes (%v): %s", n, len(raw), err, raw)
		}
	}
}
