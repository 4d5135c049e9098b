package muxrpc

import (
	"context"
	"sync/atomic"
)

// sessionContext is a context that knows its session and ends with it. What it takes to wait for that is made when somebody
// wants to: a session that has only answered small calls is not held up by it, and does without.
type sessionContext struct {
	context.Context // has the values, and does not end
	s               *Session
	ending          atomic.Pointer[ending]
}

// ending is the part of a context that ends.
type ending struct {
	context.Context
	cancel context.CancelCauseFunc
}

// whole returns the part that ends, which is made if there is none.
func (c *sessionContext) whole() *ending {
	if e := c.ending.Load(); e != nil {
		return e
	}
	e := new(ending)
	e.Context, e.cancel = context.WithCancelCause(c.Context)
	if c.ending.CompareAndSwap(nil, e) {
		return e
	}
	return c.ending.Load()
}

// known returns the context as it has been made so far.
func (c *sessionContext) known() context.Context {
	if e := c.ending.Load(); e != nil {
		return e
	}
	return c.Context
}

func (c *sessionContext) cancel(reason error) { c.whole().cancel(reason) }

// Done is closed when the session ends.
func (c *sessionContext) Done() <-chan struct{} { return c.whole().Done() }

// Err returns context.Canceled once the session has ended.
func (c *sessionContext) Err() error { return c.known().Err() }

type sessionKey struct{}

// Value returns the session, or what the context underneath has.
func (c *sessionContext) Value(key any) any {
	if _, ok := key.(sessionKey); ok {
		return c.s
	}
	return c.known().Value(key)
}

// SessionFrom returns the session that a handler's context belongs to, or nil.
func SessionFrom(ctx context.Context) *Session {
	s, _ := ctx.Value(sessionKey{}).(*Session)
	return s
}

// PeerFrom returns the Options.Peer of the session that a handler's context belongs to, or nil.
func PeerFrom(ctx context.Context) any {
	if s := SessionFrom(ctx); s != nil {
		return s.peer
	}
	return nil
}
