package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
)

// Way is how a message came.
type Way int

// The ways.
const (
	Direct  Way = iota // the sender hears from us at once
	Mailbox            // the sender is owed a receipt
)

// Taken is what has become of a message that has come.
type Taken struct {
	// State is Delivered for a message that is kept or was before, or would be if the contact were not blocked; Held for one
	// that waits in the request box, or would if the stranger were not blocked.
	State State
	// Err is [ErrFull] for a stranger's message when the request box takes no more, [ErrRefused] for what its sender may not
	// send, however often.
	Err error
}

// Receive takes messages that are for the owner, in order, and says of each what has become of it. It stops at the first
// for which the request box is full.
func (s *Store) Receive(ctx context.Context, way Way, messages ...*envelope.Signed) ([]Taken, error) {
	var taken []Taken
	err := s.write(ctx, func(tx *sql.Tx) error {
		for _, m := range messages {
			t, err := s.receiveOne(ctx, tx, m, way)
			if err != nil {
				return err
			}
			taken = append(taken, t)
			if t.Err != nil && errors.Is(t.Err, ErrFull) {
				return nil
			}
		}
		return nil
	})
	return taken, err
}

// receiveOne takes one message, or leaves nothing of it.
func (s *Store) receiveOne(ctx context.Context, tx *sql.Tx, m *envelope.Signed, way Way) (Taken, error) {
	if _, err := tx.ExecContext(ctx, `SAVEPOINT message`); err != nil {
		return Taken{}, err
	}
	state, err := s.receive(ctx, tx, m, way)
	end := `RELEASE message`
	if err != nil {
		if !errors.Is(err, ErrFull) && !errors.Is(err, ErrRefused) {
			return Taken{}, err
		}
		end = `ROLLBACK TO message; RELEASE message`
	}
	_, failed := tx.ExecContext(ctx, end)
	return Taken{state, err}, failed
}

func (s *Store) receive(ctx context.Context, tx *sql.Tx, m *envelope.Signed, way Way) (State, error) {
	if m.Kind == envelope.Rotation {
		return s.receiveRotation(ctx, tx, m)
	}
	c, err := contactOf(ctx, tx, m.Sender)
	if errors.Is(err, ErrNotFound) {
		return s.request(ctx, tx, m)
	}
	if err != nil {
		return 0, err
	}
	if c.Blocked { // it is not told, and does not bring the message again
		hash := m.Hash()
		_, err := tx.ExecContext(ctx, `INSERT INTO seen(hash) VALUES (?) ON CONFLICT DO NOTHING`, hash[:])
		return Delivered, err
	}
	return Delivered, s.take(ctx, tx, c.ID, m, way)
}

// take keeps a contact's message, unless it has come before.
func (s *Store) take(ctx context.Context, tx *sql.Tx, contact int64, m *envelope.Signed, way Way) error {
	hash := m.Hash()
	if way == Mailbox && m.Kind != envelope.Receipt {
		if _, err := tx.ExecContext(ctx, `INSERT INTO owed(contact, hash) VALUES (?, ?) ON CONFLICT DO NOTHING`, contact, hash[:]); err != nil {
			return err
		}
	}
	err := one(tx.ExecContext(ctx, `INSERT INTO seen(hash) VALUES (?) ON CONFLICT DO NOTHING`, hash[:]))
	if errors.Is(err, ErrNotFound) {
		return nil // seen before
	}
	if err != nil {
		return err
	}
	switch m.Kind {
	case envelope.Text:
		_, err = s.insertMessage(ctx, tx, contact, Received, Delivered, m)
	case envelope.File:
		err = s.takeFile(ctx, tx, contact, m)
	case envelope.Chunk:
		err = takeChunk(ctx, tx, contact, m)
	case envelope.Receipt:
		err = acknowledge(ctx, tx, contact, m)
	}
	return err
}

// acknowledge settles what a receipt names.
func acknowledge(ctx context.Context, tx *sql.Tx, contact int64, m *envelope.Signed) error {
	hashes, err := envelope.ParseReceipts(m.Body)
	if err != nil {
		return err
	}
	for _, h := range hashes {
		o, err := scanOutgoing(tx.QueryRowContext(ctx, outgoingQuery+` WHERE hash = ? AND contact = ?`, h[:], contact))
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := settle(ctx, tx, o, Settlement{State: Delivered}); err != nil {
			return err
		}
	}
	return nil
}

