package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/internal/sdnotify"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/share"
	"github.com/secretstack/secretstack/secrez"
)

// courierOptions are what a courier is started with. They are kept, so that the next start needs no flags.
type courierOptions struct {
	Hubs   []string `json:"hubs,omitempty"`
	Name   string   `json:"name,omitempty"`
	Listen string   `json:"listen,omitempty"` // host:port, "none", or nothing: on a free port if there is no hub

	SecrezHub  string           `json:"secrezHub,omitempty"`
	SecrezPort uint16           `json:"secrezPort,omitempty"` // where Secrez's command line finds the courier; zero: nowhere
	Owner      secrez.PublicKey `json:"owner,omitzero"`       // of Secrez's command line
}

// courierFlags are what one start adds to the options.
type courierFlags struct {
	courierOptions
	owner   string
	secrez  bool
	newPort bool
}

func (g *globals) courierDir() string      { return filepath.Join(g.root, "courier") }
func (g *globals) optionsFile() string     { return filepath.Join(g.courierDir(), "options.json") }
func (g *globals) formerFile(n int) string { return g.secretFile() + "." + strconv.Itoa(n) }

func newCourier(g *globals) *cobra.Command {
	var f courierFlags
	cmd := &cobra.Command{
		Use:   "courier",
		Short: "run your courier, which sends, keeps and takes messages for you",
		Long: `courier runs in the background and does what contact, send, chat and messages ask for: it keeps what could not be
delivered yet and takes what comes for you. With --hub others reach you through a hub, wherever you are; without one it
listens for connections itself. The flags are remembered: the next time, courier alone will do.

Everything is kept in the folder "courier" below --root. What waits survives any end of the program, and is delivered when
it runs again. To have it run whenever you are logged in: systemctl --user enable --now secretstack-courier

With --secrez the command line of Secrez finds a courier of its own here, by HTTPS on this machine only: tell it the port
that courier prints. Whoever calls first is its owner, unless --owner names one.

A hub may be given by its web address, or as HOST:PORT, too. It is asked for its key then, once, and believed; a hub of Secrez has none.`,
		Example: "  secretstack courier --hub http://hub.example.org:8433 --name Alice\n  secretstack courier --listen :8008",
		Args:    argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runCourier(cmd, g, f)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.Hubs, "hub", "H", nil,
		"hub to be reached through: its address, the link of an invitation, or HOST:PORT; may be given more than once; \"none\" forgets all")
	flags.StringVar(&f.Name, "name", "", "what you call yourself on your contact card")
	flags.StringVar(&f.Listen, "listen", "", "address and port for direct connections, such as :8008, or \"none\" (default: a free port if there is no hub)")
	flags.BoolVar(&f.secrez, "secrez", false, "serve the command line of Secrez, too")
	flags.StringVarP(&f.owner, "owner", "o", "", "public key of the account of Secrez that is served")
	flags.BoolVar(&f.newPort, "new-random-port", false, "serve the command line of Secrez on another port than before")
	flags.VarPF(g.rootFlag.Value, "root-folder", "r", "the same as --root").Hidden = true
	return cmd
}

func runCourier(cmd *cobra.Command, g *globals, f courierFlags) error {
	ctx := cmd.Context()
	base, err := g.config(ctx, g.root)
	if err != nil {
		return err
	}
	options, err := g.rememberOptions(ctx, f)
	if err != nil {
		return err
	}
	cfg := courier.Config{
		Identity: base.Identity, AppKey: base.AppKey, Dir: g.courierDir(), Name: options.Name, Logger: base.Logger,
		Plugins: secretstack.Plugins{share.Plugin(share.Config{})},
	}
	cfg.Secrez = courier.SecrezConfig{Hub: options.SecrezHub, Port: options.SecrezPort, Owner: options.Owner}
	if cfg.Former, err = g.formerIdentities(ctx); err != nil {
		return err
	}
	for _, hub := range options.Hubs {
		cfg.Hubs = append(cfg.Hubs, hubclient.Hub{Address: hub})
	}
	if cfg.Incoming, err = options.incoming(); err != nil {
		return err
	}
	c, err := courier.Start(ctx, cfg)
	switch {
	case errors.Is(err, store.ErrInUse):
		return fmt.Errorf("a courier is running for %s already", g.root)
	case errors.Is(err, store.ErrIdentity):
		return fmt.Errorf("%s holds the messages of another identity; keep that folder, and choose another with --root", g.courierDir())
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; choose another with --new-random-port, or for --listen", err)
	case err != nil:
		return err
	}
	err = announceCourier(ctx, g, options)
	if err == nil {
		if told := sdnotify.Send(sdnotify.Ready); told != nil {
			base.Logger.Warn("courier: systemd does not listen", "error", told)
		}
		warnOfHubs(ctx, g)
		<-ctx.Done()
		_ = sdnotify.Send(sdnotify.Stopping) // it has been told, or does not listen
	}
	return errors.Join(err, c.Close(context.WithoutCancel(ctx)))
}

