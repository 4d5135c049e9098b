package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"github.com/secretstack/secretstack/courier/envelope"
)

// checkFile refuses a file that is too large.
func (s *Store) checkFile(m *envelope.Signed) error {
	info, err := envelope.ParseFileInfo(m.Body)
	if err != nil {
		return err
	}
	if info.Size > uint64(s.opts.MaxFile) {
		return fmt.Errorf("%w: the file has %d bytes; %d are allowed", ErrRefused, info.Size, s.opts.MaxFile)
	}
	return nil
}

func insertFile(ctx context.Context, tx *sql.Tx, message, contact int64, d Direction, m *envelope.Signed) error {
	info, err := envelope.ParseFileInfo(m.Body)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO files(message, contact, direction, file, name, size, hash, chunks) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		message, contact, d, info.ID[:], info.Name, int64(info.Size), info.Hash[:], int64(info.Chunks()))
	return err
}

// takeFile shows a file whose chunks are still to come.
func (s *Store) takeFile(ctx context.Context, tx *sql.Tx, contact int64, m *envelope.Signed) error {
	if err := s.checkFile(m); err != nil {
		return err
	}
	info, err := envelope.ParseFileInfo(m.Body)
	if err != nil {
		return err
	}
	var known int
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM files WHERE contact = ? AND direction = ? AND file = ?`, contact, Received, info.ID[:]).Scan(&known)
	if err != nil {
		return err
	}
	if known > 0 {
		return fmt.Errorf("%w: another file has this id", ErrRefused)
	}
	id, err := s.insertMessage(ctx, tx, contact, Received, Queued, m)
	if err != nil || info.Chunks() > 0 {
		return err
	}
	return finishFile(ctx, tx, id)
}

// takeChunk adds a piece to a file, and checks the whole when it is the last.
func takeChunk(ctx context.Context, tx *sql.Tx, contact int64, m *envelope.Signed) error {
	c, err := envelope.ParseFileChunk(m.Body)
	if err != nil {
		return err
	}
	var message, size, chunks, done int64
	err = tx.QueryRowContext(ctx, `SELECT message, size, chunks, done FROM files WHERE contact = ? AND direction = ? AND file = ?`,
		contact, Received, c.ID[:]).Scan(&message, &size, &chunks, &done)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: a chunk of no file", ErrRefused)
	}
	if err != nil {
		return err
	}
	want := min(int64(envelope.ChunkSize), size-int64(c.Index)*envelope.ChunkSize)
	if int64(c.Index) >= chunks || int64(len(c.Data)) != want {
		return fmt.Errorf("%w: a chunk that does not fit its file", ErrRefused)
	}
	err = one(tx.ExecContext(ctx, `INSERT INTO chunks(message, number, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, message, c.Index, c.Data))
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: another chunk is in this place", ErrRefused)
	}
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE files SET done = done + 1 WHERE message = ?`, message); err != nil {
		return err
	}
	if done+1 < chunks {
		return setState(ctx, tx, message, Queued, "")
	}
	return finishFile(ctx, tx, message)
}

// finishFile checks a file of which all has come.
func finishFile(ctx context.Context, tx *sql.Tx, message int64) error {
	var want []byte
	if err := tx.QueryRowContext(ctx, `SELECT hash FROM files WHERE message = ?`, message).Scan(&want); err != nil {
		return err
	}
	h := sha256.New()
	if err := copyChunks(ctx, tx, message, h); err != nil {
		return err
	}
	if string(h.Sum(nil)) != string(want) {
		return setState(ctx, tx, message, Failed, "the file is damaged")
	}
	return setState(ctx, tx, message, Delivered, "")
}

// copyChunks writes a file's chunks in order, one in memory at a time.
func copyChunks(ctx context.Context, q querier, message int64, w io.Writer) error {
	for i := 0; ; i++ {
		var data []byte
		err := q.QueryRowContext(ctx, `SELECT data FROM chunks WHERE message = ? AND number = ?`, message, i).Scan(&data)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return plainError(err)
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
}

// WriteFile writes the content of a received file to w. Its error is [ErrNotFound] for a message that is none, or of
// whose file not everything has come.
func (s *Store) WriteFile(ctx context.Context, message int64, w io.Writer) error {
	m, err := s.Message(ctx, message)
	if err != nil {
		return err
	}
	if m.File == nil || m.Direction != Received || m.State != Delivered {
		return ErrNotFound
	}
	return copyChunks(ctx, s.db, message, w)
}
