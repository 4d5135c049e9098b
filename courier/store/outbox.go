package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/keys"
)

// Draft is a message that has no number yet.
type Draft struct {
	Kind envelope.Kind
	Body []byte
}

// Outgoing is a signed message whose arrival is not known yet.
type Outgoing struct {
	ID      int64 // in the order in which they are sent
	Contact int64
	Message int64 // what shows how far it has come; zero: nothing
	Hash    envelope.Hash
	Kind    envelope.Kind
	Signed  []byte
	State   State  // Queued, AtHub or Held
	Wire    []byte // the form for Secrez's programs; nil: not made yet
}

const outgoingQuery = `SELECT id, contact, ifnull(message, 0), hash, kind, signed, state, wire FROM outbox`

func scanOutgoing(row scanner) (Outgoing, error) {
	var o Outgoing
	var hash []byte
	err := row.Scan(&o.ID, &o.Contact, &o.Message, &hash, &o.Kind, &o.Signed, &o.State, &o.Wire)
	copy(o.Hash[:], hash)
	if errors.Is(err, sql.ErrNoRows) {
		return o, ErrNotFound
	}
	return o, plainError(err)
}

// Queue numbers, signs and keeps messages to a contact, all or none, and gives those of them that are shown. A chunk
// belongs to the file before it. Its error is [ErrNotFound] for a contact that is none or is blocked, [ErrRefused] for
// a file that is too large, or of package envelope.
func (s *Store) Queue(ctx context.Context, id *keys.Identity, contact int64, drafts ...Draft) ([]Message, error) {
	var shown []Message
	err := s.write(ctx, func(tx *sql.Tx) error {
		c, err := scanContact(tx.QueryRowContext(ctx, `SELECT `+contactColumns+` FROM contacts WHERE id = ? AND name IS NOT NULL`, contact))
		if err != nil {
			return err
		}
		if c.Blocked {
			return fmt.Errorf("%w: %q is blocked", ErrNotFound, c.Name)
		}
		shown, err = s.queue(ctx, tx, id, c, drafts)
		return err
	})
	return shown, err
}

func (s *Store) queue(ctx context.Context, tx *sql.Tx, id *keys.Identity, c Contact, drafts []Draft) ([]Message, error) {
	var number, message int64
	err := tx.QueryRowContext(ctx, `UPDATE contacts SET sent = sent + ?, next = 0 WHERE id = ? RETURNING sent`, len(drafts), c.ID).Scan(&number)
	if err != nil {
		return nil, err
	}
	number -= int64(len(drafts))
	var shown []Message
	for _, d := range drafts {
		number++
		signed, err := envelope.Message{
			Sender: id.Public(), Recipient: c.Key, Series: s.series, Number: uint64(number), Time: s.opts.Now(), Kind: d.Kind, Body: d.Body,
		}.Sign(id)
		if err != nil {
			return nil, err
		}
		if message, err = s.messageFor(ctx, tx, c.ID, message, signed); err != nil {
			return nil, err
		}
		if err := insertOutgoing(ctx, tx, c.ID, message, signed); err != nil {
			return nil, err
		}
		if d.Kind == envelope.Text || d.Kind == envelope.File {
			m, err := scanMessage(tx.QueryRowContext(ctx, `SELECT `+messageColumns+messageTables+` WHERE m.id = ?`, message))
			if err != nil {
				return nil, err
			}
			shown = append(shown, m)
		}
	}
	return shown, nil
}

// messageFor shows a message, or names the one that shows a chunk.
func (s *Store) messageFor(ctx context.Context, tx *sql.Tx, contact, before int64, m *envelope.Signed) (int64, error) {
	switch m.Kind {
	case envelope.Text, envelope.File:
		if m.Kind == envelope.File {
			if err := s.checkFile(m); err != nil {
				return 0, err
			}
		}
		return s.insertMessage(ctx, tx, contact, Sent, Queued, m)
	case envelope.Chunk:
		return before, nil
	}
	return 0, nil
}

func insertOutgoing(ctx context.Context, tx *sql.Tx, contact, message int64, m *envelope.Signed) error {
	hash := m.Hash()
	_, err := tx.ExecContext(ctx, `INSERT INTO outbox(contact, message, hash, kind, signed, state) VALUES (?, ?, ?, ?, ?, ?)`,
		contact, sql.NullInt64{Int64: message, Valid: message != 0}, hash[:], m.Kind, m.Bytes(), Queued)
	return err
}

