package mailbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a disk of so many bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs a disk of its own, which only root may mount: ", err)
		}
		t.Skip("this test needs a disk of its own, which only root may mount: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * int64(s.Bsize)
}

// fillDisk writes a file until so many bytes are free, and gives the way to take it away again.
func fillDisk(t *testing.T, dir string, leave int64) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 64<<10); free(t, dir) > leave; {
		if _, err := f.Write(chunk[:min(free(t, dir)-leave, int64(len(chunk)))]); err != nil {
			break
		}
	}
	if err := f.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADiskThatFillsUpTakesNoDepositsAndGivesBackAll(t *testing.T) {
	disk := smallDisk(t, "64m")
	cfg := registryConfig(t, filepath.Join(disk, "data"))
	cfg.Limits.MinFree = 16 << 20
	m := open(t, Config{Registry: openRegistry(t, cfg)})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, friends(t, "bob"))
	for n := range uint64(3) {
		deposit(t, m, bob, alice, n, 1024)
	}
	empty := fillDisk(t, disk, 12<<20)
	d := Deposit{Sender: bob, Recipient: alice, Envelope: envelope(9, 1024)}
	if _, err := m.Deposit(t.Context(), d); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := m.Allow(t.Context(), bob, Policy{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	all := waiting(t, m, alice)
	if got := numbers(all); got != "[0 1 2]" {
		t.Errorf("got %s", got)
	}
	acknowledge(t, m, alice, all[1]) // which makes room
	empty()
	deposit(t, m, bob, alice, 3, 1024)
	if got := numbers(waiting(t, m, alice)); got != "[0 2 3]" {
		t.Errorf("got %s", got)
	}
	balanced(t, m)
}

// The limit for free room is off: the engine itself meets the full disk, in the middle of writing, and is replaced.
func TestAFullDiskIsAnErrorAndLosesNothing(t *testing.T) {
	disk := smallDisk(t, "48m")
	m := open(t, Config{Registry: openRegistry(t, registryConfig(t, filepath.Join(disk, "data")))})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, friends(t, "bob"))
	empty := fillDisk(t, disk, 1<<20)
	kept := 0
	var failure error
	for n := uint64(0); failure == nil; n++ {
		d := Deposit{Sender: bob, Recipient: alice, Envelope: envelope(n, 64<<10)}
		if _, failure = m.Deposit(t.Context(), d); failure == nil {
			kept++
		}
	}
	if !errors.Is(failure, ErrUnavailable) {
		t.Fatalf("after %d: %v", kept, failure)
	}
	empty()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		_, err := m.Deposit(ctx, Deposit{Sender: bob, Recipient: alice, Envelope: envelope(1000, 1024)})
		if err == nil {
			break
		}
		if ctx.Err() != nil || !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	all := waiting(t, m, alice)
	if len(all) < kept+1 {
		t.Errorf("%d were kept, %d are there", kept+1, len(all))
	}
	balanced(t, m)
	acknowledge(t, m, alice, all...)
	balanced(t, m)
	if s := m.Stats(); s.Mail.Count != 0 {
		t.Errorf("got %+v", s)
	}
}
