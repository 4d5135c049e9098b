package muxrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestValuesAreEncodedAsJavaScriptEncodesThem(t *testing.T) {
	for _, c := range []struct {
		value any
		kind  Kind
		body  string
	}{
		{"hello", KindString, "hello"},
		{[]byte{0, 1, 255}, KindBuffer, "\x00\x01\xff"},
		{nil, KindJSON, "null"},
		{None{}, KindJSON, "false"},
		{true, KindJSON, "true"},
		{42, KindJSON, "42"},
		{"", KindJSON, `""`},
		{[]byte{}, KindJSON, `{"type":"Buffer","data":[]}`},
		{[]byte(nil), KindJSON, `{"type":"Buffer","data":[]}`},
		{map[string]string{"a": "<é&>"}, KindJSON, `{"a":"<é&>"}`},
		{struct {
			B Buffer `json:"b"`
		}{Buffer{1, 2}}, KindJSON, `{"b":{"type":"Buffer","data":[1,2]}}`},
		{json.RawMessage(`{"a":1}`), KindJSON, `{"a":1}`},
		{Value{KindString, []byte("x")}, KindString, "x"},
		{&Value{KindString, nil}, KindJSON, `""`},
		{Value{KindBuffer, nil}, KindJSON, `{"type":"Buffer","data":[]}`},
		{Value{KindBuffer, []byte("x")}, KindBuffer, "x"},
		{Value{KindJSON, []byte("[1]")}, KindJSON, "[1]"},
		{Manifest{"a": TypeSync}, KindJSON, `{"a":"sync"}`},
	} {
		s := newScratch()
		kind, body, err := s.encode(c.value)
		if err != nil || kind != c.kind || string(body) != c.body {
			t.Errorf("%#v: got %v %q, %v", c.value, kind, body, err)
		}
		s.free()
	}
}

func TestValuesThatCannotBeEncodedAreAnError(t *testing.T) {
	for _, v := range []any{make(chan int), json.RawMessage("{"), json.RawMessage(""), Value{KindJSON, nil}, Value{KindJSON, []byte("{")}, Value{3, []byte("x")}} {
		s := newScratch()
		if _, _, err := s.encode(v); err == nil {
			t.Errorf("%#v was encoded", v)
		}
		s.free()
	}
}

func decoded[T any](v Value) string {
	var out T
	if err := decode(v, false, &out); err != nil {
		return "error"
	}
	if b, ok := any(out).(json.RawMessage); ok {
		return string(b)
	}
	return fmt.Sprintf("%#v", out)
}

func TestValuesAreDecodedByTheTypeThatIsAskedFor(t *testing.T) {
	type named string
	type item struct{ A int }
	buffer, text, number := Value{KindBuffer, []byte{1, 2}}, Value{KindString, []byte("hé")}, Value{KindJSON, []byte("5")}
	jsonBuffer, jsonText := Value{KindJSON, []byte(`{"type":"Buffer","data":[1,2]}`)}, Value{KindJSON, []byte(`"hé"`)}
	for name, c := range map[string][2]string{
		"buffer as bytes":          {decoded[[]byte](buffer), `[]byte{0x1, 0x2}`},
		"buffer as string":         {decoded[string](buffer), "error"},
		"buffer as any":            {decoded[any](buffer), `[]byte{0x1, 0x2}`},
		"buffer as raw":            {decoded[json.RawMessage](buffer), `{"type":"Buffer","data":[1,2]}`},
		"buffer as Buffer":         {decoded[Buffer](buffer), `muxrpc.Buffer{0x1, 0x2}`},
		"buffer as struct":         {decoded[item](buffer), `muxrpc.item{A:0}`},
		"buffer as None":           {decoded[None](buffer), `struct {}{}`},
		"string as string":         {decoded[string](text), `"hé"`},
		"string as named":          {decoded[named](text), `"hé"`},
		"string as bytes":          {decoded[[]byte](text), `[]byte{0x68, 0xc3, 0xa9}`},
		"string as any":            {decoded[any](text), `"hé"`},
		"string as raw":            {decoded[json.RawMessage](text), `"hé"`},
		"string as int":            {decoded[int](text), "error"},
		"json as int":              {decoded[int](number), "5"},
		"json as any":              {decoded[any](number), "5"},
		"json as string":           {decoded[string](number), "error"},
		"json as bytes":            {decoded[[]byte](number), "error"},
		"json as None":             {decoded[None](number), `struct {}{}`},
		"json as Value":            {decoded[Value](number), `muxrpc.Value{Kind:0x2, Bytes:[]uint8{0x35}}`},
		"json buffer as bytes":     {decoded[[]byte](jsonBuffer), `[]byte{0x1, 0x2}`},
		"json string as string":    {decoded[string](jsonText), `"hé"`},
		"json empty string":        {decoded[string](Value{KindJSON, []byte(`""`)}), `""`},
		"json null as string":      {decoded[string](Value{KindJSON, []byte(`null`)}), `""`},
		"json as struct":           {decoded[item](Value{KindJSON, []byte(`{"A":3}`)}), `muxrpc.item{A:3}`},
		"invalid utf8 as string":   {decoded[string](Value{KindString, []byte("\xff\xfeA")}), `"��A"`},
		"bad json as any":          {decoded[any](Value{KindJSON, []byte(`{x`)}), "error"},
		"unknown kind as Value":    {decoded[Value](Value{3, []byte(`x`)}), "error"},
		"unknown kind as None":     {decoded[None](Value{3, []byte(`x`)}), "error"},
		"escaped json as string":   {decoded[string](Value{KindJSON, []byte(`"a\n\u00e9\"b"`)}), `"a\né\"b"`},
		"json string of one quote": {decoded[string](Value{KindJSON, []byte(`"`)}), "error"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: got %s, want %s", name, c[0], c[1])
		}
	}
}

