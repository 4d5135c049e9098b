// Package stay keeps an app connected to a peer that it cannot do without, such as a room or a hub: it dials again and
// again, with pauses that grow and are not the same for everybody, and notices a peer that has gone silent.
package stay

import (
	"context"
	"errors"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/pause"
)

// The defaults of Options.
const (
	DefaultRetryMin = time.Second
	DefaultRetryMax = time.Minute
)

// Options say with whom to stay connected, and how. Dial is needed.
type Options struct {
	// Dial gives a connection.
	Dial func(ctx context.Context) (*secretstack.Peer, error)
	// Use is called with each connection and returns when it is of no use any more, with the reason; an [Again] says when
	// to dial the next time. It must return when ctx ends. Nil: waits for the end of the connection.
	Use func(ctx context.Context, p *secretstack.Peer) error
	// Lost is told why there is no connection, and how long the pause until the next attempt is about to be. Nil: nobody is.
	Lost func(err error, pause time.Duration)
	// RetryMin and RetryMax bound the pause between two attempts. It doubles with each, and starts from RetryMin again
	// after a connection that has lasted for RetryMax. What is waited in the end is between a half and one and a half of
	// it, so that those who have lost the same peer do not all come back at once. Zero: DefaultRetryMin, DefaultRetryMax.
	RetryMin, RetryMax time.Duration
}

// Again is a reason to dial again after a time of the peer's own choice, or up to half as much later.
type Again struct{ After time.Duration }

// Error says when.
func (a *Again) Error() string { return "the peer asked to come back in " + a.After.String() }

// Connected connects again and again, until ctx ends.
func Connected(ctx context.Context, o Options) {
	if o.RetryMin <= 0 {
		o.RetryMin = DefaultRetryMin
	}
	if o.RetryMax <= 0 {
		o.RetryMax = DefaultRetryMax
	}
	retry := o.RetryMin
	for {
		lasted, err := o.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if lasted > o.RetryMax {
			retry = o.RetryMin
		}
		wait, least := retry, retry/2
		if again, ok := errors.AsType[*Again](err); ok {
			wait, least, retry = again.After, again.After, o.RetryMin
		} else {
			retry = min(2*retry, o.RetryMax)
		}
		if o.Lost != nil {
			o.Lost(err, wait)
		}
		if !pause.Sleep(ctx, pause.Between(least, wait+wait/2)) {
			return
		}
	}
}

// once dials, and uses the connection until it is over.
func (o *Options) once(ctx context.Context) (lasted time.Duration, err error) {
	p, err := o.Dial(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if o.Use != nil {
		err = o.Use(ctx, p)
		return time.Since(began), err
	}
	select {
	case <-p.Done():
		return time.Since(began), p.Err()
	case <-ctx.Done():
		return time.Since(began), ctx.Err()
	}
}

// Watch uses a connection every so often, with ping, so that neither side takes it for idle, and ends it with silent when
// the peer takes longer than timeout to answer. What it answers does not matter. It returns when the connection or ctx
// has ended.
func Watch(ctx context.Context, p *secretstack.Peer, every, timeout time.Duration, silent error, ping func(ctx context.Context) error) {
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-p.Done():
			return
		case <-ctx.Done():
			return
		}
		asking, stop := context.WithTimeout(ctx, timeout)
		err := ping(asking)
		stop()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			p.Abort(silent)
		}
		timer.Reset(every)
	}
}