// Due gives the contacts for whom something waits and whose time has come, longest waiting first, and the time at
// which the next one's comes; zero if nobody's does.
func (s *Store) Due(ctx context.Context) (due []Contact, next time.Time, err error) {
	waiting, err := collect(ctx, s.db, scanContact, `SELECT `+contactColumns+` FROM contacts
		WHERE name IS NOT NULL AND id IN (SELECT contact FROM outbox) ORDER BY next`)
	if err != nil {
		return nil, time.Time{}, err
	}
	now := time.UnixMilli(s.now())
	for i, c := range waiting {
		if c.Next.After(now) {
			return waiting[:i], c.Next, nil
		}
	}
	return waiting, time.Time{}, nil
}

// Waiting gives what waits for a contact, in the order of sending, from beyond the ID after on, at most limit.
func (s *Store) Waiting(ctx context.Context, contact, after int64, limit int) ([]Outgoing, error) {
	return collect(ctx, s.db, scanOutgoing, outgoingQuery+` WHERE contact = ? AND id > ? ORDER BY id LIMIT ?`, contact, after, limit)
}

// Settlement says how far a message in the outbox has come.
type Settlement struct {
	ID    int64 // of the [Outgoing]
	State State
	Note  string // why it failed
	// Expires is when a hub throws away what is AtHub; zero: it has not said so, or nothing that can be believed.
	Expires time.Time
}

// Settle says how far messages have come. What is Delivered or Failed waits no longer, nor does a receipt that is at the
// hub. A message that is not there any more was settled before: that is no error.
func (s *Store) Settle(ctx context.Context, settled ...Settlement) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		for _, one := range settled {
			o, err := scanOutgoing(tx.QueryRowContext(ctx, outgoingQuery+` WHERE id = ?`, one.ID))
			if err == nil {
				err = settle(ctx, tx, o, one)
			}
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		return nil
	})
}

func settle(ctx context.Context, tx *sql.Tx, o Outgoing, to Settlement) error {
	var err error
	switch {
	case to.State == Failed && o.Message != 0: // nobody can use what is left of a file
		_, err = tx.ExecContext(ctx, `DELETE FROM outbox WHERE message = ?`, o.Message)
	case to.State == Delivered || to.State == Failed || o.Kind == envelope.Receipt:
		_, err = tx.ExecContext(ctx, `DELETE FROM outbox WHERE id = ?`, o.ID)
	default:
		expires := int64(0)
		if !to.Expires.IsZero() {
			expires = to.Expires.UnixMilli()
		}
		_, err = tx.ExecContext(ctx, `UPDATE outbox SET state = ?, expires = ? WHERE id = ?`, to.State, expires, o.ID)
	}
	if err != nil || o.Message == 0 {
		return err
	}
	if o.Kind == envelope.Chunk && to.State == Delivered {
		if _, err := tx.ExecContext(ctx, `UPDATE files SET done = done + 1 WHERE message = ?`, o.Message); err != nil {
			return err
		}
	}
	if o.Kind == envelope.Text || to.State == Failed {
		return setState(ctx, tx, o.Message, to.State, to.Note)
	}
	return settleFile(ctx, tx, o.Message)
}

// settleFile shows a file as far as the last of its parts has come.
func settleFile(ctx context.Context, tx *sql.Tx, message int64) error {
	var state State
	err := tx.QueryRowContext(ctx, `SELECT ifnull(min(state), ?) FROM outbox WHERE message = ?`, Delivered, message).Scan(&state)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE messages SET state = ?, change = `+nextChange+` WHERE id = ? AND state != ?`, state, message, Failed)
	return err
}

// Retry says when delivery to a contact is tried again, and why it was in vain; no trouble means that it was not. What was
// queued behind the message with the ID last was not tried yet: then the time is now.
func (s *Store) Retry(ctx context.Context, contact, last int64, next time.Time, trouble string) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE contacts SET trouble = ?3, attempts = CASE ?3 WHEN '' THEN 0 ELSE attempts + 1 END,
			next = CASE WHEN EXISTS (SELECT 1 FROM outbox WHERE contact = ?1 AND id > ?2) THEN 0 ELSE ?4 END WHERE id = ?1`,
			contact, last, trouble, next.UnixMilli())
		return err
	})
}

