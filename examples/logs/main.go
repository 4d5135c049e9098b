// Command logs starts three nodes in a row, each connected to the one before. Every node keeps a log of its own, signed
// and append-only, and replicates the logs of those it follows, so that all three end with the same logs although the
// first and the last never meet. Two plugins do it: one keeps logs in SQLite, the other replicates them.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

func main() {
	dir, err := os.MkdirTemp("", "secretstack-logs-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	if err := run(ctx, os.Stdout, dir); err != nil {
		log.Print(err)
	}
}

// names are those of the nodes, in the order of their start.
var names = [...]string{"alice", "bob", "carol"}

func run(ctx context.Context, out io.Writer, dir string) error {
	ids := make([]*keys.Identity, len(names))
	authors := make([]keys.PublicKey, len(names))
	for i, name := range names {
		id, err := keys.LoadOrCreate(filepath.Join(dir, name, "secret"), keys.FileOptions{})
		if err != nil {
			return err
		}
		ids[i], authors[i] = id, id.Public()
	}
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(logs(), replicate(func() []keys.PublicKey { return authors })); err != nil {
		return err
	}
	var nodes []*secretstack.App
	for i, name := range names {
		app, err := stack.Start(ctx, secretstack.Config{Identity: ids[i], Dir: filepath.Join(dir, name), Host: "127.0.0.1"})
		if err != nil {
			return err
		}
		defer app.Close(context.WithoutCancel(ctx))
		nodes = append(nodes, app)
		if err := join(ctx, nodes, name); err != nil {
			return err
		}
	}
	// Every node shows all logs, each with the two entries that its author has written.
	for i, app := range nodes {
		for j, author := range authors {
			if err := show(ctx, out, app, names[i], names[j], author); err != nil {
				return err
			}
		}
	}
	return nil
}

// join connects the newest node to the one before, and writes an entry before and one after.
func join(ctx context.Context, nodes []*secretstack.App, name string) error {
	app := nodes[len(nodes)-1]
	if _, err := muxrpc.Call[entry](ctx, app.Self(), "logs.append", name+" was here first"); err != nil {
		return err
	}
	if len(nodes) > 1 {
		before := nodes[len(nodes)-2]
		if _, err := app.Connect(ctx, before.Address("device")); err != nil {
			return err
		}
	}
	_, err := muxrpc.Call[entry](ctx, app.Self(), "logs.append", name+" has joined")
	return err
}

// show prints the first two entries that a node has of an author's log, waiting for them to arrive.
func show(ctx context.Context, out io.Writer, app *secretstack.App, name, of string, author keys.PublicKey) error {
	for e, err := range muxrpc.Source[entry](ctx, app.Self(), "logs.read", position{Author: author, Live: true}) {
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s has of %s, %d: %s\n", name, of, e.Sequence, e.Text)
		if e.Sequence == 2 {
			break
		}
	}
	return ctx.Err()
}
