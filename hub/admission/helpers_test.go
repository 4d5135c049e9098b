package admission

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// Addresses of strangers, none of them loopback.
var (
	stranger  = netip.MustParseAddr("192.0.2.7")
	neighbour = netip.MustParseAddr("192.0.2.8")
)

// key gives the same public key for the same number, in every process. Nobody can prove it, but admission does not ask for
// that, and it costs nothing.
func key(tb testing.TB, n uint64) keys.PublicKey {
	tb.Helper()
	b := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("admission test key "), n))
	k, err := keys.NewPublicKey(b[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func identity(tb testing.TB, n uint64) *keys.Identity {
	tb.Helper()
	seed := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("admission test "), n))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func mustID(tb testing.TB, s string) secrez.ID {
	tb.Helper()
	id, err := secrez.ParseID(s)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// rule reads a rule as people write it.
func rule(tb testing.TB, s string) Rule {
	tb.Helper()
	r, err := ParseRule(s)
	if err != nil {
		tb.Fatalf("%s: %v", s, err)
	}
	return r
}

// A world is what an Admission stands on: buckets in memory and a directory of ids.
type world struct {
	rules, invites *memBucket
	log            *testkit.Buffer

	mu  sync.Mutex
	ids map[[keys.PublicKeySize]byte]secrez.ID
}

func newWorld() *world {
	return &world{
		rules: newMemBucket(), invites: newMemBucket(), log: &testkit.Buffer{},
		ids: map[[keys.PublicKeySize]byte]secrez.ID{},
	}
}

func (w *world) give(k keys.PublicKey, id secrez.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids[k.Array()] = id
}

func (w *world) idOf(k keys.PublicKey) secrez.ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ids[k.Array()]
}

func (w *world) config() Config {
	return Config{
		Rules: w.rules, Invites: w.invites, IDOf: w.idOf,
		Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// open opens an Admission on a world of its own.
func open(tb testing.TB, change func(*Config)) (*Admission, *world) {
	tb.Helper()
	w := newWorld()
	cfg := w.config()
	if change != nil {
		change(&cfg)
	}
	return openAt(tb, cfg), w
}

func openAt(tb testing.TB, cfg Config) *Admission {
	tb.Helper()
	a, err := Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closed(tb, a) })
	return a
}

func closed(tb testing.TB, a *Admission) {
	tb.Helper()
	if err := a.Close(); err != nil {
		tb.Error(err)
	}
}

// set makes rules hold.
func set(tb testing.TB, a *Admission, rules ...string) {
	tb.Helper()
	for _, s := range rules {
		if err := a.SetRule(tb.Context(), rule(tb, s)); err != nil {
			tb.Fatalf("%s: %v", s, err)
		}
	}
}

func invite(tb testing.TB, a *Admission, terms Invite) (code string, i Invite) {
	tb.Helper()
	code, i, err := a.CreateInvite(tb.Context(), terms)
	if err != nil {
		tb.Fatal(err)
	}
	return code, i
}

// want checks an error.
func want(tb testing.TB, what string, err, wanted error) {
	tb.Helper()
	if !errors.Is(err, wanted) {
		tb.Errorf("%s: got %v, want %v", what, err, wanted)
	}
}

// limited reports whether an error is a RateError.
func limited(err error) bool {
	_, ok := errors.AsType[*RateError](err)
	return ok
}

// memBucket is a bucket in memory: all its changes in a row. Unlike the registry's, it can be made to fail on demand, and
// works in a synctest bubble.
type memBucket struct {
	mu      sync.Mutex
	log     []registry.Change        // guarded by mu
	now     map[string]registry.Item // guarded by mu
	fail    error                    // what every call gives instead; guarded by mu
	lost    error                    // what the next write gives although it works; guarded by mu
	between func()                   // runs once, before the next write; guarded by mu
	moved   chan struct{}            // guarded by mu
	writes  int                      // guarded by mu
}

func newMemBucket() *memBucket {
	return &memBucket{now: map[string]registry.Item{}, moved: make(chan struct{})}
}

func (b *memBucket) setFail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = err
}

func (b *memBucket) loseAnswer(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = err
}

func (b *memBucket) beforeNextWrite(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.between = fn
}

func (b *memBucket) written() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writes
}

func (b *memBucket) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.now)
}

func (b *memBucket) Get(_ context.Context, key string) (registry.Item, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return registry.Item{}, b.fail
	}
	item, ok := b.now[key]
	if !ok {
		return item, registry.ErrNotFound
	}
	return item, nil
}

// write changes one key if the check of what is there allows it.
func (b *memBucket) write(key string, value []byte, check func(registry.Item, bool) error) (uint64, error) {
	b.mu.Lock()
	between := b.between
	b.between = nil
	b.mu.Unlock()
	if between != nil {
		between()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return 0, b.fail
	}
	item, there := b.now[key]
	if err := check(item, there); err != nil {
		return 0, err
	}
	b.writes++
	item = registry.Item{Key: key, Value: slices.Clone(value), Revision: uint64(len(b.log) + 1)}
	if value == nil {
		delete(b.now, key)
	} else {
		b.now[key] = item
	}
	b.log = append(b.log, registry.Change{Item: item, Deleted: value == nil})
	close(b.moved)
	b.moved = make(chan struct{})
	lost := b.lost
	b.lost = nil
	return item.Revision, lost
}

func (b *memBucket) Put(_ context.Context, key string, value []byte) (uint64, error) {
	return b.write(key, value, func(registry.Item, bool) error { return nil })
}

func (b *memBucket) Create(_ context.Context, key string, value []byte) (uint64, error) {
	return b.write(key, value, func(_ registry.Item, there bool) error {
		if there {
			return registry.ErrExists
		}
		return nil
	})
}

func (b *memBucket) Update(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return b.write(key, value, func(item registry.Item, _ bool) error {
		if item.Revision != revision {
			return registry.ErrConflict
		}
		return nil
	})
}

func (b *memBucket) Delete(_ context.Context, key string) error {
	_, err := b.write(key, nil, func(registry.Item, bool) error { return nil })
	return err
}

func (b *memBucket) DeleteIf(ctx context.Context, key string, revision uint64) error {
	_, err := b.Update(ctx, key, nil, revision)
	return err
}

func (b *memBucket) Watch(ctx context.Context) iter.Seq2[registry.Change, error] {
	return func(yield func(registry.Change, error) bool) {
		b.mu.Lock()
		seen := len(b.log)
		items := slices.Collect(maps.Values(b.now))
		b.mu.Unlock()
		for _, item := range items {
			if !yield(registry.Change{Item: item}, nil) {
				return
			}
		}
		if !yield(registry.Change{Loaded: true}, nil) {
			return
		}
		for {
			b.mu.Lock()
			news, moved := slices.Clone(b.log[seen:]), b.moved
			b.mu.Unlock()
			seen += len(news)
			for _, change := range news {
				if !yield(change, nil) {
					return
				}
			}
			if len(news) > 0 {
				continue
			}
			select {
			case <-moved:
			case <-ctx.Done():
				yield(registry.Change{}, ctx.Err())
				return
			}
		}
	}
}
