package secrez

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	defaultWindow     = time.Minute
	defaultMaxReplays = 1 << 18

	slotsPerWindow = 8
)

// ReplayOptions are the options of a [ReplayCache]. The zero value is the hub's rule: one minute.
type ReplayOptions struct {
	// Window is how far a payload's time may be from now, either way, limits included. Less than a millisecond: one minute.
	Window time.Duration

	// Max is how many payloads are remembered at once, some 100 bytes each. Zero or less: 262144.
	Max int

	// NotBefore refuses whatever was signed before it. A cache remembers nothing of the process before it; the start of
	// this process keeps what was used there from being used again, at the price of refusing clients whose clocks are
	// slow, for as long as they are slow. Zero: no such limit.
	NotBefore time.Time

	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// ReplayCache admits each payload once, and only within the time window. It knows a payload by [Payload.Digest], so no
// other spelling or form of a signature makes a used payload new. It forgets a payload when the window has passed it, and
// when it is full it admits nothing rather than forget too early. It is safe for concurrent use and owns no goroutine.
type ReplayCache struct {
	window time.Duration    // set once
	width  int64            // of a slot, ms; set once
	max    int              // set once
	now    func() time.Time // set once

	mu    sync.Mutex
	slots map[int64]*replaySlot // by time signed; guarded by mu
	size  int                   // payloads in all slots; guarded by mu
	floor int64                 // ms; what was signed up to then is refused; guarded by mu
}

// A replaySlot holds payloads signed within the same width of time, which are forgotten together.
type replaySlot struct {
	seen   map[[sha256.Size]byte]struct{}
	latest int64 // ms
}

// NewReplayCache makes an empty cache.
func NewReplayCache(opts ReplayOptions) *ReplayCache {
	c := &ReplayCache{
		window: opts.Window,
		max:    opts.Max,
		now:    opts.Now,
		slots:  map[int64]*replaySlot{},
		floor:  math.MinInt64,
	}
	if c.window < time.Millisecond {
		c.window = defaultWindow
	}
	if c.max <= 0 {
		c.max = defaultMaxReplays
	}
	if c.now == nil {
		c.now = time.Now
	}
	if !opts.NotBefore.IsZero() {
		c.floor = opts.NotBefore.UnixMilli() - 1
	}
	c.width = max(1, c.window.Milliseconds()/slotsPerWindow)
	return c
}

// Admit lets a payload through once. Its error is [ErrExpired] outside the window, [ErrReplayed] for a payload admitted
// before, [ErrReplayFull] when no more can be remembered: then asking again later, within the window, may work.
func (c *ReplayCache) Admit(p *Payload) error {
	if p == nil || p.key.IsZero() {
		return fmt.Errorf("%w: not verified", ErrPayload)
	}
	digest := p.Digest()
	now := c.now()
	if err := p.Fresh(now, c.window); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.purge(now)
	return c.record(digest, p.when)
}

// Remember takes in what another process admitted: the digest of a payload and the time it was signed at. When it cannot
// be remembered, for want of room, nothing signed before it is admitted any more.
func (c *ReplayCache) Remember(digest [sha256.Size]byte, signed time.Time) {
	when := signed.UnixMilli()
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.record(digest, when), ErrReplayFull) {
		c.floor = max(c.floor, when)
	}
}

// Forget takes a payload back out, so that its signer may send it again: for a request that was admitted and then failed
// without having changed anything.
func (c *ReplayCache) Forget(p *Payload) {
	if p == nil {
		return
	}
	digest := p.Digest()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.slots[c.slotOf(p.when)]
	if s == nil {
		return
	}
	if _, ok := s.seen[digest]; ok {
		delete(s.seen, digest)
		c.size--
	}
}

// Len tells how many payloads are remembered.
func (c *ReplayCache) Len() int {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.purge(now)
	return c.size
}

// record remembers a payload. The caller holds mu.
func (c *ReplayCache) record(digest [sha256.Size]byte, when int64) error {
	if when <= c.floor {
		return fmt.Errorf("%w: signed too long ago", ErrExpired)
	}
	s := c.slots[c.slotOf(when)]
	if s != nil {
		if _, used := s.seen[digest]; used {
			return ErrReplayed
		}
	}
	if c.size >= c.max {
		return ErrReplayFull
	}
	if s == nil {
		s = &replaySlot{seen: map[[sha256.Size]byte]struct{}{}, latest: when}
		c.slots[c.slotOf(when)] = s
	}
	s.seen[digest] = struct{}{}
	s.latest = max(s.latest, when)
	c.size++
	return nil
}

// purge forgets the slots that the window has passed. A clock that leapt ahead and comes back would make forgotten
// payloads fresh again; the floor keeps them out. The caller holds mu.
func (c *ReplayCache) purge(now time.Time) {
	oldest := c.slotOf(now.UnixMilli() - c.window.Milliseconds())
	for i, s := range c.slots {
		if i >= oldest {
			continue
		}
		c.floor = max(c.floor, s.latest)
		c.size -= len(s.seen)
		delete(c.slots, i)
	}
}

// slotOf numbers the slot of a time, rounding down on both sides of 1970.
func (c *ReplayCache) slotOf(ms int64) int64 {
	slot := ms / c.width
	if ms%c.width < 0 {
		slot--
	}
	return slot
}
