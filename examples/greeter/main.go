// Command greeter is the smallest useful peer: a plugin with one method, and another peer that calls it. With -serve it
// stays, so that others can call it: greeter.js does it from JavaScript.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/muxrpc"
)

func main() {
	serve := flag.Bool("serve", false, "stay until Ctrl-C, to be called by others")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *serve); err != nil {
		log.Fatal(err)
	}
}

// greeter is the plugin: its method "hello" is greeter.hello to the peers that call it.
func greeter() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:        "greeter",
		Permissions: secretstack.Anonymous("hello"),
	}, func(_ context.Context, s *secretstack.Setup) error {
		return muxrpc.HandleAsync(s, "hello", func(ctx context.Context, name string) (string, error) {
			if name == "" {
				return "", muxrpc.Errorf("greeter.hello needs a name")
			}
			return "hello " + name, nil
		})
	})
}

func run(ctx context.Context, out io.Writer, serve bool) error {
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(greeter()); err != nil {
		return err
	}
	alice, err := stack.Start(ctx, secretstack.Config{Host: "127.0.0.1"})
	if err != nil {
		return err
	}
	defer alice.Close(context.WithoutCancel(ctx))
	if serve {
		fmt.Fprintln(out, alice.Address("device"))
		<-ctx.Done()
		return nil
	}
	return visit(ctx, out, stack, alice.Address("device"))
}

// visit starts a second peer, which calls the first.
func visit(ctx context.Context, out io.Writer, stack *secretstack.Stack, address string) error {
	bob, err := stack.Start(ctx, secretstack.Config{Host: "127.0.0.1"})
	if err != nil {
		return err
	}
	defer bob.Close(context.WithoutCancel(ctx))
	peer, err := bob.Connect(ctx, address)
	if err != nil {
		return err
	}
	answer, err := muxrpc.Call[string](ctx, peer, "greeter.hello", "bob")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, answer)
	return nil
}
