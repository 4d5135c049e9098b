package admin

import (
	"net/netip"
	"sync"
	"time"

	"github.com/secretstack/secretstack/internal/netaddr"
)

// Bounds on guessing the token.
const (
	maxFailures  = 10          // wrong tokens from one network within throttleSpan
	throttleSpan = time.Minute // from the first of them
	maxThrottled = 1024        // networks that are remembered
)

// throttle remembers from where wrong tokens came.
type throttle struct {
	mu       sync.Mutex
	failures map[netip.Addr]failures
}

type failures struct {
	count int
	since time.Time
}

// wait tells how long an address has to wait before it may try again. Zero: it may now.
func (t *throttle) wait(from netip.Addr) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.failures[netaddr.Customer(from)]
	if left := throttleSpan - time.Since(f.since); f.count >= maxFailures && left > 0 {
		return left
	}
	return 0
}

// failed counts a wrong token.
func (t *throttle) failed(from netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == nil {
		t.failures = map[netip.Addr]failures{}
	}
	n := netaddr.Customer(from)
	f, known := t.failures[n]
	if time.Since(f.since) >= throttleSpan {
		f = failures{since: time.Now()}
	}
	if !known && len(t.failures) >= maxThrottled {
		t.forget()
	}
	f.count++
	t.failures[n] = f
}

// forget makes room: what is over goes, or else what began first.
func (t *throttle) forget() {
	var oldest netip.Addr
	for n, f := range t.failures {
		if time.Since(f.since) >= throttleSpan {
			delete(t.failures, n)
		} else if !oldest.IsValid() || f.since.Before(t.failures[oldest].since) {
			oldest = n
		}
	}
	if len(t.failures) >= maxThrottled {
		delete(t.failures, oldest)
	}
}
