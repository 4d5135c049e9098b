package muxrpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestRequestsAreWrittenAsJavaScriptWritesThem(t *testing.T) {
	for want, got := range map[string]func() ([]byte, error){
		`{"name":["whoami"],"args":[]}`: func() ([]byte, error) { return appendRequest(nil, "whoami", TypeAsync, nil) },
		`{"name":["test","hello"],"args":["alice"]}`: func() ([]byte, error) {
			return appendRequest(nil, "test.hello", TypeSync, []any{"alice"})
		},
		`{"name":["test","count"],"args":[2],"type":"source"}`: func() ([]byte, error) {
			return appendRequest(nil, "test.count", TypeSource, []any{2})
		},
		`{"name":["x"],"args":[1,"a\"b",null,true,{"type":"Buffer","data":[0,255]},{"a":"<&>"},-7,1.5,[1],"é"],"type":"duplex"}`: func() ([]byte, error) {
			return appendRequest(nil, "x", TypeDuplex, []any{1, `a"b`, nil, true, []byte{0, 255}, map[string]string{"a": "<&>"}, int64(-7), 1.5, Value{KindJSON, []byte("[1]")}, Value{KindString, []byte("é")}})
		},
		`{"name":["we\"ird",""],"args":[],"type":"sink"}`: func() ([]byte, error) { return appendRequest(nil, `we"ird.`, TypeSink, nil) },
	} {
		body, err := got()
		if err != nil || string(body) != want {
			t.Errorf("got %s, %v\nwant %s", body, err, want)
		}
	}
}

func TestArgumentsThatCannotBeEncodedAreAnError(t *testing.T) {
	for _, arg := range []any{make(chan int), json.RawMessage("{"), Value{KindJSON, []byte("nope")}} {
		if _, err := appendRequest(nil, "x", TypeAsync, []any{1, arg}); err == nil || !strings.Contains(err.Error(), "argument 1") {
			t.Errorf("%v: %v", arg, err)
		}
	}
}

func TestRequestsOfAnyShapeAreRead(t *testing.T) {
	for _, c := range []struct {
		body   string
		stream bool
		want   string // path, type and arguments
	}{
		{`{"name":["test","hello"],"args":["alice"]}`, false, `[test hello]  ["alice"]`},
		{`{"name":["a"],"args":[],"type":"async"}`, false, `[a] async []`},
		{`{"name":"manifest","args":[]}`, false, `[manifest]  []`},
		{`{"name":"test.hello","args":[]}`, false, `[test.hello]  []`}, // dots in a string are not split
		{`{"name":["a","b"],"args":[1,[2,{"x":"]}"}]],"type":"source"}`, true, `[a b] source [1,[2,{"x":"]}"}]]`},
		{`{"name":["a"],"type":"sink"}`, true, `[a] sink []`},
		{` { "type" : "duplex" , "args" : [ 1 , 2 ] , "name" : [ "a" , "b" ] } `, true, `[a b] duplex [ 1 , 2 ]`},
		{`{"name":["a"],"args":[],"secretstack":{"x":1},"type":"source"}`, true, `[a] source []`},
		{`{"na\u006de":["\u0061"],"args":[]}`, false, `[a]  []`},
		{`{"args":[],"type":"source"}`, true, `[] source []`},
		{`{"name":[],"args":[]}`, false, `[]  []`},
		{`{"name":5,"args":[]}`, false, `[5]  []`},
		{`{"name":null,"args":[]}`, false, `[]  []`},
		{`{"name":{"a":1},"args":[]}`, false, `[[object Object]]  []`},
		{`{"name":["a",null,1,["b"]],"args":[]}`, false, `[a  1 ["b"]]  []`},
		{`{"name":["a"],"args":[],"type":5}`, true, `[a] 5 []`},
		{`{"name":["a"],"args":[]}`, true, `[a]  []`},
		{`{"args":[],"name":["a"]}`, true, `[a]  []`},
		{`{"Name":["b"],"name":["a"],"args":[]}`, false, `[a]  []`}, // names of members are exact
	} {
		r, err := parseRequest(Value{KindJSON, []byte(c.body)}, c.stream)
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		path, _ := parseName(r.name)
		if got := fmt.Sprintf("%v %s %s", path, r.typ, r.args); got != c.want {
			t.Errorf("%s:\ngot  %q\nwant %q", c.body, got, c.want)
		}
		if r.size != len(c.body) {
			t.Errorf("%s: size %d", c.body, r.size)
		}
	}
}

