package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
)

// AdoptIdentity makes the store that of id: a new store at once, and one of a former identity of the same owner by
// queueing a statement to each contact that id takes the former one's place. Its error is [ErrIdentity] for a store of
// somebody else.
func (s *Store) AdoptIdentity(ctx context.Context, id *keys.Identity, former []*keys.Identity) error {
	return s.write(ctx, func(tx *sql.Tx) error {
		var key []byte
		err := tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE key = 'identity'`).Scan(&key)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if key != nil {
			owner, err := keys.NewPublicKey(key)
			if err != nil {
				return err
			}
			if owner.Equal(id.Public()) {
				return nil
			}
			if err := s.succeed(ctx, tx, owner, id, former); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO settings(key, value) VALUES ('identity', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
			id.Public().Bytes())
		return err
	})
}

// succeed tells each contact that id takes the place of the owner's former identity.
func (s *Store) succeed(ctx context.Context, tx *sql.Tx, owner keys.PublicKey, id *keys.Identity, former []*keys.Identity) error {
	for _, f := range former {
		if !f.Public().Equal(owner) {
			continue
		}
		st, err := rotation.New(f, id, s.opts.Now())
		if err != nil {
			return err
		}
		contacts, err := collect(ctx, tx, scanContact, `SELECT `+contactColumns+` FROM contacts WHERE name IS NOT NULL AND NOT blocked`)
		if err != nil {
			return err
		}
		for _, c := range contacts {
			if _, err := s.queue(ctx, tx, id, c, []Draft{{envelope.Rotation, st.Bytes()}}); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("%w: %s", ErrIdentity, owner)
}
