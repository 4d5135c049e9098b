package admission

import (
	"net/netip"
	"sync"

	"github.com/secretstack/secretstack/internal/netaddr"
)

// Gate bounds how many connections there are at a time, in all and from one address. All its methods may be called
// concurrently.
type Gate struct {
	mu      sync.Mutex
	total   int                   // zero: any number; guarded by mu
	each    int                   // zero: any number; guarded by mu
	free    func(netip.Addr) bool // for whom each does not hold; guarded by mu
	now     int                   // guarded by mu
	refused uint64                // guarded by mu
	clients map[[16]byte]int      // who has how many; guarded by mu
}

// NewGate makes a gate for so many connections in all, and so many from one address (IPv6: /64). Zero or less: any number.
// Connections from loopback and without an address count in all alone.
func NewGate(total, perAddress int) *Gate {
	g := &Gate{clients: map[[16]byte]int{}}
	g.set(total, perAddress, (&inForce{}).free)
	return g
}

// set changes the bounds, and who has none. Connections that are there stay.
func (g *Gate) set(total, perAddress int, free func(netip.Addr) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total, g.each, g.free = max(total, 0), max(perAddress, 0), free
}

// Enter counts one more connection. Its error is [ErrFull] or [ErrCrowded]; then nothing is counted.
func (g *Gate) Enter(addr netip.Addr) error {
	addr = netaddr.Plain(addr)
	who := block(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total > 0 && g.now >= g.total {
		g.refused++
		return ErrFull
	}
	if g.each > 0 && g.clients[who] >= g.each && !g.free(addr) {
		g.refused++
		return ErrCrowded
	}
	g.now++
	g.clients[who]++
	return nil
}

// Leave counts one connection less. It is called once for each Enter that had no error, with the same address.
func (g *Gate) Leave(addr netip.Addr) {
	who := block(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.clients[who]
	if !ok {
		return
	}
	g.now--
	if n == 1 {
		delete(g.clients, who)
	} else {
		g.clients[who] = n - 1
	}
}

// Count tells how many connections there are, and how many were refused so far.
func (g *Gate) Count() (now int, refused uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now, g.refused
}
