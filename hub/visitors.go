package hub

import (
	"context"
	"net/netip"
	"sync"
)

// visitors are the requests under way, upgraded connections included, so that they can be ended and waited for.
type visitors struct {
	mu   sync.Mutex
	all  map[*visit]struct{}
	idle chan struct{} // closed when all is empty; nil: nobody waits
}

type visit struct {
	addr   netip.Addr
	cancel context.CancelCauseFunc
}

// enter adds a request of somebody at an address. The context ends when the visitor is not welcome any more.
func (v *visitors) enter(ctx context.Context, addr netip.Addr) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	one := &visit{addr, cancel}
	v.mu.Lock()
	if v.all == nil {
		v.all = map[*visit]struct{}{}
	}
	v.all[one] = struct{}{}
	v.mu.Unlock()
	return ctx, func() {
		cancel(nil)
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.all, one)
		if len(v.all) == 0 && v.idle != nil {
			close(v.idle)
			v.idle = nil
		}
	}
}

func (v *visitors) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.all)
}

// wait waits until there are no requests, or ctx ends.
func (v *visitors) wait(ctx context.Context) {
	v.mu.Lock()
	if len(v.all) == 0 {
		v.mu.Unlock()
		return
	}
	if v.idle == nil {
		v.idle = make(chan struct{})
	}
	idle := v.idle
	v.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// recheck ends the requests of those who are not welcome any more.
func (v *visitors) recheck(welcome func(netip.Addr) error) {
	v.mu.Lock()
	all := make([]*visit, 0, len(v.all))
	for one := range v.all {
		all = append(all, one)
	}
	v.mu.Unlock()
	for _, one := range all {
		if err := welcome(one.addr); err != nil {
			one.cancel(err)
		}
	}
}

// end ends all.
func (v *visitors) end(reason error) {
	v.recheck(func(netip.Addr) error { return reason })
}
