package muxrpc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// CallType is one of the five types of call.
type CallType string

// The types of call, as manifests name them. Async and sync are the same on the wire.
const (
	TypeAsync  CallType = "async"
	TypeSync   CallType = "sync"
	TypeSource CallType = "source"
	TypeSink   CallType = "sink"
	TypeDuplex CallType = "duplex"
)

// Valid reports whether t is one of the five types.
func (t CallType) Valid() bool {
	switch t {
	case TypeAsync, TypeSync, TypeSource, TypeSink, TypeDuplex:
		return true
	}
	return false
}

// streams reports whether calls of type t are streams.
func (t CallType) streams() bool { return t == TypeSource || t == TypeSink || t == TypeDuplex }

// Manifest lists the methods of a peer: a leaf is a CallType, a branch another Manifest. See docs/PROTOCOL.md §4.5.
type Manifest map[string]any

// Lookup returns the type of the method at path, or "" if there is none.
func (m Manifest) Lookup(path ...string) CallType {
	for i, name := range path {
		switch entry := m[name].(type) {
		case CallType:
			if i == len(path)-1 {
				return entry
			}
			return ""
		case Manifest:
			m = entry
		default:
			return ""
		}
	}
	return ""
}

// Methods returns the dotted names of all methods in alphabetical order.
func (m Manifest) Methods() []string {
	var names []string
	m.walk("", func(name string, _ CallType) { names = append(names, name) })
	slices.Sort(names)
	return names
}

func (m Manifest) walk(prefix string, visit func(name string, t CallType)) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		switch entry := m[name].(type) {
		case CallType:
			visit(prefix+name, entry)
		case Manifest:
			entry.walk(prefix+name+".", visit)
		}
	}
}

// Merge adds the methods of other to m; where both have an entry that is not a branch, other's wins.
func (m Manifest) Merge(other Manifest) {
	for name, entry := range other {
		branch, isBranch := entry.(Manifest)
		if !isBranch {
			m[name] = entry
			continue
		}
		mine, ok := m[name].(Manifest)
		if !ok {
			mine = Manifest{}
			m[name] = mine
		}
		mine.Merge(branch)
	}
}

// set adds the method at path, making branches on the way.
func (m Manifest) set(path []string, t CallType) {
	for _, name := range path[:len(path)-1] {
		branch, ok := m[name].(Manifest)
		if !ok {
			branch = Manifest{}
			m[name] = branch
		}
		m = branch
	}
	m[path[len(path)-1]] = t
}

// maxManifestDepth bounds the nesting of a manifest that a peer sends.
const maxManifestDepth = 32

// UnmarshalJSON accepts nested objects whose leaves are call types. Leaves of any other kind are left out, so that a
// peer with methods of a type that we do not know can still be called.
func (m *Manifest) UnmarshalJSON(data []byte) error {
	decoded, err := decodeManifest(data, 0)
	if err != nil {
		return err
	}
	*m = decoded
	return nil
}

func decodeManifest(data []byte, depth int) (Manifest, error) {
	if depth > maxManifestDepth {
		return nil, fmt.Errorf("muxrpc: manifest is nested deeper than %d", maxManifestDepth)
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, fmt.Errorf("muxrpc: manifest is not an object: %w", err)
	}
	m := make(Manifest, len(entries))
	for name, raw := range entries {
		if bytes.HasPrefix(raw, []byte("{")) {
			branch, err := decodeManifest(raw, depth+1)
			if err != nil {
				return nil, err
			}
			m[name] = branch
			continue
		}
		var t CallType
		if json.Unmarshal(raw, &t) == nil && t.Valid() {
			m[name] = t
		}
	}
	return m, nil
}
