package vhost

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"github.com/secretstack/secretstack/secrez"
)

// Pools holds the pool of each tunnel client that a hub knows, from its registration until its pool ends.
type Pools struct {
	ports *Ports
	cfg   PoolConfig
	away  func(secrez.ID)

	opening chan struct{}  // one place: registrations, one at a time
	running sync.WaitGroup // the pools

	mu     sync.Mutex
	pools  map[secrez.ID]*Pool // guarded by mu
	closed bool                // guarded by mu
}

// NewPools makes the pools of a hub. away, unless nil, is called when a pool has ended, on a goroutine of its own; it may
// call everything but Close.
func NewPools(ports *Ports, cfg PoolConfig, away func(secrez.ID)) *Pools {
	return &Pools{
		ports: ports, cfg: cfg.withDefaults(), away: away,
		opening: make(chan struct{}, 1), pools: map[secrez.ID]*Pool{},
	}
}

// Register gives the pool of a courier that has registered from remote: the one it has, or a new one. Its errors are
// [ErrNoPorts], [ErrClosed], the context's and the system's.
func (ps *Pools) Register(ctx context.Context, id secrez.ID, remote netip.Addr) (*Pool, error) {
	select {
	case ps.opening <- struct{}{}:
		defer func() { <-ps.opening }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if p := ps.Pool(id); p != nil && p.Register(remote) == nil {
		return p, nil
	}
	l, err := ps.ports.Listen(ctx, ps.cfg.listenConfig())
	if err != nil {
		return nil, fmt.Errorf("vhost: open a port for a courier: %w", err)
	}
	ps.mu.Lock()
	if ps.closed {
		ps.mu.Unlock()
		_ = l.Close()
		return nil, ErrClosed
	}
	p := newPool(l, ps.cfg, remote, func(p *Pool) { ps.ended(id, p) })
	ps.pools[id] = p
	ps.running.Add(1)
	ps.mu.Unlock()
	return p, nil
}

// ended is called by a pool that has ended.
func (ps *Pools) ended(id secrez.ID, p *Pool) {
	defer ps.running.Done()
	ps.mu.Lock()
	mine := ps.pools[id] == p
	if mine {
		delete(ps.pools, id)
	}
	ps.mu.Unlock()
	if mine && ps.away != nil {
		ps.away(id)
	}
}

// Pool gives the pool of a courier, or nil when it has none.
func (ps *Pools) Pool(id secrez.ID) *Pool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.pools[id]
}

// Courier gives the pool of a courier, or [ErrAway].
func (ps *Pools) Courier(_ context.Context, id secrez.ID) (Courier, error) {
	if p := ps.Pool(id); p != nil {
		return p, nil
	}
	return nil, ErrAway
}

// Remove ends the pool of a courier, without waiting, because it may no longer be reached.
func (ps *Pools) Remove(id secrez.ID) {
	if p := ps.Pool(id); p != nil {
		p.stop()
	}
}

// Len is how many couriers have a pool.
func (ps *Pools) Len() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return len(ps.pools)
}

// Close ends every pool and waits for them. There are no new ones afterwards. It always returns nil.
func (ps *Pools) Close() error {
	ps.mu.Lock()
	ps.closed = true
	all := make([]*Pool, 0, len(ps.pools))
	for _, p := range ps.pools {
		all = append(all, p)
	}
	ps.mu.Unlock()
	for _, p := range all {
		p.stop()
	}
	ps.running.Wait()
	return nil
}
