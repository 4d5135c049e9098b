package port

import (
	"container/list"
	"errors"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/secretstack/secretstack/internal/netaddr"
)

var (
	errCrowd   = errors.New("too many connections of this address")
	errCrowded = errors.New("too many connections, and something is done for each of them")
)

// reason is why a connection was refused.
type reason int

const (
	denied reason = iota
	crowded
	malformed
	reasons
)

// guests are the open connections whose peers have proved no key.
type guests struct {
	max, maxPerAddress int
	log                *slog.Logger

	mu        sync.Mutex
	present   int
	byAddress map[netip.Addr]int // who counts by address
	quiet     list.List          // of *visit, the one for which nothing has been done for longest first
	accepted  uint64
	refused   [reasons]uint64
	madeRoom  uint64
}

// enter counts a connection, for an address unless it is the zero value. Another may have to make room for it.
func (g *guests) enter(c *visit, visitor netip.Addr) error {
	gone, err := g.admit(c, group(visitor))
	if gone != nil {
		g.log.Debug("connection closed to make room", "remote", gone.RemoteAddr())
		_ = gone.Conn.Close() // whoever reads from it closes the rest
	}
	return err
}

func (g *guests) admit(c *visit, visitor netip.Addr) (gone *visit, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if visitor.IsValid() && g.byAddress[visitor] >= g.maxPerAddress {
		g.refused[crowded]++
		return nil, errCrowd
	}
	if g.present >= g.max {
		oldest := g.quiet.Front()
		if oldest == nil {
			g.refused[crowded]++
			return nil, errCrowded
		}
		gone = oldest.Value.(*visit)
		g.remove(gone)
		g.madeRoom++
	}
	g.add(c, visitor)
	return gone, nil
}

// add is called with mu held.
func (g *guests) add(c *visit, visitor netip.Addr) {
	c.inside, c.counted = true, visitor
	c.quiet = g.quiet.PushBack(c)
	g.present++
	g.accepted++
	if visitor.IsValid() {
		if g.byAddress == nil {
			g.byAddress = map[netip.Addr]int{}
		}
		g.byAddress[visitor]++
	}
}

// remove is called with mu held.
func (g *guests) remove(c *visit) {
	if !c.inside {
		return
	}
	c.inside = false
	if c.quiet != nil {
		g.quiet.Remove(c.quiet)
		c.quiet = nil
	}
	g.present--
	if c.counted.IsValid() {
		if g.byAddress[c.counted]--; g.byAddress[c.counted] == 0 {
			delete(g.byAddress, c.counted)
		}
	}
}

// leave ends that a connection counts.
func (g *guests) leave(c *visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.remove(c)
}

// busy says that something is done for the connection, which need not make room therefore.
func (g *guests) busy(c *visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.quiet != nil {
		g.quiet.Remove(c.quiet)
		c.quiet = nil
	}
}

// idle says that nothing is done for the connection from now on.
func (g *guests) idle(c *visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.inside && c.quiet == nil {
		c.quiet = g.quiet.PushBack(c)
	}
}

func (g *guests) count(why reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused[why]++
}

func (g *guests) stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{
		Unproved: g.present, Addresses: len(g.byAddress), Accepted: g.accepted,
		Denied: g.refused[denied], Crowded: g.refused[crowded], Malformed: g.refused[malformed], MadeRoom: g.madeRoom,
	}
}

// group returns what an address counts as: one host has the last 64 bits of an IPv6 address to itself. Loopback does not
// count.
func group(addr netip.Addr) netip.Addr {
	if !addr.IsValid() || addr.IsLoopback() {
		return netip.Addr{}
	}
	return netaddr.Customer(addr)
}
