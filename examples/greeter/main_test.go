package main

import (
	"strings"
	"testing"
)

func TestTheGreeterGreets(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out, false); err != nil {
		t.Fatal(err)
	}
	if out.String() != "hello bob\n" {
		t.Errorf("it prints %q", out.String())
	}
}
