package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/secrez"
)

// MaxName bounds the name of a contact, in bytes of UTF-8.
const MaxName = 64

// Contact is somebody whose key the owner has pinned.
type Contact struct {
	ID      int64
	Key     keys.PublicKey
	Name    string // the owner's own; empty for a contact that was removed
	Box     []byte // the box half of an account made by Secrez, 32 bytes; nil: the X25519 form of Key
	Courier secrez.ID
	Places  []card.Place
	Card    []byte // signed, as it came; nil: the key did not come with a card
	Blocked bool
	Alert   string // what the owner must look at, or nothing
	Added   time.Time

	Attempts int       // of delivery, in vain, in a row
	Next     time.Time // when delivery is tried again
	Trouble  string    // why the last attempt was in vain
}

const contactColumns = `id, key, ifnull(name, ''), box, courier, places, card, blocked, alert, added, attempts, next, trouble`

type scanner interface{ Scan(dst ...any) error }

func scanContact(row scanner) (Contact, error) {
	var (
		c              Contact
		key            []byte
		courier        string
		places         []byte
		added, nextTry int64
	)
	err := row.Scan(&c.ID, &key, &c.Name, &c.Box, &courier, &places, &c.Card, &c.Blocked, &c.Alert, &added,
		&c.Attempts, &nextTry, &c.Trouble)
	if errors.Is(err, sql.ErrNoRows) {
		return c, ErrNotFound
	}
	if err != nil {
		return c, plainError(err)
	}
	c.Added, c.Next = time.UnixMilli(added), time.UnixMilli(nextTry)
	if c.Key, err = keys.NewPublicKey(key); err != nil {
		return c, err
	}
	if err := c.Courier.UnmarshalText([]byte(courier)); err != nil {
		return c, err
	}
	return c, json.Unmarshal(places, &c.Places)
}

// CheckName reports whether a contact can have the name: [ErrName] if not. A name has 1 to [MaxName] bytes, is
// printable, without spaces, and does not begin like a key, a flag or an address.
func CheckName(name string) error {
	bad := func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || strings.ContainsRune(`:/\`, r) }
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) || strings.ContainsAny(name[:1], "@-") || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("%w: a name has 1 to %d bytes, no spaces, none of : / \\ and does not begin with @ or -", ErrName, MaxName)
	}
	return nil
}

// AddContact pins a key under a name. Messages that its owner has sent before are taken out of the request box. A contact
// that was removed comes back with its history. Its error is [ErrKnown] for a key that a contact has or has had,
// [ErrKeyChanged] for the name of a contact with another key, [ErrName] for a name that is none.
func (s *Store) AddContact(ctx context.Context, c Contact) (Contact, error) {
	if err := CheckName(c.Name); err != nil {
		return c, err
	}
	places, err := json.Marshal(c.Places)
	if err != nil {
		return c, err
	}
	if c.Places == nil {
		places = []byte("[]")
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		if err := checkNew(ctx, tx, c); err != nil {
			return err
		}
		var id int64
		err := tx.QueryRowContext(ctx, `INSERT INTO contacts(key, name, box, courier, places, card, cardtime, added) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (key) DO UPDATE SET name = excluded.name, box = excluded.box, courier = excluded.courier,
			places = excluded.places, card = excluded.card, cardtime = excluded.cardtime, blocked = 0, alert = '', next = 0, attempts = 0
			RETURNING id`,
			c.Key.Bytes(), c.Name, c.Box, c.Courier.String(), places, c.Card, cardTime(c.Card), s.now()).Scan(&id)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM blockedkeys WHERE key = ?`, c.Key.Bytes()); err != nil {
			return err
		}
		if err := s.acceptRequests(ctx, tx, id, c.Key); err != nil {
			return err
		}
		c, err = scanContact(tx.QueryRowContext(ctx, `SELECT `+contactColumns+` FROM contacts WHERE id = ?`, id))
		return err
	})
	return c, err
}

func cardTime(signed []byte) int64 {
	c, err := card.Decode(signed)
	if err != nil {
		return 0
	}
	return c.Time.UnixMilli()
}

