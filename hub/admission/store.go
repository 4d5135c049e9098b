package admission

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
)

// The buckets that the hub opens for Config.Rules and Config.Invites.
const (
	RulesBucket   = "admission-rules"
	InvitesBucket = "admission-invites"
)

// settleTime bounds how long a change that is on disk may take to come back and hold.
const settleTime = 5 * time.Second

// Bucket is what this package needs of a bucket of the registry; [registry.Bucket] is one. Its errors are those of that
// package.
type Bucket interface {
	Get(ctx context.Context, key string) (registry.Item, error)
	Put(ctx context.Context, key string, value []byte) (uint64, error)
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string) error
	DeleteIf(ctx context.Context, key string, revision uint64) error
	Watch(ctx context.Context) iter.Seq2[registry.Change, error]
}

// A feed is a bucket that is watched. What is in memory comes from there alone, also what this node has written: so there is
// one order of things.
type feed struct {
	name   string
	bucket Bucket
	take   func(registry.Change) error // takes a change in; called with mu held
	seen   uint64                      // the latest revision that was taken in; guarded by mu
	loaded chan error                  // gets nil when all has been taken in, or why it could not be
}

// follow takes in what a bucket has and what happens in it, until ctx ends or the registry is closed.
func (a *Admission) follow(ctx context.Context, f *feed) {
	var bad error // the first thing that could not be read while loading
	loading := true
	for change, err := range f.bucket.Watch(ctx) {
		if err != nil {
			f.tell(err)
			if ctx.Err() == nil {
				a.log.Warn("admission: changes are not seen any more", "bucket", f.name, "err", err)
			}
			return
		}
		if change.Loaded {
			loading = false
			f.tell(bad)
			continue
		}
		if err := a.takeIn(f, change); err != nil {
			bad = errors.Join(bad, err)
			a.log.Error("admission: a stored entry cannot be read and is not heeded", "bucket", f.name, "key", change.Key, "err", err)
		}
		if !loading {
			a.poke()
		}
	}
}

// tell says that loading has ended, to Open, which waits for it once.
func (f *feed) tell(err error) {
	select {
	case f.loaded <- err:
	default:
	}
}

func (a *Admission) takeIn(f *feed, change registry.Change) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := f.take(change)
	f.seen = max(f.seen, change.Revision)
	close(a.moved)
	a.moved = make(chan struct{})
	return err
}

// settle waits until something holds in memory that is on disk already. The condition is asked with mu held.
func (a *Admission) settle(ctx context.Context, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		a.mu.RLock()
		ok, moved := holds(), a.moved
		a.mu.RUnlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%w: it is written, but does not hold yet: %w", ErrUnavailable, context.Cause(ctx))
		case <-a.life.Done():
			return fmt.Errorf("%w: closed", ErrUnavailable)
		}
	}
}

// failure says what an error of a bucket means here.
func failure(err error) error {
	if errors.Is(err, registry.ErrUnavailable) || errors.Is(err, registry.ErrClosed) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
