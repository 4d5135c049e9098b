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
	mu    sync.Mutex               // serialises changes
	table atomic.Pointer[muxTable] // replaced as a whole by each change
}

// muxTable is never changed after it was published.
type muxTable struct {
	methods  map[string]*method // by path joined with pathSeparator
	manifest Manifest
}

type method struct {
	path    []string
	typ     CallType
	handler Handler
}

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
		if other := conflict(methods, path); other != nil {
			return fmt.Errorf("%w: %q is taken by %q", ErrMethod, add.Name, strings.Join(other.path, "."))
		}
		methods[strings.Join(path, pathSeparator)] = &method{path: path, typ: add.Type, handler: add.Handler}
		return nil
	})
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
		methods[key] = &method{path: old.path, typ: old.typ, handler: h(old.handler)}
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
	old := m.table.Load().methods
	table := &muxTable{methods: make(map[string]*method, len(old)+1), manifest: Manifest{}}
	for key, entry := range old {
		table.methods[key] = entry
	}
	if err := change(table.methods); err != nil {
		return err
	}
	for _, entry := range table.methods {
		table.manifest.set(entry.path, entry.typ)
	}
	m.table.Store(table)
	return nil
}

// lookup returns the method at path, or nil. A nil Mux has none.
func (m *Mux) lookup(path []string) *method {
	if m == nil {
		return nil
	}
	for _, name := range path {
		if strings.Contains(name, pathSeparator) {
			return nil
		}
	}
	return m.table.Load().methods[strings.Join(path, pathSeparator)]
}

// conflict returns a method that is at path, above it or below it.
func conflict(methods map[string]*method, path []string) *method {
	key := strings.Join(path, pathSeparator)
	for other, entry := range methods {
		if other == key || strings.HasPrefix(other, key+pathSeparator) || strings.HasPrefix(key, other+pathSeparator) {
			return entry
		}
	}
	return nil
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