// checkNew refuses a contact whose key or name is somebody's.
func checkNew(ctx context.Context, tx *sql.Tx, c Contact) error {
	known, err := contactOf(ctx, tx, c.Key)
	if err == nil {
		return fmt.Errorf("%w: it is %q", ErrKnown, known.Name)
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	other, err := scanContact(tx.QueryRowContext(ctx, `SELECT `+contactColumns+` FROM contacts WHERE name = ?`, c.Name))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %q has the key %s, not %s", ErrKeyChanged, other.Name, other.Key, c.Key)
}

// contactOf finds the contact who has the key, or has had it. Removed contacts are not found.
func contactOf(ctx context.Context, q querier, key keys.PublicKey) (Contact, error) {
	return scanContact(q.QueryRowContext(ctx, `SELECT `+contactColumns+` FROM contacts
		WHERE name IS NOT NULL AND (key = ?1 OR id = (SELECT contact FROM formerkeys WHERE key = ?1))`, key.Bytes()))
}

type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Contacts lists the contacts by name, those who are blocked included.
func (s *Store) Contacts(ctx context.Context) ([]Contact, error) {
	return collect(ctx, s.db, scanContact, `SELECT `+contactColumns+` FROM contacts WHERE name IS NOT NULL ORDER BY name`)
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, plainError(err)
	}
	defer func() { _ = rows.Close() }()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, plainError(rows.Err())
}

// Contact finds a contact by its name, in any case. Its error is [ErrNotFound].
func (s *Store) Contact(ctx context.Context, name string) (Contact, error) {
	return scanContact(s.db.QueryRowContext(ctx, `SELECT `+contactColumns+` FROM contacts WHERE name = ?`, name))
}

// ContactByID finds a contact, even one that was removed. Its error is [ErrNotFound].
func (s *Store) ContactByID(ctx context.Context, id int64) (Contact, error) {
	return scanContact(s.db.QueryRowContext(ctx, `SELECT `+contactColumns+` FROM contacts WHERE id = ?`, id))
}

// ContactByKey finds the contact who has the key, or has had it. Its error is [ErrNotFound].
func (s *Store) ContactByKey(ctx context.Context, key keys.PublicKey) (Contact, error) {
	return contactOf(ctx, s.db, key)
}

// RenameContact gives a contact another name. Its error is [ErrName] or [ErrNotFound].
func (s *Store) RenameContact(ctx context.Context, id int64, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		var other int64
		err := tx.QueryRowContext(ctx, `SELECT id FROM contacts WHERE name = ? AND id != ?`, name, id).Scan(&other)
		if err == nil {
			return fmt.Errorf("%w: another contact is called that", ErrName)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		return one(tx.ExecContext(ctx, `UPDATE contacts SET name = ? WHERE id = ? AND name IS NOT NULL`, name, id))
	})
}

// one makes a change of nothing an [ErrNotFound].
func one(r sql.Result, err error) error {
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n != 0 {
		return err
	}
	return ErrNotFound
}

// RemoveContact forgets the name and the places of a contact, and what waits for it. The messages stay; their sender is a
// stranger from then on. Its error is [ErrNotFound].
func (s *Store) RemoveContact(ctx context.Context, id int64) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		err := one(tx.ExecContext(ctx, `UPDATE contacts SET name = NULL, places = '[]', courier = '', card = NULL, cardtime = 0,
			blocked = 0, alert = '', trouble = '' WHERE id = ? AND name IS NOT NULL`, id))
		if err != nil {
			return err
		}
		return dropOutbox(ctx, tx, id, "the contact was removed")
	})
}

