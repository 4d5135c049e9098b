package rooms_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/muxrpc"
)

func TestRequestsAreReadAsTheyAreMeant(t *testing.T) {
	const longest = 60
	for name, c := range map[string]struct {
		args   []any
		target string // "": no request
		err    string
	}{
		"nothing":        {nil, "", ""},
		"null":           {[]any{nil}, "", ""},
		"a target":       {[]any{map[string]any{"target": "@x", "more": 1}}, "@x", ""},
		"no object":      {[]any{"@x"}, "", "argument 0 is invalid"},
		"long":           {[]any{map[string]any{"target": strings.Repeat("x", longest)}}, "", "the request is too long"},
		"what is behind": {[]any{map[string]any{"target": "@x"}, strings.Repeat("x", longest)}, "@x", ""},
	} {
		t.Run(name, func(t *testing.T) {
			args, err := muxrpc.NewArgs(c.args...)
			if err != nil {
				t.Fatal(err)
			}
			request, err := rooms.ReadConnectRequest(args, longest)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || (request == nil) != (c.target == "") || request != nil && request.Target != c.target {
				t.Errorf("%+v, %v", request, err)
			}
		})
	}
}

func TestTextsAreCutBetweenCharacters(t *testing.T) {
	for text, want := range map[string]string{"": "", "abc": "abc", "abcd": "abc", "aüx": "aü", "abü": "ab", "\xff\xff\xff\xff": ""} {
		if got := rooms.Cut(text, 3); got != want {
			t.Errorf("%q is cut to %q, want %q", text, got, want)
		}
	}
}

// FuzzConnectRequest reads requests that anybody might send.
func FuzzConnectRequest(f *testing.F) {
	for _, text := range []string{`{"target":"@x","portal":"@y","origin":"@z"}`, `null`, `[]`, `{"target":1}`, `{"instance":{"a":[]}}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args, err := muxrpc.NewArgs(muxrpc.Value{Kind: muxrpc.KindJSON, Bytes: []byte(text)})
		if err != nil {
			return
		}
		request, err := rooms.ReadConnectRequest(args, 100)
		if request != nil && err == nil && len(request.Target) > 300 { // an escape may stand for more bytes than it has
			t.Errorf("a target of %d bytes", len(request.Target))
		}
		if _, ok := errors.AsType[*muxrpc.Error](err); err != nil && !ok {
			t.Errorf("the peer cannot be told of %v", err)
		}
	})
}
