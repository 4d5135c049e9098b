package muxrpc

// This file holds all there is of JSON encoding and decoding of values, so that another encoder can take its place.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/secretstack/secretstack/packetstream"
)

// Kind says how a value is encoded on the wire.
type Kind = packetstream.BodyType

// The kinds of value.
const (
	KindBuffer = packetstream.Buffer // bytes
	KindString = packetstream.String // UTF-8 text
	KindJSON   = packetstream.JSON   // JSON
)

// Value is an item, a result or an argument as it is on the wire. As a type parameter it passes values on undecoded.
type Value struct {
	Kind  Kind
	Bytes []byte
}

// None is the type of no arguments and of no result. As a result it is sent as false, which is what JavaScript sends for
// undefined; when received, whatever was sent is ignored.
type None = struct{}

// Buffer is bytes inside a JSON value, in the form that JavaScript uses: {"type":"Buffer","data":[1,2,3]}. Bytes that
// are a whole item or result are better sent as []byte, which needs no JSON.
type Buffer []byte

// MarshalJSON returns b in JavaScript's form.
func (b Buffer) MarshalJSON() ([]byte, error) { return appendBufferJSON(nil, b), nil }

// UnmarshalJSON accepts JavaScript's form.
func (b *Buffer) UnmarshalJSON(data []byte) error {
	var form struct {
		Type string `json:"type"`
		Data []byte `json:"data"` // an array of numbers; encoding/json takes base64 too
	}
	if err := json.Unmarshal(data, &form); err != nil || form.Type != "Buffer" {
		return errNoBuffer
	}
	*b = form.Data
	return nil
}

var (
	errNoBuffer error = &localError{"value is no buffer"}
	errNoText   error = &localError{"value is no string"}
	errBadJSON  error = &localError{"value is no valid JSON"}
	errBadKind  error = &localError{"unknown message type"}
)

// appendBufferJSON appends JavaScript's JSON form of bytes.
func appendBufferJSON(dst, b []byte) []byte {
	dst = append(dst, `{"type":"Buffer","data":[`...)
	for i, c := range b {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(c), 10)
	}
	return append(dst, "]}"...)
}

// asJSON returns the value as JSON whatever its kind.
func (v Value) asJSON() json.RawMessage {
	switch v.Kind {
	case KindJSON:
		return v.Bytes
	case KindString:
		return appendJSONString(nil, string(v.Bytes))
	}
	return appendBufferJSON(nil, v.Bytes)
}

// scratch is memory to encode a value or a request in before it is queued.
type scratch struct {
	buf bytes.Buffer
	enc *json.Encoder
	req []byte
}

var scratches = sync.Pool{New: func() any {
	s := new(scratch)
	s.enc = json.NewEncoder(&s.buf)
	s.enc.SetEscapeHTML(false) // JavaScript does not escape < > & either
	return s
}}

// maxScratch is the largest scratch that is kept for the next value.
const maxScratch = 64 << 10

func newScratch() *scratch { return scratches.Get().(*scratch) }

func (s *scratch) free() {
	if s.buf.Cap() <= maxScratch && cap(s.req) <= maxScratch {
		s.buf.Reset()
		scratches.Put(s)
	}
}

// encode returns value as it goes on the wire; the bytes may be those of value or of the scratch. They are never empty:
// an empty body would be the goodbye. An empty string is sent as JSON "", empty bytes as an empty JSON buffer.
func (s *scratch) encode(value any) (Kind, []byte, error) {
	switch v := value.(type) {
	case []byte:
		return s.encodeBuffer(v)
	case string:
		return s.encodeText(v)
	case Value:
		return s.encodeValue(v)
	case *Value:
		return s.encodeValue(*v)
	case json.RawMessage:
		if !json.Valid(v) {
			return 0, nil, errBadJSON
		}
		return KindJSON, v, nil
	case None:
		return KindJSON, []byte("false"), nil
	case nil:
		return KindJSON, []byte("null"), nil
	}
	s.buf.Reset()
	if err := s.enc.Encode(value); err != nil {
		return 0, nil, fmt.Errorf("muxrpc: encoding a value: %w", err)
	}
	b := s.buf.Bytes()
	return KindJSON, b[:len(b)-1], nil // Encode ends with a newline
}

func (s *scratch) encodeBuffer(b []byte) (Kind, []byte, error) {
	if len(b) == 0 {
		return KindJSON, []byte(`{"type":"Buffer","data":[]}`), nil
	}
	return KindBuffer, b, nil
}

func (s *scratch) encodeText(text string) (Kind, []byte, error) {
	if text == "" {
		return KindJSON, []byte(`""`), nil
	}
	s.buf.Reset()
	s.buf.WriteString(text)
	return KindString, s.buf.Bytes(), nil
}

func (s *scratch) encodeValue(v Value) (Kind, []byte, error) {
	switch {
	case v.Kind == KindBuffer:
		return s.encodeBuffer(v.Bytes)
	case v.Kind == KindString && len(v.Bytes) == 0:
		return KindJSON, []byte(`""`), nil
	case v.Kind == KindString:
		return KindString, v.Bytes, nil
	case v.Kind == KindJSON && json.Valid(v.Bytes):
		return KindJSON, v.Bytes, nil
	case v.Kind == KindJSON:
		return 0, nil, errBadJSON
	}
	return 0, nil, errBadKind
}