// HurryAll makes delivery due now to everybody whom the last attempt has not reached: a way may be open again.
func (s *Store) HurryAll(ctx context.Context) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE contacts SET next = 0 WHERE trouble != '' AND id IN (SELECT contact FROM outbox)`)
		return err
	})
}

// Hurry makes delivery to a contact due now, if something waits for it.
func (s *Store) Hurry(ctx context.Context, contact int64) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE contacts SET next = 0 WHERE id = ? AND id IN (SELECT contact FROM outbox)`, contact)
		return err
	})
}

// SetWire keeps the form that a message has for Secrez's programs, which is the same for each attempt. If there is one
// already, that stays.
func (s *Store) SetWire(ctx context.Context, id int64, wire []byte) ([]byte, error) {
	err := s.write(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `UPDATE outbox SET wire = ifnull(wire, ?) WHERE id = ? RETURNING wire`, wire, id).Scan(&wire)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	return wire, err
}

// Counts tells how much waits in each state.
func (s *Store) Counts(ctx context.Context) (map[State]int, error) {
	type count struct {
		state State
		n     int
	}
	counts, err := collect(ctx, s.db, func(row scanner) (c count, err error) {
		return c, row.Scan(&c.state, &c.n)
	}, `SELECT state, count(*) FROM outbox WHERE kind IN (1, 2) GROUP BY state`)
	all := map[State]int{}
	for _, c := range counts {
		all[c.state] = c.n
	}
	return all, err
}

// QueueReceipts turns what is owed to senders into messages to them, and reports whether there was anything.
func (s *Store) QueueReceipts(ctx context.Context, id *keys.Identity) (bool, error) {
	contacts, err := collect(ctx, s.db, scanContact, `SELECT `+contactColumns+` FROM contacts WHERE name IS NOT NULL AND id IN (SELECT contact FROM owed)`)
	if err != nil || len(contacts) == 0 {
		return false, err
	}
	return true, s.write(ctx, func(tx *sql.Tx) error {
		for _, c := range contacts {
			if err := s.queueReceipts(ctx, tx, id, c); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) queueReceipts(ctx context.Context, tx *sql.Tx, id *keys.Identity, c Contact) error {
	for {
		hashes, err := collect(ctx, tx, func(row scanner) (h envelope.Hash, err error) {
			var b []byte
			err = row.Scan(&b)
			copy(h[:], b)
			return h, err
		}, `DELETE FROM owed WHERE contact = ?1 AND hash IN (SELECT hash FROM owed WHERE contact = ?1 LIMIT ?2) RETURNING hash`, c.ID, envelope.MaxReceipts)
		if err != nil || len(hashes) == 0 {
			return err
		}
		body, err := envelope.Receipts(hashes)
		if err != nil {
			return err
		}
		if _, err := s.queue(ctx, tx, id, c, []Draft{{envelope.Receipt, body}}); err != nil {
			return err
		}
	}
}

// GiveUp fails what has waited since before a time, and what a hub has thrown away.
func (s *Store) GiveUp(ctx context.Context, before time.Time) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		expired, err := collect(ctx, tx, scanOutgoing, outgoingQuery+` WHERE state = ? AND expires BETWEEN 1 AND ?`, AtHub, s.now())
		if err != nil {
			return err
		}
		for _, o := range expired {
			if err := settle(ctx, tx, o, Settlement{State: Failed, Note: "expired at the hub, and no receipt has come"}); err != nil {
				return err
			}
		}
		old, err := collect(ctx, tx, scanOutgoing, outgoingQuery+` WHERE message IN (SELECT id FROM messages WHERE direction = ? AND stored < ?)`,
			Sent, before.UnixMilli())
		if err != nil {
			return err
		}
		for _, o := range old {
			if err := settle(ctx, tx, o, Settlement{State: Failed, Note: lateNote(o.State)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// lateNote says why a message has failed that had come so far.
func lateNote(state State) string {
	switch state {
	case AtHub:
		return "no receipt has come in time"
	case Held:
		return "not accepted in time"
	}
	return "not delivered in time"
}
