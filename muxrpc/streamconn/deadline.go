package streamconn

import (
	"context"
	"os"
	"sync"
	"time"
)

// deadline gives contexts that end at a time which can be changed while somebody waits for it.
type deadline struct {
	mu    sync.Mutex
	ctx   *expiry     // replaced when it has ended
	timer *time.Timer // ends ctx; nil: no deadline
}

func (d *deadline) init() { d.ctx = newExpiry() }

func (d *deadline) context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ctx
}

// set moves the deadline; the zero time is none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	late := d.timer != nil && !d.timer.Stop() // it has ended, or is about to end, the context
	d.timer = nil
	if late || d.ctx.Err() != nil {
		d.ctx = newExpiry()
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, d.ctx.end)
	} else {
		d.ctx.end()
	}
}

// stop ends the context and leaves no timer behind.
func (d *deadline) stop() { d.set(time.Unix(1, 0)) }

// expiry is a context that ends when its time is up. It is cheaper than those of package context, and connections get
// deadlines with every request.
type expiry struct {
	context.Context // has neither values nor an end of its own
	done            chan struct{}
	once            sync.Once
}

func newExpiry() *expiry { return &expiry{Context: context.Background(), done: make(chan struct{})} }

func (e *expiry) end() { e.once.Do(func() { close(e.done) }) }

func (e *expiry) Done() <-chan struct{} { return e.done }

// Err returns what reading and writing fail with.
func (e *expiry) Err() error {
	select {
	case <-e.done:
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}
