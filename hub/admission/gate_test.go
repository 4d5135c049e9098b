package admission

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
)

func TestAGateBoundsConnections(t *testing.T) {
	g := NewGate(5, 2)
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2") // one customer
	want(t, "first", g.Enter(a), nil)
	want(t, "second", g.Enter(b), nil)
	want(t, "third of one customer", g.Enter(a), ErrCrowded)
	want(t, "another customer", g.Enter(stranger), nil)
	want(t, "loopback", g.Enter(netip.MustParseAddr("127.0.0.1")), nil)
	want(t, "no address", g.Enter(netip.Addr{}), nil)
	want(t, "one too many", g.Enter(neighbour), ErrFull)
	want(t, "loopback too", g.Enter(netip.MustParseAddr("127.0.0.1")), ErrFull)
	g.Leave(b)
	want(t, "after one has left", g.Enter(a), nil)
	for _, addr := range []netip.Addr{a, a, stranger, netip.MustParseAddr("::ffff:127.0.0.1"), {}} {
		g.Leave(addr)
	}
	if n, refused := g.Count(); n != 0 || refused != 3 || len(g.clients) != 0 {
		t.Errorf("%d are there, %d were refused, %d are remembered", n, refused, len(g.clients))
	}
	g.Leave(stranger) // once too often
	if n, _ := g.Count(); n != 0 {
		t.Errorf("%d are there", n)
	}
}

func TestAGateWithoutBounds(t *testing.T) {
	g := NewGate(0, -1)
	if n := passes(10_000, func() error { return g.Enter(stranger) }); n != 10_000 {
		t.Errorf("%d", n)
	}
	g.set(20_000, 0, g.free)
	want(t, "more", g.Enter(stranger), nil)
	g.set(0, 5, g.free)
	want(t, "from one address", g.Enter(stranger), ErrCrowded)
	want(t, "from another", g.Enter(neighbour), nil)
	g.set(5, 0, g.free)
	want(t, "in all", g.Enter(netip.MustParseAddr("192.0.2.99")), ErrFull)
}

func TestTheHubsGateFollowsTheLimits(t *testing.T) {
	a, _ := open(t, func(c *Config) { c.Limits.ConnectionsPerAddress = 1 })
	g := a.Gate()
	want(t, "one", g.Enter(stranger), nil)
	want(t, "two", g.Enter(stranger), ErrCrowded)
	exempt := []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")}
	want(t, "SetLimits", a.SetLimits(Limits{ConnectionsPerAddress: 1, Connections: 2, Exempt: exempt}), nil)
	want(t, "two, when exempt", g.Enter(stranger), nil)
	want(t, "three", g.Enter(stranger), ErrFull)
	want(t, "SetLimits", a.SetLimits(Limits{ConnectionsPerAddress: 1, Connections: -1}), nil)
	want(t, "three, when not exempt", g.Enter(stranger), ErrCrowded)
	g.Leave(stranger)
	g.Leave(stranger)
	want(t, "after both have left", g.Enter(stranger), nil)
	want(t, "SetLimits", a.SetLimits(Limits{}), nil)
	if n := passes(2000, func() error { return g.Enter(neighbour) }); n != defaultPerAddress {
		t.Errorf("%d by default", n)
	}
}

func TestAGateCountsRight(t *testing.T) {
	const most = 20
	g := NewGate(most, 5)
	var inside, peak, crowded atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 8)})
			for range 2000 {
				if g.Enter(addr) != nil {
					crowded.Add(1)
					continue
				}
				n := inside.Add(1)
				for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
				}
				inside.Add(-1)
				g.Leave(addr)
			}
		})
	}
	wg.Wait()
	if n, refused := g.Count(); n != 0 || int64(refused) != crowded.Load() || peak.Load() > most || len(g.clients) != 0 {
		t.Errorf("%d are left, %d were there at a time", n, peak.Load())
	}
}
