package muxrpc

import (
	"bytes"
	"encoding/json"
	"iter"
	"strconv"
	"strings"
)

// request is the body of a packet that opens a call, docs/PROTOCOL.md §4.1.
type request struct {
	name []byte   // JSON: an array, a string, or nothing that names a method
	typ  CallType // what the body says, which async calls do not have to
	args Args
	size int // bytes of the body, which name and args are part of
}

// appendRequest appends the body of a request with a dotted name. Types that are not streams are left out, as
// JavaScript does.
func appendRequest(dst []byte, name string, t CallType, args []any) ([]byte, error) {
	dst = append(dst, `{"name":[`...)
	for rest, more := name, true; more; {
		var part string
		part, rest, more = strings.Cut(rest, ".")
		dst = appendJSONString(dst, part)
		if more {
			dst = append(dst, ',')
		}
	}
	dst = append(dst, `],"args":`...)
	dst, err := appendArgs(dst, args)
	if err != nil {
		return dst, err
	}
	if t.streams() {
		dst = append(dst, `,"type":"`...)
		dst = append(dst, t...)
		dst = append(dst, '"')
	}
	return append(dst, '}'), nil
}

// invalidRequest is the answer to a body that is no call. Its text is the one of the JavaScript implementation.
func invalidRequest(v Value) error {
	const longest = 1 << 10
	body := v.asJSON()
	var compact bytes.Buffer
	if json.Compact(&compact, body) == nil {
		body = compact.Bytes()
	}
	if len(body) > longest {
		body = append(body[:longest:longest], "…"...)
	}
	return Errorf("invalid request, args should be array, was: %s", body)
}

// parseRequest decodes the body of a packet that opens a call. The request keeps parts of v. Arguments may be missing in
// stream requests only.
func parseRequest(v Value, stream bool) (request, error) {
	switch {
	case !v.Kind.Valid():
		return request{}, errBadKind
	case v.Kind != KindJSON:
		return request{}, invalidRequest(v)
	}
	if r, ok := parsePlainRequest(v.Bytes); ok && (r.args.raw != nil || stream) {
		return r, nil
	}
	return parseAnyRequest(v, stream)
}

// parseAnyRequest decodes a request of any shape.
func parseAnyRequest(v Value, stream bool) (request, error) {
	body := bytes.TrimSpace(v.Bytes)
	if !json.Valid(body) || body[0] != '{' {
		return request{}, invalidRequest(v)
	}
	var name, args, typ json.RawMessage
	for key, value := range members(body) {
		switch key {
		case "name":
			name = value
		case "args":
			args = value
		case "type":
			typ = value
		}
	}
	switch {
	case len(name) > longestName:
		return request{}, invalidRequest(v)
	case args == nil && !stream:
		return request{}, invalidRequest(v)
	case args != nil && args[0] != '[':
		return request{}, invalidRequest(v)
	}
	return request{name: name, args: Args{raw: args}, typ: CallType(jsToString(typ)), size: len(v.Bytes)}, nil
}

// longestName is the longest name of a method that is looked at, in bytes of JSON.
const longestName = 4 << 10

// members yields the members of a valid JSON object.
func members(object []byte) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		for member := range elements(object) {
			n := skipString(member)
			var key string
			_ = json.Unmarshal(member[:n], &key) // valid already
			value := bytes.TrimSpace(member[n:])[1:]
			if !yield(key, bytes.TrimSpace(value)) {
				return
			}
		}
	}
}

// longestPath is how many levels the name of a method can have.
const longestPath = 16

// parseName returns the path of a method. A name may be an array or a string; a string is one element, dots included.
// Any other value becomes what JavaScript would print, which is never the name of a method. Of a path that is too long
// for any method it returns the front, one level longer than a method can be.
func parseName(raw json.RawMessage) (path []string, isString bool) {
	if len(raw) == 0 {
		return nil, false
	}
	if raw[0] != '[' {
		return []string{jsToString(raw)}, raw[0] == '"'
	}
	for element := range elements(raw) {
		path = append(path, jsToString(element))
		if len(path) > longestPath {
			break
		}
	}
	return path, false
}

// jsToString returns what JavaScript prints for a value that was sent in place of a string.
func jsToString(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text // null gives the empty string, as it does in the middle of an array
	}
	switch {
	case len(raw) == 0:
		return ""
	case raw[0] == '{':
		return "[object Object]"
	}
	return string(raw)
}

// The parts of a request as every implementation writes it. What deviates is left to encoding/json.
const (
	nameStart = `{"name":`
	argsStart = `,"args":`
	typeStart = `,"type":"`
)

