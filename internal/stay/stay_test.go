package stay_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/internal/stay"
	"github.com/secretstack/secretstack/muxrpc"
)

// app starts an app on a network in memory. Its method "answer" never answers once silent is closed.
func app(t *testing.T, n *memnet.Network, name string, silent <-chan struct{}) *secretstack.App {
	t.Helper()
	stack := secretstack.New(secretstack.Options{Bare: true})
	plugin := secretstack.NewPlugin(secretstack.Info{Name: "test", Permissions: secretstack.Anonymous("answer")},
		func(_ context.Context, s *secretstack.Setup) error {
			return muxrpc.HandleAsync(s, "answer", func(ctx context.Context, _ muxrpc.None) (bool, error) {
				select {
				case <-silent:
					<-ctx.Done()
				default:
				}
				return true, nil
			})
		})
	if err := stack.Use(memnet.Plugin(n), plugin); err != nil {
		t.Fatal(err)
	}
	a, err := stack.Start(context.Background(), secretstack.Config{
		Logger:     slog.New(slog.DiscardHandler),
		Inactivity: -1,
		Settings:   secretstack.Settings{"memory": map[string]any{"name": name}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(context.Background()) })
	return a
}

var errAway = errors.New("away")

func TestPausesGrowAndAreNotTheSameForEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pauses, waited []time.Duration
		ctx, cancel := context.WithCancel(t.Context())
		last := time.Now()
		stay.Connected(ctx, stay.Options{
			RetryMin: time.Second, RetryMax: 10 * time.Second,
			Dial: func(context.Context) (*secretstack.Peer, error) {
				waited = append(waited, time.Since(last))
				last = time.Now()
				if len(waited) == 8 {
					cancel()
				}
				return nil, errAway
			},
			Lost: func(err error, pause time.Duration) {
				if !errors.Is(err, errAway) {
					t.Error(err)
				}
				pauses = append(pauses, pause)
			},
		})
		different := false
		for i, want := range []time.Duration{1, 2, 4, 8, 10, 10, 10} {
			want *= time.Second
			if pauses[i] != want {
				t.Errorf("pause %d is %v, want %v", i, pauses[i], want)
			}
			if w := waited[i+1]; w < want/2 || w > want*3/2 {
				t.Errorf("waited %v for a pause of %v", w, want)
			}
			different = different || waited[i+1] != want
		}
		if !different {
			t.Error("no pause is jittered")
		}
	})
}

func TestAConnectionThatHasLastedStartsThePausesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		server, client := app(t, n, "server", nil), app(t, n, "client", nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var pauses []time.Duration
		var lasts time.Duration
		stay.Connected(ctx, stay.Options{
			RetryMin: time.Second, RetryMax: 8 * time.Second,
			Dial: func(ctx context.Context) (*secretstack.Peer, error) {
				return client.Connect(ctx, server.Address("device"))
			},
			Use: func(_ context.Context, p *secretstack.Peer) error {
				time.Sleep(lasts)
				p.Abort(errAway)
				<-p.Done()
				return p.Err()
			},
			Lost: func(err error, pause time.Duration) {
				pauses = append(pauses, pause)
				switch len(pauses) {
				case 3:
					lasts = 9 * time.Second
				case 5:
					cancel()
				}
			},
		})
		for i, want := range []time.Duration{1, 2, 4, 1, 1} {
			if pauses[i] != want*time.Second {
				t.Errorf("pause %d is %v, want %d s", i, pauses[i], want)
			}
		}
	})
}

func TestAPeerMaySayWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		server, client := app(t, n, "server", nil), app(t, n, "client", nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var times []time.Time
		stay.Connected(ctx, stay.Options{
			Dial: func(ctx context.Context) (*secretstack.Peer, error) {
				return client.Connect(ctx, server.Address("device"))
			},
			Use: func(_ context.Context, p *secretstack.Peer) error {
				defer p.Abort(nil)
				switch times = append(times, time.Now()); len(times) {
				case 1:
					return &stay.Again{}
				case 2:
					return &stay.Again{After: time.Hour}
				}
				cancel()
				return nil
			},
		})
		if got := times[1].Sub(times[0]); got != 0 {
			t.Errorf("at once is %v", got)
		}
		if got := times[2].Sub(times[1]); got < time.Hour || got > 3*time.Hour/2 {
			t.Errorf("an hour is %v", got)
		}
	})
}

func TestSilentPeersAreLeftInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, silent := memnet.New(), make(chan struct{})
		server, client := app(t, n, "server", silent), app(t, n, "client", nil)
		p, err := client.Connect(t.Context(), server.Address("device"))
		if err != nil {
			t.Fatal(err)
		}
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			stay.Watch(t.Context(), p, 10*time.Second, 20*time.Second, errAway, func(ctx context.Context) error {
				_, err := muxrpc.Call[bool](ctx, p, "test.answer")
				return err
			})
		}()
		time.Sleep(time.Hour)
		select {
		case <-p.Done():
			t.Fatalf("a peer that answers was left: %v", p.Err())
		default:
		}
		close(silent)
		began := time.Now()
		<-watched
		if !errors.Is(p.Err(), errAway) || time.Since(began) > 31*time.Second {
			t.Errorf("%v after %v", p.Err(), time.Since(began))
		}
	})
}

func TestNothingGoesOnWhenTheContextHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		server, client := app(t, n, "server", nil), app(t, n, "client", nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			stay.Connected(ctx, stay.Options{
				Dial: func(ctx context.Context) (*secretstack.Peer, error) {
					return client.Connect(ctx, server.Address("device"))
				},
				Lost: func(err error, _ time.Duration) { t.Errorf("lost: %v", err) },
			})
		}()
		synctest.Wait()
		p := client.Peers()[0]
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			stay.Watch(ctx, p, time.Second, time.Second, errAway, func(context.Context) error { return nil })
		}()
		cancel()
		<-done
		<-watched
		if p.Err() != nil {
			t.Errorf("the connection was ended: %v", p.Err())
		}
	})
}