// dropOutbox gives up what waits for a contact.
func dropOutbox(ctx context.Context, tx *sql.Tx, contact int64, why string) error {
	waiting, err := collect(ctx, tx, scanOutgoing, outgoingQuery+` WHERE contact = ?`, contact)
	if err != nil {
		return err
	}
	for _, o := range waiting {
		if err := settle(ctx, tx, o, Settlement{State: Failed, Note: why + droppedNote(o.State)}); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM owed WHERE contact = ?`, contact)
	return err
}

// droppedNote says what may still become of a message that had come so far.
func droppedNote(state State) string {
	switch state {
	case AtHub:
		return "; it may still be fetched from the hub"
	case Held:
		return "; it may still be accepted"
	}
	return ""
}

// BlockContact throws away what the contact sends from now on, or stops doing so. What waits for a contact that is
// blocked is given up. Its error is [ErrNotFound].
func (s *Store) BlockContact(ctx context.Context, id int64, blocked bool) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		err := one(tx.ExecContext(ctx, `UPDATE contacts SET blocked = ? WHERE id = ? AND name IS NOT NULL`, blocked, id))
		if err != nil || !blocked {
			return err
		}
		return dropOutbox(ctx, tx, id, "the contact was blocked")
	})
}

// SetPlaces says anew where a contact is reached, without a card. Its error is [ErrNotFound].
func (s *Store) SetPlaces(ctx context.Context, id int64, courier secrez.ID, places []card.Place) error {
	text, err := json.Marshal(places)
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `UPDATE contacts SET courier = ?, places = ?, next = 0 WHERE id = ?`, courier.String(), text, id))
	})
}

// SetCard takes the places of a contact from its card, unless it has a later one: then it reports false. Its error is
// [ErrKeyChanged] for a card with another key.
func (s *Store) SetCard(ctx context.Context, id int64, signed []byte) (newer bool, err error) {
	c, err := card.Decode(signed)
	if err != nil {
		return false, err
	}
	places, err := json.Marshal(c.Places)
	if err != nil {
		return false, err
	}
	if c.Places == nil {
		places = []byte("[]")
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		known, err := scanContact(tx.QueryRowContext(ctx, `SELECT `+contactColumns+` FROM contacts WHERE id = ?`, id))
		if err != nil {
			return err
		}
		if !known.Key.Equal(c.Key) {
			return fmt.Errorf("%w: %q has the key %s, not %s", ErrKeyChanged, known.Name, known.Key, c.Key)
		}
		if known.Card != nil && cardTime(known.Card) >= c.Time.UnixMilli() {
			return nil
		}
		newer = true
		_, err = tx.ExecContext(ctx, `UPDATE contacts SET courier = ?, places = ?, card = ?, cardtime = ?, next = 0 WHERE id = ?`,
			c.ID.String(), places, signed, c.Time.UnixMilli(), id)
		return err
	})
	return newer, err
}

// Alert tells the owner something about a contact until he has seen it: until it is set to nothing.
func (s *Store) Alert(ctx context.Context, id int64, text string) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		return one(tx.ExecContext(ctx, `UPDATE contacts SET alert = ? WHERE id = ?`, text, id))
	})
}

// rotate puts a contact's new key in the place of its old one.
func (s *Store) rotate(ctx context.Context, tx *sql.Tx, st *rotation.Statement) (Contact, error) {
	c, err := contactOf(ctx, tx, st.Old)
	if err != nil {
		return c, err
	}
	if !c.Key.Equal(st.Old) {
		if c.Key.Equal(st.New) {
			return c, nil
		}
		var former int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM formerkeys WHERE key = ?`, st.New.Bytes()).Scan(&former)
		if err != nil || former != 0 {
			return c, err // an old statement, whose new key has been given up as well
		}
		_, err = tx.ExecContext(ctx, `UPDATE contacts SET alert = ? WHERE id = ?`,
			"its former key names another successor: the former key may be stolen", c.ID)
		return c, err
	}
	if other, err := contactOf(ctx, tx, st.New); err == nil {
		return other, fmt.Errorf("%w: %q", ErrKnown, other.Name)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO formerkeys(key, contact, statement) VALUES (?, ?, ?)`, st.Old.Bytes(), c.ID, st.Bytes())
	if err != nil {
		return c, err
	}
	// A stranger's row, left by a contact that was removed, gives way.
	if err := mergeRemoved(ctx, tx, st.New, c.ID); err != nil {
		return c, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE contacts SET key = ?, box = NULL, card = NULL, cardtime = 0, alert = ? WHERE id = ?`,
		st.New.Bytes(), "has changed the key: the old one has signed for the new one", c.ID)
	c.Key = st.New
	return c, err
}

// mergeRemoved gives the messages of a removed contact with the key to another one.
func mergeRemoved(ctx context.Context, tx *sql.Tx, key keys.PublicKey, to int64) error {
	var old int64
	err := tx.QueryRowContext(ctx, `SELECT id FROM contacts WHERE key = ?`, key.Bytes()).Scan(&old)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, query := range []string{
		`UPDATE messages SET contact = ?2 WHERE contact = ?1`, `UPDATE files SET contact = ?2 WHERE contact = ?1`,
		`UPDATE formerkeys SET contact = ?2 WHERE contact = ?1`, `DELETE FROM contacts WHERE id = ?1`,
	} {
		if _, err := tx.ExecContext(ctx, query, old, to); err != nil {
			return err
		}
	}
	return nil
}
