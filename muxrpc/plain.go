package muxrpc

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// plainDecoder decodes JSON objects into a struct type of strings, integers and booleans. It takes only what encoders
// write as a rule: no spaces, no escapes, ASCII, the exact names of the fields. It refuses everything else, for
// encoding/json to decode: whatever it takes, encoding/json decodes to the same. It is seven times as fast, and the
// decoding of small items is most of what they cost.
type plainDecoder struct{ fields []plainField }

type plainField struct {
	key   string // with its quotes and the colon
	index int
	kind  reflect.Kind
}

// newPlainDecoder returns a decoder for structs of type t, or nil if t is anything else.
func newPlainDecoder(t reflect.Type) *plainDecoder {
	if t.Kind() != reflect.Struct || decodesItself(t) {
		return nil
	}
	d := new(plainDecoder)
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("json") == "-" {
			continue
		}
		f, ok := newPlainField(t.Field(i), i)
		if !ok || d.similar(f) {
			return nil
		}
		d.fields = append(d.fields, f)
	}
	return d
}

func newPlainField(f reflect.StructField, index int) (plainField, bool) {
	name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" {
		name = f.Name
	}
	if f.Anonymous || !f.IsExported() || strings.Contains(options, "string") || decodesItself(f.Type) || !plainText(name) {
		return plainField{}, false
	}
	kind := f.Type.Kind()
	isPlain := kind == reflect.String || reflect.Bool <= kind && kind <= reflect.Uint64
	return plainField{key: `"` + name + `":`, index: index, kind: kind}, isPlain
}

// similar reports whether encoding/json might take f for another field.
func (d *plainDecoder) similar(f plainField) bool {
	for _, other := range d.fields {
		if strings.EqualFold(other.key, f.key) {
			return true
		}
	}
	return false
}

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// plainText reports whether JSON writes text as it is.
func plainText(text string) bool {
	for i := range len(text) {
		if !plainByte(text[i]) {
			return false
		}
	}
	return true
}

func plainByte(c byte) bool { return ' ' <= c && c <= '~' && c != '"' && c != '\\' }

// decode decodes b into the struct that dst points to, whose fields must be zero. If it reports false, they may not be
// zero any more. A nil decoder decodes nothing.
func (d *plainDecoder) decode(b []byte, dst any) bool {
	if d == nil || len(b) == 0 || b[0] != '{' {
		return false
	}
	v := reflect.ValueOf(dst).Elem()
	next := 0 // fields come in the order of the struct, as a rule
	for {
		b = b[1:]
		i := d.find(b, next)
		if i < 0 {
			return false
		}
		f := d.fields[i]
		b = b[len(f.key):]
		n := f.set(b, v.Field(f.index))
		if n == 0 || n == len(b) {
			return false
		}
		b = b[n:]
		if b[0] != ',' {
			return len(b) == 1 && b[0] == '}'
		}
		next = i + 1
	}
}

// find returns the field with whose key b begins, or -1. It looks at the one that is expected next first.
func (d *plainDecoder) find(b []byte, next int) int {
	for i := range d.fields {
		i = (next + i) % len(d.fields)
		if key := d.fields[i].key; len(b) > len(key) && string(b[:len(key)]) == key {
			return i
		}
	}
	return -1
}

// set decodes the value at the front of b and returns its length, or 0 if it is not plain.
func (f *plainField) set(b []byte, v reflect.Value) int {
	switch f.kind {
	case reflect.String:
		return setString(b, v)
	case reflect.Bool:
		return setBool(b, v)
	}
	return setInteger(b, v)
}

func setString(b []byte, v reflect.Value) int {
	if b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		if !plainByte(b[i]) {
			if b[i] != '"' {
				return 0
			}
			v.SetString(string(b[1:i]))
			return i + 1
		}
	}
	return 0
}

func setBool(b []byte, v reflect.Value) int {
	switch {
	case bytes.HasPrefix(b, []byte("true")):
		v.SetBool(true)
		return len("true")
	case bytes.HasPrefix(b, []byte("false")):
		v.SetBool(false)
		return len("false")
	}
	return 0
}

// longestInteger is how many digits fit into 64 bits whatever they are.
const longestInteger = 18

func setInteger(b []byte, v reflect.Value) int {
	signed := v.CanInt()
	start := 0
	if signed && b[0] == '-' {
		start = 1
	}
	i, n := start, int64(0)
	for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
		n = n*10 + int64(b[i]-'0')
		if i-start == longestInteger {
			return 0
		}
	}
	if i == start || b[start] == '0' && i > start+1 {
		return 0
	}
	if start == 1 {
		n = -n
	}
	switch {
	case signed && !v.OverflowInt(n):
		v.SetInt(n)
	case !signed && !v.OverflowUint(uint64(n)):
		v.SetUint(uint64(n))
	default:
		return 0
	}
	return i
}
