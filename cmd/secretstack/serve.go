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
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/room"
	"github.com/secretstack/secretstack/plugins/tunnel"
	"github.com/secretstack/secretstack/secrez"
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
others reach it wherever it is, and prints the address for them. A room, such as those in JavaScript, will do as a hub, too.

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
func shipped(at hubclient.Config) map[string]func() secretstack.Plugin {
	return map[string]func() secretstack.Plugin{
		"room":      func() secretstack.Plugin { return room.Plugin(room.Config{}) },
		"tunnel":    func() secretstack.Plugin { return tunnel.Plugin(tunnel.Config{}) },
		"hubclient": func() secretstack.Plugin { return hubclient.Plugin(at) },
	}
}

func pluginNames() string {
	return strings.Join(slices.Sorted(maps.Keys(shipped(hubclient.Config{}))), ", ")
}

func serve(ctx context.Context, g *globals, f serveFlags) error {
	found, err := findOurHubs(ctx, f.hubs)
	if err != nil {
		return err
	}
	app, err := startServed(ctx, g, f, found)
	if err != nil {
		return err
	}
	awaitHubs(ctx, g, app, found.addresses)
	if err := announcePeer(g, app, found.addresses); err != nil {
		return errors.Join(err, app.Close(context.WithoutCancel(ctx)))
	}
	return waitAndClose(ctx, app)
}

// startServed starts the app, with the plugins and settings of the configuration file.
func startServed(ctx context.Context, g *globals, f serveFlags, at namedHubs) (*secretstack.App, error) {
	settings, err := readSettings(f.config)
	if err != nil {
		return nil, err
	}
	names, err := choosePlugins(settings, len(at.texts) > 0)
	if err != nil {
		return nil, err
	}
	cfg, err := g.configWith(ctx, settings)
	if err != nil {
		return nil, err
	}
	if err := notToOneself(cfg.Identity, at.addresses); err != nil {
		return nil, err
	}
	hubs := hubclient.Config{Hubs: at.hubs()}
	if hubs.Rotations, err = g.rotations(ctx, cfg); err != nil {
		return nil, err
	}
	stack := secretstack.New(secretstack.Options{})
	for _, name := range names {
		if err := stack.Use(shipped(hubs)[name]()); err != nil {
			return nil, err
		}
	}
	if err := stack.Use(transports()); err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.Settings = f.host, int(f.port), settings
	return stack.Start(ctx, cfg)
}

// notToOneself refuses hubs that are the app itself: it would wait for itself for ever. Nil is an identity that is not known
// yet.
func notToOneself(id *keys.Identity, hubs []multiserver.Address) error {
	for _, hub := range hubs {
		if key, _ := hub.Key(); id != nil && key.Equal(id.Public()) {
			return usagef("--hub %s has this peer's own key; name the address that the hub has printed", hub.Redacted())
		}
	}
	return nil
}

// hubPatience is how long commands wait for hubs that give no sign of life before they say that these are not there. What
// goes wrong is said at once. Connecting goes on after.
const hubPatience = 15 * time.Second

