package muxrpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
)

func TestErrorsOfHandlersReachThePeerOnlyIfTheyWereMeantForIt(t *testing.T) {
	secret := errors.New("open /home/alice/.ssb/secret: permission denied")
	for name, c := range map[string]struct {
		err    error
		want   string
		logged bool
	}{
		"public":            {muxrpc.Errorf("no such blob: %d", 7), "no such blob: 7", false},
		"wrapped public":    {fmt.Errorf("%w: %w", muxrpc.Errorf("no such blob"), secret), "no such blob", false},
		"public that wraps": {muxrpc.Errorf("cannot read your blob"), "cannot read your blob", false},
		"of another peer":   {&muxrpc.RemoteError{Name: "TypeError", Message: "x is not a function"}, "x is not a function", false},
		"without message":   {&muxrpc.RemoteError{}, "error without a message", false},
		"private":           {secret, "internal error", true},
		"of the package":    {muxrpc.ErrSlowReader, "the reader of this stream was too slow", false},
		"cancelled":         {context.Canceled, "call was cancelled", false},
		"timed out":         {fmt.Errorf("dial tcp 10.0.0.1: %w", context.DeadlineExceeded), "call timed out", false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var logged bytes.Buffer
				mux := muxrpc.NewMux()
				must(t, muxrpc.HandleAsync(mux, "fail", func(context.Context, muxrpc.None) (int, error) { return 1, c.err }))
				must(t, muxrpc.HandleSource(mux, "src", func(context.Context, muxrpc.None) iter.Seq2[int, error] {
					return func(yield func(int, error) bool) { yield(0, c.err) }
				}))
				_, peer := raw(t, muxrpc.Options{Mux: mux, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
				peer.request(1, `{"name":["fail"],"args":[]}`)
				peer.wantError("06", -1, c.want)
				peer.openStream(2, `{"name":["src"],"args":[],"type":"source"}`)
				peer.wantError("0e", -2, c.want)
				if n := strings.Count(logged.String(), "/home/alice"); (n == 2) != c.logged {
					t.Errorf("log:\n%s", logged.String())
				}
			})
		})
	}
}

func TestErrorfUnwrapsOnThisSide(t *testing.T) {
	cause := errors.New("cause")
	err := muxrpc.Errorf("told: %w", cause)
	if !errors.Is(err, cause) || err.Error() != "told: cause" {
		t.Errorf("%v", err)
	}
}

func TestPanickingHandlersAnswerAndAreLogged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var logged bytes.Buffer
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "panic", func(context.Context, muxrpc.None) (int, error) { panic("the secret is 42") })) //nolint:forbidigo // what is tested
		must(t, muxrpc.HandleAsync(mux, "exit", func(context.Context, muxrpc.None) (int, error) { runtime.Goexit(); return 0, nil }))
		must(t, muxrpc.HandleSource(mux, "lazy", func(context.Context, muxrpc.None) iter.Seq2[int, error] {
			return func(yield func(int, error) bool) {
				yield(1, nil)
				panic("while iterating") //nolint:forbidigo // what is tested
			}
		}))
		must(t, muxrpc.HandleSource(mux, "nil", func(context.Context, muxrpc.None) iter.Seq2[int, error] { return nil }))
		must(t, muxrpc.HandleDuplex(mux, "dup", func(context.Context, muxrpc.None, *muxrpc.Stream[int, int]) error { panic(errors.New("x")) })) //nolint:forbidigo // what is tested
		s, peer := raw(t, muxrpc.Options{Mux: mux, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		for i, name := range []string{"panic", "exit"} {
			peer.request(int32(i+1), `{"name":["`+name+`"],"args":[]}`)
			peer.wantError("06", int32(-i-1), "internal error")
		}
		peer.openStream(3, `{"name":["lazy"],"args":[],"type":"source"}`)
		peer.want("0a00000001fffffffd", "1")
		peer.wantError("0e", -3, "internal error")
		peer.openStream(4, `{"name":["dup"],"args":[],"type":"duplex"}`)
		peer.wantError("0e", -4, "internal error")
		peer.openStream(5, `{"name":["nil"],"args":[],"type":"source"}`)
		peer.want("0e00000004fffffffb", "true")
		synctest.Wait()
		if stats := s.Stats(); stats.Handlers != 0 || stats.Streams != 0 {
			t.Errorf("%+v", stats)
		}
		for _, want := range []string{"the secret is 42", "while iterating", "serve_test.go", "method=panic", "method=dup"} {
			if !strings.Contains(logged.String(), want) {
				t.Errorf("not in the log: %s", want)
			}
		}
	})
}

