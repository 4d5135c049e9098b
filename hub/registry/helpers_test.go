package registry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// identity gives the same identity for the same number, in every process.
func identity(tb testing.TB, n uint64) *keys.Identity {
	tb.Helper()
	seed := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("registry test "), n))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// hubIdentity is the hub's in all tests.
func hubIdentity(tb testing.TB) *keys.Identity { return identity(tb, 1<<63) }

func config(tb testing.TB, dir string) Config {
	return Config{
		Dir: dir, Identity: hubIdentity(tb), Logger: testLogger(),
		// A machine with much to do is no failing disk.
		Limits: Limits{MinFree: -1, RetryMin: 50 * time.Millisecond, RetryMax: 200 * time.Millisecond, WriteTimeout: time.Minute},
	}
}

// testLogger shows what is logged if REGISTRY_LOG is set.
func testLogger() *slog.Logger {
	if os.Getenv("REGISTRY_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func open1(tb testing.TB, cfg Config) *Registry {
	tb.Helper()
	r, err := Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closed(tb, r) })
	return r
}

func closed(tb testing.TB, r *Registry) {
	tb.Helper()
	if err := r.Close(); err != nil {
		tb.Error(err)
	}
}

// native makes a native registration that knows of no id.
func native(tb testing.TB, owner *keys.Identity) Registration {
	return statement(tb, owner, claim.Statement{Action: claim.Register, Sequence: 1})
}

func statement(tb testing.TB, owner *keys.Identity, s claim.Statement) Registration {
	tb.Helper()
	s.Key = owner.Public()
	if s.Hub.IsZero() {
		s.Hub = hubIdentity(tb).Public()
	}
	if s.Time.IsZero() {
		s.Time = time.Now()
	}
	signed, err := s.Sign(owner)
	if err != nil {
		tb.Fatal(err)
	}
	return Registration{Statement: &signed}
}

// v1 makes a registration as Secrez does.
func v1(tb testing.TB, account *secrez.Account, body map[string]any) Registration {
	tb.Helper()
	if body == nil {
		body = map[string]any{}
	}
	signed, err := account.SignPayload(body, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	payload, err := signed.Verify()
	if err != nil {
		tb.Fatal(err)
	}
	return Registration{Payload: payload}
}

func register(tb testing.TB, r *Registry, reg Registration) Record {
	tb.Helper()
	rec, err := r.Register(tb.Context(), reg)
	if err != nil {
		tb.Fatal(err)
	}
	return rec
}

// fill registers the owners from first on, many at a time.
func fill(tb testing.TB, r *Registry, first, n uint64) {
	tb.Helper()
	todo := make(chan uint64)
	var wg sync.WaitGroup
	for range 128 {
		wg.Go(func() {
			for i := range todo {
				if _, err := r.Register(tb.Context(), native(tb, identity(tb, i))); err != nil {
					tb.Error(err)
				}
			}
		})
	}
	for i := range n {
		todo <- first + i
	}
	close(todo)
	wg.Wait()
}
