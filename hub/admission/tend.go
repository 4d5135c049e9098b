package admission

import (
	"context"
	"errors"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
)

const (
	// expiredKept is for how long operators see what has expired before it is removed. A clock that is set forward by mistake
	// and back again within that time loses nothing.
	expiredKept = 24 * time.Hour

	// sweepTime bounds one removal of what has expired. sweepPause is how long the next try waits if one fails, and how often
	// the clock is looked at while something is due: it may have been set.
	sweepTime  = 30 * time.Second
	sweepPause = time.Minute
)

// poke says that something has changed that the hub must hear of.
func (a *Admission) poke() {
	select {
	case a.changed <- struct{}{}:
	default: // it will hear of it with what was there before
	}
}

// quiet forgets the pokes of the beginning.
func (a *Admission) quiet() {
	select {
	case <-a.changed:
	default:
	}
}

// expect notes that something expires. The caller holds mu.
func (a *Admission) expect(expires time.Time) {
	if !expires.IsZero() && (a.due.IsZero() || expires.Before(a.due)) {
		a.due = expires
	}
}

// tend calls OnChange, and sees to what expires. It is one goroutine, so that OnChange never runs twice at a time.
func (a *Admission) tend(ctx context.Context) {
	for ctx.Err() == nil {
		timer, stop := a.untilDue()
		select {
		case <-a.changed:
			a.tellHub()
		case <-timer:
			if a.isDue() {
				a.sweep(ctx)
				a.tellHub()
			}
		case <-ctx.Done():
		}
		stop()
	}
}

func (a *Admission) tellHub() {
	if a.cfg.OnChange != nil {
		a.cfg.OnChange()
	}
}

// untilDue gives a timer for the next thing that expires, but for a minute at most: clocks are set, timers do not hear of it.
func (a *Admission) untilDue() (<-chan time.Time, func()) {
	a.mu.RLock()
	due := a.due
	a.mu.RUnlock()
	if due.IsZero() {
		return nil, func() {}
	}
	timer := time.NewTimer(min(due.Sub(a.cfg.Now()), sweepPause))
	return timer.C, func() { timer.Stop() }
}

func (a *Admission) isDue() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return !a.due.IsZero() && !a.cfg.Now().Before(a.due)
}

// stale is something in a bucket that expired long ago.
type stale struct {
	feed     *feed
	key      string
	revision uint64
}

// sweep removes what expired long ago, and finds out what is due next.
func (a *Admission) sweep(ctx context.Context) {
	old := a.findStale()
	if len(old) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	for _, s := range old {
		err := s.feed.bucket.DeleteIf(ctx, s.key, s.revision)
		if err != nil && !errors.Is(err, registry.ErrConflict) {
			a.log.Debug("admission: remove what has expired", "bucket", s.feed.name, "err", err)
			break // it will be tried again
		}
	}
}

// findStale lists what is to be removed now, and notes what is due next.
func (a *Admission) findStale() (old []stale) {
	now := a.cfg.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due = time.Time{}
	later := func(expires time.Time, remove func() stale) {
		switch gone := expires.Add(expiredKept); {
		case now.Before(expires):
			a.expect(expires)
		case now.Before(gone):
			a.expect(gone)
		default:
			old = append(old, remove())
			a.expect(now.Add(sweepPause)) // to see whether it has worked
		}
	}
	for s, r := range a.rules {
		if !r.Expires.IsZero() {
			later(r.Expires, func() stale { return stale{&a.ruleFeed, s.String(), r.revision} })
		}
	}
	for _, r := range a.fixed {
		if now.Before(r.Expires) {
			a.expect(r.Expires)
		}
	}
	for id, i := range a.invites {
		if !i.Expires.IsZero() && len(i.Members) == 0 {
			later(i.Expires, func() stale { return stale{&a.inviteFeed, id, i.revision} })
		}
	}
	return old
}
