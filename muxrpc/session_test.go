package muxrpc_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryCallTypeWorks(t *testing.T) {
	mux := muxrpc.NewMux()
	must(t, muxrpc.HandleAsync(mux, "test.hello", func(ctx context.Context, name string) (string, error) {
		return "hello " + name, nil
	}))
	must(t, muxrpc.HandleSync(mux, "test.fail", func(ctx context.Context, _ muxrpc.None) (string, error) {
		return "", muxrpc.Errorf("nope")
	}))
	must(t, muxrpc.HandleSource(mux, "test.count", func(ctx context.Context, n int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := range n {
				if !yield(i, nil) {
					return
				}
			}
		}
	}))
	var got []string
	must(t, muxrpc.HandleSink(mux, "test.eat", func(ctx context.Context, _ muxrpc.None, items iter.Seq2[string, error]) error {
		for item, err := range items {
			if err != nil {
				return err
			}
			got = append(got, item)
		}
		return nil
	}))
	must(t, muxrpc.HandleDuplex(mux, "test.echo", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[any, any]) error {
		for item, err := range s.All(ctx) {
			if err != nil {
				return err
			}
			if err := s.Send(ctx, item); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, muxrpc.HandleManifest(mux))
	c, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
	ctx := t.Context()

	answer, err := muxrpc.Call[string](ctx, c, "test.hello", "alice")
	must(t, err)
	if answer != "hello alice" {
		t.Fatal(answer)
	}
	_, err = muxrpc.Call[string](ctx, c, "test.fail")
	if e, ok := errors.AsType[*muxrpc.RemoteError](err); !ok || e.Message != "nope" {
		t.Fatal(err)
	}
	n := 0
	for item, err := range muxrpc.Source[int](ctx, c, "test.count", 1000) {
		must(t, err)
		if item != n {
			t.Fatal(item, n)
		}
		n++
	}
	if n != 1000 {
		t.Fatal(n)
	}
	w, err := muxrpc.Sink[string](ctx, c, "test.eat")
	must(t, err)
	must(t, w.Send(ctx, "a"))
	must(t, w.Send(ctx, "b"))
	must(t, w.Close(ctx))
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Fatal(got)
	}
	d, err := muxrpc.Duplex[any, any](ctx, c, "test.echo")
	must(t, err)
	must(t, d.Send(ctx, "x"))
	must(t, d.Send(ctx, []byte{1, 2}))
	must(t, d.Send(ctx, map[string]any{"a": 1.0}))
	must(t, d.CloseSend())
	k := 0
	for _, err := range d.All(ctx) {
		must(t, err)
		k++
	}
	if k != 3 {
		t.Fatal(k)
	}
	m, err := c.Manifest(ctx)
	must(t, err)
	if m.Lookup("test", "echo") != muxrpc.TypeDuplex {
		t.Fatal(m)
	}
	must(t, c.Close(ctx))
}
