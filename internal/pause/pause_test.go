package pause_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/pause"
)

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if !pause.Sleep(t.Context(), time.Minute) || time.Since(began) != time.Minute {
			t.Errorf("slept for %v", time.Since(began))
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		began = time.Now()
		if pause.Sleep(ctx, time.Minute) || time.Since(began) != time.Second {
			t.Errorf("slept for %v when the context ended", time.Since(began))
		}
	})
}

func TestJitterStaysWithinItsBounds(t *testing.T) {
	for _, d := range []time.Duration{0, 1, time.Second, time.Hour} {
		different := map[time.Duration]bool{}
		for range 100 {
			got := pause.Jitter(d)
			if got < d/2 || got > d+d/2 {
				t.Fatalf("%v becomes %v", d, got)
			}
			different[got] = true
		}
		if d >= time.Second && len(different) < 50 {
			t.Errorf("%v becomes one of %d times", d, len(different))
		}
	}
}
