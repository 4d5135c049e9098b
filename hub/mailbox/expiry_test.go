package mailbox

import (
	"testing"
	"time"
)

// swept removes what is too old, as the sweeper does every minute.
func swept(t *testing.T, m *Mailboxes) {
	t.Helper()
	for q := range m.queues {
		if _, _, err := m.sweepQueue(t.Context(), q, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsTooOldIsRemoved(t *testing.T) {
	clock := newClock()
	m := open(t, Config{
		Registry: openRegistry(t, registryConfig(t, t.TempDir())), Now: clock.Now,
		Limits: Limits{Keep: 10 * time.Hour, KeepRequests: 5 * time.Hour, MaxPerSender: 2},
	})
	alice, bob, eve := key(t, "alice"), key(t, "bob"), key(t, "eve")
	allow(t, m, alice, friends(t, "bob"))
	if kept := deposit(t, m, bob, alice, 1, 1024); !kept.Expires.Equal(clock.Now().Add(10 * time.Hour)) {
		t.Errorf("it is kept until %v", kept.Expires)
	}
	if kept := deposit(t, m, eve, alice, 2, 1024); !kept.Expires.Equal(clock.Now().Add(5 * time.Hour)) {
		t.Errorf("it is kept until %v", kept.Expires)
	}
	clock.move(3 * time.Hour)
	deposit(t, m, bob, alice, 3, 1024)
	for _, step := range []struct {
		after time.Duration
		want  string
	}{
		{2*time.Hour - 1, "[1 3 r2]"}, {1, "[1 3]"}, {5*time.Hour - 1, "[1 3]"}, {1, "[3]"}, {3 * time.Hour, "[]"},
	} {
		clock.move(step.after)
		if got := numbers(waiting(t, m, alice)); got != step.want { // nothing is given that is too old
			t.Errorf("before sweeping: %s, want %s", got, step.want)
		}
		swept(t, m)
		if got := numbers(waiting(t, m, alice)); got != step.want {
			t.Errorf("after sweeping: %s, want %s", got, step.want)
		}
		balanced(t, m)
	}
	if s := m.Stats(); s.Expired != 3 || s.Mailboxes != 0 {
		t.Errorf("got %+v", s)
	}
	deposit(t, m, bob, alice, 4, 1024) // there is room again
	deposit(t, m, bob, alice, 5, 1024)
}

// While the clock was wrong, something was dated far ahead. It keeps nothing behind it from expiring.
func TestAnEnvelopeFromTheFutureHoldsNothingUp(t *testing.T) {
	clock := newClock()
	m := open(t, Config{
		Registry: openRegistry(t, registryConfig(t, t.TempDir())), Now: clock.Now, Limits: Limits{Keep: 10 * time.Hour},
	})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, friends(t, "bob"))
	clock.move(1000 * time.Hour)
	deposit(t, m, bob, alice, 1, 1024)
	clock.move(-1000 * time.Hour)
	deposit(t, m, bob, alice, 2, 1024)
	clock.move(11 * time.Hour)
	deposit(t, m, bob, alice, 3, 1024)
	swept(t, m)
	if got := numbers(waiting(t, m, alice)); got != "[1 3]" {
		t.Errorf("got %s", got)
	}
	clock.move(2000 * time.Hour)
	swept(t, m)
	if got := waiting(t, m, alice); got != nil {
		t.Errorf("got %v", got)
	}
	balanced(t, m)
}
