// Package netaddr has the forms in which addresses and names of hosts are compared and counted.
package netaddr

import (
	"net"
	"net/netip"
	"strings"
)

// Plain is an address as it is compared: IPv4 as such, without a zone.
func Plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Customer is what an address is counted by: itself, or the first address of the /64 of an IPv6 one, whose last 64 bits
// whoever has the network can choose.
func Customer(a netip.Addr) netip.Addr {
	a = Plain(a)
	if !a.Is6() {
		return a
	}
	b := a.As16()
	clear(b[8:])
	return netip.AddrFrom16(b)
}

// Remote is the plain address from where a connection comes, the zero value for one without.
func Remote(conn net.Conn) netip.Addr {
	switch addr := conn.RemoteAddr().(type) {
	case nil:
		return netip.Addr{}
	case *net.TCPAddr:
		return Plain(addr.AddrPort().Addr())
	default:
		return Of(addr.String())
	}
}

// Of is the plain address in a text with address and port, as in the RemoteAddr of an HTTP request; the zero value when
// there is none.
func Of(text string) netip.Addr {
	at, _ := netip.ParseAddrPort(text)
	return Plain(at.Addr())
}

// longestName leaves room, in the 253 bytes that DNS takes, for the id of a courier or another label in front of a name.
const longestName = 240

// IsHostName reports whether a text is the name of a host, in lower case, such as "hub.example.org" or "localhost". An
// address is none.
func IsHostName(s string) bool {
	if len(s) > longestName || net.ParseIP(s) != nil {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || strings.Trim(label, "-") != label {
			return false
		}
	}
	return true
}
