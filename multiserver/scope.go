package multiserver

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Scope says from how far an address can be reached.
type Scope string

// The scopes. Local and Private mean the same addresses but are different
// labels, as in JavaScript: what is offered under one is not under the other.
const (
	Device  Scope = "device"  // this machine
	Local   Scope = "local"   // the local network
	Private Scope = "private" // the local network
	Public  Scope = "public"  // the internet
)

// ParseScope returns the scope that s names.
func ParseScope(s string) (Scope, error) {
	switch scope := Scope(s); scope {
	case Device, Local, Private, Public:
		return scope, nil
	}
	return "", fmt.Errorf("multiserver: invalid scope: %s (the scopes are device, local, private and public)", shorten(s))
}

// Scopes is one scope or several. In JSON it is a string or an array.
type Scopes []Scope

// UnmarshalJSON reads a scope or an array of scopes and checks each.
func (s *Scopes) UnmarshalJSON(b []byte) error {
	texts, err := stringOrList(b, "scope")
	if err != nil {
		return err
	}
	*s = nil
	for _, text := range texts {
		scope, err := ParseScope(text)
		if err != nil {
			return err
		}
		*s = append(*s, scope)
	}
	return nil
}

// MarshalJSON writes one scope as a string and several as an array.
func (s Scopes) MarshalJSON() ([]byte, error) { return marshalStringOrList(s) }

// Hosts is one host name or several. In JSON it is a string or an array.
type Hosts []string

// UnmarshalJSON reads a string or an array of strings.
func (h *Hosts) UnmarshalJSON(b []byte) error {
	texts, err := stringOrList(b, "external")
	*h = texts
	return err
}

// MarshalJSON writes one host as a string and several as an array.
func (h Hosts) MarshalJSON() ([]byte, error) { return marshalStringOrList(h) }

func stringOrList(b []byte, field string) ([]string, error) {
	if string(b) == "null" {
		return nil, nil
	}
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		return []string{one}, nil
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("multiserver: %q must be a string or an array of strings", field)
	}
	return list, nil
}

func marshalStringOrList[S ~string](list []S) ([]byte, error) {
	if len(list) == 1 {
		return json.Marshal(list[0])
	}
	return json.Marshal(list)
}

// Interface is one network interface of this machine, as far as choosing an
// address needs it.
type Interface struct {
	Name  string
	Addrs []netip.Addr
}

// SystemInterfaces returns the network interfaces of this machine that are up.
func SystemInterfaces() ([]Interface, error) {
	system, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("multiserver: cannot list the network interfaces: %w", err)
	}
	var all []Interface
	for _, i := range system {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away in the meantime
		}
		iface := Interface{Name: i.Name}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil {
				iface.Addrs = append(iface.Addrs, zoned(prefix.Addr(), i.Name))
			}
		}
		all = append(all, iface)
	}
	return all, nil
}

// zoned adds the interface's name to a link-local address, which cannot be
// listened on without it.
func zoned(a netip.Addr, iface string) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone(iface)
	}
	return a
}

// scopeHost returns the host that stands for scope on this machine, or "" when
// it has none. See docs/PROTOCOL.md §6.2.
func scopeHost(scope Scope, interfaces func() ([]Interface, error)) (string, error) {
	switch scope {
	case Device:
		return "localhost", nil
	case Local, Private:
		return firstAddr(interfaces, isPrivate)
	case Public:
		return firstAddr(interfaces, isPublic)
	}
	_, err := ParseScope(string(scope))
	return "", err
}

func isPrivate(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLinkLocalUnicast()
}

func isPublic(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !isPrivate(a)
}

// firstAddr returns the best address that suits: wireless before wired before
// other interfaces before tunnels, IPv4 before IPv6, and link-local ones last,
// for they are of use only to those who know the link.
func firstAddr(interfaces func() ([]Interface, error), suits func(netip.Addr) bool) (string, error) {
	if interfaces == nil {
		interfaces = SystemInterfaces
	}
	all, err := interfaces()
	if err != nil {
		return "", err
	}
	type candidate struct {
		addr netip.Addr
		rank [3]int
	}
	var candidates []candidate
	for _, i := range all {
		for _, a := range i.Addrs {
			a = a.Unmap()
			if !suits(a) {
				continue
			}
			rank := [3]int{oneIf(a.IsLinkLocalUnicast()), interfaceRank(i.Name), oneIf(a.Is6())}
			candidates = append(candidates, candidate{a, rank})
		}
	}
	if len(candidates) == 0 {
		return "", nil
	}
	best := slices.MinFunc(candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rank[0], b.rank[0]), cmp.Compare(a.rank[1], b.rank[1]), cmp.Compare(a.rank[2], b.rank[2]))
	})
	return best.addr.String(), nil
}

func interfaceRank(name string) int {
	for rank, prefix := range []string{"wl", "en", "eth"} {
		if strings.HasPrefix(name, prefix) {
			return rank
		}
	}
	if strings.HasPrefix(name, "tun") {
		return 4
	}
	return 3
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}
