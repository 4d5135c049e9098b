package mailbox

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
)

// Envelope is one that waits.
type Envelope struct {
	ID       ID
	Envelope []byte
	// Time is when it was deposited, by the hub's clock.
	Time time.Time
	// Request says that a stranger has left it.
	Request bool
}

// Waiting gives what waits for a recipient: mail in the order in which it came, then requests. With live it goes on with
// what comes later, until ctx ends, the loop is left or there is an error: ErrUnavailable, ErrClosed, or that of ctx.
func (m *Mailboxes) Waiting(ctx context.Context, recipient keys.PublicKey, live bool) iter.Seq2[Envelope, error] {
	return func(yield func(Envelope, error) bool) {
		if err := m.waiting(ctx, recipient, live, yield); err != nil && !errors.Is(err, errLeft) {
			yield(Envelope{}, m.unavailable(err))
		}
	}
}

var errLeft = errors.New("the loop was left")

func (m *Mailboxes) waiting(ctx context.Context, recipient keys.PublicKey, live bool, yield func(Envelope, error) bool) error {
	var next [kinds]uint64
	for {
		come, stop := m.listen(recipient, live)
		for k := range kinds {
			var err error
			if next[k], err = m.read(ctx, recipient, k, next[k], yield); err != nil {
				stop()
				return err
			}
		}
		if !live {
			return nil
		}
		err := m.await(ctx, come)
		stop()
		if err != nil {
			return err
		}
	}
}

func (m *Mailboxes) await(ctx context.Context, come <-chan struct{}) error {
	select {
	case <-come:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-m.life.Done():
		return ErrClosed
	}
}

// read gives what is in a part of a mailbox from a sequence on, and returns where to go on.
func (m *Mailboxes) read(ctx context.Context, recipient keys.PublicKey, k kind, from uint64,
	yield func(Envelope, error) bool,
) (uint64, error) {
	q := queueOf(recipient, k)
	for {
		if empty, err := m.isEmpty(recipient, k); empty || err != nil {
			return from, err
		}
		s, err := m.queues[q].Next(ctx, boxOf(recipient), from)
		if errors.Is(err, registry.ErrNotFound) {
			return from, nil
		}
		if err != nil {
			return from, err
		}
		from = s.Sequence + 1
		at, envelope, ok := unseal(s.Data)
		if !ok || m.isOld(at, k) {
			continue
		}
		e := Envelope{ID: m.idOf(placeOf(q, s.Sequence, s.Data)), Envelope: envelope, Time: at, Request: k == request}
		if !yield(e, nil) {
			return from, errLeft
		}
	}
}

// isEmpty reports whether it is known that nothing is there to be read.
func (m *Mailboxes) isEmpty(recipient keys.PublicKey, k kind) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false, ErrClosed
	}
	a := m.books.accounts[recipient.Array()]
	return !m.doubt && !m.shared && (a == nil || a.parts[k].Count == 0), nil
}

// Acknowledge removes envelopes of a recipient's mailbox, which has them. Those that are not there are passed over. Its error
// is ErrUnavailable or ErrClosed: then some may be removed.
func (m *Mailboxes) Acknowledge(ctx context.Context, recipient keys.PublicKey, ids ...ID) error {
	for _, id := range ids {
		if err := m.enter(); err != nil {
			return err
		}
		err := m.acknowledge(ctx, recipient, id)
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			m.leave(nil) // while reading
			return err
		}
		m.leave(err)
		if err != nil {
			return m.unavailable(err)
		}
	}
	return nil
}

func (m *Mailboxes) acknowledge(ctx context.Context, recipient keys.PublicKey, id ID) error {
	p, ok := m.placeOfID(id)
	if !ok || p.queue != queueOf(recipient, kindOf(p.queue)) {
		return nil
	}
	s, err := m.queues[p.queue].Next(ctx, boxOf(recipient), p.sequence)
	if errors.Is(err, registry.ErrNotFound) || err == nil && (s.Sequence != p.sequence || !p.holds(s.Data)) {
		return nil
	}
	if err != nil {
		return err
	}
	was, err := m.drop(ctx, p.queue, s)
	if was {
		m.mu.Lock()
		m.stats.Acknowledged++
		m.mu.Unlock()
	}
	return err
}

// A bell is rung when something comes.
type bell struct {
	ring      chan struct{} // closed then
	listeners int
}

// listen returns a channel that is closed when something has come after the call, and what ends that. Nobody listens
// without live.
func (m *Mailboxes) listen(recipient keys.PublicKey, live bool) (come <-chan struct{}, stop func()) {
	if !live {
		return nil, func() {}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := recipient.Array()
	b := m.bells[key]
	if b.ring == nil {
		b.ring = make(chan struct{})
	}
	b.listeners++
	m.bells[key] = b
	return b.ring, func() { m.unlisten(key, b.ring) }
}

func (m *Mailboxes) unlisten(key [recipientSize]byte, ring chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.bells[key]
	if b.ring != ring {
		return // it was rung, and is gone
	}
	if b.listeners--; b.listeners > 0 {
		m.bells[key] = b
		return
	}
	delete(m.bells, key)
}

func (m *Mailboxes) ring(recipient keys.PublicKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := recipient.Array()
	if b, ok := m.bells[key]; ok {
		close(b.ring)
		delete(m.bells, key)
	}
}
