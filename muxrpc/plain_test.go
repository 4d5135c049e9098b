package muxrpc

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

type plainStruct struct {
	Name   string `json:"name"`
	Small  int8   `json:"small,omitempty"`
	Port   uint16
	On     bool   `json:"on"`
	Big    int64  `json:"big"`
	Huge   uint64 `json:"huge"`
	Hidden string `json:"-"`
}

// plainTexts are objects that are written as encoders write them, and ones that deviate a little.
var plainTexts = map[string]bool{
	`{"name":"x","small":-3,"Port":7,"on":true,"big":-123456789012345678,"huge":1}`: true,
	`{"huge":9,"name":""}`:          true,
	`{"name":"x","name":"y"}`:       true,
	`{"on":true,"on":false}`:        true,
	`{"small":-0}`:                  true,
	`{"small":127,"Port":65535}`:    true,
	``:                              false,
	`{`:                             false,
	`{}`:                            false,
	`{"name":"x",}`:                 false,
	`{"name":"x"}}`:                 false,
	`{"name":"x"} `:                 false,
	`{ "name":"x"}`:                 false,
	`{"name":"x`:                    false,
	`{"name":`:                      false,
	`{"name":1}`:                    false,
	`{"name":null}`:                 false,
	`{"name":"\u0041"}`:             false,
	`{"name":"é"}`:                  false,
	"{\"name\":\"\xff\"}":           false,
	`{"NAME":"x"}`:                  false,
	`{"other":"x"}`:                 false,
	`{"small":128}`:                 false,
	`{"small":01}`:                  false,
	`{"small":1.0}`:                 false,
	`{"small":1e1}`:                 false,
	`{"small":-}`:                   false,
	`{"Port":-1}`:                   false,
	`{"Port":65536}`:                false,
	`{"big":1234567890123456789}`:   false,
	`{"on":True}`:                   false,
	`{"on":truefalse}`:              false,
	`[]`:                            false,
	`{"huge":18446744073709551615}`: false,
}

// checkPlain decodes text and compares with encoding/json, which must agree if it was taken.
func checkPlain(t *testing.T, text string) (taken bool) {
	t.Helper()
	var got, want plainStruct
	if !newPlainDecoder(reflect.TypeFor[plainStruct]()).decode([]byte(text), &got) {
		return false
	}
	if err := json.Unmarshal([]byte(text), &want); err != nil || got != want {
		t.Errorf("%s gives %+v, encoding/json %+v, %v", text, got, want, err)
	}
	return true
}

func TestPlainDecoderTakesWhatEncodersWriteAndNothingElse(t *testing.T) {
	for text, want := range plainTexts {
		if got := checkPlain(t, text); got != want {
			t.Errorf("%s: taken is %v, want %v", text, got, want)
		}
	}
}

func TestPlainDecoderRefusesTypesThatItDoesNotKnow(t *testing.T) {
	for _, v := range []any{
		"", 1, []byte(nil), map[string]string(nil), (*plainStruct)(nil), time.Time{},
		struct{ T time.Time }{}, struct{ P *int }{}, struct{ F float64 }{}, struct{ S []string }{}, struct{ plainStruct }{},
		struct {
			N int `json:"n,string"`
		}{},
		struct {
			A int `json:"a"`
			B int `json:"A"`
		}{},
		struct{ hidden int }{},
		struct {
			A int `json:"é"`
		}{},
		Value{},
	} {
		if newPlainDecoder(reflect.TypeOf(v)) != nil {
			t.Errorf("%T has a plain decoder", v)
		}
	}
}

func FuzzPlainDecoder(f *testing.F) {
	for text := range plainTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { checkPlain(t, text) })
}

func BenchmarkPlainDecoder(b *testing.B) {
	text := []byte(`{"name":"thirty-two characters of content","big":100001,"on":true}`)
	d := newPlainDecoder(reflect.TypeFor[plainStruct]())
	b.ReportAllocs()
	for b.Loop() {
		var v plainStruct
		d.decode(text, &v)
	}
}
