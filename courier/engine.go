package courier

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/keys"
)

const (
	// keptPause is how long a contact is not looked for whose messages wait at a hub or in its request box: it will be
	// heard of when it is back.
	keptPause = 30 * time.Minute
	// leastKept is how long any hub keeps mail. One that says less has another time than we have.
	leastKept = time.Hour
	// oldEvery is how often old messages are looked for.
	oldEvery = time.Hour
)

// engine delivers what waits.
type engine struct {
	cfg    Config
	store  *store.Store
	routes []Route
	log    *slog.Logger

	kick   chan struct{} // something may be due; holds one
	opened atomic.Int64  // how often a way was open that was not

	mu   sync.Mutex
	back map[[keys.PublicKeySize]byte]bool // keys that have connected; guarded by mu
}

func newEngine(cfg Config, s *store.Store, routes []Route) *engine {
	return &engine{
		cfg: cfg, store: s, routes: routes, log: cfg.Logger, kick: make(chan struct{}, 1),
		back: map[[keys.PublicKeySize]byte]bool{},
	}
}

// wake lets the engine look whether something is due. It does not block.
func (e *engine) wake() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// met makes delivery due to whoever has connected. It does not block.
func (e *engine) met(key keys.PublicKey) {
	e.mu.Lock()
	e.back[key.Array()] = true
	e.mu.Unlock()
	e.wake()
}

// wayOpen makes delivery due to everybody whom the last attempt has not reached.
func (e *engine) wayOpen(ctx context.Context) {
	e.opened.Add(1)
	e.report(e.store.HurryAll(ctx))
	e.wake()
}

// takeBack gives the keys that have connected since it was last called.
func (e *engine) takeBack() map[[keys.PublicKeySize]byte]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	back := e.back
	e.back = map[[keys.PublicKeySize]byte]bool{}
	return back
}

// run delivers until ctx ends, and waits for what is under way.
func (e *engine) run(ctx context.Context) {
	var visits sync.WaitGroup
	busy := map[int64]bool{}
	done := make(chan int64)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			go func() { visits.Wait(); close(done) }()
			for range done { // a visit that ends must not wait for us
			}
			return
		case id := <-done:
			delete(busy, id)
		case <-e.kick:
		case <-timer.C:
		}
		if now := e.now(); now.Sub(looked) >= oldEvery {
			looked = now
			e.report(e.store.GiveUp(ctx, now.Add(-e.cfg.GiveUpAfter)))
		}
		due, next := e.due(ctx)
		for _, c := range due {
			if busy[c.ID] || len(busy) >= e.cfg.MaxVisits {
				continue
			}
			busy[c.ID] = true
			visits.Go(func() {
				e.visit(ctx, c)
				done <- c.ID
			})
		}
		timer.Reset(next)
	}
}

// due gives the contacts for whom it is time, and how long it is until the next one's.
func (e *engine) due(ctx context.Context) ([]store.Contact, time.Duration) {
	for key := range e.takeBack() {
		e.hurry(ctx, key)
	}
	if _, err := e.store.QueueReceipts(ctx, e.cfg.Identity); err != nil {
		e.report(err)
	}
	due, next, err := e.store.Due(ctx)
	if err != nil {
		e.report(err)
		return nil, e.cfg.RetryMin
	}
	if next.IsZero() {
		return due, oldEvery
	}
	return due, max(next.Sub(e.now()), time.Millisecond)
}

// hurry makes delivery due to a contact that is back.
func (e *engine) hurry(ctx context.Context, key [keys.PublicKeySize]byte) {
	k, err := keys.NewPublicKey(key[:])
	if err != nil {
		return
	}
	c, err := e.store.ContactByKey(ctx, k)
	if err == nil {
		err = e.store.Hurry(ctx, c.ID)
	}
	if !errors.Is(err, store.ErrNotFound) {
		e.report(err)
	}
}

func (e *engine) now() time.Time { return e.cfg.Store.Now() }

// report logs what only an operator can mend.
func (e *engine) report(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		e.log.Error("courier: the store fails", "error", err)
	}
}

