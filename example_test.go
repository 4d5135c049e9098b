package secretstack_test

import (
	"context"
	"fmt"
	"log"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/muxrpc"
)

// Two apps of one stack: bob connects to alice and calls the method that the plugin gives to both. From JavaScript the
// same call is peer.greeter.hello('bob', cb).
func Example() {
	ctx := context.Background()

	greeter := secretstack.NewPlugin(secretstack.Info{
		Name:        "greeter",
		Permissions: secretstack.Anonymous("hello"),
	}, func(ctx context.Context, s *secretstack.Setup) error {
		return muxrpc.HandleAsync(s, "hello", func(ctx context.Context, name string) (string, error) {
			return "hello " + name, nil
		})
	})

	stack := secretstack.New(secretstack.Options{})
	check(stack.Use(greeter))

	alice, err := stack.Start(ctx, secretstack.Config{Host: "127.0.0.1"})
	check(err)
	defer alice.Close(ctx)
	bob, err := stack.Start(ctx, secretstack.Config{Host: "127.0.0.1"})
	check(err)
	defer bob.Close(ctx)

	peer, err := bob.Connect(ctx, alice.Address("device"))
	check(err)
	answer, err := muxrpc.Call[string](ctx, peer, "greeter.hello", "bob")
	check(err)
	fmt.Println(answer)
	// Output: hello bob
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
