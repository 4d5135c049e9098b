package mailbox

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
)

func TestADiskThatFillsUpTakesNoDepositsAndGivesBackAll(t *testing.T) {
	disk := t.TempDir()
	testkit.SmallDisk(t, disk, "64m")
	cfg := registryConfig(t, filepath.Join(disk, "data"))
	cfg.Limits.MinFree = 16 << 20
	m := open(t, Config{Registry: openRegistry(t, cfg)})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, friends(t, "bob"))
	for n := range uint64(3) {
		deposit(t, m, bob, alice, n, 1024)
	}
	empty := testkit.FillDisk(t, disk, 12<<20)
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
	disk := t.TempDir()
	testkit.SmallDisk(t, disk, "48m")
	m := open(t, Config{Registry: openRegistry(t, registryConfig(t, filepath.Join(disk, "data")))})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, friends(t, "bob"))
	empty := testkit.FillDisk(t, disk, 1<<20)
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