func TestInvalidUTF8IsReplacedAsJavaScriptReplacesIt(t *testing.T) {
	var s string
	if err := decode(Value{KindString, []byte("\xff\xfeA")}, false, &s); err != nil || s != "\uFFFD\uFFFDA" {
		t.Errorf("%q, %v", s, err)
	}
}

func TestDecodedValuesDoNotShareMemoryWithTheQueue(t *testing.T) {
	memory := []byte(`abc`)
	var b []byte
	var v Value
	var a any
	for _, dst := range []any{&b, &v, &a} {
		if err := decode(Value{KindBuffer, memory}, false, dst); err != nil {
			t.Fatal(err)
		}
	}
	clear(memory)
	if string(b) != "abc" || string(v.Bytes) != "abc" || !bytes.Equal(a.([]byte), []byte("abc")) {
		t.Error(b, v, a)
	}
	var owned []byte
	memory = []byte("abc")
	if err := decode(Value{KindBuffer, memory}, true, &owned); err != nil || &owned[0] != &memory[0] {
		t.Error("memory of the caller's own was copied")
	}
}

func TestBuffersInJSON(t *testing.T) {
	for text, want := range map[string]Buffer{
		`{"type":"Buffer","data":[]}`:       {},
		`{"type":"Buffer","data":[0,255]}`:  {0, 255},
		`{ "data" : [7], "type":"Buffer" }`: {7},
		`{"type":"Buffer","data":[256]}`:    nil,
		`{"type":"Buffer","data":[-1]}`:     nil,
		`{"type":"Buffer","data":["x"]}`:    nil,
		`{"type":"Other","data":[1]}`:       nil,
		`[1]`:                               nil,
		`"AQ=="`:                            nil,
		`null`:                              nil,
	} {
		var b Buffer
		err := json.Unmarshal([]byte(text), &b)
		if want == nil && text == "null" {
			continue // encoding/json leaves null to the type; both answers are fine
		}
		if (err == nil) != (want != nil) || err == nil && !reflect.DeepEqual(b, want) {
			t.Errorf("%s: %v, %v", text, b, err)
		}
	}
}

func TestErrorsOfPeersMayBeAnyValue(t *testing.T) {
	for _, c := range []struct {
		v             Value
		name, message string
	}{
		{Value{KindJSON, []byte(`{"message":"m","name":"TypeError","stack":"S"}`)}, "TypeError", "m"},
		{Value{KindJSON, []byte(`{}`)}, "", ""},
		{Value{KindJSON, []byte(`"text"`)}, "", "text"},
		{Value{KindJSON, []byte(`{"message":5,"name":[]}`)}, "", ""},
		{Value{KindJSON, []byte(`true`)}, "", ""},
		{Value{KindJSON, []byte(`null`)}, "", ""},
		{Value{KindJSON, []byte(`[1,2]`)}, "", ""},
		{Value{KindJSON, []byte(`{x`)}, "", ""},
		{Value{KindString, []byte(`text`)}, "", "text"},
		{Value{KindBuffer, []byte{1}}, "", ""},
		{Value{3, []byte{1}}, "", ""},
	} {
		e, ok := errors.AsType[*RemoteError](parseRemoteError(c.v))
		if !ok || e.Name != c.name || e.Message != c.message {
			t.Errorf("%s: %#v", c.v.Bytes, e)
			continue
		}
		if e.Error() == "" || c.message != "" && !strings.HasSuffix(e.Error(), c.message) {
			t.Errorf("%s: %s", c.v.Bytes, e)
		}
	}
}

func TestTextOfAStringSurvivesJSON(t *testing.T) {
	for _, s := range []string{"", "a", `a"b\c`, "line\nline", "é漢🙂", "\x00\x1f", "<a&b>", "\u2028", strings.Repeat("x", 5000)} {
		var got string
		if err := json.Unmarshal(appendJSONString(nil, s), &got); err != nil || got != s {
			t.Errorf("%q became %q, %v", s, got, err)
		}
	}
}