// emptyBuffer reports whether value is empty bytes, for which a stream sends nothing at all.
func emptyBuffer(value any) bool {
	switch v := value.(type) {
	case []byte:
		return len(v) == 0
	case Value:
		return v.Kind == KindBuffer && len(v.Bytes) == 0
	}
	return false
}

// appendArgs appends the arguments of a call as a JSON array.
func appendArgs(dst []byte, args []any) ([]byte, error) {
	dst = append(dst, '[')
	for i, arg := range args {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendArg(dst, arg); err != nil {
			return dst, fmt.Errorf("muxrpc: argument %d: %w", i, err)
		}
	}
	return append(dst, ']'), nil
}

func appendArg(dst []byte, arg any) ([]byte, error) {
	switch v := arg.(type) {
	case nil:
		return append(dst, "null"...), nil
	case string:
		return appendJSONString(dst, v), nil
	case []byte:
		return appendBufferJSON(dst, v), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case Value:
		if v.Kind == KindJSON && !json.Valid(v.Bytes) {
			return dst, errBadJSON
		}
		return append(dst, v.asJSON()...), nil
	}
	s := newScratch()
	defer s.free()
	s.buf.Reset()
	if err := s.enc.Encode(arg); err != nil {
		return dst, err
	}
	b := s.buf.Bytes()
	return append(dst, b[:len(b)-1]...), nil
}

// appendJSONString appends s as a JSON string.
func appendJSONString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendEscaped(dst, s)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// appendEscaped appends a string with characters that need care.
func appendEscaped(dst []byte, s string) []byte {
	t := newScratch()
	defer t.free()
	t.buf.Reset()
	if err := t.enc.Encode(s); err != nil {
		return append(dst, `""`...) // cannot happen: every string can be encoded
	}
	b := t.buf.Bytes()
	return append(dst, b[:len(b)-1]...)
}

// decode decodes v into what dst points to. If v's bytes are not owned, what it stores does not share memory with them.
func decode(v Value, owned bool, dst any) error {
	if !v.Kind.Valid() {
		return errBadKind
	}
	switch d := dst.(type) {
	case *None:
		return nil
	case *Value:
		*d = Value{v.Kind, v.keep(owned)}
		return nil
	case *[]byte:
		if v.Kind != KindJSON {
			*d = v.keep(owned)
			return nil
		}
	case *string:
		if v.Kind == KindString {
			*d = v.text()
			return nil
		}
		if v.Kind == KindBuffer {
			return errNoText
		}
	case *any:
		switch v.Kind {
		case KindBuffer:
			*d = v.keep(owned)
			return nil
		case KindString:
			*d = v.text()
			return nil
		}
	}
	return decodeJSON(v.asJSON(), dst)
}

// keep returns the bytes as memory that may be kept.
func (v Value) keep(owned bool) []byte {
	if owned {
		return v.Bytes
	}
	return append(make([]byte, 0, len(v.Bytes)), v.Bytes...)
}

// text returns the bytes as a string, with what is not UTF-8 replaced, as JavaScript does.
func (v Value) text() string {
	if !utf8.Valid(v.Bytes) {
		return string([]rune(string(v.Bytes)))
	}
	return string(v.Bytes)
}

// decodeJSON decodes JSON into what dst points to; []byte takes JavaScript's form of a buffer.
func decodeJSON(raw []byte, dst any) error {
	switch d := dst.(type) {
	case *None:
		return nil
	case *string:
		if n := len(raw) - 1; plainJSONString(raw) {
			*d = string(raw[1:n])
			return nil
		}
	case *[]byte:
		return (*Buffer)(d).UnmarshalJSON(raw)
	case *Value:
		if !json.Valid(raw) {
			return errBadJSON
		}
		*d = Value{KindJSON, bytes.Clone(raw)}
		return nil
	}
	return json.Unmarshal(raw, dst)
}

// plainJSONString reports whether raw is a JSON string of printable ASCII without escapes.
func plainJSONString(raw []byte) bool {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return false
	}
	for _, c := range raw[1 : len(raw)-1] {
		if c == '"' || c == '\\' || c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// jsonDetail says what is wrong with a value, in words that do not name our types.
func jsonDetail(err error) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field != "" {
			return ": unexpected " + e.Value + " in " + e.Field
		}
		return ": unexpected " + e.Value
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return ": " + e.Error()
	}
	return ""
}

// longestMessage bounds the text of an error on the wire, in bytes: errors are sent whether there is room or not, and
// may repeat what another peer has said.
const longestMessage = 4 << 10

// shortened returns the front of text that fits longestMessage, whole runes.
func shortened(text string) string {
	if len(text) <= longestMessage {
		return text
	}
	end := longestMessage
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

// appendWireError appends err as it goes on the wire.
func appendWireError(dst []byte, message string) []byte {
	message = shortened(message)
	dst = append(dst, `{"message":`...)
	dst = appendJSONString(dst, message)
	return append(dst, `,"name":"Error","stack":""}`...)
}
