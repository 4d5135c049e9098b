package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/secretstack/secretstack/keys"
)

// maxText bounds one entry, in bytes.
const maxText = 8 << 10

// entry is one line of somebody's log. Each names the one before by its hash, so that a log can only grow.
type entry struct {
	Author    keys.PublicKey `json:"author"`
	Sequence  int64          `json:"sequence"` // from 1
	Previous  string         `json:"previous"` // hash of the entry before; empty in the first
	Text      string         `json:"text"`
	Signature []byte         `json:"signature,omitempty"` // of the JSON without it
}

// signed returns the bytes that the signature covers.
func (e entry) signed() ([]byte, error) {
	e.Signature = nil
	return json.Marshal(e)
}

func (e entry) hash() (string, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return base64.StdEncoding.EncodeToString(sum[:]), nil
}

// store keeps the logs of any number of authors.
type store struct {
	db *sql.DB

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when an entry was added
}

func openStore(ctx context.Context, dir string) (*store, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "logs.sqlite")+"?_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // one writer at a time, and no reader sees half a write
	_, err = db.ExecContext(ctx, `create table if not exists entries (
		author text not null, sequence integer not null, hash text not null, entry text not null,
		primary key (author, sequence))`)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &store{db: db, changed: make(chan struct{})}, nil
}

func (s *store) close() error { return s.db.Close() }

// head returns the sequence and the hash of an author's last entry, 0 and "" when there is none.
func (s *store) head(ctx context.Context, author keys.PublicKey) (sequence int64, hash string, err error) {
	err = s.db.QueryRowContext(ctx,
		`select sequence, hash from entries where author = ? order by sequence desc limit 1`, author.Ref()).Scan(&sequence, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, "", nil
	}
	return sequence, hash, err
}

// next makes and adds the next entry of our own log.
func (s *store) next(ctx context.Context, id *keys.Identity, text string) (entry, error) {
	sequence, hash, err := s.head(ctx, id.Public())
	if err != nil {
		return entry{}, err
	}
	e := entry{Author: id.Public(), Sequence: sequence + 1, Previous: hash, Text: text}
	signed, err := e.signed()
	if err != nil {
		return entry{}, err
	}
	e.Signature = id.Sign(signed)
	return e, s.add(ctx, e)
}

// add checks an entry, whoever it came from, and keeps it. An entry that is there already is no error.
func (s *store) add(ctx context.Context, e entry) error {
	signed, err := e.signed()
	if err != nil {
		return err
	}
	if len(e.Text) > maxText || !e.Author.Verify(signed, e.Signature) {
		return fmt.Errorf("entry %d of %s is not its author's", e.Sequence, e.Author.Short())
	}
	sequence, previous, err := s.head(ctx, e.Author)
	if err != nil {
		return err
	}
	if e.Sequence <= sequence {
		return nil
	}
	if e.Sequence != sequence+1 || e.Previous != previous {
		return fmt.Errorf("entry %d of %s does not follow entry %d", e.Sequence, e.Author.Short(), sequence)
	}
	hash, err := e.hash()
	if err != nil {
		return err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	// The primary key refuses a second entry in the same place, should two be added at once.
	if _, err := s.db.ExecContext(ctx, `insert into entries values (?, ?, ?, ?)`, e.Author.Ref(), e.Sequence, hash, text); err != nil {
		return err
	}
	s.tell()
	return nil
}

// after returns the entries of an author that follow the one with the sequence.
func (s *store) after(ctx context.Context, author keys.PublicKey, sequence int64) ([]entry, error) {
	const most = 100 // at a time
	rows, err := s.db.QueryContext(ctx,
		`select entry from entries where author = ? and sequence > ? order by sequence limit ?`, author.Ref(), sequence, most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var entries []entry
	for rows.Next() {
		var text []byte
		var e entry
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &e); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, rows.Err()
}

// tell wakes everybody who waits for something new.
func (s *store) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// news returns a channel that is closed when the next entry is added.
func (s *store) news() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
