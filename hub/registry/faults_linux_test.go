package registry

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/secrez"
)

// untilItWorks registers an owner as soon as that is possible again.
func untilItWorks(t *testing.T, r *Registry, n uint64) Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		rec, err := r.Register(ctx, native(t, identity(t, n)))
		if err == nil {
			return rec
		}
		if ctx.Err() != nil || !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestADiskThatFillsUpIsNotTouched(t *testing.T) {
	disk := t.TempDir()
	testkit.SmallDisk(t, disk, "64m")
	cfg := config(t, filepath.Join(disk, "data"))
	cfg.Limits.MinFree = 16 << 20
	r := open1(t, cfg)
	bucket, err := r.Bucket(t.Context(), "list")
	if err != nil {
		t.Fatal(err)
	}
	before := register(t, r, native(t, identity(t, 1)))
	empty := testkit.FillDisk(t, disk, 8<<20)

	if _, err := r.Register(t.Context(), native(t, identity(t, 2))); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "free") {
		t.Errorf("got %v", err)
	}
	if _, err := bucket.Put(t.Context(), "k", []byte("v")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a bucket gives %v", err)
	}
	if again := register(t, r, native(t, identity(t, 1))); again.ID != before.ID {
		t.Errorf("who is known gets %v", again.ID)
	}
	if _, ok := r.Lookup(before.ID); !ok {
		t.Error("look-ups need no room")
	}
	if s := r.Status(); !errors.Is(s.Err, ErrUnavailable) || s.Free >= 16<<20 {
		t.Errorf("status %+v", s)
	}
	closed(t, r)
	r = open1(t, cfg) // which needs next to no room
	if _, ok := r.Lookup(before.ID); !ok {
		t.Error("the record is gone")
	}

	empty()
	register(t, r, native(t, identity(t, 2)))
	if s := r.Status(); s.Err != nil {
		t.Errorf("status %+v", s)
	}
}

// The limit for free room is off: the engine itself meets the full disk, in the middle of writing.
func TestAFullDiskIsAnErrorInBoundedTimeAndLosesNothing(t *testing.T) {
	disk := t.TempDir()
	testkit.SmallDisk(t, disk, "48m")
	cfg := config(t, filepath.Join(disk, "data"))
	r := open1(t, cfg)
	acknowledged := map[uint64]secrez.ID{}
	next := uint64(0)
	fail := func() error {
		for { // the last free bytes take some
			next++
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			rec, err := r.Register(ctx, native(t, identity(t, next)))
			cancel()
			if err != nil {
				return err
			}
			acknowledged[next] = rec.ID
		}
	}
	for round := range 3 {
		empty := testkit.FillDisk(t, disk, int64(round)*10_000)
		if err := fail(); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("got %v", err)
		}
		for n, id := range acknowledged {
			if rec, ok := r.LookupKey(identity(t, n).Public()); !ok || rec.ID != id {
				t.Errorf("owner %d has %v, want %v", n, rec.ID, id)
			}
		}
		if err := fail(); !errors.Is(err, ErrUnavailable) { // at once, while the engine is down
			t.Errorf("then %v", err)
		}
		empty()
		next++
		acknowledged[next] = untilItWorks(t, r, next).ID
	}
	closed(t, r)
	r = open1(t, cfg)
	for n, id := range acknowledged {
		if rec, ok := r.LookupKey(identity(t, n).Public()); !ok || rec.ID != id {
			t.Errorf("after opening again owner %d has %v, want %v", n, rec.ID, id)
		}
	}
	// The failed writes have left gaps in the log, which a backup does not mind.
	var archive bytes.Buffer
	if _, err := r.Backup(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "restored")
	if _, err := Restore(t.Context(), &archive, dir); err != nil {
		t.Fatal(err)
	}
	if n := open1(t, config(t, dir)).Count(); n != r.Count() {
		t.Errorf("%d of %d are restored", n, r.Count())
	}
}

func TestOpeningOnAFullDiskLosesNothing(t *testing.T) {
	disk := t.TempDir()
	testkit.SmallDisk(t, disk, "48m")
	cfg := config(t, filepath.Join(disk, "data"))
	r := open1(t, cfg)
	fill(t, r, 0, 200)
	closed(t, r)
	empty := testkit.FillDisk(t, disk, 0)
	r, err := Open(t.Context(), cfg)
	if err == nil {
		if n := r.Count(); n != 200 {
			t.Errorf("%d records", n)
		}
		_ = r.Close()
	} else if !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := Open(t.Context(), config(t, filepath.Join(disk, "new"))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a new folder on it gives %v", err)
	}
	empty()
	r = open1(t, cfg)
	if n := r.Count(); n != 200 {
		t.Errorf("%d records", n)
	}
	register(t, r, native(t, identity(t, 999)))
}

func TestAReadOnlyFolderIsAClearErrorAndLosesNothing(t *testing.T) {
	disk := t.TempDir()
	testkit.SmallDisk(t, disk, "48m")
	cfg := config(t, filepath.Join(disk, "data"))
	r := open1(t, cfg)
	rec := register(t, r, native(t, identity(t, 1)))
	closed(t, r)
	remount := func(flags uintptr) {
		if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	for _, dir := range []string{cfg.Dir, filepath.Join(disk, "new")} {
		_, err := Open(t.Context(), config(t, dir))
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "may write") || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("got %v", err)
		}
	}
	if _, err := Restore(t.Context(), strings.NewReader(archiveMagic), filepath.Join(disk, "new")); err == nil {
		t.Error("something is restored on it")
	}
	remount(0)
	if _, ok := open1(t, cfg).Lookup(rec.ID); !ok {
		t.Error("the record is gone")
	}
}

// A folder that its owner may not write to is as good as a read-only disk, except for root.
func TestAFolderWithoutPermissionIsAClearError(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Log("root may write everywhere")
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), config(t, dir)); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "may write") {
		t.Errorf("got %v", err)
	}
}

// The engine is a network server by trade. Here it has no network.
func TestTheEngineListensNowhere(t *testing.T) {
	before := listening(t)
	open1(t, config(t, t.TempDir()))
	if after := listening(t); after > before {
		t.Errorf("%d sockets listen that did not before", after-before)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if after := listening(t); after != before+1 {
		t.Errorf("the test sees %d sockets where there is one more than %d", after, before)
	}
}

// listening counts the sockets of this process that listen.
func listening(t *testing.T) (n int) {
	t.Helper()
	ours := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			ours[link] = true
		}
	}
	for _, family := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile("/proc/self/net/" + family)
		if err != nil {
			continue // this family is switched off
		}
		for line := range strings.Lines(string(table)) {
			const listen, state, inode = "0A", 3, 9
			if f := strings.Fields(line); len(f) > inode && f[state] == listen && ours["socket:["+f[inode]+"]"] {
				n++
			}
		}
	}
	return n
}
