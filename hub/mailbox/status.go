package mailbox

import (
	"context"
	"errors"

	"github.com/secretstack/secretstack/keys"
)

// Amount is so much of envelopes.
type Amount struct {
	Count int
	Bytes int64
}

// Status is how it stands with one mailbox.
type Status struct {
	// Open says that the recipient has a mailbox, and Digest is that of its policy.
	Open   bool
	Digest []byte
	// Mail and Requests are what waits.
	Mail, Requests Amount
}

// Status tells how it stands with the mailbox of a recipient. Its error is ErrUnavailable or ErrClosed.
func (m *Mailboxes) Status(ctx context.Context, recipient keys.PublicKey) (Status, error) {
	var s Status
	p, err := m.policyOf(ctx, recipient)
	switch {
	case err == nil:
		s.Open, s.Digest = true, p.digest
	case !errors.Is(err, ErrNoMailbox):
		return s, err
	}
	s.Mail, s.Requests = m.Count(recipient)
	return s, nil
}

// Count tells what waits for a recipient, from memory.
func (m *Mailboxes) Count(recipient keys.PublicKey) (mails, requests Amount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.books.accounts[recipient.Array()]; a != nil {
		mails, requests = Amount(a.parts[mail]), Amount(a.parts[request])
	}
	return mails, requests
}

// Limits returns the bounds that are in force.
func (m *Mailboxes) Limits() Limits { return m.limits }

// Stats counts what has been done since Open, and what there is.
type Stats struct {
	// Mailboxes is in how many something waits.
	Mailboxes int
	// Mail and Requests are what waits in all.
	Mail, Requests Amount

	Deposited    uint64
	Refused      uint64 // deposits that were not
	Acknowledged uint64
	Expired      uint64
}

// Stats returns what has been counted so far.
func (m *Mailboxes) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Mailboxes = len(m.books.accounts)
	s.Mail, s.Requests = Amount(m.books.totals[mail]), Amount(m.books.totals[request])
	return s
}