// parsePlainRequest decodes a request that is written without spaces or unusual fields, in the usual order. It reports
// false when the request is anything else.
func parsePlainRequest(b []byte) (request, bool) {
	r := request{size: len(b)}
	rest, ok := bytes.CutPrefix(b, []byte(nameStart))
	n := skipArray(rest)
	if n == 0 {
		n = skipString(rest)
	}
	if !ok || n == 0 || n > longestName {
		return r, false
	}
	r.name, rest = rest[:n:n], rest[n:]
	if after, found := bytes.CutPrefix(rest, []byte(argsStart)); found {
		n := skipArray(after)
		if n == 0 {
			return r, false
		}
		r.args, rest = Args{raw: after[:n:n]}, after[n:]
	}
	if after, found := bytes.CutPrefix(rest, []byte(typeStart)); found {
		text, after, ok := cutPlainString(after)
		if !ok {
			return r, false
		}
		r.typ, rest = callType(text), after
	}
	return r, len(rest) == 1 && rest[0] == '}'
}

// cutPlainString takes the inside of a string and its closing quote from the front of b. It refuses escapes and
// anything but printable ASCII.
func cutPlainString(b []byte) (text, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == '"':
			return b[:i], b[i+1:], true
		case c == '\\' || c < ' ' || c > '~':
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// callType returns text as a CallType without making a string of the usual ones.
func callType(text []byte) CallType {
	switch string(text) {
	case "source":
		return TypeSource
	case "sink":
		return TypeSink
	case "duplex":
		return TypeDuplex
	case "async":
		return TypeAsync
	case "sync":
		return TypeSync
	}
	return CallType(text)
}

// skipArray returns the length of the JSON array at the start of b, or 0 if there is none. It looks at brackets and
// strings only; what is inside is checked when it is decoded.
func skipArray(b []byte) int {
	if len(b) == 0 || b[0] != '[' {
		return 0
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
			if depth == 0 {
				return i + 1
			}
		case '"':
			n := skipString(b[i:])
			if n == 0 {
				return 0
			}
			i += n - 1
		}
	}
	return 0
}

// skipString returns the length of the JSON string at the start of b, or 0 if it does not end.
func skipString(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return 0
}

// Args are the positional arguments of a call.
type Args struct {
	raw []byte // a JSON array, or nil when there are none
}

// NewArgs encodes values as arguments, for hooks that change what a handler gets.
func NewArgs(values ...any) (Args, error) {
	raw, err := appendArgs(nil, values)
	return Args{raw: raw}, err
}

// Len returns the number of arguments.
func (a Args) Len() int {
	n := 0
	for range elements(a.raw) {
		n++
	}
	return n
}

// At returns argument i as JSON, or nil if there are not so many.
func (a Args) At(i int) json.RawMessage {
	for arg := range elements(a.raw) {
		if i == 0 {
			return arg
		}
		i--
	}
	return nil
}

// Decode decodes the arguments into the values that dst points to, in order. Missing arguments leave theirs alone, and
// arguments without a destination are ignored. Its error may be returned to the peer as it is.
func (a Args) Decode(dst ...any) error {
	i := 0
	for arg := range elements(a.raw) {
		if i == len(dst) {
			break
		}
		if err := decodeJSON(arg, dst[i]); err != nil {
			return argumentError(i, err)
		}
		i++
	}
	return nil
}

// MarshalJSON returns the arguments as a JSON array.
func (a Args) MarshalJSON() ([]byte, error) {
	if a.raw == nil {
		return []byte("[]"), nil
	}
	return a.raw, nil
}

// String returns the arguments as JSON, for logs.
func (a Args) String() string {
	if a.raw == nil {
		return "[]"
	}
	return string(a.raw)
}

// elements yields the elements of a JSON array, or the members of a JSON object. What is not valid JSON gives elements
// that are not either.
func elements(list []byte) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		if len(list) < 2 {
			return
		}
		for rest := list[1 : len(list)-1]; ; {
			n := skipElement(rest)
			element := bytes.TrimSpace(rest[:n])
			last := n == len(rest)
			if last && len(element) == 0 {
				return
			}
			if !yield(element[:len(element):len(element)]) || last {
				return
			}
			rest = rest[n+1:]
		}
	}
}

// skipElement returns the length of the array element at the start of b, up to the comma after it or the end.
func skipElement(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		case '"':
			if n := skipString(b[i:]); n > 0 {
				i += n - 1
			}
		}
	}
	return len(b)
}

// argumentError turns an error of encoding/json into one that the peer can use and that does not name our types.
func argumentError(i int, err error) error {
	return &Error{Message: "argument " + strconv.Itoa(i) + " is invalid" + jsonDetail(err), err: err}
}
