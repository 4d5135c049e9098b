// Package pause waits between attempts.
package pause

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits, and reports whether ctx is still alive.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// Jitter makes d, which is not negative, between a half and one and a half of itself, so that those who have lost the same
// peer do not all come back at once.
func Jitter(d time.Duration) time.Duration { return Between(d/2, d+d/2) }

// Between is a time between two.
func Between(least, most time.Duration) time.Duration {
	return least + rand.N(most-least+1) //nolint:gosec // no secret
}
