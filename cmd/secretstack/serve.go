package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/room"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

type serveFlags struct {
	config string
	hubs   []string
	host   string
	port   uint16
}

func newServe(g *globals) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "run a peer that others can call",
		Long: `serve runs a peer with the plugins that come with secretstack. With --hub it stays connected to a hub, so that
others reach it wherever it is, and prints the address for them.

A configuration file is JSON, of the shape of secret-stack 8 or 6. "plugins" lists which to load, of ` + pluginNames() + `
(default: tunnel); each plugin has a section of its own name:

  {"plugins": ["room", "tunnel"], "global": {"port": 8008}, "room": {"name": "our room"}}`,
		Example: "  secretstack serve --port 8008\n  secretstack serve --hub HUB-ADDRESS\n  secretstack serve --config peer.json",
		Args:    argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), g, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "configuration file")
	flags.StringArrayVar(&f.hubs, "hub", nil, "hub to be reached through: its address, the link of an invitation, or HOST:PORT; may be given more than once")
	flags.StringVar(&f.host, "host", "", "address to listen on (default: all)")
	flags.Uint16Var(&f.port, "port", 0, "port to listen on (default: a free one)")
	return cmd
}

// shipped are the plugins that a configuration file can name.
func shipped(hubs []string) map[string]func() secretstack.Plugin {
	return map[string]func() secretstack.Plugin{
		"room":   func() secretstack.Plugin { return room.Plugin(room.Config{}) },
		"tunnel": func() secretstack.Plugin { return tunnel.Plugin(tunnel.Config{Portals: hubs}) },
	}
}

func pluginNames() string {
	return strings.Join(slices.Sorted(maps.Keys(shipped(nil))), ", ")
}

func serve(ctx context.Context, g *globals, f serveFlags) error {
	found, err := findOurHubs(ctx, f.hubs)
	if err != nil {
		return err
	}
	f.hubs = found.texts
	settings, err := readSettings(f.config)
	if err != nil {
		return err
	}
	for i, hub := range f.hubs {
		f.hubs[i] = withoutInvite(hub) // rooms ask for none
	}
	plugins, err := choosePlugins(settings, f.hubs)
	if err != nil {
		return err
	}
	cfg, err := g.configWith(ctx, settings)
	if err != nil {
		return err
	}
	cfg.Host, cfg.Port, cfg.Settings = f.host, int(f.port), settings
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(append(plugins, transports())...); err != nil {
		return err
	}
	app, err := stack.Start(ctx, cfg)
	if err != nil {
		return err
	}
	err = notToOneself(app, found.addresses)
	if err == nil {
		awaitHubs(ctx, g, app, found.addresses)
		err = announcePeer(g, app, f.hubs)
	}
	if err != nil {
		return errors.Join(err, app.Close(context.WithoutCancel(ctx)))
	}
	return waitAndClose(ctx, app)
}

// notToOneself refuses hubs that are the app itself: it would wait for itself for ever.
func notToOneself(app *secretstack.App, hubs []multiserver.Address) error {
	for _, hub := range hubs {
		if key, _ := hub.Key(); key.Equal(app.ID()) {
			return usagef("--hub %s has this peer's own key; name the address that the hub has printed", hub.Redacted())
		}
	}
	return nil
}

// hubPatience is how long serve waits for its hubs before it says that they are not there; connecting goes on after.
const hubPatience = 5 * time.Second

// awaitHubs waits until the app can be reached through each hub, so that what serve prints is true.
func awaitHubs(ctx context.Context, g *globals, app *secretstack.App, hubs []multiserver.Address) {
	ctx, cancel := context.WithTimeout(ctx, hubPatience)
	defer cancel()
	for _, hub := range hubs {
		for !inRoom(app, hub) && ctx.Err() == nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && !inRoom(app, hub) {
			fmt.Fprintf(g.err, "not connected to the hub yet: %s; retrying\n", hub.Redacted())
		}
	}
}

// inRoom reports whether the app is announced at a hub.
func inRoom(app *secretstack.App, hub multiserver.Address) bool {
	attendant, ok := secretstack.Find[*tunnel.Attendant](app)
	key, _ := hub.Key()
	return ok && slices.ContainsFunc(attendant.Rooms(), func(r tunnel.Room) bool { return r.Key.Equal(key) })
}

// readSettings reads a configuration file; without a name there are none.
func readSettings(path string) (secretstack.Settings, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usagef("--config: there is no file %s", path)
	}
	if err != nil {
		return nil, usagef("--config: %w", err)
	}
	var settings secretstack.Settings
	if err := json.Unmarshal(text, &settings); err != nil {
		return nil, usagef("--config: %s is not a JSON object: %w", path, err)
	}
	return settings, nil
}

// choosePlugins takes the list "plugins" out of the settings and makes the plugins in it.
func choosePlugins(settings secretstack.Settings, hubs []string) ([]secretstack.Plugin, error) {
	names := []string{"tunnel"}
	if listed, ok := settings["plugins"]; ok {
		delete(settings, "plugins")
		text, _ := json.Marshal(listed) // it has come from JSON
		if err := json.Unmarshal(text, &names); err != nil {
			return nil, usagef("\"plugins\" in the configuration must be a list of names, of %s", pluginNames())
		}
	}
	if len(hubs) > 0 && !slices.Contains(names, "tunnel") {
		names = append(names, "tunnel")
	}
	var plugins []secretstack.Plugin
	for _, name := range names {
		plugin, ok := shipped(hubs)[name]
		if !ok {
			return nil, usagef("there is no plugin %q; there are %s", name, pluginNames())
		}
		plugins = append(plugins, plugin())
	}
	return plugins, nil
}

func announcePeer(g *globals, app *secretstack.App, hubs []string) error {
	addresses := bestAddresses(app)
	through := tunnelAddresses(app, hubs)
	if g.json {
		return g.printJSON(map[string]any{"id": app.ID().Ref(), "addresses": addresses, "tunnels": through})
	}
	fmt.Fprintf(g.out, "secretstack peer %s\n\n  key      %s\n", version, app.ID())
	next := ""
	if len(addresses) > 0 {
		fmt.Fprintf(g.out, "  address  %s\n", strings.Join(addresses, "\n           "))
		next = fmt.Sprintf("secretstack call '%s' manifest", addresses[0])
	}
	if len(through) > 0 {
		fmt.Fprintf(g.out, "  through  %s\n", strings.Join(through, "\n           "))
		next = fmt.Sprintf("secretstack call --hub '%s' '%s' manifest", hubs[0], through[0])
	}
	if next != "" {
		fmt.Fprintf(g.out, "\nTo call it from elsewhere:\n\n  %s\n", next)
	}
	fmt.Fprintln(g.out, "\nCtrl-C stops it.")
	return nil
}

// tunnelAddresses are the addresses by which the app is reached through hubs.
func tunnelAddresses(app *secretstack.App, hubs []string) []string {
	through := []string{} // a list in JSON, too
	for _, hub := range hubs {
		addresses, err := multiserver.Parse(hub)
		if err != nil {
			continue // they were checked before
		}
		if portal, ok := addresses[0].Key(); ok {
			through = append(through, tunnel.Address(portal, app.ID()).String())
		}
	}
	return through
}
