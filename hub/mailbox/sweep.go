package mailbox

import (
	"context"
	"errors"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
)

// sweep removes what is too old, every minute.
func (m *Mailboxes) sweep() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-m.life.Done():
			return
		}
		next := sweepEvery
		for q := range m.queues {
			more, err := m.sweepQueue(m.life, q)
			if err != nil && m.life.Err() == nil {
				m.cfg.Logger.Warn("mailbox: what has expired cannot be removed now", "err", err)
			}
			if more {
				next = 0
			}
		}
		pause.Reset(next)
	}
}

// sweepQueue removes what is too old in one queue, and reports whether there is more. The oldest come first, so it ends at
// the first that is not old. But what is dated later than now says nothing about those behind it: a clock was wrong.
func (m *Mailboxes) sweepQueue(ctx context.Context, q int) (more bool, err error) {
	from := m.swept[q]
	m.swept[q] = 0
	for range sweepAtMost {
		s, err := m.queues[q].Next(ctx, "", from)
		if errors.Is(err, registry.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		from = s.Sequence + 1
		at, _, ok := unseal(s.Data)
		if ok && !m.isOld(at, kindOf(q)) {
			if at.After(m.cfg.Now()) {
				continue
			}
			return false, nil
		}
		if err := m.expire(ctx, q, s); err != nil {
			return false, err
		}
		more = true
	}
	m.swept[q] = from
	return more, nil
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
