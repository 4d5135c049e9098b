package secretstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/secretstack/secretstack/muxrpc"
)

// anonymous is the permission set of everybody who connects.
const anonymous = "anonymous"

// errRefused is what a caller is refused with when an auth hook gives no reason.
var errRefused = errors.New("secretstack: auth refused the caller")

// Access is what an auth hook lets a caller do. The zero value is what everybody may: the permission set "anonymous".
type Access struct {
	kind        accessKind
	permissions muxrpc.Permissions
}

// accessOfEverybody is one value for all callers that have no more. It never changes.
var accessOfEverybody any = Access{}

type accessKind byte

const (
	accessAnonymous accessKind = iota
	accessGiven
	accessRefused // of an untyped hook that answered false
)

// FullAccess lets the caller call everything that the app serves, except the methods that are denied.
func FullAccess(deny ...string) Access {
	return Access{kind: accessGiven, permissions: muxrpc.Permissions{Deny: slices.Clone(deny)}}
}

// Grant lets the caller call what the permissions allow, instead of what everybody may. Unlike in package muxrpc, a nil
// Allow allows nothing: everything takes [FullAccess].
func Grant(p muxrpc.Permissions) Access {
	return Access{kind: accessGiven, permissions: explicit(p)}
}

// explicit returns a copy of p that allows nothing when p does not say what it allows.
func explicit(p muxrpc.Permissions) muxrpc.Permissions {
	return muxrpc.Permissions{Allow: append([]string{}, p.Allow...), Deny: slices.Clone(p.Deny)}
}

// MarshalJSON gives what the method "auth" answers to those who may call it: null for the access of everybody.
func (a Access) MarshalJSON() ([]byte, error) {
	switch a.kind {
	case accessGiven:
		return json.Marshal(a.permissions)
	case accessRefused:
		return []byte("false"), nil
	}
	return []byte("null"), nil
}

// AuthFunc decides about a caller that has proved its key: what it may do, or an error that refuses the connection.
// The caller learns that it is refused and nothing of the error. ctx ends with the handshake's time.
type AuthFunc func(ctx context.Context, caller Caller) (Access, error)

// accessOf reads what a hook of the method "auth" answered: besides an Access, what hooks of the original answer.
func accessOf(answer any) Access {
	switch v := answer.(type) {
	case Access:
		return v
	case bool:
		if !v {
			return Access{kind: accessRefused}
		}
	case muxrpc.Permissions:
		return Grant(v)
	case *muxrpc.Permissions:
		if v != nil {
			return Grant(*v)
		}
	case map[string]any:
		return accessOfObject(v)
	}
	return Access{}
}

// accessOfObject reads {allow, deny}. As in the original null allows everything; unlike there, it must be said.
func accessOfObject(object map[string]any) Access {
	allow, said := object["allow"]
	var p muxrpc.Permissions
	if decodeInto(object, &p) != nil {
		return Access{}
	}
	if said && allow == nil {
		return FullAccess(p.Deny...)
	}
	return Grant(p)
}

// mergeSets adds a plugin's permissions to the sets, with its prefix before each entry.
func mergeSets(sets map[string]muxrpc.Permissions, added map[string]muxrpc.Permissions, prefix string) {
	for name, p := range added {
		set := sets[name]
		set.Allow = union(set.Allow, p.Allow, prefix)
		set.Deny = union(set.Deny, p.Deny, prefix)
		sets[name] = set
	}
}

// checkPermissions fails for the first entry of a plugin's permissions that names no method, nor anything above one: it
// would allow or deny nothing, which is never what was meant.
func (a *App) checkPermissions(entries []entry) error {
	methods := a.mux.Manifest().Methods()
	for _, e := range entries {
		for _, set := range slices.Sorted(maps.Keys(e.info.Permissions)) {
			p := e.info.Permissions[set]
			for _, name := range slices.Concat(p.Allow, p.Deny) {
				name = prefixed(e.mount, name)
				if !slices.ContainsFunc(methods, func(m string) bool { return m == name || strings.HasPrefix(m, name+".") }) {
					return fmt.Errorf("secretstack: plugin %q has permissions (%q) for the method %q, which no plugin has", e.label(), set, name)
				}
			}
		}
	}
	return nil
}

func union(set, added []string, prefix string) []string {
	for _, entry := range added {
		if entry = prefixed(prefix, entry); !slices.Contains(set, entry) {
			set = append(set, entry)
		}
	}
	return set
}

func prefixed(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}
