package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func queue(t *testing.T, r *Registry, name string) *Queue {
	t.Helper()
	q, err := r.Queue(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func appended(t *testing.T, q *Queue, box, label, data string) uint64 {
	t.Helper()
	sequence, err := q.Append(t.Context(), box, label, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return sequence
}

// waiting reads a box from the beginning.
func waiting(t *testing.T, q *Queue, box string) []string {
	t.Helper()
	var all []string
	for from := uint64(0); ; {
		m, err := q.Next(t.Context(), box, from)
		if errors.Is(err, ErrNotFound) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m.Box+"/"+m.Label+"="+string(m.Data))
		from = m.Sequence + 1
	}
}

func extents(t *testing.T, q *Queue) []string {
	t.Helper()
	var all []string
	for x, err := range q.Extents(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s/%s=%d", x.Box, x.Label, x.Size))
	}
	return all
}

func TestAQueueKeepsTheOrderOfEachBox(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	q := queue(t, r, "mail")
	other := queue(t, r, "other")
	if got := waiting(t, q, ""); got != nil {
		t.Errorf("a new queue has %v", got)
	}
	if got := extents(t, q); got != nil {
		t.Errorf("a new queue has %v", got)
	}
	appended(t, q, "a", "x", "1")
	second := appended(t, q, "b", "x", "22")
	appended(t, q, "a", "y-_Z", "333")
	appended(t, other, "a", "x", "elsewhere")
	check := func(q *Queue) {
		t.Helper()
		if got := waiting(t, q, "a"); !slices.Equal(got, []string{"a/x=1", "a/y-_Z=333"}) {
			t.Errorf("got %v", got)
		}
		if got := waiting(t, q, "b"); !slices.Equal(got, []string{"b/x=22"}) {
			t.Errorf("got %v", got)
		}
		if got := extents(t, q); !slices.Equal(got, []string{"a/x=1", "b/x=2", "a/y-_Z=3"}) {
			t.Errorf("got %v", got)
		}
	}
	check(q)
	if m, err := q.Next(t.Context(), "", second); err != nil || m.Sequence != second || m.Box != "b" {
		t.Errorf("got %v, %v", m, err)
	}
	closed(t, r)
	r = open1(t, cfg)
	check(queue(t, r, "mail"))
}

func TestWhatIsDeletedFromAQueueStaysDeleted(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	q := queue(t, r, "mail")
	var all []uint64
	for i := range 6 {
		all = append(all, appended(t, q, string(rune('a'+i%2)), "x", fmt.Sprint(i)))
	}
	for _, sequence := range []uint64{all[0], all[3], all[5]} {
		for i := range 2 {
			was, err := q.Delete(t.Context(), sequence)
			if err != nil || was != (i == 0) {
				t.Errorf("deletion %d of %d: %v, %v", i, sequence, was, err)
			}
		}
	}
	if was, err := q.Delete(t.Context(), 99); was || err != nil {
		t.Errorf("got %v, %v", was, err)
	}
	want := []string{"b/x=1", "a/x=2", "a/x=4"}
	if got := waiting(t, q, ""); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	closed(t, r)
	q = queue(t, open1(t, cfg), "mail")
	if got := waiting(t, q, ""); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	for _, sequence := range all {
		if _, err := q.Delete(t.Context(), sequence); err != nil {
			t.Fatal(err)
		}
	}
	if got := waiting(t, q, ""); got != nil {
		t.Errorf("got %v", got)
	}
	if next := appended(t, q, "a", "x", "new"); next <= all[5] {
		t.Errorf("sequence %d comes again", next)
	}
}

func TestNamesInAQueueAreChecked(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	for _, name := range []string{"", "A", "a.b", strings.Repeat("a", 33)} {
		if _, err := r.Queue(t.Context(), name); !errors.Is(err, ErrName) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	q := queue(t, r, "mail")
	for _, word := range []string{"", "*", ">", "a.b", "a b", "é", strings.Repeat("a", 65)} {
		if _, err := q.Append(t.Context(), word, "x", nil); !errors.Is(err, ErrName) {
			t.Errorf("box %q: %v", word, err)
		}
		if _, err := q.Append(t.Context(), "x", word, nil); !errors.Is(err, ErrName) {
			t.Errorf("label %q: %v", word, err)
		}
		if _, err := q.Next(t.Context(), word, 0); word != "" && !errors.Is(err, ErrName) {
			t.Errorf("box %q: %v", word, err)
		}
	}
	if _, err := q.Append(t.Context(), "x", "x", make([]byte, MaxMessage+1)); !errors.Is(err, ErrName) {
		t.Errorf("got %v", err)
	}
	appended(t, q, strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", MaxMessage))
	closed(t, r)
	if _, err := q.Append(t.Context(), "x", "x", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := q.Next(t.Context(), "x", 0); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	for _, err := range q.Extents(t.Context()) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAReplacedEngineChangesNothingInAQueue(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	q := queue(t, r, "mail")
	appended(t, q, "a", "x", "1")
	before, _ := r.current()
	before.server.Shutdown() // the engine is gone, from one moment to the next
	if _, err := q.Append(t.Context(), "a", "x", []byte("lost")); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUntried) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for now, changed := r.current(); now == nil || now == before; now, changed = r.current() {
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("the engine is not replaced")
		}
	}
	appended(t, q, "a", "x", "2")
	if got := waiting(t, q, "a"); !slices.Equal(got, []string{"a/x=1", "a/x=2"}) {
		t.Errorf("got %v", got)
	}
}

func TestABackupHasWhatIsInQueues(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	q := queue(t, r, "mail")
	gone := appended(t, q, "a", "x", "0")
	appended(t, q, "a", "x", "1")
	appended(t, q, "b", "y", "2")
	if _, err := q.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := r.Backup(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	cfg := config(t, filepath.Join(t.TempDir(), "restored"))
	if _, err := Restore(t.Context(), &archive, cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if got := waiting(t, queue(t, open1(t, cfg), "mail"), ""); !slices.Equal(got, []string{"a/x=1", "b/y=2"}) {
		t.Errorf("got %v", got)
	}
}

func remove(t *testing.T, q *Queue, sequence uint64) {
	t.Helper()
	if was, err := q.Delete(t.Context(), sequence); !was || err != nil {
		t.Fatalf("%v, %v", was, err)
	}
}

// diskUse adds up the sizes of the files below a folder.
func diskUse(t *testing.T, dir string) (total int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		total += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// One message of each dozen stays, in all files: what the others took must come back nonetheless.
func TestDeletingFromAQueueFreesTheDisk(t *testing.T) {
	cfg := config(t, t.TempDir())
	r := open1(t, cfg)
	q := queue(t, r, "mail")
	const size = 64 << 10
	data := bytes.Repeat([]byte{0x5a}, size)
	var all []uint64
	for i := range 480 {
		sequence, err := q.Append(t.Context(), "a", "x", data)
		if err != nil {
			t.Fatal(i, err)
		}
		all = append(all, sequence)
	}
	before := diskUse(t, cfg.Dir)
	if before < 480*size {
		t.Fatalf("%d bytes cannot be all", before)
	}
	for i, sequence := range all {
		if i%12 == 0 {
			continue
		}
		remove(t, q, sequence)
	}
	if now := diskUse(t, cfg.Dir); now > before/2 {
		t.Errorf("of %d bytes there are still %d", before, now)
	}
	for i := 0; i < len(all); i += 12 {
		remove(t, q, all[i])
	}
	if now := diskUse(t, cfg.Dir); now > before/10 {
		t.Errorf("of %d bytes there are still %d", before, now)
	}
	appended(t, q, "a", "x", "the next")
	closed(t, r)
	if got := waiting(t, queue(t, open1(t, cfg), "mail"), ""); !slices.Equal(got, []string{"a/x=the next"}) {
		t.Errorf("got %d", len(got))
	}
}

// Whoever hangs up has a reason of his own, such as the end of his stream. The engine is not to be restarted for it.
func TestDefectACallersReasonIsNoFailureOfTheEngine(t *testing.T) {
	r := open1(t, config(t, t.TempDir()))
	q := queue(t, r, "mail")
	appended(t, q, "a", "x", "something")
	bucket, err := r.Bucket(t.Context(), "list")
	if err != nil {
		t.Fatal(err)
	}
	ctx, hangUp := context.WithCancelCause(t.Context())
	hangUp(io.EOF)
	for what, f := range map[string]func() error{
		"next":   func() error { _, err := q.Next(ctx, "a", 1); return err },
		"append": func() error { _, err := q.Append(ctx, "a", "x", []byte("y")); return err },
		"get":    func() error { _, err := bucket.Get(ctx, "k"); return err },
		"put":    func() error { _, err := bucket.Put(ctx, "k", nil); return err },
	} {
		if err := f(); errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) && !errors.Is(err, io.EOF) {
			t.Errorf("%s gives %v", what, err)
		}
	}
	if s := r.Status(); s.Err != nil {
		t.Errorf("the status is %v", s.Err)
	}
	appended(t, q, "a", "x", "more") // by the same engine
}
