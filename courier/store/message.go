package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/keys"
)

// Direction says who sent a message. The numbers are Secrez's.
type Direction int

// The directions.
const (
	Received Direction = 1
	Sent     Direction = 2
)

// State says how far a message has come.
type State int

// The states. A received message is Delivered; a file of which chunks are missing is Queued.
const (
	Queued    State = 1 // here
	AtHub     State = 2 // in the recipient's mailbox at a hub
	Held      State = 3 // with the recipient's courier, whose owner does not know us yet
	Delivered State = 4 // with the recipient
	Failed    State = 5 // given up; the note says why
)

var stateNames = []string{"", "queued", "at the hub", "held", "delivered", "failed"}

// String names the state as people see it.
func (s State) String() string {
	if s < Queued || s > Failed {
		return "unknown"
	}
	return stateNames[s]
}

// Message is a message as it is shown: a text or a file.
type Message struct {
	ID        int64 // in the order in which messages are shown
	Change    int64 // grows with each change of any message
	Contact   int64
	Name      string         // the contact's; empty if it was removed
	Key       keys.PublicKey // the contact's
	Direction Direction
	State     State
	Hash      envelope.Hash
	Number    uint64
	Text      string    // of a text
	File      *FileInfo // of a file
	Time      time.Time // by the sender's clock
	Stored    time.Time // by ours
	Note      string    // why it failed
}

// FileInfo is a file in a message.
type FileInfo struct {
	ID     envelope.FileID
	Name   string
	Size   int64 // in bytes
	Chunks int   // that it has
	Done   int   // chunks that have arrived: here of a received file, there of a sent one
}

// Query selects messages. The zero value selects the oldest [DefaultLimit].
type Query struct {
	Contact   int64     // zero: of all
	Direction Direction // zero: both
	Since     time.Time // stored then or later; zero: no limit
	Until     time.Time // stored before; zero: no limit
	After     int64     // with a larger ID
	Changed   int64     // with a larger Change; for [Store.Changes]
	Last      bool      // the last ones of those selected, still in order
	Limit     int       // at most so many. Zero: DefaultLimit
}

// DefaultLimit is how many messages a query without a limit gives.
const DefaultLimit = 500

const messageColumns = `m.id, m.change, m.contact, ifnull(c.name, ''), c.key, m.direction, m.state, m.hash, m.number, m.kind, m.text, m.time, m.stored,
	m.note, f.file, f.name, f.size, f.chunks, f.done`

const messageTables = ` FROM messages m JOIN contacts c ON c.id = m.contact LEFT JOIN files f ON f.message = m.id`

func scanMessage(row scanner) (Message, error) {
	var (
		m                  Message
		key, hash, file    []byte
		kind               int
		sent, stored       int64
		name               sql.NullString
		size, chunks, done sql.NullInt64
	)
	err := row.Scan(&m.ID, &m.Change, &m.Contact, &m.Name, &key, &m.Direction, &m.State, &hash, &m.Number, &kind, &m.Text, &sent, &stored,
		&m.Note, &file, &name, &size, &chunks, &done)
	if errors.Is(err, sql.ErrNoRows) {
		return m, ErrNotFound
	}
	if err != nil {
		return m, plainError(err)
	}
	m.Time, m.Stored = time.UnixMilli(sent), time.UnixMilli(stored)
	copy(m.Hash[:], hash)
	if file != nil {
		m.File = &FileInfo{Name: name.String, Size: size.Int64, Chunks: int(chunks.Int64), Done: int(done.Int64)}
		copy(m.File.ID[:], file)
	}
	m.Key, err = keys.NewPublicKey(key)
	return m, err
}

// Messages gives the messages that the query selects, in the order of their IDs.
func (s *Store) Messages(ctx context.Context, q Query) ([]Message, error) {
	return s.messages(ctx, q, "m.id")
}

// Changes gives the messages that the query selects and that have changed, or come, after the change q.Changed, in the
// order of their changes.
func (s *Store) Changes(ctx context.Context, q Query) ([]Message, error) {
	return s.messages(ctx, q, "m.change")
}

func (s *Store) messages(ctx context.Context, q Query, order string) ([]Message, error) {
	where, args := q.where()
	if q.Last {
		order += " DESC"
	}
	limit := q.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	found, err := collect(ctx, s.db, scanMessage, `SELECT `+messageColumns+messageTables+where+` ORDER BY `+order+` LIMIT ?`, append(args, limit)...)
	if q.Last {
		for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
			found[i], found[j] = found[j], found[i]
		}
	}
	return found, err
}

func (q Query) where() (string, []any) {
	var terms []string
	var args []any
	add := func(set bool, term string, arg any) {
		if set {
			terms, args = append(terms, term), append(args, arg)
		}
	}
	add(q.Contact != 0, "m.contact = ?", q.Contact)
	add(q.Direction != 0, "m.direction = ?", q.Direction)
	add(!q.Since.IsZero(), "m.stored >= ?", q.Since.UnixMilli())
	add(!q.Until.IsZero(), "m.stored < ?", q.Until.UnixMilli())
	add(q.After > 0, "m.id > ?", q.After)
	add(q.Changed > 0, "m.change > ?", q.Changed)
	if terms == nil {
		return "", nil
	}
	return " WHERE " + strings.Join(terms, " AND "), args
}

// Message gives one message. Its error is [ErrNotFound].
func (s *Store) Message(ctx context.Context, id int64) (Message, error) {
	return scanMessage(s.db.QueryRowContext(ctx, `SELECT `+messageColumns+messageTables+` WHERE m.id = ?`, id))
}

// LastChange gives the largest Change of any message: whoever asks for what changes after it follows from now on.
func (s *Store) LastChange(ctx context.Context) (int64, error) {
	var n int64
	err := s.db.QueryRowContext(ctx, `SELECT ifnull(max(change), 0) FROM messages`).Scan(&n)
	return n, plainError(err)
}

// nextChange gives the number of a change.
const nextChange = `(SELECT ifnull(max(change), 0) + 1 FROM messages)`

// insertMessage adds a message to what is shown.
func (s *Store) insertMessage(ctx context.Context, tx *sql.Tx, contact int64, d Direction, state State, m *envelope.Signed) (int64, error) {
	var text string
	if m.Kind == envelope.Text {
		text = string(m.Body)
	}
	var id int64
	hash := m.Hash()
	err := tx.QueryRowContext(ctx, `INSERT INTO messages(change, contact, direction, hash, number, kind, text, time, stored, state)
		VALUES (`+nextChange+`, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		contact, d, hash[:], int64(m.Number), m.Kind, text, m.Time.UnixMilli(), s.now(), state).Scan(&id)
	if err != nil || m.Kind != envelope.File {
		return id, err
	}
	return id, insertFile(ctx, tx, id, contact, d, m)
}

// setState changes how far a message has come.
func setState(ctx context.Context, tx *sql.Tx, id int64, state State, note string) error {
	_, err := tx.ExecContext(ctx, `UPDATE messages SET state = ?, note = ?, change = `+nextChange+` WHERE id = ?`, state, note, id)
	return err
}
