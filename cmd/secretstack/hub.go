package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/room"
)

const defaultHubPort = 8433

type hubFlags struct {
	address string
	port    uint16
	domain  string
	name    string
}

func newHub(g *globals) *cobra.Command {
	var f hubFlags
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "run a hub, through which peers reach each other",
		Long: `hub runs a meeting point: peers connect to it and announce themselves, and others reach them through it, wherever
they are. What they say to each other is encrypted from end to end: the hub sees who talks to whom and how much, nothing
else. TCP and WebSocket share one port. Identity and data are kept in the folder "hub" below --root.`,
		Example: "  secretstack hub\n  secretstack hub --domain hub.example.org --port 443",
		Args:    argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runHub(cmd.Context(), g, f)
		},
	}
	flags := cmd.Flags()
	flags.Uint16VarP(&f.port, "port", "p", defaultHubPort, "port to listen on (0: a free one)")
	flags.StringVarP(&f.address, "address", "a", "", "address to listen on (default: all)")
	flags.StringVarP(&f.domain, "domain", "d", "", "name by which the internet reaches this hub")
	flags.StringVar(&f.name, "name", "", "name that the hub gives itself (default: its domain)")
	cmd.AddCommand(newHubHealth(g))
	return cmd
}

func runHub(ctx context.Context, g *globals, f hubFlags) error {
	if err := checkDomain(f.domain); err != nil {
		return err
	}
	cfg, err := g.config(ctx, filepath.Join(g.root, "hub"))
	if err != nil {
		return err
	}
	ln, err := listen(ctx, f.address, f.port)
	if err != nil {
		return err
	}
	cfg.Connections = hubConnections(f, ln)
	if f.name == "" {
		f.name = f.domain
	}
	stack := secretstack.New(secretstack.Options{Bare: true})
	if err := stack.Use(secretstack.SHSPlugin(), onePort(ln), room.Plugin(room.Config{Name: f.name})); err != nil {
		return err
	}
	app, err := stack.Start(ctx, cfg)
	if err != nil {
		return err
	}
	if err := announceHub(g, app); err != nil {
		return errors.Join(err, app.Close(context.WithoutCancel(ctx)))
	}
	return waitAndClose(ctx, app)
}

// checkDomain refuses what is no host name before it gets into the addresses of the hub.
func checkDomain(domain string) error {
	if strings.ContainsAny(domain, "/:;~!@ ") && net.ParseIP(domain) == nil {
		return usagef("--domain takes a host name such as hub.example.org, without a scheme, a port or a path, not %q", domain)
	}
	return nil
}

// listen opens the hub's port, and says what to do when that fails.
func listen(ctx context.Context, address string, port uint16) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(port))))
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w; is a hub running already? choose another port with --port", err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%w; ports below 1024 need special rights; choose another port with --port", err)
	case err != nil:
		return nil, fmt.Errorf("%w; choose an address of this machine with --address", err)
	}
	return ln, nil
}

func hubConnections(f hubFlags, ln net.Listener) *multiserver.Config {
	in := multiserver.Incoming{
		Scope:     multiserver.Scopes{multiserver.Device, multiserver.Local, multiserver.Public},
		Transform: "shs",
		Host:      f.address,
		Port:      uint16(ln.Addr().(*net.TCPAddr).Port),
	}
	if f.domain != "" {
		in.External = multiserver.Hosts{f.domain}
	}
	return &multiserver.Config{Incoming: map[string][]multiserver.Incoming{"net": {in}, "ws": {in}}}
}

// announceHub prints where the hub is and what to type next.
func announceHub(g *globals, app *secretstack.App) error {
	addresses := bestAddresses(app)
	if g.json {
		return json.NewEncoder(g.out).Encode(map[string]any{"id": app.ID().Ref(), "addresses": addresses})
	}
	fmt.Fprintf(g.out, "secretstack hub %s\n\n  key      %s\n", version, app.ID())
	for i, address := range addresses {
		label := "address"
		if i > 0 {
			label = ""
		}
		fmt.Fprintf(g.out, "  %-7s  %s\n", label, address)
	}
	if len(addresses) == 0 {
		return errors.New("the hub has no address; choose one of this machine with --address")
	}
	fmt.Fprintf(g.out, `
To be reached through this hub, run on the machine that should be reachable:

  secretstack serve --hub '%s'

It prints the address for the others. Ctrl-C stops the hub.
`, addresses[0])
	return nil
}

// bestAddresses lists an app's addresses in the widest scope that has any.
func bestAddresses(app *secretstack.App) []string {
	for _, scope := range []multiserver.Scope{multiserver.Public, multiserver.Local, multiserver.Private, multiserver.Device} {
		if joined := app.Address(scope); joined != "" {
			return strings.Split(joined, ";")
		}
	}
	return []string{}
}

// welcome answers browsers that come to the hub's port.
func welcome() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "This is a secretstack hub. Peers connect to it with a secretstack program.")
	})
}

// waitAndClose keeps an app running until it is told to stop.
func waitAndClose(ctx context.Context, app *secretstack.App) error {
	<-ctx.Done()
	return app.Close(context.WithoutCancel(ctx))
}