// visit delivers what waits for one contact, and says when to come again.
func (e *engine) visit(ctx context.Context, c store.Contact) {
	v := visit{engine: e, contact: c}
	opened := e.opened.Load()
	trouble := v.deliver(ctx)
	if ctx.Err() != nil {
		return
	}
	wait := keptPause
	switch {
	case trouble != "" && e.opened.Load() != opened: // which this visit may have missed
		wait = e.cfg.RetryMin
	case trouble != "":
		wait = backoff(c.Attempts, e.cfg.RetryMin, e.cfg.RetryMax)
	}
	if err := e.store.Retry(ctx, c.ID, v.last, e.now().Add(pause.Jitter(wait)), trouble); err != nil {
		e.report(err)
		pause.Sleep(ctx, e.cfg.RetryMin) // the contact is still due
	}
}

// backoff is the pause after an attempt in vain when there were others before.
func backoff(before int, least, most time.Duration) time.Duration {
	wait := least
	for range before {
		if wait *= 2; wait >= most {
			return most
		}
	}
	return wait
}

// visit is one attempt to deliver what waits for a contact.
type visit struct {
	*engine
	contact store.Contact
	last    int64 // the ID of the last message that was looked at
}

// deliver tries one route after the other until nothing is left that the next one could do. It returns why something is
// left that waits nowhere else, or "".
func (v *visit) deliver(ctx context.Context) (trouble string) {
	noWay := true
	for _, r := range v.routes {
		left, err := v.use(ctx, r)
		switch {
		case err == nil && !left:
			return ""
		case errors.Is(err, ErrNoWay):
		case err != nil:
			noWay = false
			v.log.Debug("courier: a way failed", "to", v.contact.Key.Short(), "way", r.Name(), "why", err)
			if trouble == "" {
				trouble = err.Error()
			}
		default:
			noWay = false
		}
		if ctx.Err() != nil {
			return ""
		}
	}
	switch {
	case !v.anyQueued(ctx):
		return ""
	case noWay:
		return "no way there is known: ask for a contact card"
	}
	return trouble
}

// anyQueued reports whether something waits that waits nowhere else.
func (v *visit) anyQueued(ctx context.Context) bool {
	for after := int64(0); ; {
		batch, err := v.store.Waiting(ctx, v.contact.ID, after, maxBatch)
		if err != nil || len(batch) == 0 {
			return err != nil
		}
		for _, o := range batch {
			if o.State == store.Queued {
				return true
			}
			after = o.ID
		}
	}
}

// use lets a route deliver as much as it can. It reports whether something is left that it did not take.
func (v *visit) use(ctx context.Context, r Route) (left bool, err error) {
	for after := int64(0); ; {
		waiting, err := v.store.Waiting(ctx, v.contact.ID, after, maxBatch)
		if err != nil {
			return true, err
		}
		if len(waiting) == 0 {
			return left, nil
		}
		batch, last := choose(waiting, r.Keeps())
		after, v.last = last, max(v.last, last)
		if len(batch) == 0 {
			continue
		}
		stuck, err := v.hand(ctx, r, batch)
		if err != nil {
			return true, err
		}
		if stuck {
			return true, nil
		}
	}
}

// choose takes from what waits the messages of one call: not too many bytes, and for a route that keeps them only those
// that nobody keeps yet. It also gives the ID of the last message that it has considered.
func choose(waiting []store.Outgoing, keeps bool) (batch []store.Outgoing, last int64) {
	size := 0
	for _, o := range waiting {
		if size += len(o.Signed); size > maxBatchBytes && len(batch) > 0 {
			break
		}
		last = o.ID
		if !keeps || o.State == store.Queued {
			batch = append(batch, o)
		}
	}
	return batch, last
}

// believed is when a hub throws something away, or zero if its clock and ours cannot both be right.
func (v *visit) believed(expires time.Time) time.Time {
	if left := expires.Sub(v.now()); left < leastKept || left > v.cfg.GiveUpAfter {
		return time.Time{}
	}
	return expires
}

// hand gives one batch to a route and keeps what has become of it. It reports whether the route goes no further.
func (v *visit) hand(ctx context.Context, r Route, batch []store.Outgoing) (stuck bool, err error) {
	outcomes, err := r.Deliver(ctx, v.contact, batch)
	var settled []store.Settlement
	for i, o := range outcomes[:min(len(outcomes), len(batch))] {
		if o.State == store.Queued {
			stuck, err = true, errors.New(o.Note)
			break
		}
		settled = append(settled, store.Settlement{ID: batch[i].ID, State: o.State, Note: o.Note, Expires: v.believed(o.Expires)})
	}
	if failed := v.store.Settle(context.WithoutCancel(ctx), settled...); failed != nil {
		return true, failed
	}
	return stuck || len(settled) < len(batch), err
}
