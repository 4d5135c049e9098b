package muxrpc

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// CallInfo describes the call that a Handler serves.
type CallInfo struct {
	Path []string // the method's name, one element a level
	Type CallType // the type it is registered with
	Args Args     // positional arguments
	// Stream carries the items of a sink or a duplex; it is nil for the other types.
	Stream *Stream[Value, any]
}

// Name returns the method's dotted name.
func (c *CallInfo) Name() string { return strings.Join(c.Path, ".") }

// Handler serves a call without types; hooks wrap it. What it returns depends on the type of the call:
//
//   - async and sync: the result;
//   - source: an iter.Seq2[any, error] with the items;
//   - sink and duplex: nothing; they work on CallInfo.Stream.
//
// An error is the answer for every type. The context is cancelled when the peer ends the stream or the session ends; a
// peer cannot cancel an async call, and the ordinary end of a sink's items cancels nothing.
type Handler func(ctx context.Context, call *CallInfo) (any, error)

// Hook wraps the handler of a method.
type Hook func(next Handler) Handler

// Method is what can be registered: a typed handler made by HandleAsync and its siblings, or an untyped one.
type Method struct {
	Name    string // dotted, like "blobs.get"
	Type    CallType
	Handler Handler
}

// Registrar is where methods are registered: a *Mux, or something that puts a prefix before the names.
type Registrar interface {
	Handle(m Method) error
}

// Mux holds the methods that a session serves. One Mux may serve many sessions, and methods may be added while it does.
type Mux struct {
	mu          sync.Mutex               // serialises changes
	table       atomic.Pointer[muxTable] // replaced as a whole by each change
	permissions atomic.Pointer[compiled] // those of the latest session
	limits      atomic.Pointer[limits]   // likewise
}

// muxTable is never changed after it was published.
type muxTable struct {
	methods  map[string]*method // by the JSON of the name, as it is in requests
	manifest Manifest
}

type method struct {
	path    []string
	keys    []string // pathKeys(path)
	typ     CallType
	handler Handler
}

func newMethod(path []string, t CallType, h Handler) *method {
	return &method{path: path, keys: pathKeys(path), typ: t, handler: h}
}

// key is what identifies the method's name.
func (m *method) key() string { return m.keys[len(m.keys)-1] }

// NewMux returns an empty Mux.
func NewMux() *Mux {
	m := new(Mux)
	m.table.Store(&muxTable{manifest: Manifest{}})
	return m
}

// Handle registers a method. It fails with ErrMethod when the name is malformed, reserved, taken, or part of another
// method's name, and when the type or the handler is missing.
func (m *Mux) Handle(add Method) error {
	path, err := parseMethodName(add.Name)
	if err != nil {
		return err
	}
	if !add.Type.Valid() {
		return fmt.Errorf("%w: %q has no call type %q", ErrMethod, add.Name, string(add.Type))
	}
	if add.Handler == nil {
		return fmt.Errorf("%w: %q has no handler", ErrMethod, add.Name)
	}
	return m.update(func(methods map[string]*method) error {
		added := newMethod(path, add.Type, add.Handler)
		for _, other := range methods {
			if added.conflicts(other) {
				return fmt.Errorf("%w: %q is taken by %q", ErrMethod, add.Name, strings.Join(other.path, "."))
			}
		}
		methods[added.key()] = added
		return nil
	})
}

// conflicts reports whether both methods have the same name, or one the name of a branch above the other.
func (m *method) conflicts(other *method) bool {
	shorter := min(len(m.keys), len(other.keys)) - 1
	return m.keys[shorter] == other.keys[shorter]
}

// Hook wraps the handler of a registered method; the hook added last sees a call first. It fails with ErrNoMethod when
// the method is not registered.
func (m *Mux) Hook(name string, h Hook) error {
	key := strings.ReplaceAll(name, ".", pathSeparator)
	return m.update(func(methods map[string]*method) error {
		old := methods[key]
		if old == nil {
			return fmt.Errorf("%w: %q", ErrNoMethod, name)
		}
		methods[key] = newMethod(old.path, old.typ, h(old.handler))
		return nil
	})
}

// Manifest returns the names and types of all registered methods. The caller may change it.
func (m *Mux) Manifest() Manifest {
	copied := Manifest{}
	copied.Merge(m.table.Load().manifest)
	return copied
}

// update replaces the table by one that change was applied to.
func (m *Mux) update(change func(methods map[string]*method) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	byKey := make(map[string]*method)
	for _, entry := range m.table.Load().methods {
		byKey[entry.key()] = entry
	}
	if err := change(byKey); err != nil {
		return err
	}
	table := &muxTable{methods: make(map[string]*method, 2*len(byKey)), manifest: Manifest{}}
	for _, entry := range byKey {
		table.methods[`["`+strings.Join(entry.path, `","`)+`"]`] = entry
		if len(entry.path) == 1 {
			table.methods[`"`+entry.path[0]+`"`] = entry // a name of one level may be a string
		}
		table.manifest.set(entry.path, entry.typ)
	}
	m.table.Store(table)
	return nil
}

// named returns the method with the given name, which is the JSON of a request's name, or nil. A nil Mux has none.
func (m *Mux) named(name []byte) *method {
	if m == nil {
		return nil
	}
	table := m.table.Load()
	if found := table.methods[string(name)]; found != nil {
		return found
	}
	path, _ := parseName(name) // it may be written in an unusual way
	for _, part := range path {
		if !validPart(part) {
			return nil
		}
	}
	return table.methods[`["`+strings.Join(path, `","`)+`"]`]
}

// reservedNames cannot be top-level names: JavaScript peers turn a manifest into properties of an event emitter, and
// these would replace what the emitter needs.
var reservedNames = [...]string{
	"stream", "closed", "close",
	"addListener", "emit", "eventNames", "getMaxListeners", "listenerCount", "listeners", "off", "on", "once",
	"prependListener", "prependOnceListener", "rawListeners", "removeAllListeners", "removeListener", "setMaxListeners",
}

// reservedAnywhere cannot be part of a name at any level: they reach into the prototypes of JavaScript objects.
var reservedAnywhere = [...]string{"__proto__", "constructor", "prototype"}

func parseMethodName(name string) ([]string, error) {
	path := strings.Split(name, ".")
	if len(path) > longestPath {
		return nil, fmt.Errorf("%w: %q has more than %d levels", ErrMethod, name, longestPath)
	}
	for _, part := range path {
		if !validPart(part) {
			return nil, fmt.Errorf("%w: %q is no name; use letters, digits, _ $ and -, with dots between levels", ErrMethod, name)
		}
		for _, reserved := range reservedAnywhere {
			if part == reserved {
				return nil, fmt.Errorf("%w: %q: %s is reserved", ErrMethod, name, reserved)
			}
		}
	}
	for _, reserved := range reservedNames {
		if path[0] == reserved {
			return nil, fmt.Errorf("%w: %q: %s is reserved", ErrMethod, name, reserved)
		}
	}
	return path, nil
}

func validPart(part string) bool {
	for _, c := range []byte(part) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '$', c == '-':
		default:
			return false
		}
	}
	return part != ""
}
