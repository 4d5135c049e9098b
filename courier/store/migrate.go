package store

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
)

//go:embed schema1.sql
var schema1 string

//go:embed schema2.sql
var schema2 string

// migrations lead from each version to the next; the first makes the tables. What has been released does not change.
func migrations() []string { return []string{schema1, schema2} }

// migrate brings the tables to the latest version.
func migrate(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS version (number INTEGER NOT NULL)`); err != nil {
		return err
	}
	var version int
	err := tx.QueryRowContext(ctx, `SELECT number FROM version`).Scan(&version)
	if errors.Is(err, sql.ErrNoRows) {
		_, err = tx.ExecContext(ctx, `INSERT INTO version(number) VALUES (0)`)
	}
	if err != nil {
		return err
	}
	steps := migrations()
	if version > len(steps) {
		return fmt.Errorf("%w (version %d, this one knows %d)", ErrNewer, version, len(steps))
	}
	for _, step := range steps[version:] {
		if _, err := tx.ExecContext(ctx, step); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `UPDATE version SET number = ?`, len(steps))
	return err
}
