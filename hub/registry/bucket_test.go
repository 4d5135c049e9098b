package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
)

func bucket(tb testing.TB, r *Registry, name string) *Bucket {
	tb.Helper()
	b, err := r.Bucket(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func temporary(tb testing.TB, r *Registry) *Bucket {
	tb.Helper()
	b, err := r.TemporaryBucket(tb.Context(), "temporary", time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func put(tb testing.TB, b *Bucket, key, value string) uint64 {
	tb.Helper()
	revision, err := b.Put(tb.Context(), key, []byte(value))
	if err != nil {
		tb.Fatal(err)
	}
	return revision
}

func contents(tb testing.TB, b *Bucket) map[string]string {
	tb.Helper()
	got := map[string]string{}
	for item, err := range b.All(tb.Context()) {
		if err != nil {
			tb.Fatal(err)
		}
		got[item.Key] = string(item.Value)
	}
	return got
}

func TestBucketsKeepWhatTheyAreGiven(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	lists, invites := bucket(t, r, "lists"), bucket(t, r, "invites")
	put(t, lists, "deny 2001:db8::/32", "a")
	put(t, lists, "deny @key+/=.ed25519", "b")
	put(t, lists, "gone", "c")
	put(t, lists, "empty", "")
	revision := put(t, lists, "again", "d")
	if now := put(t, lists, "again", "e"); now <= revision {
		t.Errorf("revision %d after %d", now, revision)
	}
	put(t, invites, "gone", "f")
	for range 2 {
		if err := lists.Delete(t.Context(), "gone"); err != nil {
			t.Error(err)
		}
	}
	want := map[string]string{"deny 2001:db8::/32": "a", "deny @key+/=.ed25519": "b", "empty": "", "again": "e"}
	if got := contents(t, lists); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	closed(t, r)
	r = open1(t, cfg)
	lists, invites = bucket(t, r, "lists"), bucket(t, r, "invites")
	if got := contents(t, lists); !maps.Equal(got, want) {
		t.Errorf("after opening again %v", got)
	}
	if got := contents(t, invites); !maps.Equal(got, map[string]string{"gone": "f"}) {
		t.Errorf("got %v", got)
	}
	if item, err := lists.Get(t.Context(), "again"); err != nil || string(item.Value) != "e" || item.Key != "again" || item.Revision == 0 {
		t.Errorf("got %+v, %v", item, err)
	}
	if got := contents(t, bucket(t, r, "new")); len(got) != 0 {
		t.Errorf("a new bucket has %v", got)
	}
}

func TestATemporaryBucketForgets(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	b, err := r.TemporaryBucket(t.Context(), "once", 500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // also after it was deleted
		if _, err := b.Create(t.Context(), "a", []byte("1")); err != nil {
			t.Fatal(err)
		}
		if err := b.Delete(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Create(t.Context(), "b", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(t.Context(), "b", []byte("2")); !errors.Is(err, ErrExists) {
		t.Errorf("it is created twice: %v", err)
	}
	testkit.Eventually(t, "the key is forgotten", func() bool {
		_, err := b.Get(t.Context(), "b")
		return errors.Is(err, ErrNotFound)
	})
	if _, err := b.Create(t.Context(), "b", []byte("3")); err != nil {
		t.Error(err)
	}
}

func TestBucketsDecideBetweenWriters(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	b := bucket(t, r, "invites")
	ctx := t.Context()
	if _, err := b.Get(ctx, "k"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get gives %v", err)
	}
	revision, err := b.Create(ctx, "k", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(ctx, "k", []byte("2")); !errors.Is(err, ErrExists) {
		t.Errorf("Create gives %v", err)
	}
	var used int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 10 { // an invite that can be used once
		wg.Go(func() {
			_, err := b.Update(ctx, "k", []byte("used"), revision)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				used++
			} else if !errors.Is(err, ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if used != 1 {
		t.Errorf("used %d times", used)
	}
	if err := b.Delete(ctx, "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, "k"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get gives %v", err)
	}
	if _, err := b.Update(ctx, "k", nil, revision); !errors.Is(err, ErrConflict) {
		t.Errorf("Update gives %v", err)
	}
	if _, err := b.Create(ctx, "k", []byte("3")); err != nil {
		t.Errorf("Create after Delete gives %v", err)
	}
}

func TestADeletionCanBeForOneRevision(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	b := bucket(t, r, "rules")
	ctx := t.Context()
	old := put(t, b, "k", "1")
	revision := put(t, b, "k", "2")
	if err := b.DeleteIf(ctx, "k", old); !errors.Is(err, ErrConflict) {
		t.Errorf("deleting what has changed gives %v", err)
	}
	if err := b.DeleteIf(ctx, "k", 0); !errors.Is(err, ErrConflict) {
		t.Errorf("deleting what is not known to be there gives %v", err)
	}
	if got := contents(t, b); got["k"] != "2" {
		t.Errorf("the bucket has %v", got)
	}
	if err := b.DeleteIf(ctx, "k", revision); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteIf(ctx, "k", revision); !errors.Is(err, ErrConflict) {
		t.Errorf("deleting twice gives %v", err)
	}
	if got := contents(t, b); len(got) != 0 {
		t.Errorf("the bucket has %v", got)
	}
	if _, err := b.Create(ctx, "k", []byte("3")); err != nil {
		t.Errorf("Create after DeleteIf gives %v", err)
	}
}

func TestBucketsRefuseNamesAndSizes(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	for _, name := range []string{"", "A", "a.b", "a b", "a*", strings.Repeat("a", 33), "ä", "../x"} {
		if _, err := r.Bucket(t.Context(), name); !errors.Is(err, ErrName) {
			t.Errorf("%q gives %v", name, err)
		}
	}
	b := bucket(t, r, strings.Repeat("a", 32))
	for _, key := range []string{"", strings.Repeat("k", maxKey+1)} {
		if _, err := b.Put(t.Context(), key, nil); !errors.Is(err, ErrName) {
			t.Errorf("a key of %d bytes gives %v", len(key), err)
		}
	}
	longest := strings.Repeat("\x00", maxKey)
	large := strings.Repeat("v", 256<<10)
	put(t, b, longest, large)
	if item, err := b.Get(t.Context(), longest); err != nil || string(item.Value) != large || item.Key != longest {
		t.Errorf("got %d bytes, %v", len(item.Value), err)
	}
	if _, err := b.Put(t.Context(), "k", append([]byte(large), 1)); !errors.Is(err, ErrName) {
		t.Errorf("a large value gives %v", err)
	}
}

// watching collects what a watch reports, until it is told to stop.
type watching struct {
	changes chan Change
	ended   chan error
	cancel  context.CancelFunc
}

func watchAll(t *testing.T, b *Bucket) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{make(chan Change, 100), make(chan error, 1), cancel}
	go func() {
		for change, err := range b.Watch(ctx) {
			if err != nil {
				w.ended <- err
				return
			}
			w.changes <- change
		}
		w.ended <- nil
	}()
	t.Cleanup(cancel)
	return w
}

func (w *watching) next(t *testing.T) string {
	t.Helper()
	select {
	case c := <-w.changes:
		switch {
		case c.Loaded:
			return "loaded"
		case c.Deleted:
			return "-" + c.Key
		}
		return c.Key + "=" + string(c.Value)
	case err := <-w.ended:
		t.Fatalf("the watch ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("nothing is reported")
	}
	return ""
}

func TestWatchReportsWhatIsThereAndWhatHappens(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	b := bucket(t, r, "lists")
	put(t, b, "a", "1")
	put(t, b, "b", "2")
	put(t, b, "c", "3")
	if err := b.Delete(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	w := watchAll(t, b)
	got := []string{w.next(t), w.next(t)}
	slices.Sort(got)
	if fmt.Sprint(got) != "[a=1 b=2]" {
		t.Errorf("got %v", got)
	}
	if got := w.next(t); got != "loaded" {
		t.Errorf("got %v", got)
	}
	put(t, b, "a", "4")
	if err := b.Delete(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a=4", "-b"} {
		if got := w.next(t); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	put(t, b, "b", "5") // not before: it may take the place of the deletion
	if got := w.next(t); got != "b=5" {
		t.Errorf("got %v, want b=5", got)
	}
	w.cancel()
	if err := <-w.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	for range b.Watch(t.Context()) {
		break // leaving the loop is no error
	}
	w = watchAll(t, b)
	closed(t, r)
	if err := <-w.ended; !errors.Is(err, ErrClosed) {
		t.Errorf("it ended with %v", err)
	}
}

// A failed engine is replaced. Buckets, watches and records are the same afterwards.
func TestAReplacedEngineChangesNothing(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	b := bucket(t, r, "lists")
	put(t, b, "kept", "1")
	put(t, b, "changed", "1")
	put(t, b, "deleted", "1")
	rec := register(t, r, native(t, identity(t, 1)))
	w := watchAll(t, b)
	for w.next(t) != "loaded" {
	}

	before, _ := r.current()
	before.server.Shutdown() // the engine is gone, from one moment to the next
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for now, changed := r.current(); now == nil || now == before; now, changed = r.current() {
		if now == before { // nobody knows yet
			if _, err := r.Register(ctx, native(t, identity(t, 2))); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			continue
		}
		if _, ok := r.Lookup(rec.ID); !ok {
			t.Error("look-ups need no engine")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the engine is not replaced")
		}
	}
	put(t, b, "changed", "2")
	if err := b.Delete(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	put(t, b, "new", "1")
	seen := map[string]bool{}
	for len(seen) < 3 {
		seen[w.next(t)] = true
	}
	if want := map[string]bool{"changed=2": true, "-deleted": true, "new=1": true}; !maps.Equal(seen, want) {
		t.Errorf("got %v", seen)
	}
	if again := register(t, r, native(t, identity(t, 1))); again.ID != rec.ID {
		t.Errorf("got %v", again.ID)
	}
	register(t, r, native(t, identity(t, 2)))
	if n := r.Count(); n != 2 {
		t.Errorf("%d records", n)
	}
	if failures := r.Status().Failures; failures != 1 {
		t.Errorf("the engine failed %d times, as the status says", failures)
	}
}
