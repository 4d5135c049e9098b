package main

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// perSecond runs op again and again in `workers` goroutines for d and returns how often it was done a second.
// The first error ends it.
func perSecond(ctx context.Context, d time.Duration, workers int, op func(context.Context) error) (float64, error) {
	return eachPerSecond(ctx, d, slices.Repeat([]func(context.Context) error{op}, workers))
}

// eachPerSecond does the same with an op of its own for each goroutine.
func eachPerSecond(ctx context.Context, d time.Duration, ops []func(context.Context) error) (float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		count atomic.Int64
		stop  atomic.Bool
		wg    sync.WaitGroup
	)
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()

	start := time.Now()
	for _, op := range ops {
		wg.Go(func() {
			n := int64(0)
			defer func() { count.Add(n) }()
			for !stop.Load() && ctx.Err() == nil {
				if err := op(ctx); err != nil {
					cancel(err)
					return
				}
				n++
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return float64(count.Load()) / time.Since(start).Seconds(), nil
}

// rateAndLatency does the same and returns how often it was done a second, and within how many ms half of it and 99 % of
// it were done.
func rateAndLatency(ctx context.Context, d time.Duration, ops []func(context.Context) error) ([]float64, error) {
	took := make([][]time.Duration, len(ops))
	timed := make([]func(context.Context) error, len(ops))
	for i, op := range ops {
		timed[i] = func(ctx context.Context) error {
			start := time.Now()
			err := op(ctx)
			took[i] = append(took[i], time.Since(start))
			return err
		}
	}
	rate, err := eachPerSecond(ctx, d, timed)
	if err != nil {
		return nil, err
	}
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	within := func(part float64) float64 { return 1000 * all[int(part*float64(len(all)-1))].Seconds() }
	return []float64{rate, within(0.5), within(0.99)}, nil
}

// flowRate keeps run going for d and returns how much it has moved a second, by its own count. The first tenth of d
// is not counted: a stream starts slowly. run must return when its context ends, and its error counts only if it
// comes before that.
func flowRate(ctx context.Context, d time.Duration, run func(ctx context.Context, moved *atomic.Int64) error) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var moved atomic.Int64
	done := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { done <- run(ctx, &moved) })

	if err := pause(ctx, d/10, done); err != nil {
		return 0, err
	}
	before, start := moved.Load(), time.Now()
	if err := pause(ctx, d-d/10, done); err != nil {
		return 0, err
	}
	rate := float64(moved.Load()-before) / time.Since(start).Seconds()
	cancel()
	running.Wait()
	return rate, nil
}

// pause waits for d, unless the work is done before: that is an error, whatever it says.
func pause(ctx context.Context, d time.Duration, done <-chan error) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case err := <-done:
		if err == nil {
			err = errEndedEarly
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drop closes what nobody needs any more; how that goes is of no interest.
func drop(closers ...io.Closer) {
	for _, c := range closers {
		_ = c.Close()
	}
}

// together runs both ends of something and returns the first error. When one end fails the other must end by
// itself: abandon is called for that.
func together(abandon func(), ends ...func() error) error {
	errs := make(chan error, len(ends))
	for _, end := range ends {
		go func() { errs <- end() }()
	}
	var first error
	for range ends {
		if err := <-errs; err != nil && first == nil {
			first = err
			abandon()
		}
	}
	return first
}