func TestResultsThatCannotBeEncodedAreAnInternalError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "chan", func(context.Context, muxrpc.None) (any, error) { return make(chan int), nil }))
		must(t, muxrpc.HandleSource(mux, "src", func(context.Context, muxrpc.None) iter.Seq2[any, error] {
			return func(yield func(any, error) bool) { yield(make(chan int), nil) }
		}))
		must(t, mux.Handle(muxrpc.Method{Name: "odd", Type: muxrpc.TypeSource, Handler: func(context.Context, *muxrpc.CallInfo) (any, error) { return 5, nil }}))
		_, peer := raw(t, muxrpc.Options{Mux: mux})
		peer.request(1, `{"name":["chan"],"args":[]}`)
		peer.wantError("06", -1, "internal error")
		peer.openStream(2, `{"name":["src"],"args":[],"type":"source"}`)
		peer.wantError("0e", -2, "internal error")
		peer.openStream(3, `{"name":["odd"],"args":[],"type":"source"}`)
		peer.wantError("0e", -3, "internal error")
	})
}

func TestUntypedHandlersMayReturnAnyFormOfItems(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, mux.Handle(muxrpc.Method{Name: "src", Type: muxrpc.TypeSource, Handler: func(context.Context, *muxrpc.CallInfo) (any, error) {
			return func(yield func(any, error) bool) { yield("one", nil) }, nil
		}}))
		_, peer := raw(t, muxrpc.Options{Mux: mux})
		peer.openStream(1, `{"name":["src"],"args":[],"type":"source"}`)
		peer.want("0900000003ffffffff", "one")
		peer.want("0e00000004ffffffff", "true")
	})
}

func TestHooksSeeCallsOfEveryType(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := vectorMux(t)
		var seen []string
		for _, name := range []string{"echo", "src", "sink", "dup", "nested.deep.get"} {
			must(t, mux.Hook(name, func(next muxrpc.Handler) muxrpc.Handler {
				return func(ctx context.Context, call *muxrpc.CallInfo) (any, error) {
					seen = append(seen, fmt.Sprintf("%s %s %s", call.Name(), call.Type, call.Args))
					if call.Args.Len() > 1 {
						return nil, muxrpc.Errorf("one argument only")
					}
					result, err := next(ctx, call)
					if items, ok := result.(iter.Seq2[any, error]); ok {
						result = iter.Seq2[any, error](func(yield func(any, error) bool) {
							for item, err := range items {
								if !yield(fmt.Sprint("hooked ", item), err) {
									return
								}
							}
						})
					}
					return result, err
				}
			}))
		}
		s, peer := raw(t, muxrpc.Options{Mux: mux})
		_ = s
		peer.request(1, `{"name":["echo"],"args":[1]}`)
		peer.want("0200000003ffffffff", "[1]")
		peer.request(2, `{"name":["echo"],"args":[1,2]}`)
		peer.wantError("06", -2, "one argument only")
		peer.openStream(3, `{"name":["src"],"args":[1],"type":"source"}`)
		peer.want("0900000008fffffffd", "hooked 1")
		peer.want("0e00000004fffffffd", "true")
		peer.openStream(4, `{"name":["dup"],"args":[1,2],"type":"duplex"}`)
		peer.wantError("0e", -4, "one argument only")
		peer.openStream(5, `{"name":["sink"],"args":[],"type":"sink"}`)
		peer.end(5, "true")
		peer.want("0e00000004fffffffb", "true")
		if want := "echo async [1]|echo async [1,2]|src source [1]|dup duplex [1,2]|sink sink []"; strings.Join(seen, "|") != want {
			t.Errorf("seen %s", strings.Join(seen, "|"))
		}
	})
}

func TestHandlersKnowTheirPeerAndSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "who", func(ctx context.Context, _ muxrpc.None) (string, error) {
			return fmt.Sprint(muxrpc.PeerFrom(ctx), muxrpc.SessionFrom(ctx).Peer()), nil
		}))
		c, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux, Peer: "alice"})
		who, err := muxrpc.Call[string](t.Context(), c, "who")
		must(t, err)
		if who != "alicealice" {
			t.Errorf("peer is %s", who)
		}
	})
	if muxrpc.PeerFrom(t.Context()) != nil || muxrpc.SessionFrom(t.Context()) != nil {
		t.Error("a context of nobody has a peer")
	}
}

func TestHandlersMayCallBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := muxrpc.NewMux(), muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(a, "double", func(ctx context.Context, n int) (int, error) { return 2 * n, nil }))
		must(t, muxrpc.HandleAsync(b, "quadruple", func(ctx context.Context, n int) (int, error) {
			n, err := muxrpc.Call[int](ctx, muxrpc.SessionFrom(ctx), "double", n)
			return 2 * n, err
		}))
		c, _ := muxrpctest.Pipe(t, muxrpc.Options{Mux: a}, muxrpc.Options{Mux: b})
		n, err := muxrpc.Call[int](t.Context(), c, "quadruple", 3)
		must(t, err)
		if n != 12 {
			t.Errorf("got %d", n)
		}
	})
}

func TestCallsOverTheBoundWaitAndAreThenRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		release := make(chan bool)
		var running, most atomic.Int32
		must(t, muxrpc.HandleAsync(mux, "block", func(context.Context, muxrpc.None) (bool, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			<-release
			return true, nil
		}))
		must(t, muxrpc.HandleAsync(mux, "quick", func(context.Context, muxrpc.None) (bool, error) { return true, nil }))
		s, peer := raw(t, muxrpc.Options{Mux: mux, Limits: muxrpc.Limits{MaxHandlers: 4, SlowReaderGrace: 5 * time.Second}})
		for i := range 4 {
			peer.request(int32(i+1), `{"name":["block"],"args":[]}`)
		}
		// The fifth waits until one is free.
		peer.request(5, `{"name":["quick"],"args":[]}`)
		time.Sleep(2 * time.Second)
		if n := s.Stats().Handlers; n != 4 {
			t.Errorf("%d handlers", n)
		}
		release <- true
		_, body, err := peer.read() // the answer to one of the four
		must(t, err)
		wantSame(t, body, "true")
		peer.want("0200000004fffffffb", "true")
		// None is free: the next waits for the grace, and those after it do not wait.
		peer.request(6, `{"name":["block"],"args":[]}`)
		start := time.Now()
		peer.request(7, `{"name":["quick"],"args":[]}`)
		peer.request(8, `{"name":["quick"],"args":[]}`)
		peer.wantError("06", -7, "too many calls are being served")
		peer.wantError("06", -8, "too many calls are being served")
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("refused after %v", took)
		}
		if most.Load() != 4 {
			t.Errorf("%d ran at once", most.Load())
		}
		close(release)
		for range 4 {
			_, _, err := peer.read()
			must(t, err)
		}
		synctest.Wait()
		for i := range 4 { // as before
			peer.request(int32(i+10), `{"name":["quick"],"args":[]}`)
		}
		for range 4 {
			_, body, err := peer.read()
			must(t, err)
			wantSame(t, body, "true")
		}
	})
}

func TestStreamsOverTheBoundAreRefusedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleSource(mux, "wait", func(ctx context.Context, _ muxrpc.None) iter.Seq2[int, error] {
			return func(func(int, error) bool) { <-ctx.Done() }
		}))
		s, peer := raw(t, muxrpc.Options{Mux: mux, Limits: muxrpc.Limits{MaxStreams: 3}})
		const call = `{"name":["wait"],"args":[],"type":"source"}`
		for i := range 3 {
			peer.openStream(int32(i+1), call)
		}
		start := time.Now()
		peer.openStream(4, call)
		peer.wantError("0e", -4, "too many streams are open")
		if took := time.Since(start); took != 0 {
			t.Errorf("refused after %v", took)
		}
		peer.end(2, "true")
		peer.want("0e00000004fffffffe", "true")
		synctest.Wait()
		peer.openStream(5, call)
		synctest.Wait()
		if n := s.Stats().Streams; n != 3 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestArgumentsOfCallsBeingServedAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "block", func(ctx context.Context, _ muxrpc.None) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}))
		must(t, muxrpc.HandleSink(mux, "sink", func(ctx context.Context, _ muxrpc.None, _ iter.Seq2[int, error]) error {
			<-ctx.Done()
			return nil
		}))
		s, peer := raw(t, muxrpc.Options{Mux: mux, Limits: muxrpc.Limits{StreamBuffer: 64 << 10, SessionBuffer: 1 << 20}})
		big := strings.Repeat("x", 300<<10)
		for i := range 5 {
			peer.request(int32(i+1), `{"name":["block"],"args":["`+big+`"]}`)
		}
		peer.wantError("06", -4, "too many calls are being served")
		peer.wantError("06", -5, "too many calls are being served")
		peer.openStream(6, `{"name":["sink"],"args":["`+big+`"],"type":"sink"}`)
		peer.wantError("0e", -6, "too many streams are open")
		peer.openStream(7, `{"name":["sink"],"args":[],"type":"sink"}`)
		synctest.Wait()
		if stats := s.Stats(); stats.Handlers != 3 || stats.Streams != 1 {
			t.Errorf("%+v", stats)
		}
	})
}

func TestPermissionsOfASessionCanChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "login", func(ctx context.Context, pass string) (bool, error) {
			if pass == "please" {
				muxrpc.SessionFrom(ctx).SetPermissions(muxrpc.Permissions{})
			}
			return true, nil
		}))
		must(t, muxrpc.HandleAsync(mux, "get", func(context.Context, muxrpc.None) (int, error) { return 5, nil }))
		opts := muxrpc.Options{Mux: mux, Permissions: muxrpc.Permissions{Allow: []string{"login"}}}
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, opts)
		b, _ := muxrpctest.Pipe(t, muxrpc.Options{}, opts)
		_, err := muxrpc.Call[int](t.Context(), a, "get")
		wantSame(t, fmt.Sprint(err), "muxrpc: the peer answered: method:get is not in list of allowed methods")
		_, err = muxrpc.Call[bool](t.Context(), a, "login", "please")
		must(t, err)
		n, err := muxrpc.Call[int](t.Context(), a, "get")
		must(t, err)
		if n != 5 {
			t.Error(n)
		}
		if _, err = muxrpc.Call[int](t.Context(), b, "get"); err == nil {
			t.Error("the login of one session counts for another")
		}
	})
}

func TestRegistrarsMayPutAPrefixBeforeNames(t *testing.T) {
	mux := muxrpc.NewMux()
	r := prefixed{mux, "plugin."}
	must(t, muxrpc.HandleAsync(r, "a", func(context.Context, muxrpc.None) (int, error) { return 1, nil }))
	must(t, muxrpc.HandleSync(r, "b", func(context.Context, muxrpc.None) (int, error) { return 1, nil }))
	must(t, muxrpc.HandleSource(r, "c", func(context.Context, muxrpc.None) iter.Seq2[int, error] { return nil }))
	must(t, muxrpc.HandleSink(r, "d", func(context.Context, muxrpc.None, iter.Seq2[int, error]) error { return nil }))
	must(t, muxrpc.HandleDuplex(r, "e", func(context.Context, muxrpc.None, *muxrpc.Stream[int, int]) error { return nil }))
	wantSame(t, strings.Join(mux.Manifest().Methods(), " "), "plugin.a plugin.b plugin.c plugin.d plugin.e")
	for name, want := range map[string]muxrpc.CallType{"a": "async", "b": "sync", "c": "source", "d": "sink", "e": "duplex"} {
		if got := mux.Manifest().Lookup("plugin", name); got != want {
			t.Errorf("%s is %s", name, got)
		}
	}
}

type prefixed struct {
	mux    *muxrpc.Mux
	prefix string
}

func (p prefixed) Handle(m muxrpc.Method) error {
	m.Name = p.prefix + m.Name
	return p.mux.Handle(m)
}

func TestArgumentsReachHandlersInTheFormTheyAskFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type options struct{ Limit int }
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "none", func(context.Context, muxrpc.None) (string, error) { return "none", nil }))
		must(t, muxrpc.HandleAsync(mux, "opts", func(_ context.Context, o options) (int, error) { return o.Limit, nil }))
		must(t, muxrpc.HandleAsync(mux, "bytes", func(_ context.Context, b []byte) ([]byte, error) { return b, nil }))
		must(t, muxrpc.HandleAsync(mux, "pointer", func(_ context.Context, o *options) (bool, error) { return o == nil, nil }))
		must(t, muxrpc.HandleAsync(mux, "args", func(_ context.Context, args muxrpc.Args) (string, error) {
			var a string
			var b int
			if err := args.Decode(&a, &b); err != nil {
				return "", err
			}
			return fmt.Sprint(args.Len(), a, b), nil
		}))
		c, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
		for _, call := range []struct {
			name string
			args []any
			want string
		}{
			{"none", []any{1, 2}, `"none"`},
			{"opts", []any{options{7}}, `7`},
			{"opts", nil, `0`},
			{"opts", []any{nil}, `0`},
			{"opts", []any{"x"}, `peer: argument 0 is invalid: unexpected string`},
			{"bytes", []any{[]byte{1}}, `bytes 01`},
			{"bytes", []any{[]byte{}}, `{"data":[],"type":"Buffer"}`},
			{"bytes", []any{"x"}, `peer: argument 0 is invalid`},
			{"pointer", nil, `true`},
			{"pointer", []any{options{}}, `false`},
			{"args", []any{"a", 2, 3}, `"3a2"`},
			{"args", []any{"a", "b"}, `peer: argument 1 is invalid: unexpected string`},
		} {
			got := outcome(muxrpc.Call[any](t.Context(), c, call.name, call.args...))
			if got != call.want {
				t.Errorf("%s %v: %s, want %s", call.name, call.args, got, call.want)
			}
		}
	})
}
