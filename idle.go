package secretstack

import "time"

// idleLooks is how often at most idle connections are looked for in the time that a connection may be idle.
const idleLooks = 64

// watchIdle makes sure that idle connections end. One timer serves all of them, because one for each would be a good part
// of what an idle connection costs. The caller holds mu.
func (a *App) watchIdle() {
	if a.idle == nil && a.cfg.inactivity > 0 && a.state == running {
		a.idle = time.AfterFunc(a.cfg.inactivity, a.endIdle)
	}
}

// endIdle ends the connections over which nothing has gone for the app's time, those with itself aside, and comes again
// when the next may have to go.
func (a *App) endIdle() {
	limit := a.cfg.inactivity
	next := limit
	for _, p := range a.Peers() {
		left := limit - time.Since(p.Activity())
		switch {
		case p.Key().Equal(a.ID()):
		case left <= 0:
			p.Abort(ErrInactive)
		default:
			next = min(next, left)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != running {
		return
	}
	if len(a.peers) == 0 {
		a.idle = nil
		return
	}
	a.idle.Reset(max(next, limit/idleLooks))
}
