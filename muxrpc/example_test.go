package muxrpc_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"

	"github.com/secretstack/secretstack/muxrpc"
)

// connect returns two sessions that are connected to each other; the second serves mux.
func connect(ctx context.Context, mux *muxrpc.Mux) (client, server *muxrpc.Session) {
	a, b := net.Pipe() // any connection does
	return muxrpc.New(ctx, a, muxrpc.Options{}), muxrpc.New(ctx, b, muxrpc.Options{Mux: mux})
}

func ExampleCall() {
	ctx := context.Background()
	mux := muxrpc.NewMux()
	_ = muxrpc.HandleAsync(mux, "greet.hello", func(_ context.Context, name string) (string, error) {
		if name == "" {
			return "", muxrpc.Errorf("who are you?")
		}
		return "hello " + name, nil
	})
	client, _ := connect(ctx, mux)
	defer client.Close(ctx)

	answer, err := muxrpc.Call[string](ctx, client, "greet.hello", "alice")
	fmt.Println(answer, err)

	_, err = muxrpc.Call[string](ctx, client, "greet.hello")
	if remote, ok := errors.AsType[*muxrpc.RemoteError](err); ok {
		fmt.Println("the peer said:", remote.Message)
	}
	// Output:
	// hello alice <nil>
	// the peer said: who are you?
}

func ExampleSource() {
	ctx := context.Background()
	mux := muxrpc.NewMux()
	_ = muxrpc.HandleSource(mux, "count", func(_ context.Context, from int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := from; yield(i, nil); i++ {
			}
		}
	})
	client, _ := connect(ctx, mux)
	defer client.Close(ctx)

	for n, err := range muxrpc.Source[int](ctx, client, "count", 7) {
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println(n)
		if n == 9 {
			break // tells the peer to stop
		}
	}
	// Output:
	// 7
	// 8
	// 9
}

func ExampleSink() {
	ctx := context.Background()
	mux := muxrpc.NewMux()
	_ = muxrpc.HandleSink(mux, "log", func(_ context.Context, _ muxrpc.None, lines iter.Seq2[string, error]) error {
		for line, err := range lines {
			if err != nil {
				return err
			}
			fmt.Println("log:", line)
		}
		return nil
	})
	client, _ := connect(ctx, mux)
	defer client.Close(ctx)

	w, err := muxrpc.Sink[string](ctx, client, "log")
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = w.Send(ctx, "first")
	_ = w.Send(ctx, "second")
	fmt.Println("result:", w.Close(ctx))
	// Output:
	// log: first
	// log: second
	// result: <nil>
}

func ExampleDuplex() {
	ctx := context.Background()
	mux := muxrpc.NewMux()
	_ = muxrpc.HandleDuplex(mux, "square", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[int, int]) error {
		for n, err := range s.All(ctx) {
			if err != nil {
				return err
			}
			if err := s.Send(ctx, n*n); err != nil {
				return err
			}
		}
		return nil
	})
	client, _ := connect(ctx, mux)
	defer client.Close(ctx)

	s, err := muxrpc.Duplex[int, int](ctx, client, "square")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close(ctx)
	for _, n := range []int{3, 4} {
		_ = s.Send(ctx, n)
	}
	_ = s.CloseSend()
	for n := range s.All(ctx) {
		fmt.Println(n)
	}
	// Output:
	// 9
	// 16
}
