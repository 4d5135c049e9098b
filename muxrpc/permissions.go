package muxrpc

import (
	"errors"
	"slices"
	"strings"
)

// Permissions says which methods a peer may call, docs/PROTOCOL.md §4.4. An entry is a dotted path and covers everything
// below it: "blobs" covers "blobs.get". An entry of Deny wins over one of Allow.
type Permissions struct {
	// Allow lists what may be called. Nil means everything, empty means nothing.
	Allow []string `json:"allow"`
	// Deny lists what may not be called.
	Deny []string `json:"deny"`
}

// Check returns nil if path may be called, and otherwise the error that the peer is told. Its text is the one that
// other implementations match on.
func (p Permissions) Check(path []string) error { return p.compile().check(path, pathKeys(path)) }

// permissionSet is Permissions in the form that is looked up for each call.
type permissionSet struct {
	all   bool // Allow is nil
	allow map[string]bool
	deny  map[string]bool
}

// pathSeparator joins paths where a dot could be part of a name.
const pathSeparator = "\x00"

func (p Permissions) compile() *permissionSet {
	return &permissionSet{all: p.Allow == nil, allow: pathSet(p.Allow), deny: pathSet(p.Deny)}
}

// compiled is Permissions and what they are compiled to.
type compiled struct {
	from Permissions
	set  *permissionSet
}

// permissionSet returns what p is compiled to. Most sessions of a Mux have the same permissions as the one before, and
// share them.
func (m *Mux) permissionSet(p Permissions) *permissionSet {
	if m == nil {
		return p.compile()
	}
	if last := m.permissions.Load(); last != nil && last.from.equal(p) {
		return last.set
	}
	c := &compiled{from: p.clone(), set: p.compile()}
	m.permissions.Store(c)
	return c.set
}

func (p Permissions) equal(other Permissions) bool {
	return slices.Equal(p.Allow, other.Allow) && slices.Equal(p.Deny, other.Deny) &&
		(p.Allow == nil) == (other.Allow == nil)
}

func (p Permissions) clone() Permissions {
	return Permissions{Allow: slices.Clone(p.Allow), Deny: slices.Clone(p.Deny)}
}

func pathSet(entries []string) map[string]bool {
	if len(entries) == 0 {
		return nil
	}
	set := make(map[string]bool, len(entries))
	for _, entry := range entries {
		set[strings.ReplaceAll(entry, ".", pathSeparator)] = true
	}
	return set
}

// pathKeys returns the keys under which path and what is above it are looked up, from the top down.
func pathKeys(path []string) []string {
	keys := make([]string, len(path))
	for i := range path {
		keys[i] = strings.Join(path[:i+1], pathSeparator)
	}
	return keys
}

// check is Permissions.Check for a path whose keys are known.
func (s *permissionSet) check(path, keys []string) error {
	if !s.all && !covers(s.allow, keys) {
		return Errorf("method:%s is "+denied, strings.Join(path, ","))
	}
	if covers(s.deny, keys) {
		return Errorf("method:%s is on list of disallowed methods", strings.Join(path, ","))
	}
	return nil
}

// covers reports whether one of keys is in set.
func covers(set map[string]bool, keys []string) bool {
	if len(set) == 0 {
		return false
	}
	for _, key := range keys {
		if set[key] {
			return true
		}
	}
	return false
}

// denied ends the message of every peer that does not let a method be called, or has none of that name: docs/PROTOCOL.md §4.4.
const denied = "not in list of allowed methods"

// IsDenied reports whether a peer has answered that it does not let us call a method, or has none of that name.
func IsDenied(err error) bool {
	remote, ok := errors.AsType[*RemoteError](err)
	return ok && strings.HasSuffix(remote.Message, denied)
}