// rememberOptions adds what was given to what is remembered, and keeps it.
func (g *globals) rememberOptions(ctx context.Context, f courierFlags) (courierOptions, error) {
	options, err := g.loadOptions()
	if err != nil {
		return options, err
	}
	if err := options.takeHubs(ctx, f.Hubs); err != nil {
		return options, err
	}
	if f.Name != "" {
		options.Name = f.Name
	}
	if f.Listen != "" {
		options.Listen = f.Listen
	}
	if options.Listen == "" && len(options.Hubs) == 0 {
		options.Listen = ":" + freePort("")
	}
	if _, err := options.incoming(); err != nil {
		return options, err
	}
	if err := options.takeSecrez(f); err != nil {
		return options, err
	}
	return options, g.saveOptions(options)
}

// takeHubs takes over the hubs that were given, if any; "none" is no hub.
func (o *courierOptions) takeHubs(ctx context.Context, given []string) error {
	if len(given) == 0 {
		return nil
	}
	found, err := findHubs(ctx, slices.DeleteFunc(slices.Clone(given), func(text string) bool { return text == "none" }))
	if err != nil {
		return err
	}
	o.Hubs, o.SecrezHub = found.texts, found.secrez
	return nil
}

// takeSecrez takes over what was given for Secrez's command line.
func (o *courierOptions) takeSecrez(f courierFlags) error {
	if f.owner != "" {
		owner, err := secrez.ParsePublicKey(f.owner)
		if err != nil {
			return usagef("--owner takes a public key of Secrez, as its whoami prints it")
		}
		o.Owner = owner
	}
	if (f.secrez || f.owner != "") && o.SecrezPort == 0 || f.newPort {
		port, err := strconv.ParseUint(freePort("127.0.0.1"), 10, 16)
		if err != nil {
			return err
		}
		o.SecrezPort = uint16(port)
	}
	return nil
}

// freePort is a port of a host that nobody uses now, to be used from now on: none of those that systems give to connections
// which go out, because one of these might hold it whenever the courier starts again.
func freePort(host string) string {
	for range 100 {
		port := strconv.Itoa(20_000 + rand.IntN(10_000))
		if ln, err := net.Listen("tcp", net.JoinHostPort(host, port)); err == nil {
			_ = ln.Close()
			return port
		}
	}
	return "0"
}

func (g *globals) loadOptions() (courierOptions, error) {
	var options courierOptions
	text, err := os.ReadFile(g.optionsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return options, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &options)
	}
	if err != nil {
		return options, fmt.Errorf("%s cannot be read: %w; remove it and give the flags of courier again", g.optionsFile(), err)
	}
	return options, nil
}

