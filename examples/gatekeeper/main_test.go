package main

import (
	"strings"
	"testing"
)

func TestFriendsWriteStrangersReadAndTheBannedStayOutside(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	want := `friend has written
friend reads "kilroy was here"
stranger may not write
stranger reads "kilroy was here"
banned is not let in
`
	if out.String() != want {
		t.Errorf("it prints\n%s\nwant\n%s", out.String(), want)
	}
}
