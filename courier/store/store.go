package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/secretstack/secretstack/courier/envelope"
)

var (
	// ErrInUse says that another process has the store open.
	ErrInUse = errors.New("store: another courier uses this folder")
	// ErrNewer says that a newer version of the program has written the store.
	ErrNewer = errors.New("store: written by a newer version of this program")
	// ErrNotFound says that there is no such contact, request, message or file.
	ErrNotFound = errors.New("store: not found")
	// ErrName says that a name is taken by another contact, or is none.
	ErrName = errors.New("store: name taken or not allowed")
	// ErrKnown says that the key is a contact's already.
	ErrKnown = errors.New("store: the key is a contact's already")
	// ErrKeyChanged says that a contact is about to get a key that its old one has not signed.
	ErrKeyChanged = errors.New("store: the key has changed")
	// ErrFull says that the request box takes no more, from this sender or at all.
	ErrFull = errors.New("store: the request box is full")
	// ErrIdentity says that the store belongs to another identity.
	ErrIdentity = errors.New("store: belongs to another identity")
	// ErrRefused says that a message is of a kind that its sender may not send, or a file larger than allowed.
	ErrRefused = errors.New("store: not taken")
)

// DefaultMaxFile is the largest file, in bytes, unless the options say otherwise.
const DefaultMaxFile = 32 << 20

// Options bound the store. The zero value of each field stands for the default that its comment names.
type Options struct {
	// MaxRequests is how many messages of strangers wait for an answer. Zero: 1000.
	MaxRequests int
	// MaxRequestsPerSender is how many of them come from one stranger. Zero: 10.
	MaxRequestsPerSender int
	// MaxRequestBytes is how many bytes they have together. Zero: 16 MiB.
	MaxRequestBytes int64
	// RequestAge is how long they wait before they are dropped. Zero: 90 days.
	RequestAge time.Duration
	// MaxFile is the largest file taken or sent, in bytes. Zero: [DefaultMaxFile].
	MaxFile int64
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

func (o *Options) setDefaults() {
	o.MaxRequests = orDefault(o.MaxRequests, 1000)
	o.MaxRequestsPerSender = orDefault(o.MaxRequestsPerSender, 10)
	o.MaxRequestBytes = orDefault(o.MaxRequestBytes, 16<<20)
	o.RequestAge = orDefault(o.RequestAge, 90*24*time.Hour)
	o.MaxFile = orDefault(o.MaxFile, DefaultMaxFile)
	if o.Now == nil {
		o.Now = time.Now
	}
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Store is an open store.
type Store struct {
	db     *sql.DB
	opts   Options
	series envelope.Series

	mu      sync.Mutex
	changed chan struct{} // closed by the next change; guarded by mu
}

// Open opens the store in a file, and makes both the file, for its owner alone, and the folder if needed. Its error is
// [ErrInUse] or [ErrNewer], or the file system's.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	opts.setDefaults()
	if err := makeFile(path); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	// One connection holds the file's lock as long as it lives: nobody else reads or writes.
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+
		"?_txlock=immediate&_pragma=locking_mode(EXCLUSIVE)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)")
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	db.SetMaxOpenConns(1)
	s := &Store{db: db, opts: opts, changed: make(chan struct{})}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(plainError(err), db.Close())
	}
	return s, nil
}

// makeFile makes the file for its owner alone.
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if runtime.GOOS != "windows" {
		err = f.Chmod(0o600)
	}
	return errors.Join(err, f.Close())
}

// prepare brings the tables up to date and reads what never changes.
func (s *Store) prepare(ctx context.Context) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		if err := migrate(ctx, tx); err != nil {
			return err
		}
		return s.loadSeries(ctx, tx)
	})
	if err != nil {
		return err
	}
	return s.dropOldRequests(ctx)
}

func (s *Store) loadSeries(ctx context.Context, tx *sql.Tx) error {
	var b []byte
	err := tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE key = 'series'`).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		b = make([]byte, envelope.SeriesSize)
		_, _ = rand.Read(b) // never fails
		_, err = tx.ExecContext(ctx, `INSERT INTO settings(key, value) VALUES ('series', ?)`, b)
	}
	copy(s.series[:], b)
	return err
}

// Close ends the store. It may be called again.
func (s *Store) Close() error { return s.db.Close() }

// Series is what the numbers of sent messages count in. It lasts as long as the file.
func (s *Store) Series() envelope.Series { return s.series }

// Changed gives a channel that the next change of messages or requests closes. Take it before looking: then nothing
// is missed.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Store) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// write runs f in a transaction, which is on disk when write returns nil. Once begun it does not end with ctx, so that
// an error of the context never leaves open whether it happened.
func (s *Store) write(ctx context.Context, f func(tx *sql.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := s.db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return plainError(err)
	}
	if err := f(tx); err != nil {
		return plainError(errors.Join(err, tx.Rollback()))
	}
	if err := tx.Commit(); err != nil {
		return plainError(err)
	}
	s.announce()
	return nil
}

// plainError makes errors of the engine ours where a caller decides something.
func plainError(err error) error {
	engine, ok := errors.AsType[*sqlite.Error](err)
	switch {
	case ok && engine.Code()&0xff == sqlite3.SQLITE_BUSY:
		return ErrInUse
	case ok:
		return fmt.Errorf("store: %w", err)
	}
	return err
}

func (s *Store) now() int64 { return s.opts.Now().UnixMilli() }

// Setting reads a value that the courier keeps, or nil.
func (s *Store) Setting(ctx context.Context, key string) ([]byte, error) {
	var b []byte
	err := s.db.QueryRowContext(ctx, `SELECT value FROM settings WHERE key = ?`, key).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return b, plainError(err)
}

// SetSetting keeps a value. A nil one is forgotten.
func (s *Store) SetSetting(ctx context.Context, key string, value []byte) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		if value == nil {
			_, err := tx.ExecContext(ctx, `DELETE FROM settings WHERE key = ?`, key)
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO settings(key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
		return err
	})
}