func (g *globals) saveOptions(options courierOptions) error {
	text, err := json.MarshalIndent(options, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(g.courierDir(), 0o700); err != nil {
		return err
	}
	temp := g.optionsFile() + ".tmp"
	if err := os.WriteFile(temp, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, g.optionsFile())
}

// incoming says where peers can connect directly.
func (o courierOptions) incoming() (map[string][]multiserver.Incoming, error) {
	if o.Listen == "" || o.Listen == "none" {
		return nil, nil
	}
	host, text, err := net.SplitHostPort(o.Listen)
	port, bad := strconv.ParseUint(text, 10, 16)
	if err != nil || bad != nil {
		return nil, usagef("--listen takes an address and a port such as :8008 or 192.0.2.7:8008, not %q", o.Listen)
	}
	return map[string][]multiserver.Incoming{"net": {{
		Scope: multiserver.Scopes{multiserver.Device, multiserver.Local, multiserver.Public}, Transform: "shs", Host: host, Port: uint16(port),
	}}}, nil
}

// formerIdentities loads the identities that "keys rotate" has replaced.
func (g *globals) formerIdentities(ctx context.Context) ([]*keys.Identity, error) {
	var former []*keys.Identity
	for n := 1; ; n++ {
		id, err := g.load(ctx, g.formerFile(n))
		if errors.Is(err, fs.ErrNotExist) {
			return former, nil
		}
		if err != nil {
			return nil, err
		}
		former = append(former, id)
	}
}

// rotations are what hubs are told of the identities that an app's identity has replaced, if it is that of the folder:
// without it the new one would get an id of its own, and the old one's would be lost.
func (g *globals) rotations(ctx context.Context, cfg secretstack.Config) ([]*rotation.Statement, error) {
	if cfg.Identity == nil || cfg.Dir != g.root {
		return nil, nil
	}
	former, err := g.formerIdentities(ctx)
	if err != nil {
		return nil, err
	}
	return rotation.NewAll(former, cfg.Identity, time.Now())
}

// announceCourier prints who and where the courier is, and what to type next.
func announceCourier(ctx context.Context, g *globals, options courierOptions) error {
	c, err := g.dialCourier(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if g.json {
		return g.printJSON(status)
	}
	fmt.Fprintf(g.out, "secretstack courier %s\n\n  key      %s\n", version, status.Key)
	for _, address := range status.Addresses {
		fmt.Fprintf(g.out, "  address  %s\n", address)
	}
	for _, hub := range status.Hubs {
		fmt.Fprintf(g.out, "  hub      %s\n", hub.Address)
	}
	if options.SecrezPort != 0 {
		fmt.Fprintf(g.out, "  secrez   port %d, for its command line\n", options.SecrezPort)
	}
	fmt.Fprint(g.out, `
Others need your contact card to write to you, and you need theirs:

  secretstack whoami
  secretstack contact add NAME CARD
  secretstack chat NAME

Ctrl-C stops the courier.
`)
	return nil
}

// warnOfHubs says of each hub once why the courier is not there, unless it soon is.
func warnOfHubs(ctx context.Context, g *globals) {
	c, err := g.dialCourier(ctx)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	late := time.After(hubPatience)
	said := map[string]bool{}
	for last := false; ; {
		status, err := c.Status(ctx)
		if err != nil {
			return
		}
		waiting := false
		for _, h := range status.Hubs {
			switch {
			case h.Online || h.Key.IsZero() || said[h.Address]:
			case h.Trouble != "" || last:
				said[h.Address] = true
				fmt.Fprintf(g.err, "not connected to the hub yet: %s%s; retrying\n", h.Address, troubleText(h, " (%s)"))
			default:
				waiting = true
			}
		}
		if !waiting {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-late:
			last = true
		case <-ctx.Done():
			return
		}
	}
}

// dialCourier connects to the courier that runs for the folder.
func (g *globals) dialCourier(ctx context.Context) (*courier.Client, error) {
	if g.root == "" {
		return nil, usagef("--root is empty")
	}
	c, err := courier.Dial(ctx, g.courierDir())
	if errors.Is(err, courier.ErrNotRunning) {
		return nil, fmt.Errorf("no courier is running for %s; start one: secretstack courier", g.root)
	}
	return c, err
}

// withCourier runs f with a connection to the courier that runs for the folder.
func (g *globals) withCourier(ctx context.Context, f func(c *courier.Client) error) error {
	c, err := g.dialCourier(ctx)
	if err != nil {
		return err
	}
	return errors.Join(ownersText(f(c)), c.Close())
}

// ownersText takes off what says only that the courier has answered.
func ownersText(err error) error {
	if remote, ok := errors.AsType[*muxrpc.RemoteError](err); ok {
		return errors.New(remoteText(remote))
	}
	return err
}
