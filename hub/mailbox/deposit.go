package mailbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
)

// A stored message is a version, the time of its deposit in ms since 1970 in 8 bytes, and the envelope.
const (
	messageVersion = 1
	messageHead    = 9
)

// Deposit is an envelope for somebody.
type Deposit struct {
	// Sender has proved its key, Recipient need not be here.
	Sender, Recipient keys.PublicKey
	// Token is what the sender shows. Nil: none.
	Token []byte
	// Envelope is kept as it is. Its length is a size class.
	Envelope []byte
}

// Kept says how an envelope is kept.
type Kept struct {
	// Expires is when it is removed.
	Expires time.Time
	// Request says that it lies in the recipient's request box.
	Request bool
}

// Deposit puts an envelope into the recipient's mailbox. It is on disk when Deposit returns without an error, and is not
// there after one, except perhaps after ErrUnavailable. The error is ErrNoMailbox, ErrNotAllowed, ErrSize, ErrMailboxFull,
// ErrSenderFull, ErrHubFull, ErrUnavailable, ErrClosed, or that of ctx while it waits for others.
func (m *Mailboxes) Deposit(ctx context.Context, d Deposit) (Kept, error) {
	kept, err := m.deposit(ctx, d)
	m.mu.Lock()
	if err == nil {
		m.stats.Deposited++
	} else {
		m.stats.Refused++
	}
	m.mu.Unlock()
	return kept, err
}

func (m *Mailboxes) deposit(ctx context.Context, d Deposit) (Kept, error) {
	if !isSize(len(d.Envelope)) {
		return Kept{}, fmt.Errorf("%w: a size class is a power of two from %d to %d bytes", ErrSize, MinSize, MaxSize)
	}
	p, err := m.policyOf(ctx, d.Recipient)
	if err != nil {
		return Kept{}, err
	}
	t, k, err := m.admits(p, d)
	if err != nil {
		return Kept{}, err
	}
	if k == request && len(d.Envelope) > m.limits.MaxRequestSize {
		return Kept{}, fmt.Errorf("%w: strangers may leave up to %d bytes", ErrSize, m.limits.MaxRequestSize)
	}
	if err := m.roomFor(d, k, t); err != nil { // those who are refused do not wait
		return Kept{}, err
	}
	select {
	case m.places[k] <- struct{}{}:
	case <-ctx.Done():
		return Kept{}, ctx.Err()
	case <-m.life.Done():
		return Kept{}, ErrClosed
	}
	defer func() { <-m.places[k] }()
	return m.store(ctx, d, k, t)
}

// isSize reports whether a length is a size class.
func isSize(n int) bool { return n >= MinSize && n <= MaxSize && n&(n-1) == 0 }

func (m *Mailboxes) roomFor(d Deposit, k kind, t tag) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.books.admit(m.limits, d.Recipient.Array(), k, t, len(d.Envelope))
}

// store writes an envelope that is admitted, if there is still room for it.
func (m *Mailboxes) store(ctx context.Context, d Deposit, k kind, t tag) (Kept, error) {
	if err := m.reserve(d, k, t); err != nil {
		return Kept{}, err
	}
	now := m.cfg.Now()
	q := queueOf(d.Recipient, k)
	// A sender that leaves must not leave open whether it is stored; writes are bounded.
	_, err := m.queues[q].Append(context.WithoutCancel(ctx), boxOf(d.Recipient), t.label(), seal(now, d.Envelope))
	if err != nil {
		m.release(d, k, t)
		m.leave(err)
		return Kept{}, m.unavailable(err)
	}
	m.leave(nil)
	m.tell(d.Recipient, k, t, len(d.Envelope), false)
	m.ring(d.Recipient)
	m.cfg.Arrived(d.Recipient)
	return Kept{Expires: now.Add(m.keep(k)), Request: k == request}, nil
}

// reserve enters an envelope in the books, so that no two take the same room.
func (m *Mailboxes) reserve(d Deposit, k kind, t tag) error {
	if err := m.enter(); err != nil {
		return err
	}
	m.mu.Lock()
	err := m.books.admit(m.limits, d.Recipient.Array(), k, t, len(d.Envelope))
	if err == nil {
		m.books.add(d.Recipient.Array(), k, t, len(d.Envelope))
	}
	m.mu.Unlock()
	if err != nil {
		m.leave(nil)
	}
	return err
}

// release strikes an envelope out that is not stored.
func (m *Mailboxes) release(d Deposit, k kind, t tag) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.books.remove(d.Recipient.Array(), k, t, len(d.Envelope))
}

func seal(now time.Time, envelope []byte) []byte {
	b := make([]byte, messageHead, messageHead+len(envelope))
	b[0] = messageVersion
	binary.BigEndian.PutUint64(b[1:], uint64(now.UnixMilli()))
	return append(b, envelope...)
}

// unseal takes a stored message apart. It reports false for what this version has not written.
func unseal(b []byte) (at time.Time, envelope []byte, ok bool) {
	if len(b) < messageHead || b[0] != messageVersion {
		return at, nil, false
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[1:]))), b[messageHead:], true
}

func (m *Mailboxes) keep(k kind) time.Duration {
	if k == request {
		return m.limits.KeepRequests
	}
	return m.limits.Keep
}

// drop removes a stored message and strikes it out of the books. The caller has entered.
func (m *Mailboxes) drop(ctx context.Context, queue int, s registry.Message) (was bool, err error) {
	was, err = m.queues[queue].Delete(context.WithoutCancel(ctx), s.Sequence)
	if err != nil || !was {
		return false, err
	}
	recipient, ok := parseBox(s.Box)
	if !ok {
		return true, nil // it was never in the books
	}
	k, t, size := kindOf(queue), parseLabel(s.Label), len(s.Data)-messageHead
	m.mu.Lock()
	m.books.remove(recipient.Array(), k, t, size)
	m.mu.Unlock()
	m.tell(recipient, k, t, size, true)
	return true, nil
}

// purge removes what is in a mailbox. The caller has entered.
func (m *Mailboxes) purge(ctx context.Context, recipient keys.PublicKey) error {
	for k := range kinds {
		q := queueOf(recipient, k)
		for from := uint64(0); ; {
			s, err := m.queues[q].Next(ctx, boxOf(recipient), from)
			if errors.Is(err, registry.ErrNotFound) {
				break
			}
			if err != nil {
				return err
			}
			if _, err := m.drop(ctx, q, s); err != nil {
				return err
			}
			from = s.Sequence + 1
		}
	}
	return nil
}
