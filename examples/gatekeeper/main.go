// Command gatekeeper shows how an app decides who may call what: an auth hook looks at the key that a caller has proved.
// Friends may read and write the notes, strangers may read them, and banned keys do not get in at all.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"sync"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// notes is a plugin with something to protect. Everybody may read; writing takes more than that.
func notes() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:        "notes",
		Permissions: secretstack.Anonymous("read"),
	}, func(_ context.Context, s *secretstack.Setup) error {
		var mu sync.Mutex
		var lines []string
		read := func(context.Context, muxrpc.None) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(lines, "; "), nil
		}
		write := func(_ context.Context, line string) (muxrpc.None, error) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line)
			return muxrpc.None{}, nil
		}
		return errors.Join(muxrpc.HandleAsync(s, "read", read), muxrpc.HandleAsync(s, "write", write))
	})
}

// gatekeeper is a plugin without methods: it hooks the decision about everybody who connects.
func gatekeeper(friends, banned []keys.PublicKey) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "gatekeeper"}, func(_ context.Context, s *secretstack.Setup) error {
		return s.AuthHook(func(next secretstack.AuthFunc) secretstack.AuthFunc {
			return func(ctx context.Context, caller secretstack.Caller) (secretstack.Access, error) {
				switch {
				case contains(banned, caller.Key):
					return secretstack.Access{}, errors.New("banned")
				case contains(friends, caller.Key):
					return secretstack.Grant(muxrpc.Permissions{Allow: []string{"notes"}}), nil
				}
				return next(ctx, caller)
			}
		})
	})
}

func contains(list []keys.PublicKey, key keys.PublicKey) bool {
	for _, k := range list {
		if k.Equal(key) {
			return true
		}
	}
	return false
}

func run(ctx context.Context, out io.Writer) error {
	visitors := make([]*keys.Identity, 3)
	for i := range visitors {
		id, err := keys.Generate()
		if err != nil {
			return err
		}
		visitors[i] = id
	}
	friend, stranger, banned := visitors[0], visitors[1], visitors[2]

	stack := secretstack.New(secretstack.Options{})
	err := stack.Use(notes(), gatekeeper([]keys.PublicKey{friend.Public()}, []keys.PublicKey{banned.Public()}))
	if err != nil {
		return err
	}
	app, err := stack.Start(ctx, secretstack.Config{Host: "127.0.0.1"})
	if err != nil {
		return err
	}
	defer app.Close(ctx)
	visit(ctx, out, app.Address("device"), "friend", friend)
	visit(ctx, out, app.Address("device"), "stranger", stranger)
	visit(ctx, out, app.Address("device"), "banned", banned)
	return nil
}

// visit connects as id and tries to write and to read.
func visit(ctx context.Context, out io.Writer, address, name string, id *keys.Identity) {
	app, err := secretstack.New(secretstack.Options{}).Start(ctx, secretstack.Config{Host: "127.0.0.1", Identity: id})
	if err != nil {
		fmt.Fprintln(out, name, "cannot start:", err)
		return
	}
	defer app.Close(ctx)
	peer, err := app.Connect(ctx, address)
	if err != nil {
		fmt.Fprintln(out, name, "is not let in")
		return
	}
	if _, err := muxrpc.Call[any](ctx, peer, "notes.write", "kilroy was here"); err != nil {
		fmt.Fprintln(out, name, "may not write")
	} else {
		fmt.Fprintln(out, name, "has written")
	}
	text, err := muxrpc.Call[string](ctx, peer, "notes.read")
	if err != nil {
		fmt.Fprintln(out, name, "may not read")
		return
	}
	fmt.Fprintf(out, "%s reads %q\n", name, text)
}
