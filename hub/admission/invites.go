package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
)

// CreateInvite makes an invite on the terms given: Uses (zero: one), Expires and Note; other fields are ignored. The code is
// told this once. When CreateInvite returns, the invite is on disk and can be redeemed here. Its error is [ErrRule],
// [ErrListFull], [ErrUnavailable], or that of ctx.
func (a *Admission) CreateInvite(ctx context.Context, terms Invite) (code string, invite Invite, err error) {
	terms, err = normalInvite(terms, a.cfg.Now())
	if err != nil {
		return "", Invite{}, err
	}
	a.mu.RLock()
	there := len(a.invites)
	a.mu.RUnlock()
	if there >= a.cfg.MaxInvites {
		return "", Invite{}, fmt.Errorf("%w: there are %d invites", ErrListFull, there)
	}
	for {
		code = newCode()
		held := &heldInvite{Invite: terms, hash: hashCode(code)}
		held.ID = held.hash.id()
		revision, err := a.createInvite(ctx, held)
		if errors.Is(err, registry.ErrExists) {
			continue // two codes whose hashes begin in the same way
		}
		if err != nil {
			return "", Invite{}, failure(err)
		}
		a.log.Info("admission: invite made", "invite", held.ID, "uses", held.Uses, "note", held.Note)
		return code, held.Invite, a.settle(ctx, func() bool { return a.inviteFeed.seen >= revision })
	}
}

func (a *Admission) createInvite(ctx context.Context, i *heldInvite) (uint64, error) {
	value, err := i.encode()
	if err != nil {
		return 0, fmt.Errorf("admission: encode an invite: %w", err)
	}
	return a.inviteFeed.bucket.Create(ctx, i.ID, value)
}

