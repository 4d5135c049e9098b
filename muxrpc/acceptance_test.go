package muxrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
)

// The tests in this file take up those of the JavaScript muxrpc that the vectors do not cover.

func TestAcceptanceAbortedSinkStopsItsSource(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleSink(mux, "few", func(_ context.Context, _ muxrpc.None, items iter.Seq2[int, error]) error {
			n := 0
			for _, err := range items {
				must(t, err)
				if n++; n == 3 {
					return muxrpc.Errorf("enough")
				}
			}
			return nil
		}))
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
		w, err := muxrpc.Sink[int](t.Context(), a, "few")
		must(t, err)
		sent := 0
		for ; err == nil && sent < 100; sent++ {
			err = w.Send(t.Context(), sent)
			synctest.Wait()
		}
		if sent >= 10 {
			t.Errorf("%d items were sent", sent)
		}
		wantSame(t, outcome(nil, err), "peer: enough")
		wantSame(t, outcome(nil, w.Close(t.Context())), "peer: enough")
	})
}

func TestAcceptanceStreamsFailWhenTheSessionIsAborted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var results []error
		a, b := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: endless(t, make(chan handled, 9))})
		w, err := muxrpc.Sink[string](t.Context(), a, "sink")
		must(t, err)
		next, stop := iter.Pull2(muxrpc.Source[int](t.Context(), a, "src", true))
		defer stop()
		_, err, _ = next()
		must(t, err)
		synctest.Wait()
		b.Abort(nil)
		<-a.Done()
		results = append(results, w.Send(t.Context(), "x"), w.Close(t.Context()))
		_, err, _ = next()
		results = append(results, err)
		for i, err := range results {
			if !errors.Is(err, muxrpc.ErrUnexpectedEnd) || err.Error() != "muxrpc: unexpected end of parent stream" {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
}

func TestAcceptanceCallsMadeBeforeThePeerIsThereAreAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x, y := muxrpctest.Conns()
		a := muxrpc.New(context.Background(), x, muxrpc.Options{})
		answers := make(chan string)
		for i := range 5 {
			go func() { answers <- outcome(muxrpc.Call[any](context.Background(), a, "echo", i)) }()
		}
		items := make(chan []int)
		go func() {
			var got []int
			for item, err := range muxrpc.Source[int](context.Background(), a, "src", 3) {
				must(t, err)
				got = append(got, item)
			}
			items <- got
		}()
		time.Sleep(time.Minute)
		b := muxrpc.New(context.Background(), y, muxrpc.Options{Mux: vectorMux(t)})
		var got []string
		for range 5 {
			got = append(got, <-answers)
		}
		slices.Sort(got)
		wantSame(t, strings.Join(got, " "), "[0] [1] [2] [3] [4]")
		wantSame(t, fmt.Sprint(<-items), "[1 2 3]")
		must(t, a.Close(t.Context()))
		must(t, b.Close(t.Context()))
	})
}

func TestAcceptanceAttackCallsThatAreNotInTheManifestAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: vectorMux(t)})
		for typ, names := range map[string][]string{
			"async":  {"zzz", "src", "sink", "dup", "nested", "nested.deep", "echo.x"},
			"source": {"zzz", "echo", "syncOk", "sink", "dup"},
			"sink":   {"zzz", "echo", "src", "dup"},
			"duplex": {"zzz", "echo", "src", "sink"},
		} {
			for _, name := range names {
				var err error
				switch typ {
				case "async":
					_, err = muxrpc.Call[any](t.Context(), a, name)
				case "source":
					for _, err = range muxrpc.Source[any](t.Context(), a, name) {
					}
				case "sink":
					w, openErr := muxrpc.Sink[any](t.Context(), a, name)
					must(t, openErr)
					err = w.Close(t.Context())
				case "duplex":
					d, openErr := muxrpc.Duplex[any, any](t.Context(), a, name)
					must(t, openErr)
					_, err = d.Recv(t.Context())
				}
				wantSame(t, outcome(nil, err), "peer: no "+typ+":"+strings.ReplaceAll(name, ".", ","))
			}
		}
	})
}

func TestAcceptanceAllowListWithManifestBootstrap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := vectorMux(t)
		must(t, muxrpc.HandleManifest(mux))
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux, Permissions: muxrpc.Permissions{Allow: []string{"manifest", "echo", "nested.deep"}}})
		m, err := a.Manifest(t.Context())
		must(t, err)
		if m.Lookup("nested", "deep", "get") != muxrpc.TypeAsync || m.Lookup("src") != muxrpc.TypeSource {
			t.Errorf("%v", m)
		}
		wantSame(t, outcome(muxrpc.Call[any](t.Context(), a, "echo", 1)), "[1]")
		wantSame(t, outcome(muxrpc.Call[any](t.Context(), a, "nested.deep.get", "k")), `"deep k"`)
		wantSame(t, outcome(muxrpc.Call[any](t.Context(), a, "boom")), "peer: method:boom is not in list of allowed methods")
		// A peer without a manifest says so.
		b, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{})
		if _, err := b.Manifest(t.Context()); outcome(nil, err) != "peer: no async:manifest" {
			t.Errorf("got %v", err)
		}
	})
}

