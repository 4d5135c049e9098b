package interop

import (
	"slices"
	"strings"
	"testing"
)

// jsCallCase is a call of the plugin "test" made by JavaScript, and its outcome.
type jsCallCase struct {
	name  string
	call  jsCall
	items []string // as value.text
	end   string   // as ending.String; "well" when empty
}

func args(v ...any) []value {
	var out []value
	for _, a := range v {
		out = append(out, jsJSON(a))
	}
	return out
}

// jsCallCases holds whoever serves: a JavaScript peer or ours.
var jsCallCases = []jsCallCase{
	{name: "sync", call: jsCall{Path: "test.hello", Args: args("alice")}, items: []string{`string "Hello, alice"`}},
	{name: "sync that throws", call: jsCall{Path: "test.throws", Args: args("oh no")}, end: "oh no"},
	{name: "async string", call: jsCall{Path: "test.kind", Args: args("string")}, items: []string{`string "a string: é, 漢, 🎈"`}},
	{name: "async buffer", call: jsCall{Path: "test.kind", Args: args("buffer")}, items: []string{`buffer "\x00\x01\x02\xfd\xfe\xff"`}},
	{name: "async null", call: jsCall{Path: "test.kind", Args: args("null")}, items: []string{`json null`}},
	{name: "async true", call: jsCall{Path: "test.kind", Args: args("true")}, items: []string{`json true`}},
	{name: "async false", call: jsCall{Path: "test.kind", Args: args("false")}, items: []string{`json false`}},
	{name: "async zero", call: jsCall{Path: "test.kind", Args: args("zero")}, items: []string{`json 0`}},
	{name: "async number", call: jsCall{Path: "test.kind", Args: args("number")}, items: []string{`json -1.5`}},
	{name: "async object", call: jsCall{Path: "test.kind", Args: args("object")}, items: []string{`json {"a":[1,"two",null],"b":{"c":true}}`}},
	{name: "async empty array", call: jsCall{Path: "test.kind", Args: args("array")}, items: []string{`json []`}},
	{name: "async object with a buffer in it", call: jsCall{Path: "test.kind", Args: args("nestedBuffer")}, items: []string{`json {"data":{"data":[104,105],"type":"Buffer"}}`}},
	{name: "async echo of an object", call: jsCall{Path: "test.echo", Args: args(map[string]any{"x": []any{1}})}, items: []string{`json {"x":[1]}`}},
	{name: "async with three arguments", call: jsCall{Path: "test.args", Args: args(1, "two", nil)}, items: []string{`json [1,"two",null]`}},
	{name: "async without arguments", call: jsCall{Path: "test.args"}, items: []string{`json []`}},
	{name: "async error", call: jsCall{Path: "test.fail", Args: args("nope")}, end: "nope"},
	{name: "nested name", call: jsCall{Path: "test.deep.er.add", Args: args(3, 4)}, items: []string{`json 7`}},

	{name: "source", call: jsCall{Path: "test.count", Type: "source", Args: args(3)}, items: []string{"json 0", "json 1", "json 2"}},
	{name: "nested source", call: jsCall{Path: "test.deep.er.count", Type: "source", Args: args(2)}, items: []string{"json 0", "json 1"}},
	{name: "empty source", call: jsCall{Path: "test.count", Type: "source", Args: args(0)}},
	{name: "source of every kind", call: jsCall{Path: "test.mixed", Type: "source"}, items: []string{
		`buffer "bytes"`, `string "text"`, `json {"json":true}`, `json 7`, `json null`, `json false`, `json [1]`}},
	{name: "source that fails at once", call: jsCall{Path: "test.countThenFail", Type: "source", Args: args(0, "no luck")}, end: "no luck"},
	{name: "source that fails after items", call: jsCall{Path: "test.countThenFail", Type: "source", Args: args(2, "no luck")}, items: []string{"json 0", "json 1"}, end: "no luck"},
	{name: "source left early", call: jsCall{Path: "test.countThenWait", Type: "source", Args: args(3), Take: ptr(2)}, items: []string{"json 0", "json 1"}},

	{name: "sink", call: jsCall{Path: "test.eat", Type: "sink", Args: args("s1"), Items: []value{jsJSON(1), jsString("two"), jsBuffer([]byte("three"))}}},
	{name: "sink without items", call: jsCall{Path: "test.eat", Type: "sink", Args: args("s2")}},
	{name: "sink that fails", call: jsCall{Path: "test.eatSome", Type: "sink", Args: args(2, "enough"), Items: args(1, 2), End: "wait"}, end: "enough"},
	{name: "sink whose writer fails", call: jsCall{Path: "test.eat", Type: "sink", Args: args("s3"), Items: args(1), End: "error", Message: "writer broke"}, end: "writer broke"},

	{name: "duplex", call: jsCall{Path: "test.upper", Type: "duplex", Items: []value{jsString("abc"), jsString("déf"), jsJSON(5)}, End: "wait", Take: ptr(3)}, items: []string{`string "ABC"`, `string "DÉF"`, "json 5"}},
	{name: "duplex that the server ends", call: jsCall{Path: "test.talk", Type: "duplex", Args: args(2), End: "wait"}, items: []string{"json 0", "json 1"}},
	{name: "duplex that fails", call: jsCall{Path: "test.duplexFail", Type: "duplex", Args: args("no duplex today"), End: "wait"}, end: "no duplex today"},

	{name: "denied sync", call: jsCall{Path: "test.secret"}, end: "method:test,secret is not in list of allowed methods"},
	{name: "denied source", call: jsCall{Path: "test.secretSource", Type: "source"}, end: "method:test,secretSource is not in list of allowed methods"},
	{name: "denied sink", call: jsCall{Path: "test.secretSink", Type: "sink", End: "wait"}, end: "method:test,secretSink is not in list of allowed methods"},
	{name: "denied duplex", call: jsCall{Path: "test.secretDuplex", Type: "duplex", End: "wait"}, end: "method:test,secretDuplex is not in list of allowed methods"},
	{name: "forbidden", call: jsCall{Path: "test.forbidden"}, end: "method:test,forbidden is on list of disallowed methods"},
}

