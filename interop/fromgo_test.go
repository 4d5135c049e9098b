package interop

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/muxrpc"
)

func asRemote(err error) (*muxrpc.RemoteError, bool) { return errors.AsType[*muxrpc.RemoteError](err) }

// goCase is a call of the plugin "test" made by us, and its outcome.
type goCase struct {
	name  string
	call  func(ctx context.Context, c muxrpc.Caller) (items []string, end string)
	items []string
	end   string // "well" when empty
}

func (c goCase) title() string { return c.name }

func async(name string, args ...any) func(context.Context, muxrpc.Caller) ([]string, string) {
	return func(ctx context.Context, c muxrpc.Caller) ([]string, string) {
		v, err := muxrpc.Call[muxrpc.Value](ctx, c, name, args...)
		if err != nil {
			return nil, errorText(err)
		}
		return []string{text(v)}, "well"
	}
}

func source(name string, args ...any) func(context.Context, muxrpc.Caller) ([]string, string) {
	return func(ctx context.Context, c muxrpc.Caller) ([]string, string) {
		return collect(muxrpc.Source[muxrpc.Value](ctx, c, name, args...))
	}
}

// sink sends items and closes; a writer whose send fails still asks for the outcome.
func sink(items []any, name string, args ...any) func(context.Context, muxrpc.Caller) ([]string, string) {
	return func(ctx context.Context, c muxrpc.Caller) ([]string, string) {
		w, err := muxrpc.Sink[any](ctx, c, name, args...)
		if err != nil {
			return nil, errorText(err)
		}
		for _, item := range items {
			if err := w.Send(ctx, item); err != nil {
				return nil, errorText(err)
			}
		}
		return nil, errorText(w.Close(ctx))
	}
}

// duplex sends items, takes as many answers as asked for (all when take < 0), and closes.
func duplex(take int, items []any, name string, args ...any) func(context.Context, muxrpc.Caller) ([]string, string) {
	return func(ctx context.Context, c muxrpc.Caller) ([]string, string) {
		s, err := muxrpc.Duplex[muxrpc.Value, any](ctx, c, name, args...)
		if err != nil {
			return nil, errorText(err)
		}
		for _, item := range items {
			if err := s.Send(ctx, item); err != nil {
				return nil, errorText(err)
			}
		}
		var got []string
		for len(got) != take {
			v, err := s.Recv(ctx)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return got, errorText(err)
			}
			got = append(got, text(v))
		}
		return got, errorText(s.Close(ctx))
	}
}