// Invites lists the invites, oldest first. The lists of members in it must not be written to.
func (a *Admission) Invites() []Invite {
	a.mu.RLock()
	all := make([]Invite, 0, len(a.invites))
	for _, i := range a.invites {
		all = append(all, i.Invite)
	}
	a.mu.RUnlock()
	slices.SortFunc(all, func(a, b Invite) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// Member reports whether a key has redeemed an invite.
func (a *Admission) Member(key keys.PublicKey) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.members[key.Array()] > 0
}

// RevokeInvite ends an invite: when it returns, nobody can redeem it any more, on any node. Its members stay members. Its
// error is [ErrNotFound], [ErrUnavailable], or that of ctx.
func (a *Admission) RevokeInvite(ctx context.Context, id string) error {
	release, err := a.myTurn(ctx)
	if err != nil {
		return err
	}
	defer release()
	current := a.invite(id)
	if current == nil {
		return fmt.Errorf("%w: no invite %s", ErrNotFound, id)
	}
	for {
		err := a.revoke(ctx, current)
		if errors.Is(err, registry.ErrConflict) {
			current, err = a.reread(ctx, id)
			if err == nil {
				continue
			}
		}
		if errors.Is(err, registry.ErrNotFound) {
			return nil // it has been removed in the meantime
		}
		if err != nil {
			return failure(err)
		}
		a.log.Info("admission: invite revoked", "invite", id, "members", len(current.Members))
		return a.settle(ctx, func() bool {
			now := a.invites[id]
			return now == nil || now.Revoked
		})
	}
}

// revoke writes that an invite is revoked, or removes one that nobody has redeemed.
func (a *Admission) revoke(ctx context.Context, i *heldInvite) error {
	if len(i.Members) == 0 {
		return a.inviteFeed.bucket.DeleteIf(ctx, i.ID, i.revision)
	}
	next := *i
	next.Revoked = true
	_, err := a.writeInvite(ctx, &next)
	return err
}

// writeInvite writes an invite in place of the revision that it was made from.
func (a *Admission) writeInvite(ctx context.Context, i *heldInvite) (uint64, error) {
	value, err := i.encode()
	if err != nil {
		return 0, fmt.Errorf("admission: encode an invite: %w", err)
	}
	return a.inviteFeed.bucket.Update(ctx, i.ID, value, i.revision)
}

// invite gives an invite from memory, or nil.
func (a *Admission) invite(id string) *heldInvite {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.invites[id]
}

// reread gives an invite as it is on disk.
func (a *Admission) reread(ctx context.Context, id string) (*heldInvite, error) {
	item, err := a.inviteFeed.bucket.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return decodeInvite(id, item.Value, item.Revision)
}

// myTurn lets one change of an invite run at a time, so that those of one node do not get into each other's way. Between
// nodes the bucket decides.
func (a *Admission) myTurn(ctx context.Context) (release func(), err error) {
	select {
	case a.turn <- struct{}{}:
		return func() { <-a.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("admission: wait for other changes: %w", context.Cause(ctx))
	}
}

// redeem makes a key a member by an invite.
func (a *Admission) redeem(ctx context.Context, key keys.PublicKey, code string) error {
	code, err := ParseCode(code)
	if err != nil {
		return err
	}
	hash := hashCode(code)
	if _, err := a.redeemable(hash); err != nil {
		return err // at once: who guesses waits for nothing and makes nobody wait
	}
	release, err := a.myTurn(ctx)
	if err != nil {
		return err
	}
	defer release()
	if a.Member(key) {
		return nil // by another connection of his, while this one waited
	}
	current, err := a.redeemable(hash)
	if err != nil {
		return err
	}
	return a.redeemFrom(ctx, current, key)
}

// redeemFrom writes a key into an invite, beginning with what is thought to be on disk.
func (a *Admission) redeemFrom(ctx context.Context, current *heldInvite, key keys.PublicKey) error {
	for {
		if current.has(key) { // by another node, or in a write of which nobody knew whether it had worked
			_ = a.settle(ctx, func() bool { return a.members[key.Array()] > 0 })
			return nil
		}
		if err := current.redeemable(a.cfg.Now()); err != nil {
			return err
		}
		next := current.redeemed(key, a.cfg.Now())
		revision, err := a.writeInvite(ctx, next)
		if err == nil {
			a.redeemedAt(ctx, next, key, revision)
			return nil
		}
		if !errors.Is(err, registry.ErrConflict) {
			return failure(err)
		}
		current, err = a.reread(ctx, current.ID)
		if errors.Is(err, registry.ErrNotFound) {
			return fmt.Errorf("%w: it was revoked", ErrInvite)
		}
		if err != nil {
			return failure(err)
		}
	}
}

// redeemable finds the invite of a code that can be redeemed, in memory. What is wrong there stays wrong: an invite can only
// get more members, expire or be revoked.
func (a *Admission) redeemable(hash codeHash) (*heldInvite, error) {
	i := a.invite(hash.id())
	if i == nil || i.hash != hash {
		return nil, fmt.Errorf("%w: nobody knows it", ErrInvite)
	}
	return i, i.redeemable(a.cfg.Now())
}

// redeemedAt ends a redemption that is on disk. The key is a member then, whether or not this node hears of it at once.
func (a *Admission) redeemedAt(ctx context.Context, i *heldInvite, key keys.PublicKey, revision uint64) {
	a.counts.redeemed.Add(1)
	a.log.Info("admission: invite redeemed", "invite", i.ID, "key", key.Short(), "left", i.Uses-len(i.Members))
	_ = a.settle(ctx, func() bool { return a.inviteFeed.seen >= revision })
}

// takeInvite takes in a change of the invites.
func (a *Admission) takeInvite(change registry.Change) error {
	before := a.invites[change.Key]
	if change.Deleted {
		a.replaceInvite(change.Key, before, nil)
		return nil
	}
	i, err := decodeInvite(change.Key, change.Value, change.Revision)
	if err != nil {
		return err
	}
	a.replaceInvite(change.Key, before, i)
	a.expect(i.Expires)
	return nil
}

// replaceInvite keeps the count of whom the invites have made a member. Members are only ever added to a record, so the two
// lists begin in the same way.
func (a *Admission) replaceInvite(id string, before, after *heldInvite) {
	var old, now []Member
	if before != nil {
		old = before.Members
	}
	if after != nil {
		now = after.Members
	}
	same := 0
	for same < len(old) && same < len(now) && old[same].Key.Equal(now[same].Key) {
		same++
	}
	for _, m := range now[same:] {
		a.members[m.Key.Array()]++
	}
	for _, m := range old[same:] {
		if key := m.Key.Array(); a.members[key] > 1 {
			a.members[key]--
		} else {
			delete(a.members, key)
		}
	}
	if after == nil {
		delete(a.invites, id)
		return
	}
	a.invites[id] = after
}
