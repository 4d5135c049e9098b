package secrezapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// dialTimeout bounds how long a connection may take to open.
const dialTimeout = 10 * time.Second

// ErrPrivate says that an address leads to this machine or into a private network, and is no hub of the owner's.
var ErrPrivate = errors.New("secrezapi: the address leads into a private network")

// dialer opens connections to where addresses of contacts lead. Such an address is somebody else's word, so it must not
// lead to what only this machine, or its network, can reach: unless the owner himself has chosen the hub there.
type dialer struct {
	hubs     []string // of the owner, as host and port
	resolver *net.Resolver
}

// dial connects to a host and port. What is checked is the address that is dialled, after names are resolved, so that no
// name can lead elsewhere than it did when it was checked.
func (d dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	own := slices.ContainsFunc(d.hubs, func(hub string) bool { return belongsTo(host, port, hub) })
	guarded := net.Dialer{Timeout: dialTimeout, Resolver: d.resolver, Control: func(_, at string, _ syscall.RawConn) error {
		if !mayConnect(at, own) {
			return fmt.Errorf("%w: %s", ErrPrivate, at)
		}
		return nil
	}}
	if !isLocalhost(host) {
		return guarded.DialContext(ctx, network, address)
	}
	// Names below localhost are this machine, whatever resolvers say.
	conn, err := guarded.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	if err != nil && !errors.Is(err, ErrPrivate) {
		conn, err = guarded.DialContext(ctx, network, net.JoinHostPort("::1", port))
	}
	return conn, err
}

// belongsTo reports whether a host and port are those of a hub, or of a courier at it.
func belongsTo(host, port, hub string) bool {
	hubHost, hubPort, err := net.SplitHostPort(hub)
	if err != nil || port != hubPort {
		return false
	}
	if isLocalhost(host) && (isLocalhost(hubHost) || isLoopback(hubHost)) {
		return true // a hub that has no name calls itself localhost
	}
	host, hubHost = plainHost(host), plainHost(hubHost)
	return host == hubHost || strings.HasSuffix(host, "."+hubHost)
}

func plainHost(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

func isLocalhost(host string) bool {
	host = plainHost(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// private are the networks of the owner's own: his machine, his provider's, and what he has set up. never are those in
// which there is no hub of anybody's.
var (
	private = prefixes("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "::1/128", "fc00::/7")
	never   = prefixes("0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "224.0.0.0/3", // the last: multicast, reserved, broadcast
		"::/96", "100::/64", "2001::/32", "2002::/16", "fe80::/10", "fec0::/10", "ff00::/8", // with Teredo and 6to4, which lead into IPv4
		"64:ff9b:1::/48", "::ffff:0:0:0/96")
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
)

func prefixes(all ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(all))
	for i, p := range all {
		out[i] = netip.MustParsePrefix(p)
	}
	return out
}

// mayConnect reports whether an address and port may be connected to. A hub of the owner's own may be in a private network.
func mayConnect(at string, own bool) bool {
	parsed, err := netip.ParseAddrPort(at)
	if err != nil {
		return false
	}
	addr := parsed.Addr().Unmap().WithZone("") // no prefix contains an address with a zone
	if nat64.Contains(addr) {
		b := addr.As16()
		addr = netip.AddrFrom4([4]byte(b[12:])) // whoever has nothing but IPv6 reaches IPv4 this way
	}
	in := func(all []netip.Prefix) bool {
		return slices.ContainsFunc(all, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	if in(private) {
		return own
	}
	return !in(never)
}
