package mailbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
)

// key gives the same key for the same name, in every process.
func key(tb testing.TB, name string) keys.PublicKey {
	tb.Helper()
	return identity(tb, name).Public()
}

func identity(tb testing.TB, name string) *keys.Identity {
	tb.Helper()
	seed := sha256.Sum256([]byte("mailbox test " + name))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func testLogger() *slog.Logger {
	if os.Getenv("MAILBOX_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func registryConfig(tb testing.TB, dir string) registry.Config {
	return registry.Config{
		Dir: dir, Identity: identity(tb, "hub"), Logger: testLogger(),
		// A machine with much to do is no failing disk.
		Limits: registry.Limits{MinFree: -1, RetryMin: 50 * time.Millisecond, RetryMax: 200 * time.Millisecond, WriteTimeout: time.Minute},
	}
}

func openRegistry(tb testing.TB, cfg registry.Config) *registry.Registry {
	tb.Helper()
	r, err := registry.Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// clock is a clock that stands still unless it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClock() *clock { return &clock{now: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)} }

func secret() [SecretSize]byte { return sha256.Sum256([]byte("a hub's")) }

func open(tb testing.TB, cfg Config) *Mailboxes {
	tb.Helper()
	cfg.Secret, cfg.Logger = secret(), testLogger()
	m, err := Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closed(tb, m) })
	return m
}

func closed(tb testing.TB, m *Mailboxes) {
	tb.Helper()
	if err := m.Close(); err != nil {
		tb.Error(err)
	}
}

// opened gives mailboxes on a registry of their own.
func opened(tb testing.TB, limits Limits) *Mailboxes {
	tb.Helper()
	return open(tb, Config{Registry: openRegistry(tb, registryConfig(tb, tb.TempDir())), Limits: limits})
}

func allow(tb testing.TB, m *Mailboxes, recipient keys.PublicKey, p Policy) {
	tb.Helper()
	if err := m.Allow(context.Background(), recipient, p); err != nil {
		tb.Fatal(err)
	}
}

// envelope makes one that tells by its contents which it is.
func envelope(n uint64, size int) []byte {
	b := bytes.Repeat([]byte{byte(n)}, size)
	binary.BigEndian.PutUint64(b, n)
	return b
}

func deposit(tb testing.TB, m *Mailboxes, from, to keys.PublicKey, n uint64, size int) Kept {
	tb.Helper()
	kept, err := m.Deposit(context.Background(), Deposit{Sender: from, Recipient: to, Envelope: envelope(n, size)})
	if err != nil {
		tb.Fatalf("envelope %d: %v", n, err)
	}
	return kept
}

// waiting reads what waits.
func waiting(tb testing.TB, m *Mailboxes, recipient keys.PublicKey) []Envelope {
	tb.Helper()
	var all []Envelope
	for e, err := range m.Waiting(context.Background(), recipient, false) {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// numbers are the numbers of envelopes, with an "r" before those of strangers.
func numbers(all []Envelope) string {
	var text []string
	for _, e := range all {
		n := fmt.Sprint(binary.BigEndian.Uint64(e.Envelope))
		if e.Request {
			n = "r" + n
		}
		text = append(text, n)
	}
	return fmt.Sprint(text)
}

func acknowledge(tb testing.TB, m *Mailboxes, recipient keys.PublicKey, all ...Envelope) {
	tb.Helper()
	var ids []ID
	for _, e := range all {
		ids = append(ids, e.ID)
	}
	if err := m.Acknowledge(context.Background(), recipient, ids...); err != nil {
		tb.Fatal(err)
	}
}

// balanced checks that the books say what is stored.
func balanced(tb testing.TB, m *Mailboxes) {
	tb.Helper()
	stored, err := m.count(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if got, want := describe(m.books), describe(stored); got != want {
		tb.Errorf("the books say\n%s\nand there is\n%s", got, want)
	}
}

func describe(b books) string {
	shares := map[string]amount{}
	for box, a := range b.accounts {
		shares[fmt.Sprintf("%x", box)] = a.parts[mail]
		shares[fmt.Sprintf("%x requests", box)] = a.parts[request]
		for _, s := range a.shares {
			shares[fmt.Sprintf("%x %x %d", box, s.tag, s.kind)] = s.amount
		}
	}
	return fmt.Sprintf("%v\n%v\n%v", shares, b.senders, b.totals)
}
