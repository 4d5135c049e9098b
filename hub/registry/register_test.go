package registry

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// asked is a context that knows whether somebody has asked for its channel.
type asked struct {
	context.Context
	done atomic.Bool
}

func (c *asked) Done() <-chan struct{} {
	c.done.Store(true)
	return c.Context.Done()
}

func TestRegisteringLeavesNothingInTheContext(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	for n := range uint64(60) {
		ctx, began := &asked{Context: t.Context()}, time.Now()
		if _, err := r.Register(ctx, native(t, identity(t, n))); err != nil {
			t.Fatal(err)
		}
		if time.Since(began) >= answerSoon {
			continue // the disk is busy
		}
		if ctx.done.Load() {
			t.Error("its channel was asked for")
		}
		return
	}
	t.Error("no answer came soon")
}

// stuck is a registry whose writer takes so many requests and answers none.
func stuck(t *testing.T, takes int) *Registry {
	return &Registry{
		run: new(run), requests: make(chan *request, takes), done: make(chan struct{}), life: t.Context(),
		cfg: Config{Limits: Limits{MinFree: -1, WriteTimeout: time.Minute, CloseTimeout: time.Minute}},
	}
}

func TestWaitingForTheWriterEnds(t *testing.T) {
	for name, takes := range map[string]int{"that takes nothing": 0, "that does not answer": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, began := stuck(t, takes), time.Now()
				if _, err := r.commit(t.Context(), new(petition)); !errors.Is(err, ErrUnavailable) || time.Since(began) > 5*time.Minute {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				r, began := stuck(t, takes), time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
				defer cancel()
				if _, err := r.commit(ctx, new(petition)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > answerSoon {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				r := stuck(t, takes)
				time.AfterFunc(time.Minute, func() { close(r.done) })
				if _, err := r.commit(t.Context(), new(petition)); !errors.Is(err, ErrClosed) {
					t.Error(err)
				}
			})
		})
	}
}
