package muxrpc_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
)

// contextOf returns a session, and the context of a handler that has answered on it.
func contextOf(t *testing.T, ctx context.Context) (*muxrpc.Session, context.Context) {
	t.Helper()
	contexts := make(chan context.Context, 1)
	mux := muxrpc.NewMux()
	err := muxrpc.HandleAsync(mux, "keep", func(ctx context.Context, _ muxrpc.None) (muxrpc.None, error) {
		contexts <- ctx
		return muxrpc.None{}, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	a, b := muxrpctest.Conns()
	client := muxrpc.New(context.Background(), a, muxrpc.Options{})
	server := muxrpc.New(ctx, b, muxrpc.Options{Mux: mux})
	t.Cleanup(func() {
		client.Abort(nil)
		_, _ = client.Close(context.Background()), server.Close(context.Background())
	})
	if _, err := muxrpc.Call[muxrpc.None](t.Context(), client, "keep"); err != nil {
		t.Fatal(err)
	}
	return server, <-contexts
}

func TestHandlersContextEndsWithTheSessionWhenEverItIsAsked(t *testing.T) {
	reason := errors.New("enough")
	for name, ask := range map[string]func(ctx context.Context) (ended func() bool){
		"before, by its channel": func(ctx context.Context) func() bool {
			done := ctx.Done()
			return func() bool { <-done; return true }
		},
		"before, by a context on top of it": func(ctx context.Context) func() bool {
			child, cancel := context.WithCancel(ctx)
			return func() bool { <-child.Done(); cancel(); return errors.Is(context.Cause(child), reason) }
		},
		"before, by a function": func(ctx context.Context) func() bool {
			called := make(chan struct{})
			stop := context.AfterFunc(ctx, func() { close(called) })
			return func() bool { <-called; return !stop() }
		},
		"after": func(context.Context) func() bool { return func() bool { return true } },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				session, ctx := contextOf(t, context.Background())
				ended := ask(ctx)
				if err := ctx.Err(); err != nil || context.Cause(ctx) != nil {
					t.Errorf("it has ended already: %v", err)
				}
				session.Abort(reason)
				if !ended() {
					t.Error("it has not ended")
				}
				synctest.Wait()
				<-ctx.Done()
				if err := ctx.Err(); !errors.Is(err, context.Canceled) || !errors.Is(context.Cause(ctx), reason) {
					t.Errorf("%v, because %v", err, context.Cause(ctx))
				}
			})
		})
	}
}

func TestHandlersContextHasTheValuesOfTheSessions(t *testing.T) {
	type key struct{}
	bubble(t, func(t *testing.T) {
		_, ctx := contextOf(t, context.WithValue(context.Background(), key{}, "value"))
		for range 2 {
			if ctx.Value(key{}) != "value" || muxrpc.SessionFrom(ctx) == nil {
				t.Error("they are not there")
			}
			_ = ctx.Done()
		}
	})
}

func TestCallsThatWaitForNothingLeaveNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		session, ctx := contextOf(t, context.Background())
		if muxrpc.CanWaitForEnd(session) {
			t.Error("nobody has asked for the end of the context")
		}
		_ = ctx.Done()
		if !muxrpc.CanWaitForEnd(session) {
			t.Error("somebody has asked")
		}
	})
}