// awaitHubs waits until the app can be reached through each hub, so that what serve prints is true.
func awaitHubs(ctx context.Context, g *globals, app *secretstack.App, hubs []multiserver.Address) {
	ctx, cancel := context.WithTimeout(ctx, hubPatience)
	defer cancel()
	for _, hub := range hubs {
		key, _ := hub.Key()
		for now := reachedAt(app, key); ctx.Err() == nil && !now.settled(); now = reachedAt(app, key) {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		if now := reachedAt(app, key); !errors.Is(ctx.Err(), context.Canceled) && !now.reachable() {
			fmt.Fprintf(g.err, "not connected to the hub yet: %s%s; retrying\n", hub.Redacted(), now.trouble)
		}
	}
}

// reached is how an app is reached through a hub.
type reached struct {
	circuits bool      // it has published itself
	id       secrez.ID // that it has there; zero: none
	room     bool      // it is announced in the hub's room
	only     bool      // the hub is a room and no more
	trouble  string
}

func (r reached) reachable() bool { return r.circuits || r.room && r.only }

// settled reports whether nothing more is to come for now.
func (r reached) settled() bool {
	return r.room && (r.circuits || r.only) || r.trouble != "" && !r.circuits && !r.only
}

func reachedAt(app *secretstack.App, hub keys.PublicKey) (r reached) {
	attendant, ok := secretstack.Find[*tunnel.Attendant](app)
	r.room = ok && slices.ContainsFunc(attendant.Rooms(), func(in tunnel.Room) bool { return in.Key.Equal(hub) })
	client, ok := secretstack.Find[*hubclient.Client](app)
	if !ok {
		return r
	}
	for _, h := range client.Hubs() {
		if h.Hub.Equal(hub) {
			r.circuits, r.id, r.only, r.trouble = h.Online, h.ID, errors.Is(h.Err, hubclient.ErrRoom), hubTrouble(h)
		}
	}
	return r
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

// choosePlugins takes the list "plugins" out of the settings and adds what hubs need.
func choosePlugins(settings secretstack.Settings, hubs bool) ([]string, error) {
	names := []string{"tunnel"}
	if listed, ok := settings["plugins"]; ok {
		delete(settings, "plugins")
		text, _ := json.Marshal(listed) // it has come from JSON
		if err := json.Unmarshal(text, &names); err != nil {
			return nil, usagef("\"plugins\" in the configuration must be a list of names, of %s", pluginNames())
		}
	}
	for _, needed := range []string{"hubclient", "tunnel"} { // the latter for hubs that are rooms and no more
		if hubs && !slices.Contains(names, needed) {
			names = append(names, needed)
		}
	}
	for _, name := range names {
		if _, ok := shipped(hubclient.Config{})[name]; !ok {
			return nil, usagef("there is no plugin %q; there are %s", name, pluginNames())
		}
	}
	return names, nil
}

func announcePeer(g *globals, app *secretstack.App, hubs []multiserver.Address) error {
	addresses := bestAddresses(app)
	circuits, tunnels, ids := throughHubs(app, hubs)
	if g.json {
		return json.NewEncoder(g.out).Encode(map[string]any{
			"id": app.ID().Ref(), "addresses": addresses, "circuits": circuits, "tunnels": tunnels, "ids": ids,
		})
	}
	fmt.Fprintf(g.out, "secretstack peer %s\n\n  key      %s\n", version, app.ID())
	for _, line := range []struct {
		what string
		all  []string
	}{{"id", ids}, {"address", addresses}, {"through", circuits}, {"rooms", tunnels}} {
		if len(line.all) > 0 {
			fmt.Fprintf(g.out, "  %-7s  %s\n", line.what, strings.Join(line.all, "\n           "))
		}
	}
	if next := nextCall(addresses, circuits, tunnels, hubs); next != "" {
		fmt.Fprintf(g.out, "\nTo call it from elsewhere:\n\n  %s\n", next)
	}
	fmt.Fprintln(g.out, "\nCtrl-C stops it.")
	return nil
}

// nextCall is what to type elsewhere: by the way that works from most places.
func nextCall(addresses, circuits, tunnels []string, hubs []multiserver.Address) string {
	switch {
	case len(circuits) > 0:
		return fmt.Sprintf("secretstack call '%s' manifest", circuits[0])
	case len(tunnels) > 0:
		return fmt.Sprintf("secretstack call --hub '%s' '%s' manifest", hubs[0], tunnels[0])
	case len(addresses) > 0:
		return fmt.Sprintf("secretstack call '%s' manifest", addresses[0])
	}
	return ""
}

// throughHubs returns the addresses by which the app is reached through hubs, by circuits and, for peers that know only
// rooms, by tunnels; and its ids there.
func throughHubs(app *secretstack.App, hubs []multiserver.Address) (circuits, tunnels, ids []string) {
	circuits, tunnels, ids = []string{}, []string{}, []string{} // lists in JSON, too
	for _, hub := range hubs {
		key, _ := hub.Key()
		at := reachedAt(app, key)
		if a, err := hubclient.CircuitAddress(hub, app.ID()); err == nil && !at.only {
			circuits = append(circuits, a.String())
		}
		if !at.id.IsZero() {
			ids = append(ids, at.id.String())
		}
		tunnels = append(tunnels, tunnel.Address(key, app.ID()).String())
	}
	return circuits, tunnels, ids
}
