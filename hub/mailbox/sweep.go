package mailbox

import (
	"context"
	"errors"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
)

// sweep removes what is too old, every minute.
func (m *Mailboxes) sweep() {
	var from [shards + 1]uint64
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-m.life.Done():
			return
		}
		wait := sweepEvery
		for q := range m.queues {
			var more bool
			var err error
			from[q], more, err = m.sweepQueue(m.life, q, from[q])
			if err != nil && m.life.Err() == nil {
				m.cfg.Logger.Warn("mailbox: what has expired cannot be removed now", "err", err)
			}
			if more {
				wait = 0
			}
		}
		pause.Reset(wait)
	}
}

// sweepQueue removes what is too old in one queue, and says where to begin the next time and whether that should be at
// once. The oldest come first, so it ends at the first that is not old. But what is dated later than now says nothing about
// those behind it: a clock was wrong.
func (m *Mailboxes) sweepQueue(ctx context.Context, q int, from uint64) (next uint64, more bool, err error) {
	for range sweepAtMost {
		s, err := m.queues[q].Next(ctx, "", from)
		if errors.Is(err, registry.ErrNotFound) {
			return 0, false, nil
		}
		if err != nil {
			return 0, false, err
		}
		from = s.Sequence + 1
		at, _, ok := unseal(s.Data)
		if ok && !m.isOld(at, kindOf(q)) {
			if at.After(m.cfg.Now()) {
				continue
			}
			return 0, false, nil
		}
		if err := m.expire(ctx, q, s); err != nil {
			return 0, false, err
		}
		more = true
	}
	return from, more, nil
}

func (m *Mailboxes) expire(ctx context.Context, q int, s registry.Message) error {
	if err := m.enter(); err != nil {
		return err
	}
	was, err := m.drop(ctx, q, s)
	m.leave(err)
	if was {
		m.mu.Lock()
		m.stats.Expired++
		m.mu.Unlock()
	}
	return err
}

func (m *Mailboxes) isOld(at time.Time, k kind) bool { return m.cfg.Now().Sub(at) >= m.keep(k) }
