package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/courier"
)

type messagesFlags struct {
	since, until   string
	received, sent bool
	follow         bool
	last           int
	save           int64
	output         string
}

func newMessages(g *globals) *cobra.Command {
	var f messagesFlags
	cmd := &cobra.Command{
		Use:   "messages [NAME]",
		Short: "show messages, or save a file that was sent to you",
		Long: `messages shows what you have sent and received, the oldest first. A time is that of your own clock, when the message
came: 2026-11-26, "2026-11-26 18:30", or how long ago, such as 90m, 12h or 3d.`,
		Example: "  secretstack messages alice --last 20\n  secretstack messages --since 2d --received --json\n  secretstack messages --follow\n" +
			"  secretstack messages --save 17",
		Args: argsBetween(0, 1, "the name of a contact"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withCourier(cmd.Context(), func(c *courier.Client) error {
				if f.save != 0 {
					return saveFile(cmd.Context(), g, c, f)
				}
				return showMessages(cmd.Context(), g, c, f, args)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "only from this time on")
	flags.StringVar(&f.until, "until", "", "only before this time")
	flags.BoolVar(&f.received, "received", false, "only what you have received")
	flags.BoolVar(&f.sent, "sent", false, "only what you have sent")
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on with whatever comes or changes")
	flags.IntVarP(&f.last, "last", "n", 0, "only the last so many")
	flags.Int64Var(&f.save, "save", 0, "write the file of the message with this number")
	flags.StringVarP(&f.output, "output", "o", "", "where to write it (default: its name, in this folder; -: standard output)")
	return cmd
}

func showMessages(ctx context.Context, g *globals, c *courier.Client, f messagesFlags, args []string) error {
	q, err := f.query(time.Now())
	if err != nil {
		return err
	}
	if len(args) == 1 {
		q.Contact = args[0]
	}
	states, none := map[int64]string{}, true
	for m, err := range c.Messages(ctx, q) {
		switch {
		case ctx.Err() != nil:
			return nil // Ctrl-C is how one leaves
		case err != nil:
			return err
		case g.json:
			err = g.printJSON(m)
		case states[m.ID] == "":
			_, err = fmt.Fprintln(g.out, messageText(m))
		case states[m.ID] != m.State:
			_, err = fmt.Fprintf(g.out, "%s  #%d is %s\n", m.Time.Local().Format(time.DateTime), m.ID, m.State)
		}
		if err != nil {
			return err
		}
		none = false
		if f.follow {
			states[m.ID] = m.State
		}
	}
	if none {
		g.hint("There are no such messages. To write one: secretstack send NAME TEXT, or secretstack chat NAME")
	}
	return nil
}

func (f messagesFlags) query(now time.Time) (courier.Query, error) {
	q := courier.Query{Last: f.last, Follow: f.follow}
	if f.last < 0 {
		return q, usagef("--last takes a number of messages")
	}
	if f.received != f.sent {
		q.Direction = map[bool]string{true: "received", false: "sent"}[f.received]
	}
	var err error
	if q.Since, err = pastTime(f.since, now); err != nil {
		return q, usagef("--since: %w", err)
	}
	if q.Until, err = pastTime(f.until, now); err != nil {
		return q, usagef("--until: %w", err)
	}
	return q, nil
}

// pastTime reads a time or how long ago it was; nothing gives no time.
func pastTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := parseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time such as 2026-11-26, \"2026-11-26 18:30\" or 3d", text)
}

// messageText is a message for people.
func messageText(m courier.Message) string {
	who := m.Contact
	if who == "" {
		who = m.Key.Short()
	}
	if m.Direction == "sent" {
		who = "to " + who
		if m.State != "delivered" {
			who += " (" + m.State + ")"
		}
	}
	text := strings.ReplaceAll(printableLines(m.Text), "\n", "\n    ")
	if m.File != nil {
		text = fileText(m)
	}
	return fmt.Sprintf("%s  %s: %s", m.Time.Local().Format(time.DateTime), who, text)
}

// fileText says which file a message holds, and how to get it.
func fileText(m courier.Message) string {
	text := fmt.Sprintf("[file %s, %d bytes]", printable(m.File.Name), m.File.Size)
	switch {
	case m.State == "failed":
		text += " " + printable(m.Note)
	case m.Direction == "sent":
	case m.State == "delivered":
		text += fmt.Sprintf(" (secretstack messages --save %d)", m.ID)
	default:
		text += fmt.Sprintf(" %d %% is here", percent(m.File))
	}
	return text
}

// saveFile writes the file of a message, to a name that is not taken.
func saveFile(ctx context.Context, g *globals, c *courier.Client, f messagesFlags) error {
	if f.output == "-" {
		for b, err := range c.File(ctx, f.save) {
			if err != nil {
				return err
			}
			if _, err := g.out.Write(b); err != nil {
				return err
			}
		}
		return nil
	}
	path := f.output
	if path == "" {
		var err error
		if path, err = fileName(ctx, c, f.save); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return usagef("there is a file %s; choose another name with --output", path)
	}
	if err != nil {
		return err
	}
	for b, err := range c.File(ctx, f.save) {
		if err == nil {
			_, err = out.Write(b)
		}
		if err != nil {
			return errors.Join(err, out.Close(), os.Remove(path))
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	fmt.Fprintln(g.err, "written to", printable(path))
	return nil
}

// fileName is what the sender has called a file. It holds no folder: the format of messages sees to that.
func fileName(ctx context.Context, c *courier.Client, message int64) (string, error) {
	for m, err := range c.Messages(ctx, courier.Query{}) {
		if err != nil {
			return "", err
		}
		if m.ID == message && m.File != nil {
			return strings.TrimLeft(m.File.Name, "."), nil // nothing that a shell or another program would read by itself
		}
	}
	return "", fmt.Errorf("there is no file in message %d", message)
}
