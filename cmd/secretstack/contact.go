package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/keys"
)

func newContact(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "contact",
		Short: "the people you write to, and strangers who write to you",
		Long: `contact keeps the people you write to. Each has a name of your choice and a key that never changes unless its owner
says so with the old one: whoever comes with another key is refused.

Best is a contact card, which whoami prints on the other side: it carries the key, so that no hub has to be believed.
Messages of people who are no contacts wait in the request box: see contact requests.`,
		Example: "  secretstack contact add alice secretstack:AQAB…\n  secretstack contact list\n  secretstack contact requests",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newContactAdd(g), newContactList(g), newContactRename(g), newContactRemove(g), newContactBlock(g, true),
		newContactBlock(g, false), newContactSeen(g), newContactRequests(g), newContactAccept(g), newContactDrop(g))
	return cmd
}

// contactCommand is a command that asks the courier for one thing.
func contactCommand(g *globals, use, short string, n int, what string, f func(ctx context.Context, c *courier.Client, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: argsBetween(n, n, what),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withCourier(cmd.Context(), func(c *courier.Client) error { return f(cmd.Context(), c, args) })
		},
	}
}

func newContactAdd(g *globals) *cobra.Command {
	cmd := contactCommand(g, "add NAME WHO", "add a contact, or take over a newer card", 2, "a name and a contact card, link, address, id or key",
		func(ctx context.Context, c *courier.Client, args []string) error {
			added, err := c.AddContact(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(added)
			}
			fmt.Fprintf(g.out, "%s is %s\n", added.Name, added.Key)
			if added.Warning != "" {
				fmt.Fprintf(g.err, "Careful: %s.\n", printable(added.Warning))
			}
			return nil
		})
	cmd.Long = `add makes somebody a contact. WHO is one of

  secretstack:…, https://HUB/s/ID#… a contact card, as whoami prints it
  net:HOST:PORT~shs:KEY             the address of a courier
  https://HUB/s/ID, https://ID.HUB  a page or an address at a hub, which is then believed about the key
  ID                                an id at one of your hubs, likewise
  @….ed25519, BOX$SIGN              a key`
	return cmd
}

func newContactList(g *globals) *cobra.Command {
	return contactCommand(g, "list", "list your contacts", 0, "no arguments", func(ctx context.Context, c *courier.Client, _ []string) error {
		all, err := c.Contacts(ctx)
		if err != nil {
			return err
		}
		if g.json {
			return g.printJSON(all)
		}
		w := tabwriter.NewWriter(g.out, 0, 0, 2, ' ', 0)
		for _, known := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\n", known.Name, known.Key, contactNote(known))
		}
		if len(all) == 0 {
			g.hint("You have no contacts yet. To add one: secretstack contact add NAME CARD")
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(known courier.Contact) bool { return known.Alert != "" }) {
			g.hint("When you have looked at a warning: secretstack contact seen NAME")
		}
		return nil
	})
}

// contactNote says what is special about a contact.
func contactNote(known courier.Contact) string {
	var notes []string
	if known.Online {
		notes = append(notes, "connected")
	}
	if known.Blocked {
		notes = append(notes, "blocked")
	}
	if known.Alert != "" {
		notes = append(notes, "LOOK: "+printable(known.Alert))
	}
	if known.Trouble != "" {
		trouble := printable(plainText(known.Trouble))
		notes = append(notes, fmt.Sprintf("messages wait: %s; next try %s", trouble, inAWhile(time.Until(known.Retry))))
	}
	return strings.Join(notes, ", ")
}

// inAWhile says when something is, to the second.
func inAWhile(d time.Duration) string {
	if d < time.Second {
		return "now"
	}
	return "in " + d.Round(time.Second).String()
}

func newContactRename(g *globals) *cobra.Command {
	return contactCommand(g, "rename NAME NEW-NAME", "give a contact another name", 2, "two names",
		func(ctx context.Context, c *courier.Client, args []string) error {
			return c.RenameContact(ctx, args[0], args[1])
		})
}

func newContactRemove(g *globals) *cobra.Command {
	return contactCommand(g, "remove NAME", "forget a contact; its messages stay", 1, "a name",
		func(ctx context.Context, c *courier.Client, args []string) error {
			return c.RemoveContact(ctx, args[0])
		})
}

func newContactBlock(g *globals, block bool) *cobra.Command {
	use, short := "block NAME", "throw away what a contact sends from now on; it is not told"
	if !block {
		use, short = "unblock NAME", "take a contact's messages again"
	}
	return contactCommand(g, use, short, 1, "a name",
		func(ctx context.Context, c *courier.Client, args []string) error {
			return c.BlockContact(ctx, args[0], block)
		})
}

func newContactSeen(g *globals) *cobra.Command {
	return contactCommand(g, "seen NAME", "take back the warning about a contact", 1, "a name",
		func(ctx context.Context, c *courier.Client, args []string) error { return c.Seen(ctx, args[0]) })
}

func newContactRequests(g *globals) *cobra.Command {
	return contactCommand(g, "requests", "list the strangers who have written to you", 0, "no arguments",
		func(ctx context.Context, c *courier.Client, _ []string) error {
			all, err := c.Requests(ctx)
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(all)
			}
			for _, r := range all {
				fmt.Fprintf(g.out, "%s, %s\n", r.Key, r.First.Local().Format(time.DateTime))
				for _, text := range r.Texts {
					fmt.Fprintf(g.out, "  %s\n", strings.ReplaceAll(printableLines(text), "\n", "\n  "))
				}
			}
			if len(all) == 0 {
				g.hint("Nobody has asked. Whoever has your card can: secretstack whoami")
			} else {
				g.hint("To answer: secretstack contact accept NAME KEY, or contact drop KEY [--block]")
			}
			return nil
		})
}

// strangerKey reads the key of a stranger.
func strangerKey(text string) (keys.PublicKey, error) {
	key, err := keys.ParsePublicKey(text)
	if err != nil {
		return key, usagef("%q is no key; contact requests lists them", text)
	}
	return key, nil
}

func newContactAccept(g *globals) *cobra.Command {
	return contactCommand(g, "accept NAME KEY", "make a stranger a contact", 2, "a name and a key",
		func(ctx context.Context, c *courier.Client, args []string) error {
			key, err := strangerKey(args[1])
			if err != nil {
				return err
			}
			added, err := c.Accept(ctx, key, args[0])
			if err != nil {
				return err
			}
			if g.json {
				return g.printJSON(added)
			}
			fmt.Fprintf(g.out, "%s is %s\n", added.Name, added.Key)
			return nil
		})
}

func newContactDrop(g *globals) *cobra.Command {
	var block bool
	cmd := contactCommand(g, "drop KEY", "throw away what a stranger has written", 1, "a key",
		func(ctx context.Context, c *courier.Client, args []string) error {
			key, err := strangerKey(args[0])
			if err != nil {
				return err
			}
			return c.Drop(ctx, key, block)
		})
	cmd.Flags().BoolVar(&block, "block", false, "and whatever else comes from there")
	return cmd
}