// receiveRotation follows a contact to its new key. A stranger's change of keys is nobody's business.
func (s *Store) receiveRotation(ctx context.Context, tx *sql.Tx, m *envelope.Signed) (State, error) {
	st, err := rotation.Parse(m.Body)
	if err != nil || !st.New.Equal(m.Sender) {
		return 0, fmt.Errorf("%w: a change of keys must be signed by the new key", ErrRefused)
	}
	_, err = s.rotate(ctx, tx, st)
	switch {
	case errors.Is(err, ErrNotFound):
		return Held, nil
	case errors.Is(err, ErrKnown):
		return 0, fmt.Errorf("%w: the new key is another contact's", ErrRefused)
	}
	return Delivered, err
}

// Request is a stranger in the request box.
type Request struct {
	Key      keys.PublicKey
	First    time.Time // when the first message came
	Messages []*envelope.Signed
}

// request puts a stranger's message into the request box.
func (s *Store) request(ctx context.Context, tx *sql.Tx, m *envelope.Signed) (State, error) {
	var blocked int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM blockedkeys WHERE key = ?`, m.Sender.Bytes()).Scan(&blocked); err != nil {
		return 0, err
	}
	if blocked > 0 || m.Kind == envelope.Receipt {
		return Held, nil
	}
	if m.Kind != envelope.Text {
		return 0, fmt.Errorf("%w: files are taken from contacts only", ErrRefused)
	}
	hash := m.Hash()
	var known, ofSender, all int
	var bytes int64
	err := tx.QueryRowContext(ctx, `SELECT ifnull(sum(hash = ?), 0), ifnull(sum(key = ?), 0), count(*), ifnull(sum(length(signed)), 0) FROM requests`,
		hash[:], m.Sender.Bytes()).Scan(&known, &ofSender, &all, &bytes)
	switch {
	case err != nil:
		return 0, err
	case known > 0:
		return Held, nil
	case ofSender >= s.opts.MaxRequestsPerSender, all >= s.opts.MaxRequests, bytes+int64(len(m.Bytes())) > s.opts.MaxRequestBytes:
		return 0, ErrFull
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO requests(key, hash, signed, stored) VALUES (?, ?, ?, ?)`, m.Sender.Bytes(), hash[:], m.Bytes(), s.now())
	return Held, err
}

type requestRow struct {
	stored int64
	m      *envelope.Signed
}

func scanRequest(row scanner) (requestRow, error) {
	var r requestRow
	var signed []byte
	err := row.Scan(&r.stored, &signed)
	if err != nil {
		return r, plainError(err)
	}
	r.m, err = envelope.Parse(signed)
	return r, err
}

// Requests lists the strangers in the request box, who came first first.
func (s *Store) Requests(ctx context.Context) ([]Request, error) {
	rows, err := collect(ctx, s.db, scanRequest, `SELECT stored, signed FROM requests ORDER BY id`)
	if err != nil {
		return nil, err
	}
	var all []Request
	at := map[[keys.PublicKeySize]byte]int{}
	for _, r := range rows {
		i, known := at[r.m.Sender.Array()]
		if !known {
			i = len(all)
			at[r.m.Sender.Array()] = i
			all = append(all, Request{Key: r.m.Sender, First: time.UnixMilli(r.stored)})
		}
		all[i].Messages = append(all[i].Messages, r.m)
	}
	return all, nil
}

// acceptRequests moves a stranger's messages to those of the contact that it has become.
func (s *Store) acceptRequests(ctx context.Context, tx *sql.Tx, contact int64, key keys.PublicKey) error {
	rows, err := collect(ctx, tx, scanRequest, `SELECT stored, signed FROM requests WHERE key = ? ORDER BY id`, key.Bytes())
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := s.take(ctx, tx, contact, r.m, Mailbox); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM requests WHERE key = ?`, key.Bytes())
	return err
}

// DropRequest empties the request box of a stranger's messages, and throws away what else it sends if it is to be
// blocked. Its error is [ErrNotFound] if there is nothing to drop and nobody to block.
func (s *Store) DropRequest(ctx context.Context, key keys.PublicKey, block bool) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		if block {
			_, err := tx.ExecContext(ctx, `INSERT INTO blockedkeys(key, added) VALUES (?, ?) ON CONFLICT DO NOTHING`, key.Bytes(), s.now())
			if err != nil {
				return err
			}
		}
		err := one(tx.ExecContext(ctx, `DELETE FROM requests WHERE key = ?`, key.Bytes()))
		if block && errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	})
}

// dropOldRequests forgets what nobody has answered for long.
func (s *Store) dropOldRequests(ctx context.Context) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM requests WHERE stored < ?`, s.now()-s.opts.RequestAge.Milliseconds())
		return err
	})
}
