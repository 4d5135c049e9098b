package netaddr_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/internal/netaddr"
)

func TestAddressesAreComparedAndCounted(t *testing.T) {
	for text, want := range map[string]struct{ plain, customer string }{
		"192.0.2.7":         {"192.0.2.7", "192.0.2.7"},
		"::ffff:192.0.2.7":  {"192.0.2.7", "192.0.2.7"},
		"2001:db8:1:2:3::4": {"2001:db8:1:2:3::4", "2001:db8:1:2::"},
		"fe80::1%eth0":      {"fe80::1", "fe80::"},
		"::1":               {"::1", "::"},
	} {
		addr := netip.MustParseAddr(text)
		if got := netaddr.Plain(addr).String(); got != want.plain {
			t.Errorf("%s is plainly %s", text, got)
		}
		if got := netaddr.Customer(addr).String(); got != want.customer {
			t.Errorf("%s is counted by %s", text, got)
		}
		if got := netaddr.Of(net.JoinHostPort(text, "80")); got.String() != want.plain {
			t.Errorf("%s with a port is %s", text, got)
		}
	}
	if netaddr.Plain(netip.Addr{}).IsValid() || netaddr.Customer(netip.Addr{}).IsValid() || netaddr.Of("").IsValid() || netaddr.Of("localhost:80").IsValid() {
		t.Error("there is an address where there is none")
	}
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if netaddr.Remote(a).IsValid() {
		t.Error("a pipe has an address")
	}
}

func TestNamesOfHosts(t *testing.T) {
	for _, name := range []string{"localhost", "hub.example.org", "xn--bcher-kva.example", "a-b.c1", strings.Repeat("a.", 119) + "a"} {
		if !netaddr.IsHostName(name) {
			t.Errorf("%s is none", name)
		}
	}
	for _, name := range []string{
		"", ".", "a..b", "a.", ".a", "Hub.example", "a_b", "-a.b", "a-.b", "192.0.2.7", "::1", "a:1", "a/b", "bücher.example",
		strings.Repeat("a", 64), strings.Repeat("a.", 120) + "a",
	} {
		if netaddr.IsHostName(name) {
			t.Errorf("%q is one", name)
		}
	}
}
