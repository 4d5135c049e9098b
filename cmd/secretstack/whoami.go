package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/internal/qrcode"
)

func newWhoami(g *globals) *cobra.Command {
	var qr bool
	cmd := &cobra.Command{
		Use:   "whoami",
		Short: "show who you are and your contact card, with which others can write to you",
		Long: `whoami prints your key and your contact card: a link that carries the key and where you can be reached, signed by the
key. Whoever has it can write to you. Hand it on over a way that you trust, for it is what your contact will believe.`,
		Args: argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withCourier(cmd.Context(), func(c *courier.Client) error { return whoami(cmd.Context(), g, c, qr) })
		},
	}
	cmd.Flags().BoolVar(&qr, "qr", false, "draw the card as a QR code, too")
	return cmd
}

func whoami(ctx context.Context, g *globals, c *courier.Client, qr bool) error {
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	links, err := c.Card(ctx)
	if err != nil {
		return err
	}
	if g.json {
		return g.printJSON(map[string]any{
			"key": status.Key, "secrez": status.Secrez, "name": status.Name, "card": links.Link, "web": links.Web, "hubs": status.Hubs,
		})
	}
	fmt.Fprintf(g.out, "key     %s\n", status.Key)
	if status.Name != "" {
		fmt.Fprintf(g.out, "name    %s\n", printable(status.Name))
	}
	fmt.Fprintf(g.out, "secrez  %s\n", status.Secrez)
	for _, h := range status.Hubs {
		if h.URL != "" {
			fmt.Fprintf(g.out, "at      %s\n", h.URL)
		}
	}
	fmt.Fprintf(g.out, "card    %s\n", links.Link)
	if links.Web != "" {
		fmt.Fprintf(g.out, "link    %s\n", links.Web)
	}
	if !qr {
		return nil
	}
	drawn, err := qrcode.Terminal(links.Link)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(g.out, "\n%s", drawn)
	return err
}

func newStatus(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show what your courier is doing",
		Args:  argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withCourier(cmd.Context(), func(c *courier.Client) error { return showStatus(cmd.Context(), g, c) })
		},
	}
}

func showStatus(ctx context.Context, g *globals, c *courier.Client) error {
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if g.json {
		return g.printJSON(status)
	}
	fmt.Fprintf(g.out, "key       %s\n", status.Key)
	fmt.Fprintf(g.out, "running   since %s\n", status.Started.Local().Format(time.DateTime))
	for _, address := range status.Addresses {
		fmt.Fprintf(g.out, "address   %s\n", address)
	}
	for _, h := range status.Hubs {
		fmt.Fprintf(g.out, "hub       %s\n", hubText(h))
	}
	fmt.Fprintf(g.out, "contacts  %d\n", status.Contacts)
	var waiting []string
	for _, state := range slices.Sorted(maps.Keys(status.Waiting)) {
		waiting = append(waiting, fmt.Sprintf("%d %s", status.Waiting[state], state))
	}
	if waiting == nil {
		waiting = []string{"nothing"}
	}
	fmt.Fprintf(g.out, "waiting   %s\n", strings.Join(waiting, ", "))
	if status.Requests > 0 {
		fmt.Fprintf(g.out, "requests  %d (secretstack contact requests)\n", status.Requests)
	}
	for _, alert := range status.Alerts {
		fmt.Fprintf(g.out, "LOOK      %s\n", printable(alert))
	}
	return nil
}

// hubText says how the courier stands with a hub.
func hubText(h courier.HubStatus) string {
	text := h.Address
	if h.Name != "" {
		text = printable(h.Name) + ", " + text
	}
	if !h.ID.IsZero() {
		text += ", id " + h.ID.String()
	}
	if h.Online {
		return text + ", connected"
	}
	return text + ", not connected" + troubleText(h, ": %s")
}

// troubleText puts into format why the courier is not at a hub; it is empty when that is not known.
func troubleText(h courier.HubStatus, format string) string {
	if h.Trouble == "" {
		return ""
	}
	return fmt.Sprintf(format, printable(plainText(strings.TrimPrefix(h.Trouble, h.Address+": "))))
}
