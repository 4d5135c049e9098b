package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

func startItems(ctx context.Context) (meter, error) {
	pair, err := newStackPair(ctx)
	if err != nil {
		return nil, err
	}
	measure := func(ctx context.Context, d time.Duration) (float64, error) {
		return flowRate(ctx, d, func(ctx context.Context, moved *atomic.Int64) error {
			n := 0
			return read(ctx, pair, "items", func(got item) error {
				if got != newItem(n) {
					return fmt.Errorf("item %d is %+v", n, got)
				}
				n++
				moved.Add(1)
				return nil
			})
		})
	}
	return held{measure, pair.Close}, nil
}