func TestAcceptanceEverythingFailsAfterTheClose(t *testing.T) {
	for name, end := range map[string]func(s *muxrpc.Session){
		"close": func(s *muxrpc.Session) { _ = s.Close(context.Background()) },
		"abort": func(s *muxrpc.Session) { s.Abort(nil); <-s.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a, b := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{})
				end(a)
				<-b.Done()
				for _, s := range []*muxrpc.Session{a, b} {
					_, callErr := muxrpc.Call[int](t.Context(), s, "x")
					_, sinkErr := muxrpc.Sink[int](t.Context(), s, "x")
					_, dupErr := muxrpc.Duplex[int, int](t.Context(), s, "x")
					_, manErr := s.Manifest(t.Context())
					var srcErr error
					for _, srcErr = range muxrpc.Source[int](t.Context(), s, "x") {
					}
					for _, err := range []error{callErr, sinkErr, dupErr, manErr, srcErr} {
						if !errors.Is(err, muxrpc.ErrSessionClosed) || err.Error() != "muxrpc: stream is closed" {
							t.Errorf("got %v", err)
						}
					}
				}
			})
		})
	}
}

func TestAcceptanceSessionEndsAfterItsLastStream(t *testing.T) {
	// The rows "stream-end": async, source, sink and duplex may each be the last.
	for name, last := range map[string]func(ctx context.Context, s *muxrpc.Session, wait func()) error{
		"async": func(ctx context.Context, s *muxrpc.Session, wait func()) error {
			_, err := muxrpc.Call[any](ctx, s, "wait")
			return err
		},
		"source": func(ctx context.Context, s *muxrpc.Session, wait func()) error {
			for _, err := range muxrpc.Source[int](ctx, s, "slow") {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"sink": func(ctx context.Context, s *muxrpc.Session, wait func()) error {
			w, err := muxrpc.Sink[int](ctx, s, "sink")
			if err != nil {
				return err
			}
			wait()
			if err := w.Send(ctx, 1); err != nil {
				return err
			}
			return w.Close(ctx)
		},
		"duplex": func(ctx context.Context, s *muxrpc.Session, wait func()) error {
			d, err := muxrpc.Duplex[int, any](ctx, s, "dup")
			if err != nil {
				return err
			}
			wait()
			if err := d.Send(ctx, 1); err != nil {
				return err
			}
			return d.Close(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				mux := vectorMux(t)
				must(t, muxrpc.HandleAsync(mux, "wait", func(context.Context, muxrpc.None) (int, error) { time.Sleep(time.Second); return 1, nil }))
				must(t, muxrpc.HandleSource(mux, "slow", func(context.Context, muxrpc.None) iter.Seq2[int, error] {
					return func(yield func(int, error) bool) {
						for i := 0; i < 3 && yield(i, nil); i++ {
							time.Sleep(time.Second)
						}
					}
				}))
				a, b := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
				result := make(chan error, 1)
				go func() { result <- last(context.Background(), a, func() { time.Sleep(time.Second) }) }()
				synctest.Wait()
				closed := make(chan error, 1)
				go func() { closed <- a.Close(context.Background()) }()
				synctest.Wait()
				select {
				case <-a.Done():
					t.Error("the session ended before the call")
				default:
				}
				must(t, <-result)
				must(t, <-closed)
				<-b.Done()
			})
		})
	}
}

func TestItemsThatArrivedCanBeReadAfterTheSessionsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: vectorMux(t)})
		next, stop := iter.Pull2(muxrpc.Source[int](t.Context(), a, "src", 100))
		defer stop()
		_, err, _ := next()
		must(t, err)
		synctest.Wait()
		must(t, b.Close(t.Context()))
		<-a.Done()
		n := 1
		for {
			item, err, ok := next()
			if !ok {
				break
			}
			must(t, err)
			if n++; item != n {
				t.Fatalf("item %d is %d", n, item)
			}
		}
		if n != 100 {
			t.Errorf("%d items", n)
		}
	})
}

func TestAcceptanceLostConnectionEndsEverything(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		errs := make(chan error, 2)
		go func() {
			_, err := muxrpc.Call[int](context.Background(), s, "x")
			errs <- err
		}()
		go func() {
			var err error
			for _, err = range muxrpc.Source[int](context.Background(), s, "x") {
			}
			errs <- err
		}()
		synctest.Wait()
		_ = peer.conn.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, muxrpc.ErrUnexpectedEnd) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestAcceptanceLargeValuesPass(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: vectorMux(t)})
		text := strings.Repeat("é\"x", 300_000) // escaped on the way, over a MiB
		got, err := muxrpc.Call[[]string](t.Context(), a, "echo", text)
		must(t, err)
		if len(got) != 1 || got[0] != text {
			t.Errorf("%d strings came back", len(got))
		}
		d, err := muxrpc.Duplex[map[string][]byte, []byte](t.Context(), a, "dup")
		must(t, err)
		must(t, d.Send(t.Context(), make([]byte, 1<<20)))
		item, err := d.Recv(t.Context())
		must(t, err)
		if len(item["echo"]) != 1<<20 {
			t.Errorf("%d bytes came back", len(item["echo"]))
		}
		must(t, d.Close(t.Context()))
	})
}
