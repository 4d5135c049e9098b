package secrezapi

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/secrez"
)

// memStore is a store in memory.
type memStore struct {
	mu    sync.Mutex
	pages map[string][]byte // guarded by mu
	puts  int               // guarded by mu
	err   error             // guarded by mu
	block chan struct{}     // unless nil, a Put takes one out of it first
}

func newMemStore() *memStore { return &memStore{pages: map[string][]byte{}} }

func (s *memStore) Put(_ context.Context, key string, value []byte) (uint64, error) {
	if s.block != nil {
		<-s.block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.puts++
	s.pages[key] = append([]byte(nil), value...)
	return uint64(s.puts), nil
}

func (s *memStore) All(context.Context) iter.Seq2[registry.Item, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	pages, err := maps.Clone(s.pages), s.err
	return func(yield func(registry.Item, error) bool) {
		if err != nil {
			yield(registry.Item{}, err)
			return
		}
		for key, value := range pages {
			if !yield(registry.Item{Key: key, Value: value}, nil) {
				return
			}
		}
	}
}

func (s *memStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (w *world) verified(s secrez.Signed) *secrez.Payload {
	w.t.Helper()
	p, err := s.Verify()
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func remembered(t *testing.T, store Store, c *clock) map[[32]byte]time.Time {
	t.Helper()
	all := map[[32]byte]time.Time{}
	err := newUsedPayloads(store, c.now).load(time.Minute, func(digest [32]byte, when time.Time) { all[digest] = when })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A hub that is restarted must know what was used, and must not mistake a slow clock for a replay.
func TestReplaysAcrossARestartAreRefusedAndHonestClientsAreNot(t *testing.T) {
	for what, durable := range map[string]func(w *world) func(*Config){
		"a hub that is alone": func(w *world) func(*Config) { return func(c *Config) { c.Used = w.used() } },
		"one of several":      func(w *world) func(*Config) { return func(c *Config) { c.Shared = w.shared() } },
	} {
		t.Run(what, func(t *testing.T) { replaysAreRefused(t, durable) })
	}
}

func replaysAreRefused(t *testing.T, durable func(w *world) func(*Config)) {
	w := newWorld(t, nil)
	w.restart(durable(w))
	alice := account(t, "alice")
	now := w.clock.now()
	used := map[string]secrez.Signed{
		"on time":                    w.sign(alice, nil),
		"by a slow clock":            w.signAt(alice, nil, now.Add(-50*time.Second)),
		"by a clock that is ahead":   w.signAt(alice, nil, now.Add(time.Minute)),
		"for a reset, by that clock": w.signAt(alice, map[string]any{"reset": true}, now.Add(59*time.Second)),
	}
	unused := map[string]secrez.Signed{
		"on time":         w.sign(alice, nil),
		"by a slow clock": w.signAt(alice, nil, now.Add(-40*time.Second)),
	}
	for _, s := range used {
		w.register(s)
	}
	before, _ := w.registry.LookupKey(alice.Identity().Public())
	for range 2 {
		w.clock.advance(5 * time.Second)
		w.restart(durable(w))
		for what, s := range used {
			r := w.get(query(s))
			t.Run(what, func(t *testing.T) { refuses(t, r, 400, "Wrong signature: it has been used") })
		}
	}
	if w.pools.Len() != 0 {
		t.Error("a replay has opened a port")
	}
	for what, s := range unused {
		if res := w.register(s); res.ID != before.ID {
			t.Errorf("signed %s before the restart: the id is %v, was %v", what, res.ID, before.ID)
		}
	}
}

func TestWithoutAStoreWhatWasSignedBeforeTheStartIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	used := w.sign(alice, nil)
	w.register(used)
	w.clock.advance(time.Second)
	w.restart(nil)
	refuses(t, w.get(query(used)), 400, "Wrong signature: it was made too long ago")
	w.register(w.sign(alice, nil))
}

func TestUsedPayloadsThatComeTogetherShareAWrite(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	store := newMemStore()
	store.block = make(chan struct{})
	u := newUsedPayloads(store, w.clock.now)
	const many = 450
	var wg sync.WaitGroup
	add := func() {
		p := w.verified(w.sign(alice, nil))
		wg.Go(func() {
			if err := u.add(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
	}
	add()
	waitFor(t, "the first has the turn", func() bool { return len(u.turn) == 1 })
	for range many {
		add()
	}
	waitFor(t, "all others wait", func() bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		return len(u.waiting) >= many // the first may not have taken its own yet
	})
	close(store.block)
	wg.Wait()
	if store.puts > 4 {
		t.Errorf("%d writes for %d payloads", store.puts, many+1)
	}
	if got := len(remembered(t, store, w.clock)); got != many+1 {
		t.Errorf("%d are remembered, want %d", got, many+1)
	}
	for name, page := range store.pages {
		if len(page) > pageEntries*entrySize {
			t.Errorf("page %s has %d bytes", name, len(page))
		}
	}
}

func TestTheStoreOfUsedPayloadsDoesNotGrowForEver(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	store := newMemStore()
	most := 0
	u := newUsedPayloads(store, w.clock.now)
	for i := range 400 {
		p := w.verified(w.signAt(alice, nil, w.clock.now().Add(window))) // as far ahead as can be
		if err := u.add(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if _, ok := remembered(t, store, w.clock)[p.Digest()]; !ok {
			t.Fatal("not remembered")
		}
		most = max(most, len(store.pages))
		w.clock.advance(10 * time.Second)
		if i%50 == 49 { // a restart begins a page of its own
			u = newUsedPayloads(store, w.clock.now)
			if err := u.load(time.Minute, func([32]byte, time.Time) {}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if most > 6 {
		t.Errorf("%d pages for a payload every ten seconds", most)
	}
	if got := len(remembered(t, store, w.clock)); got > 13 {
		t.Errorf("%d payloads count as fresh", got)
	}
}

func TestAPayloadThatCouldNotBeWrittenIsNotOnThePage(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	store := newMemStore()
	u := newUsedPayloads(store, w.clock.now)
	full := errors.New("disk full")
	for i, want := range []error{nil, full, nil} {
		store.fail(want)
		if err := u.add(t.Context(), w.verified(w.sign(alice, nil))); !errors.Is(err, want) {
			t.Errorf("payload %d: %v", i, err)
		}
	}
	if got := len(remembered(t, store, w.clock)); got != 2 {
		t.Errorf("%d payloads are remembered", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u.turn <- struct{}{} // somebody writes
	if err := u.add(ctx, w.verified(w.sign(alice, nil))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A full disk must not keep couriers away that are known: their registration needs no write.
func TestACourierComesBackWhenNothingCanBeWritten(t *testing.T) {
	store := newMemStore()
	w := newWorld(t, func(c *Config) { c.Used = store })
	alice := account(t, "alice")
	res := w.register(w.sign(alice, nil))
	store.fail(registry.ErrUnavailable)
	s := w.sign(alice, nil)
	if again := w.register(s); again.ID != res.ID {
		t.Errorf("the id is %v", again.ID)
	}
	if again := w.register(s); again.ID != res.ID {
		t.Errorf("repeated: the id is %v", again.ID)
	}
	if !strings.Contains(w.logs.String(), "level=WARN") {
		t.Error("the operator is not told")
	}
}

func TestAStoreThatCannotBeReadIsAnError(t *testing.T) {
	store := newMemStore()
	store.fail(registry.ErrUnavailable)
	_, err := New(Config{Registry: &raceRegistry{}, Used: store})
	if !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestADamagedPageMeansThatEverythingMayHaveBeenUsed(t *testing.T) {
	store := newMemStore()
	store.pages["x"] = make([]byte, entrySize+1)
	w := newWorld(t, func(c *Config) { c.Used = store })
	alice := account(t, "alice")
	refuses(t, w.get(query(w.signAt(alice, nil, w.clock.now().Add(-time.Second)))), 400, "Wrong signature: it was made too long ago")
	w.register(w.sign(alice, nil))
	if len(store.pages) != 2 {
		t.Error("what is used now is not written down")
	}
}

func TestManyRegistrationsShareTheDisk(t *testing.T) {
	w := newWorld(t, nil)
	w.restart(func(c *Config) { c.Used = w.used() })
	var wg sync.WaitGroup
	for i := range 40 {
		a := account(t, fmt.Sprint("courier ", i))
		targets := []string{query(w.sign(a, nil)), query(w.sign(a, nil))}
		wg.Go(func() {
			for _, target := range targets {
				if r := w.get(target); r.status != 200 {
					t.Errorf("got %d %s", r.status, r.body)
				}
			}
		})
	}
	wg.Wait()
	if w.registry.Count() != 40 || w.pools.Len() != 40 {
		t.Errorf("%d records, %d ports", w.registry.Count(), w.pools.Len())
	}
	if got := len(remembered(t, w.used(), w.clock)); got != 80 {
		t.Errorf("%d payloads are remembered", got)
	}
}

var _ Store = (*registry.Bucket)(nil)
var _ vhost.Directory = (*world)(nil)

// lateStore is a store that gives nothing before it is given up.
type lateStore struct{ *memStore }

func (lateStore) All(ctx context.Context) iter.Seq2[registry.Item, error] {
	return func(yield func(registry.Item, error) bool) {
		<-ctx.Done()
		yield(registry.Item{}, context.Cause(ctx))
	}
}

// A hub that opens while other nodes are away tries again what is unavailable, and nothing else.
func TestAStoreThatIsLateIsUnavailable(t *testing.T) {
	used := newUsedPayloads(lateStore{newMemStore()}, time.Now)
	err := used.load(time.Millisecond, func([32]byte, time.Time) {})
	if !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
}