func TestBodiesThatAreNoRequestAreRefusedInTheWordsOfJavaScript(t *testing.T) {
	long := `{"args":1,"x":"` + strings.Repeat("y", 5000) + `"}`
	for _, c := range []struct {
		v      Value
		stream bool
		want   string
	}{
		{Value{KindJSON, []byte(`null`)}, false, `null`},
		{Value{KindJSON, []byte(`null`)}, true, `null`},
		{Value{KindJSON, []byte(`5`)}, false, `5`},
		{Value{KindJSON, []byte(`[1, 2]`)}, true, `[1,2]`},
		{Value{KindJSON, []byte(`{"name":["a"]}`)}, false, `{"name":["a"]}`},
		{Value{KindJSON, []byte(`{"name":["a"], "args": {}}`)}, false, `{"name":["a"],"args":{}}`},
		{Value{KindJSON, []byte(`{"name":["a"],"args":{},"type":"source"}`)}, true, `{"name":["a"],"args":{},"type":"source"}`},
		{Value{KindString, []byte(`hello`)}, false, `"hello"`},
		{Value{KindBuffer, []byte{1, 2}}, true, `{"type":"Buffer","data":[1,2]}`},
		{Value{KindJSON, []byte(`{x`)}, false, `{x`},
		{Value{KindJSON, []byte(`{"name":["a"],"args":[`)}, false, `{"name":["a"],"args":[`},
		{Value{KindJSON, []byte(long)}, false, long[:1<<10] + "…"},
	} {
		_, err := parseRequest(c.v, c.stream)
		if err == nil || err.Error() != "invalid request, args should be array, was: "+c.want {
			t.Errorf("%s: %v", c.v.Bytes, err)
		}
	}
	if _, err := parseRequest(Value{3, []byte("{}")}, false); !errors.Is(err, errBadKind) {
		t.Errorf("type 3: %v", err)
	}
	endless := `{"name":[` + strings.Repeat(`"a",`, 2000) + `"a"],"args":[]}`
	if _, err := parseRequest(Value{KindJSON, []byte(endless)}, false); err == nil {
		t.Error("a name of 2000 levels is accepted")
	}
}

func TestArgumentsAreDecodedByPosition(t *testing.T) {
	a := Args{raw: []byte(`[1, "two, \"]" ,{"three":[3,4]},null,{"type":"Buffer","data":[5]}]`)}
	if a.Len() != 5 {
		t.Fatalf("%d arguments", a.Len())
	}
	var one int
	var two string
	var three struct{ Three []int }
	var four *int
	var five []byte
	missing := "as it was"
	if err := a.Decode(&one, &two, &three, &four, &five, &missing); err != nil {
		t.Fatal(err)
	}
	if one != 1 || two != `two, "]` || !slices.Equal(three.Three, []int{3, 4}) || four != nil || !slices.Equal(five, []byte{5}) || missing != "as it was" {
		t.Error(one, two, three, four, five, missing)
	}
	if got := string(a.At(1)); got != `"two, \"]"` {
		t.Errorf("At(1) is %s", got)
	}
	if a.At(5) != nil || a.At(-1) != nil {
		t.Error("there are arguments beyond the last")
	}
	if err := a.Decode(&one); err != nil {
		t.Error(err)
	}
}

func TestNoArgumentsAreAnEmptyList(t *testing.T) {
	for _, a := range []Args{{}, {raw: []byte("[]")}, {raw: []byte("[ ]")}} {
		if a.Len() != 0 || a.At(0) != nil {
			t.Errorf("%s has arguments", a)
		}
		if b, err := json.Marshal(a); err != nil || string(b) != "[]" {
			t.Errorf("%s, %v", b, err)
		}
	}
	made, err := NewArgs("a", 1)
	if err != nil || made.String() != `["a",1]` {
		t.Errorf("%s, %v", made, err)
	}
	if _, err := NewArgs(make(chan int)); err == nil {
		t.Error("a channel is an argument")
	}
}

func TestWrongArgumentsAreExplainedWithoutNamesOfGoTypes(t *testing.T) {
	type options struct {
		Limit int `json:"limit"`
	}
	for args, want := range map[string]string{
		`["x"]`:            `argument 0 is invalid: unexpected string`,
		`[{"limit":"x"}]`:  `argument 0 is invalid: unexpected string in limit`,
		`[{"limit":1e99}]`: `argument 0 is invalid: unexpected number 1e99 in limit`,
		`[{"limit":!}]`:    `argument 0 is invalid: invalid character '!' looking for beginning of value`,
	} {
		var dst options
		if err := (Args{raw: []byte(args)}).Decode(&dst); err == nil || err.Error() != want {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestElementsOfBrokenListsDoNotPanic(t *testing.T) {
	for _, s := range []string{"", "[", "[]", "[,]", "[,,]", `["`, `["\`, "[[]", "[}]", "]["} {
		var got []string
		for e := range elements([]byte(s)) {
			got = append(got, string(e))
		}
		if s == "[,]" && !reflect.DeepEqual(got, []string{""}) && !reflect.DeepEqual(got, []string{"", ""}) {
			t.Errorf("%s: %q", s, got)
		}
	}
}
