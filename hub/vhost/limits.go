package vhost

import (
	"cmp"
	"sync"
	"time"

	"github.com/secretstack/secretstack/secrez"
)

const (
	defaultSockets   = 4
	defaultGrace     = 10 * time.Second
	defaultKeepAlive = 15 * time.Second
	defaultQueue     = 256
	defaultWait      = 10 * time.Second
	defaultStreams   = 64
	defaultStandby   = 10 * time.Second

	defaultRequests        = 256
	defaultHeader          = 64 << 10
	defaultReplay          = 16 << 10
	defaultDialTimeout     = 15 * time.Second
	defaultResponseTimeout = 60 * time.Second
	defaultBodyTimeout     = 5 * time.Minute
	defaultExpectTimeout   = time.Second
	defaultSendTimeout     = 30 * time.Second
	defaultVisitorTimeout  = 30 * time.Second
	defaultUpgradeTimeout  = 10 * time.Minute
	defaultMinRate         = 256
)

// positive is v, or fallback for what is not more than nothing.
func positive[T cmp.Ordered](v, fallback T) T {
	var zero T
	if v <= zero {
		return fallback
	}
	return v
}

// bound is v, fallback for zero, and zero (none) for less.
func bound[T cmp.Ordered](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return max(v, zero)
}

// A gauge counts the exchanges of each courier.
type gauge struct {
	most int

	mu    sync.Mutex
	now   map[secrez.ID]int // guarded by mu
	total int               // guarded by mu
}

// enter counts one more exchange, unless the courier has as many as it may have.
func (g *gauge) enter(id secrez.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.now[id]
	if n >= g.most {
		return false
	}
	g.now[id] = n + 1
	g.total++
	return true
}

func (g *gauge) leave(id secrez.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if n := g.now[id]; n > 1 {
		g.now[id] = n - 1
		return
	}
	delete(g.now, id)
}

func (g *gauge) active() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// A pace bounds how long a visitor may keep a courier's connection waiting: no longer than stall at a time, and on the
// whole no slower than rate. It belongs to one goroutine.
type pace struct {
	stall   time.Duration
	rate    int64 // bytes a second; 0: any
	moved   int64
	blocked time.Duration
	until   time.Time // the deadline that is set
}

// deadline gives the next deadline, and whether it differs enough from the one that is set to be worth setting.
func (p *pace) deadline(now time.Time) (time.Time, bool) {
	limit := p.stall
	if p.rate > 0 {
		earned := time.Duration(float64(p.moved) / float64(p.rate) * float64(time.Second))
		limit = min(limit, p.stall+earned-p.blocked)
	}
	want := now.Add(limit)
	if d := want.Sub(p.until); -p.stall/8 < d && d < p.stall/8 {
		return p.until, false
	}
	p.until = want
	return want, true
}

// spent notes that n bytes took until now since start.
func (p *pace) spent(start time.Time, n int) {
	p.blocked += time.Since(start)
	p.moved += int64(n)
}
