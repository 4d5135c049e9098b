package main

import (
	"context"
	"time"
)

func measureLibp2pInMemory(ctx context.Context, d time.Duration) (float64, error) {
	return measureInMemory(libp2pFlow)(ctx, d)
}
