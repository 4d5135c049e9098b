package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

func TestThreeNodesInARowEndWithTheSameLogs(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, node := range names {
		for _, author := range names {
			fmt.Fprintf(&want, "%s has of %s, 1: %s was here first\n", node, author, author)
			fmt.Fprintf(&want, "%s has of %s, 2: %s has joined\n", node, author, author)
		}
	}
	if out.String() != want.String() {
		t.Errorf("it prints\n%s\nwant\n%s", out.String(), want.String())
	}
}

func TestLogsAreThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	var first, second strings.Builder
	if err := run(t.Context(), &first, dir); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), &second, dir); err != nil {
		t.Fatal(err)
	}
	if first.String() != second.String() {
		t.Errorf("after a restart the first entries are\n%s\nthey were\n%s", second.String(), first.String())
	}
}

func TestTheStoreRefusesWhatItsAuthorHasNotWritten(t *testing.T) {
	kept, err := openStore(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer kept.close()
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	first, err := kept.next(t.Context(), id, "one")
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.add(t.Context(), first); err != nil {
		t.Errorf("the same entry again: %v", err)
	}
	for name, change := range map[string]func(*entry){
		"another text":      func(e *entry) { e.Text = "two!" },
		"a gap":             func(e *entry) { e.Sequence = 3 },
		"another signature": func(e *entry) { e.Signature[0] ^= 1 },
		"no signature":      func(e *entry) { e.Signature = nil },
		"a fork":            func(e *entry) { e.Previous = "elsewhere" },
	} {
		e := entry{Author: id.Public(), Sequence: 2, Text: "two"}
		e.Previous, _ = first.hash()
		if name == "a gap" || name == "a fork" {
			change(&e) // signed by the author, and still wrong
		}
		signed, err := e.signed()
		if err != nil {
			t.Fatal(err)
		}
		e.Signature = id.Sign(signed)
		if name != "a gap" && name != "a fork" {
			change(&e)
		}
		if err := kept.add(t.Context(), e); err == nil {
			t.Errorf("%s: the store takes it", name)
		}
	}
}
