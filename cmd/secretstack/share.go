package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/share"
)

type shareFlags struct {
	hubs  []string
	allow []string
	name  string
	http  bool
}

func newShare(g *globals) *cobra.Command {
	var f shareFlags
	cmd := &cobra.Command{
		Use:   "share WHAT",
		Short: "let people use a service of this machine, wherever it is",
		Long: `share lets people whom you name connect to a service of this machine, through a hub: with "secretstack connect" they get
a port of their own that leads here. What passes is encrypted from end to end; the hub cannot read it. WHAT is

  3000               a port of this machine
  example.org:3000   a port of another one
  ./path/of/socket   a unix socket

While your courier runs, share uses its connection to the hub, and --allow takes the names of your contacts; without
--allow all of them may connect. Whom you block or remove is cut off at once. Without a courier name a hub with --hub, and who may connect by their keys.

With --http a web server is published for everybody at an address of its own at the hub, beside your courier and whatever
else you share. Its key is in the folder "web" below --root: with it, the address stays the same.`,
		Example: `  secretstack share 3000 --allow bob
  secretstack share 22 --name ssh --allow @….ed25519 --hub HUB-ADDRESS
  secretstack share 8080 --http --hub HUB-ADDRESS`,
		Args: argsBetween(1, 1, "what to share: a port, host:port, or the path of a unix socket"),
		RunE: func(cmd *cobra.Command, args []string) error { return runShare(cmd.Context(), g, f, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.hubs, "hub", "H", nil,
		"hub to be reached through when no courier runs: its address, the link of an invitation, or HOST:PORT; may be given more than once")
	flags.StringSliceVar(&f.allow, "allow", nil, "who may connect: contacts, keys, or \"anyone\" (default: all contacts)")
	flags.StringVar(&f.name, "name", "", "what the service is called (default: after WHAT)")
	flags.BoolVar(&f.http, "http", false, "publish a web server for everybody at the hub's address for you")
	return cmd
}

// target is what is to be shared.
type target struct {
	network, address string // "tcp", "unix"
	name             string
}

// parseWhat reads WHAT.
func parseWhat(text string) (target, error) {
	if port, err := strconv.ParseUint(text, 10, 16); err == nil && port > 0 {
		return target{"tcp", net.JoinHostPort("127.0.0.1", text), text}, nil
	}
	if strings.ContainsRune(text, '/') {
		path, err := filepath.Abs(text)
		if err != nil {
			return target{}, err
		}
		return target{"unix", path, filepath.Base(path)}, nil
	}
	host, port, err := net.SplitHostPort(text)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 {
		return target{}, usagef("%q is no port such as 3000, no host:port, and no path of a unix socket such as ./socket", text)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return target{"tcp", net.JoinHostPort(host, port), text}, nil
}

func (t target) String() string {
	if t.network == "unix" {
		return t.address
	}
	return t.network + " " + t.address
}

// nameOf returns the name that was chosen, or one made of WHAT.
func nameOf(chosen string, t target) string {
	if chosen != "" {
		return chosen
	}
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:"
	name := strings.Map(func(r rune) rune {
		if strings.ContainsRune(allowed, r) {
			return r
		}
		return '-'
	}, strings.TrimPrefix(t.name, ":"))
	return name[:min(len(name), 64)]
}

func runShare(ctx context.Context, g *globals, f shareFlags, what string) error {
	t, err := parseWhat(what)
	if err != nil {
		return err
	}
	c, err := g.runningCourier(ctx)
	if err != nil {
		return err
	}
	if c != nil {
		defer func() { _ = c.Close() }()
	}
	switch {
	case f.http && (len(f.allow) > 0 || f.name != ""):
		return usagef("--http is for everybody: leave out --allow and --name")
	case f.http:
		return shareHTTP(ctx, g, f, t)
	case c != nil && len(f.hubs) > 0:
		return usagef("your courier runs, and is at hubs of its own (secretstack status): leave out --hub")
	case c != nil:
		return shareByCourier(ctx, g, f, t, c)
	}
	return shareAlone(ctx, g, f, t)
}

// targetPatience is how long a service may take to take the connection by which share sees whether it runs.
const targetPatience = 2 * time.Second

// warn says that the service does not run, which it may later.
func (t target) warn(ctx context.Context, g *globals) {
	if !t.free(ctx) {
		return
	}
	dialer := net.Dialer{Timeout: targetPatience}
	conn, err := dialer.DialContext(ctx, t.network, t.address)
	switch {
	case err == nil:
		_ = conn.Close()
	case ctx.Err() == nil:
		fmt.Fprintf(g.err, "nothing takes connections at %s now (%s); it is shared all the same\n", t, listenProblem(err))
	}
}

// free reports whether nobody may have the port or the socket, without connecting: a service that takes one connection would be used up.
// Those of other machines are left alone.
func (t target) free(ctx context.Context) bool {
	if t.network == "unix" {
		_, err := os.Stat(t.address)
		return errors.Is(err, fs.ErrNotExist)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, t.network, t.address)
	if err == nil {
		return ln.Close() == nil
	}
	return errors.Is(err, syscall.EACCES) // so it does not tell
}

// runningCourier connects to the courier that runs for the folder; it is nil when there is none.
func (g *globals) runningCourier(ctx context.Context) (*courier.Client, error) {
	if g.root == "" {
		return nil, usagef("--root is empty")
	}
	c, err := courier.Dial(ctx, g.courierDir())
	if errors.Is(err, courier.ErrNotRunning) {
		return nil, nil
	}
	return c, err
}

// shareByCourier has the courier share it.
func shareByCourier(ctx context.Context, g *globals, f shareFlags, t target, c *courier.Client) error {
	if len(f.allow) == 0 {
		f.allow = []string{"contacts"}
	}
	finder := &finder{globals: g, courier: c}
	p, shown, err := finder.publish(ctx, f, t)
	if err != nil {
		return err
	}
	status, err := c.Status(ctx)
	if err != nil {
		return ownersText(err)
	}
	var hubs []multiserver.Address
	online := 0
	for _, h := range status.Hubs {
		hubs = append(hubs, multiserver.ParseLoose(h.Address)...)
		if h.Online {
			online++
		}
	}
	if len(hubs) == 0 {
		return errors.New("your courier is at no hub, so nobody can connect through one: secretstack courier --hub HUB-ADDRESS")
	}
	w, err := finder.byKey(status.Key.Ref(), status.Key, hubs)
	if err != nil {
		return err
	}
	s := sharing{globals: g, publish: p, target: t, who: shown, address: w.address, offline: online == 0}
	return s.run(ctx, c.Session())
}

// publish is the request to share.
func (f *finder) publish(ctx context.Context, flags shareFlags, t target) (share.Publish, []string, error) {
	p := share.Publish{Name: nameOf(flags.name, t), Target: t.network + ":" + t.address}
	shown, err := f.allow(ctx, &p, flags.allow)
	if err == nil && len(shown) == 0 {
		err = usagef("you have no contacts who could connect: add some, or name keys with --allow, or --allow anyone")
	}
	return p, shown, err
}

// shareAlone shares without a courier: with an app of its own at the hubs that were named.
func shareAlone(ctx context.Context, g *globals, f shareFlags, t target) error {
	if len(f.allow) == 0 {
		return usagef("say who may connect: --allow @….ed25519, or --allow anyone; names of contacts while your courier runs")
	}
	p, shown, err := (&finder{globals: g}).publish(ctx, f, t)
	if err != nil {
		return err
	}
	app, err := startAtHubs(ctx, g, g.root, f.hubs, nil)
	if err != nil {
		return err
	}
	client, _ := secretstack.Find[*hubclient.Client](app)
	s := sharing{globals: g, publish: p, target: t, who: shown, address: client.Addresses().Text, offline: !awaitOnline(ctx, g, client)}
	err = s.run(ctx, app.Self())
	return errors.Join(err, app.Close(context.WithoutCancel(ctx)))
}

// startAtHubs starts an app with the identity in a folder that is reached at the hubs that were named, else at those of the
// courier, whether it runs or not.
func startAtHubs(ctx context.Context, g *globals, dir string, hubs []string, web http.Handler) (*secretstack.App, error) {
	if len(hubs) == 0 {
		options, err := g.loadOptions()
		if err != nil {
			return nil, err
		}
		hubs = options.Hubs
	}
	if len(hubs) == 0 {
		return nil, usagef("name the hub through which others come: --hub HUB-ADDRESS")
	}
	found, err := findOurHubs(ctx, hubs)
	if err != nil {
		return nil, err
	}
	cfg, err := g.config(ctx, dir)
	if err != nil {
		return nil, err
	}
	rotations, err := g.rotations(ctx, cfg)
	if err != nil {
		return nil, err
	}
	at := hubclient.Config{Handler: web, Hubs: found.hubs(), Rotations: rotations}
	cfg.Connections = &multiserver.Config{
		Incoming: map[string][]multiserver.Incoming{"circuit": {{Scope: multiserver.Scopes{multiserver.Public}, Transform: "shs"}}},
		Outgoing: dialAll(),
	}
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(transports(), reaching(at)); err != nil {
		return nil, err
	}
	return stack.Start(context.WithoutCancel(ctx), cfg)
}

// awaitOnline waits until the app is at all its hubs, for a while, and says at which it is not.
func awaitOnline(ctx context.Context, g *globals, client *hubclient.Client) (any bool) {
	ctx, cancel := context.WithTimeout(ctx, hubPatience)
	defer cancel()
	for all := range client.Watch(ctx) {
		if !slices.ContainsFunc(all, func(h hubclient.Status) bool { return !h.Online && h.Err == nil }) {
			break
		}
	}
	all := client.Hubs()
	for _, h := range all {
		if !h.Online {
			fmt.Fprintf(g.err, "not connected to the hub yet: %s%s; retrying\n", h.Address, hubTrouble(h))
		}
	}
	return offlineOf(all) < len(all)
}

func offlineOf(all []hubclient.Status) (n int) {
	for _, h := range all {
		if !h.Online {
			n++
		}
	}
	return n
}

func hubTrouble(h hubclient.Status) string {
	if h.Err == nil {
		return ""
	}
	return " (" + plain(explainCircuit(&hubclient.HubError{Hub: h.Hub, Err: h.Err}, "you")) + ")"
}

// sharing is a service while it is shared.
type sharing struct {
	*globals
	publish share.Publish
	target  target
	who     []string
	address string
	offline bool
}

// run shares until ctx ends.
func (s *sharing) run(ctx context.Context, session muxrpc.Caller) error {
	live := newLiveLine(s.err)
	defer live.end()
	var t traffic
	for e, err := range muxrpc.Source[share.Event](ctx, session, share.MethodPublish, s.publish) {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return s.explain(err)
		case e.Type == share.Shared:
			s.target.warn(ctx, s.globals)
			if err := s.announce(); err != nil {
				return err
			}
		}
		if err := s.tell(live, &t, e); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("it is not shared any more: the courier has ended")
}

// tell shows what has happened.
func (s *sharing) tell(live *liveLine, t *traffic, e share.Event) error {
	if s.json && e.Type != share.Shared {
		return s.printJSON(e)
	}
	switch e.Type {
	case share.Opened:
		t.opened()
	case share.Closed:
		t.closed()
		if e.Error != "" && s.verbose {
			live.log(fmt.Sprintf("a connection of %s was cut: %s", e.Peer.Short(), e.Error))
		}
	case share.Traffic:
		t.passed(e.Time, e.Sent, e.Received)
	case share.Refused:
		live.log(fmt.Sprintf("refused %s; to let it in: --allow %s", e.Peer.Short()+"…", e.Peer))
	case share.Failed:
		live.log("the service takes no connections: " + e.Error)
	}
	live.show(t.String())
	return nil
}

func (s *sharing) explain(err error) error {
	if muxrpc.IsDenied(err) {
		return errors.New("your courier is too old to share: stop it, and start it again")
	}
	if remote, ok := errors.AsType[*muxrpc.RemoteError](err); ok {
		return errors.New(remoteText(remote))
	}
	return errors.New("it is not shared any more: the connection to your courier has ended")
}

// announce prints what is shared, and what to type elsewhere.
func (s *sharing) announce() error {
	if s.json {
		return s.printJSON(map[string]any{
			"type": share.Shared, "name": s.publish.Name, "target": s.target.address, "address": s.address, "allow": keysOf(slices.Concat(s.publish.Allow, s.publish.Contacts)), "anyone": s.publish.Anyone,
		})
	}
	state := ""
	if s.offline {
		state = " (not connected to any hub yet)"
	}
	fmt.Fprintf(s.out, "%s is shared as %s with %s%s\n\n", s.target, s.publish.Name, strings.Join(s.who, ", "), state)
	local := "9000"
	if s.target.network == "tcp" {
		if _, port, err := net.SplitHostPort(s.target.address); err == nil && len(port) == 4 {
			local = port
		}
	}
	fmt.Fprintf(s.out, "To use it from elsewhere:\n\n  secretstack connect '%s/%s' %s\n\nCtrl-C ends it.\n", s.address, s.publish.Name, local)
	return nil
}

func keysOf(all []keys.PublicKey) []string {
	refs := make([]string, len(all))
	for i, k := range all {
		refs[i] = k.Ref()
	}
	return refs
}

// webDir is the folder of the identity that a web server has at hubs. It cannot be that of a courier or of another server:
// an identity has one address, and one program at a time.
func (g *globals) webDir(t target) string {
	return filepath.Join(g.root, "web", strings.ReplaceAll(nameOf("", t), ":", "-"))
}

// shareHTTP publishes a web server at the hubs' addresses for its identity.
func shareHTTP(ctx context.Context, g *globals, f shareFlags, t target) error {
	if t.network != "tcp" {
		return usagef("--http takes a port or host:port")
	}
	live := newLiveLine(g.err)
	defer live.end()
	served := &served{Handler: webProxy(t, live)}
	app, err := startAtHubs(ctx, g, g.webDir(t), f.hubs, served)
	if err != nil {
		return err
	}
	client, _ := secretstack.Find[*hubclient.Client](app)
	awaitOnline(ctx, g, client)
	t.warn(ctx, g)
	if err := announceHTTP(g, t, client); err != nil {
		return errors.Join(err, app.Close(context.WithoutCancel(ctx)))
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil && !replaced(client) {
		live.show(served.String())
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() == nil {
		err = errors.New("another program has begun to publish the same server, in place of this one")
	}
	return errors.Join(err, app.Close(context.WithoutCancel(ctx)))
}

// replaced reports whether another program has the app's place at a hub.
func replaced(client *hubclient.Client) bool {
	return slices.ContainsFunc(client.Hubs(), func(h hubclient.Status) bool { return errors.Is(h.Err, hubclient.ErrReplaced) })
}

func announceHTTP(g *globals, t target, client *hubclient.Client) error {
	urls := []string{}
	all := client.Hubs()
	for _, h := range all {
		switch {
		case h.URL != "":
			urls = append(urls, h.URL)
		case h.Online:
			fmt.Fprintf(g.err, "the hub %s serves no web addresses to you: it has no --domain\n", h.Address)
		}
	}
	if g.json {
		return g.printJSON(map[string]any{"type": share.Shared, "target": t.address, "urls": urls})
	}
	what := "is published for everybody"
	if offlineOf(all) == len(all) {
		what = "is not published yet: there is no connection to any hub"
	}
	fmt.Fprintf(g.out, "%s %s", t, what)
	if len(urls) > 0 {
		fmt.Fprintf(g.out, " at\n\n  %s\n", strings.Join(urls, "\n  "))
	}
	fmt.Fprintln(g.out, "\nCtrl-C ends it.")
	return nil
}

// webProxy passes requests on to the web server.
func webProxy(t target, live *liveLine) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: t.address})
			r.Out.Host = r.In.Host
			r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"] // what the hub says
			for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[name]; ok {
					r.Out.Header[name] = v
				}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				live.log("the web server does not answer: " + err.Error())
			}
			http.Error(w, "the web server behind this address does not answer", http.StatusBadGateway)
		},
	}
}

// served counts the requests that a handler serves.
type served struct {
	http.Handler
	all, running atomic.Int64
}

// ServeHTTP serves and counts.
func (s *served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.all.Add(1)
	s.running.Add(1)
	defer s.running.Add(-1)
	s.Handler.ServeHTTP(w, r)
}

// String is the text of the live line.
func (s *served) String() string {
	if s.all.Load() == 0 {
		return "waiting for requests"
	}
	return fmt.Sprintf("%d requests, %d running", s.all.Load(), s.running.Load())
}