// goCases mirrors jsCallCases.
var goCases = []goCase{
	{name: "sync", call: async("test.hello", "bob"), items: []string{`string "Hello, bob"`}},
	{name: "sync that throws", call: async("test.throws", "oh no"), end: "oh no"},
	{name: "async string", call: async("test.kind", "string"), items: []string{`string "a string: é, 漢, 🎈"`}},
	{name: "async buffer", call: async("test.kind", "buffer"), items: []string{`buffer "\x00\x01\x02\xfd\xfe\xff"`}},
	{name: "async null", call: async("test.kind", "null"), items: []string{`json null`}},
	{name: "async undefined", call: async("test.kind", "undefined"), items: []string{`json false`}},
	{name: "async true", call: async("test.kind", "true"), items: []string{`json true`}},
	{name: "async false", call: async("test.kind", "false"), items: []string{`json false`}},
	{name: "async zero", call: async("test.kind", "zero"), items: []string{`json 0`}},
	{name: "async number", call: async("test.kind", "number"), items: []string{`json -1.5`}},
	{name: "async object", call: async("test.kind", "object"), items: []string{`json {"a":[1,"two",null],"b":{"c":true}}`}},
	{name: "async empty array", call: async("test.kind", "array"), items: []string{`json []`}},
	{name: "async object with a buffer in it", call: async("test.kind", "nestedBuffer"), items: []string{`json {"data":{"data":[104,105],"type":"Buffer"}}`}},
	{name: "async echo of an object", call: async("test.echo", map[string]any{"x": []int{1}}), items: []string{`json {"x":[1]}`}},
	{name: "async with three arguments", call: async("test.args", 1, "two", nil), items: []string{`json [1,"two",null]`}},
	{name: "async without arguments", call: async("test.args"), items: []string{`json []`}},
	{name: "async error", call: async("test.fail", "nope"), end: "nope"},
	{name: "nested name", call: async("test.deep.er.add", 3, 4), items: []string{`json 7`}},

	{name: "source", call: source("test.count", 3), items: []string{"json 0", "json 1", "json 2"}},
	{name: "nested source", call: source("test.deep.er.count", 2), items: []string{"json 0", "json 1"}},
	{name: "empty source", call: source("test.count", 0)},
	{name: "source of every kind", call: source("test.mixed"), items: []string{
		`buffer "bytes"`, `string "text"`, `json {"json":true}`, `json 7`, `json null`, `json false`, `json [1]`}},
	{name: "source that fails at once", call: source("test.countThenFail", 0, "no luck"), end: "no luck"},
	{name: "source that fails after items", call: source("test.countThenFail", 2, "no luck"), items: []string{"json 0", "json 1"}, end: "no luck"},
	{name: "source left early", call: func(ctx context.Context, c muxrpc.Caller) (got []string, end string) {
		for v, err := range muxrpc.Source[muxrpc.Value](ctx, c, "test.countThenWait", 3) {
			if err != nil {
				return got, errorText(err)
			}
			if got = append(got, text(v)); len(got) == 2 {
				break
			}
		}
		return got, "well"
	}, items: []string{"json 0", "json 1"}},

	{name: "sink", call: sink([]any{1, "two", []byte("three")}, "test.eat", "g1")},
	{name: "sink without items", call: sink(nil, "test.eat", "g2")},
	{name: "sink that fails", call: sink([]any{1, 2}, "test.eatSome", 2, "enough"), end: "enough"},

	{name: "duplex", call: duplex(3, []any{"abc", "déf", 5}, "test.upper"), items: []string{`string "ABC"`, `string "DÉF"`, "json 5"}},
	{name: "duplex that the server ends", call: duplex(-1, nil, "test.talk", 2), items: []string{"json 0", "json 1"}},
	{name: "duplex that fails", call: duplex(-1, nil, "test.duplexFail", "no duplex today"), end: "no duplex today"},

	{name: "denied sync", call: async("test.secret"), end: "method:test,secret is not in list of allowed methods"},
	{name: "denied source", call: source("test.secretSource"), end: "method:test,secretSource is not in list of allowed methods"},
	{name: "denied sink", call: sink(nil, "test.secretSink"), end: "method:test,secretSink is not in list of allowed methods"},
	{name: "denied duplex", call: duplex(-1, nil, "test.secretDuplex"), end: "method:test,secretDuplex is not in list of allowed methods"},
	{name: "forbidden", call: async("test.forbidden"), end: "method:test,forbidden is on list of disallowed methods"},
	// The permissions cover names below "test.ghost" only, and come before the manifest.
	{name: "unknown async", call: async("test.zzz"), end: "method:test,zzz is not in list of allowed methods"},
}

// unknownCases are methods that may be called but are in no manifest of a JavaScript peer.
var unknownCases = []goCase{
	{name: "unknown async", call: async("nowhere.at.all"), end: "no async:nowhere,at,all"},
	{name: "unknown source", call: source("nowhere.at.all"), end: "no source:nowhere,at,all"},
	{name: "unknown sink", call: sink(nil, "nowhere.at.all"), end: "no sink:nowhere,at,all"},
	{name: "unknown duplex", call: duplex(-1, nil, "nowhere.at.all"), end: "no duplex:nowhere,at,all"},
}

// callFromGo runs the cases on one session.
func callFromGo(t *testing.T, c muxrpc.Caller, cases []goCase) {
	t.Helper()
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			items, end := x.call(ctx, c)
			if !slices.Equal(items, x.items) {
				t.Errorf("items:\n got %s\nwant %s", strings.Join(items, ", "), strings.Join(x.items, ", "))
			}
			want := x.end
			if want == "" {
				want = "well"
			}
			if end != want {
				t.Errorf("ended %q, want %q", end, want)
			}
		})
	}
}
