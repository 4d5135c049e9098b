package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/courier/envelope"
)

type sendFlags struct {
	file string
	wait duration
}

// glance is how long send watches for the delivery on a terminal when nobody has said how long.
const glance = 5 * time.Second

func newSend(g *globals) *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send NAME [TEXT…]",
		Short: "send a message or a file to a contact",
		Long: `send gives a message to your courier, which delivers it as soon as it can. Without TEXT the message is what comes on
standard input. When send has ended well the message is kept, whatever happens next; --wait also waits until it is there.`,
		Example: "  secretstack send alice see you at eight\n  secretstack send alice --file photo.jpg\n  date | secretstack send alice --wait 1m",
		Args:    argsBetween(1, -1, "the name of a contact and a text"),
		RunE: func(cmd *cobra.Command, args []string) error {
			wait := time.Duration(f.wait)
			if !cmd.Flags().Changed("wait") && isTerminal(g.out) {
				wait = glance
			}
			return g.withCourier(cmd.Context(), func(c *courier.Client) error {
				return send(cmd.Context(), g, c, f, wait, args)
			})
		},
	}
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "file to send")
	cmd.Flags().VarP(&f.wait, "wait", "w", "how long to wait for the delivery; fails if it is not delivered by then")
	return cmd
}

func send(ctx context.Context, g *globals, c *courier.Client, f sendFlags, wait time.Duration, args []string) error {
	m, err := hand(ctx, g, c, f.file, args)
	if err != nil {
		return err
	}
	late := false
	if wait > 0 {
		if m, err = watch(ctx, g, c, m, wait); err != nil {
			return err
		}
		late = f.wait > 0 && m.State != "delivered"
	}
	if g.json {
		err = g.printJSON(m)
	} else if isTerminal(g.out) || late {
		fmt.Fprintln(g.err, stateText(m))
	}
	if late {
		err = errors.Join(err, fmt.Errorf("not delivered yet; it waits"))
	}
	return err
}

// hand gives a text or a file to the courier.
func hand(ctx context.Context, g *globals, c *courier.Client, file string, args []string) (courier.Message, error) {
	if file != "" {
		if len(args) > 1 {
			return courier.Message{}, usagef("send either a text or a file")
		}
		return sendFile(ctx, c, args[0], file)
	}
	text := strings.Join(args[1:], " ")
	if len(args) == 1 {
		if isTerminal(g.in) {
			fmt.Fprintln(g.err, "Type the message; Ctrl-D ends it.")
		}
		b, err := readUntil(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(g.in, envelope.MaxText+2)) })
		if err != nil {
			return courier.Message{}, err
		}
		text = strings.TrimSuffix(string(b), "\n")
	}
	if text == "" {
		return courier.Message{}, usagef("there is nothing to send")
	}
	return c.Send(ctx, args[0], text)
}

func sendFile(ctx context.Context, c *courier.Client, to, path string) (courier.Message, error) {
	f, err := os.Open(path)
	if err != nil {
		return courier.Message{}, usagef("--file: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return courier.Message{}, err
	}
	if !info.Mode().IsRegular() {
		return courier.Message{}, usagef("--file: %s is no file", path)
	}
	return c.SendFile(ctx, to, filepath.Base(path), info.Size(), f)
}

// watch waits until a message is delivered or has failed, or time is up, and shows on a terminal how far a file has come.
func watch(ctx context.Context, g *globals, c *courier.Client, m courier.Message, wait time.Duration) (courier.Message, error) {
	limited, stop := context.WithTimeout(ctx, wait)
	defer stop()
	progress := m.File != nil && isTerminal(g.err)
	for changed, err := range c.Messages(limited, courier.Query{Since: m.Time, Follow: true}) {
		if limited.Err() != nil {
			break
		}
		if err != nil {
			return m, err
		}
		if changed.ID != m.ID {
			continue
		}
		m = changed
		if progress {
			fmt.Fprintf(g.err, "\r%s: %d %%", printable(m.File.Name), percent(m.File))
		}
		if m.State == "delivered" || m.State == "failed" {
			break
		}
	}
	if progress {
		fmt.Fprintln(g.err)
	}
	return m, ctx.Err()
}

// percent tells how much of a file has arrived.
func percent(f *courier.File) int {
	if f.Chunks == 0 {
		return 100
	}
	return 100 * f.Done / f.Chunks
}

// stateText says how far a message has come.
func stateText(m courier.Message) string {
	switch m.State {
	case "queued":
		return "queued: it is delivered as soon as " + m.Contact + " can be reached"
	case "held":
		return "held: " + m.Contact + " has to accept you first"
	case "failed":
		return "failed: " + printable(m.Note)
	}
	return m.State
}