// missingCases are methods in the caller's manifest that the server has not:
// JavaScript answers them with a TypeError of its own, we with these texts.
var missingCases = []jsCallCase{
	{name: "missing async", call: jsCall{Path: "test.ghost"}, end: "no async:test,ghost"},
	{name: "missing source", call: jsCall{Path: "test.ghostSource", Type: "source"}, end: "no source:test,ghostSource"},
	{name: "missing sink", call: jsCall{Path: "test.ghostSink", Type: "sink", End: "wait"}, end: "no sink:test,ghostSink"},
	{name: "missing duplex", call: jsCall{Path: "test.ghostDuplex", Type: "duplex", End: "wait"}, end: "no duplex:test,ghostDuplex"},
}

// everyType are the names of one case of each type, in both tables.
var everyType = []string{"sync", "async buffer", "async error", "nested name", "source", "sink", "duplex", "denied sync"}

func (c jsCallCase) title() string { return c.name }

// some are the cases of those names.
func some[T interface{ title() string }](cases []T, names []string) []T {
	return slices.DeleteFunc(slices.Clone(cases), func(c T) bool { return !slices.Contains(names, c.title()) })
}

// without are the cases whose names start with none of the prefixes.
func without[T interface{ title() string }](cases []T, prefixes ...string) []T {
	return slices.DeleteFunc(slices.Clone(cases), func(c T) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(c.title(), p) })
	})
}

// callFromJS runs the cases on one session of a script.
func callFromJS(t *testing.T, n *node, session int, cases []jsCallCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.call.Session = session
			got := n.call(t, c.call)
			if items := texts(got.Items); !slices.Equal(items, c.items) {
				t.Errorf("items:\n got %s\nwant %s", strings.Join(items, ", "), strings.Join(c.items, ", "))
			}
			want := c.end
			if want == "" {
				want = "well"
			}
			if got.End.String() != want {
				t.Errorf("ended %q, want %q", got.End, want)
			}
		})
		n.mustLive(t)
	}
}

// The expectations themselves are first held against JavaScript at both ends.
func TestExpectationsHoldBetweenTwoJavaScriptPeers(t *testing.T) {
	bob := startNode(t, "muxrpc.js")
	var addr struct {
		Port int `json:"port"`
	}
	bob.do(t, "listen", nil, &addr)
	alice := startNode(t, "muxrpc.js")
	var s struct {
		Session int `json:"session"`
	}
	alice.do(t, "connect", addr, &s)
	callFromJS(t, alice, s.Session, jsCallCases)
}
