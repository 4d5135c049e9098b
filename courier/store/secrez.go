package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// SecrezMessage is a message as Secrez's command line gets to see it.
type SecrezMessage struct {
	Stored    time.Time
	Direction Direction
	Peer      secrez.PublicKey // the other side
	Signed    secrez.Signed
	Digest    [32]byte // of the payload
}

// AddSecrez keeps a message for Secrez's command line and reports whether it is new: not the same payload in the same
// direction with the same peer.
func (s *Store) AddSecrez(ctx context.Context, m SecrezMessage) (added bool, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		added, err = s.addSecrez(ctx, tx, m)
		return err
	})
	return added, err
}

func (s *Store) addSecrez(ctx context.Context, tx *sql.Tx, m SecrezMessage) (bool, error) {
	err := one(tx.ExecContext(ctx, `INSERT INTO secrez(stored, direction, payload, signature, publickey, digest) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		s.now(), m.Direction, m.Signed.Payload, m.Signed.Signature, m.Peer.String(), m.Digest[:]))
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ReceiveSecrez keeps a message of a contact that came the way of Secrez's programs, both for Secrez's command line and
// as a text that is shown, and reports whether it is new.
func (s *Store) ReceiveSecrez(ctx context.Context, contact int64, m SecrezMessage, text string, when time.Time) (added bool, err error) {
	err = s.write(ctx, func(tx *sql.Tx) error {
		if added, err = s.addSecrez(ctx, tx, m); err != nil || !added {
			return err
		}
		return s.insertSecrez(ctx, tx, contact, Received, Delivered, m.Digest, text, when)
	})
	return added, err
}

func (s *Store) insertSecrez(ctx context.Context, tx *sql.Tx, contact int64, d Direction, state State, digest [32]byte, text string, when time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO messages(change, contact, direction, hash, number, kind, text, time, stored, state)
		VALUES (`+nextChange+`, ?, ?, ?, 0, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		contact, d, digest[:], envelope.Text, text, when.UnixMilli(), s.now(), state)
	return err
}

// SecrezQuery selects messages for Secrez's command line.
type SecrezQuery struct {
	Min, Max  time.Time        // stored between the two, both included
	Direction Direction        // zero: both
	Peer      secrez.PublicKey // zero: all
	Limit     int
}

// SecrezMessages gives the messages that the query selects, the oldest first.
func (s *Store) SecrezMessages(ctx context.Context, q SecrezQuery) ([]SecrezMessage, error) {
	where, args := []string{"stored >= ?", "stored <= ?"}, []any{q.Min.UnixMilli(), q.Max.UnixMilli()}
	if q.Direction != 0 {
		where, args = append(where, "direction = ?"), append(args, q.Direction)
	}
	if !q.Peer.IsZero() {
		where, args = append(where, "publickey = ?"), append(args, q.Peer.String())
	}
	return collect(ctx, s.db, scanSecrez, `SELECT stored, direction, payload, signature, publickey, digest FROM secrez WHERE `+
		strings.Join(where, " AND ")+` ORDER BY stored, id LIMIT ?`, append(args, q.Limit)...)
}

func scanSecrez(row scanner) (SecrezMessage, error) {
	var m SecrezMessage
	var stored int64
	var key string
	var digest []byte
	err := row.Scan(&stored, &m.Direction, &m.Signed.Payload, &m.Signed.Signature, &key, &digest)
	if err != nil {
		return m, plainError(err)
	}
	m.Stored = time.UnixMilli(stored)
	copy(m.Digest[:], digest)
	m.Peer, err = secrez.ParsePublicKey(key)
	return m, err
}

// SecrezContact is somebody whom Secrez's command line trusts.
type SecrezContact struct {
	PublicKey secrez.PublicKey
	URL       string // empty: not known
}

// TrustSecrez keeps a contact of Secrez's command line, and reports whether it is new and whether anything has changed.
// An empty URL leaves the one that is known. Its error is [ErrName] for a URL that is another contact's.
func (s *Store) TrustSecrez(ctx context.Context, c SecrezContact) (added, changed bool, err error) {
	url := sql.NullString{String: c.URL, Valid: c.URL != ""}
	key := c.PublicKey.Identity().Bytes()
	err = s.write(ctx, func(tx *sql.Tx) error {
		var other int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM secrezcontacts WHERE url = ? AND key != ?`, url, key).Scan(&other); err != nil {
			return err
		}
		if other > 0 {
			return fmt.Errorf("%w: another contact has this url", ErrName)
		}
		var known, oldURL sql.NullString
		err := tx.QueryRowContext(ctx, `SELECT publickey, url FROM secrezcontacts WHERE key = ?`, key).Scan(&known, &oldURL)
		if errors.Is(err, sql.ErrNoRows) {
			added = true
			_, err = tx.ExecContext(ctx, `INSERT INTO secrezcontacts(key, publickey, url, added, updated) VALUES (?, ?, ?, ?4, ?4)`,
				key, c.PublicKey.String(), url, s.now())
			return err
		}
		if err != nil {
			return err
		}
		if known.String != c.PublicKey.String() {
			return fmt.Errorf("%w: the box half differs from the one that is known", ErrKeyChanged)
		}
		if !url.Valid || url == oldURL {
			return nil
		}
		changed = true
		_, err = tx.ExecContext(ctx, `UPDATE secrezcontacts SET url = ?, updated = ? WHERE key = ?`, url, s.now(), key)
		return err
	})
	return added, changed, err
}

// TrustedSecrez finds whom Secrez's command line trusts by the sign half of the key. Its error is [ErrNotFound].
func (s *Store) TrustedSecrez(ctx context.Context, key keys.PublicKey) (SecrezContact, error) {
	var c SecrezContact
	var text string
	var url sql.NullString
	err := s.db.QueryRowContext(ctx, `SELECT publickey, url FROM secrezcontacts WHERE key = ?`, key.Bytes()).Scan(&text, &url)
	if errors.Is(err, sql.ErrNoRows) {
		return c, ErrNotFound
	}
	if err != nil {
		return c, plainError(err)
	}
	c.URL = url.String
	c.PublicKey, err = secrez.ParsePublicKey(text)
	return c, err
}
