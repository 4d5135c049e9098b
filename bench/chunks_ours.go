package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
)

func startChunks(ctx context.Context) (meter, error) {
	pair, err := newStackPair(ctx)
	if err != nil {
		return nil, err
	}
	measure := func(ctx context.Context, d time.Duration) (float64, error) {
		rate, err := flowRate(ctx, d, func(ctx context.Context, moved *atomic.Int64) error {
			return read(ctx, pair, "chunks", func(got []byte) error {
				if len(got) != chunkSize {
					return fmt.Errorf("a chunk of %d bytes", len(got))
				}
				moved.Add(chunkSize)
				muxrpc.Recycle(got)
				return nil
			})
		})
		return rate / megabyte, err
	}
	return held{measure, pair.Close}, nil
}
