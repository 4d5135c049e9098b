package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/cert"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/internal/sdnotify"
	"github.com/secretstack/secretstack/multiserver"
)

func newHub(g *globals) *cobra.Command {
	given := defaultHubSettings()
	config := ""
	cmd := &cobra.Command{
		Use:   "hub",
		Short: "run a hub, through which peers reach each other",
		Long: `hub runs a meeting point: peers connect to it, get an id for ever, and others reach them through it, wherever they are.
What they say to each other is encrypted from end to end: the hub sees who talks to whom and how much, nothing else.
Couriers that serve HTTP are at ID.DOMAIN. The secret handshake, HTTP, WebSocket, circuits and TLS share one port.

Identity and data are kept in the folder "hub" below --root. A configuration file is TOML and has the names of the flags:

  domain = "hub.example.org"
  admission = "invite"
  rule = ["deny 192.0.2.0/24 # a bad neighbourhood"]
  [limits]
  max-peers = 100000
  [limits.admission.address]
  registration = "5/s burst 200"

Flags go over the file. On SIGHUP the hub reads it again: admission, rules and their limits, drain-to, and certificates change
at once. On SIGTERM and Ctrl-C it drains: couriers are told, and what runs may finish.`,
		Example: `  secretstack hub
  secretstack hub --domain hub.example.org --port 443 --tls --email you@example.org
  secretstack hub --config /etc/secretstack/hub.toml`,
		Args: argsBetween(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runHub(cmd.Context(), g, config, cmd.Flags())
		},
	}
	given.flags(cmd.Flags())
	cmd.Flags().StringVar(&config, "config", "", "configuration file, in TOML")
	cmd.AddCommand(newHubHealth(g), newHubStatus(g), newHubBackup(g), newHubRestore(g), newHubInvite(g), newHubRule(g), newHubCluster(g))
	return cmd
}

// hubDir is the data folder of the hub.
func (g *globals) hubDir() string { return filepath.Join(g.root, "hub") }

// daemon is a hub that is run by a command.
type daemon struct {
	g        *globals
	file     string
	given    *pflag.FlagSet
	settings hubSettings
	config   hub.Config
	log      *slog.Logger
	admin    net.Listener // nil: none
	hub      *hub.Hub

	front     admin.Front // answers on the admin listener
	adminName string      // of the host of the admin listener
}

func runHub(ctx context.Context, g *globals, file string, given *pflag.FlagSet) (err error) {
	d := &daemon{g: g, file: file, given: given}
	if d.settings, err = readHubSettings(file, given); err != nil {
		return err
	}
	if d.config, err = d.settings.config(); err != nil {
		return err
	}
	d.log = d.settings.logger(g)
	if err := d.place(ctx); err != nil {
		return err
	}
	endCertificates, err := d.certificates()
	if err != nil {
		return err
	}
	defer endCertificates()
	endListeners, err := d.listen(ctx)
	if err != nil {
		return err
	}
	defer endListeners()
	if err := d.identify(ctx); err != nil {
		return err
	}
	d.config.Control = controlWorks(d.config.Dir)
	if d.settings.TLS {
		endAutomatic, err := d.automatic(ctx)
		if err != nil {
			return err
		}
		defer endAutomatic()
	}
	failed := make(chan error, 2)
	defer d.serveAdmin(failed)()
	if d.hub, err = hub.New(ctx, d.config); ctx.Err() != nil && err != nil {
		return errInterrupted
	} else if err != nil {
		return explainHub(err)
	}
	return errors.Join(d.serve(ctx, failed), d.hub.Close(context.WithoutCancel(ctx)))
}

// place says where the hub's data are, and of which cluster it is a node.
func (d *daemon) place(ctx context.Context) (err error) {
	if d.g.root == "" {
		return usagef("--root is empty")
	}
	d.config.Logger, d.config.Dir = d.log, d.g.hubDir()
	if _, err := os.Stat(d.config.Dir); errors.Is(err, syscall.ENOTDIR) {
		return checkFolder(d.config.Dir) // says so
	}
	if _, err := d.g.networkKey(); err != nil {
		return err
	}
	d.config.Cluster, err = d.settings.cluster(ctx, d.g)
	return err
}

// identify says who the hub is. As a node it has its identity from the cluster's credential.
func (d *daemon) identify(ctx context.Context) (err error) {
	if d.config.Cluster == nil {
		base, err := d.g.config(ctx, d.g.hubDir())
		d.config.Identity, d.config.AppKey = base.Identity, base.AppKey
		return err
	}
	d.config.Cluster.Waiting = d.waiting()
	if d.config.AppKey, err = d.g.networkKey(); err != nil {
		return err
	}
	return checkFolder(d.config.Dir)
}

// stillWaiting is how much more time systemd is asked for while a node waits for others.
const stillWaiting = time.Minute

// waiting shows on a terminal what the log says elsewhere, and tells whoever asks for the health.
func (d *daemon) waiting() func(registry.Wait) {
	shown := ""
	return func(w registry.Wait) {
		text := waitingText(w)
		if text != shown && isTerminal(d.g.err) {
			fmt.Fprintln(d.g.err, text)
		}
		shown = text
		d.front.Wait(text)
		d.tell(sdnotify.Status(text), sdnotify.Extend(stillWaiting))
	}
}

func waitingText(w registry.Wait) string {
	switch {
	case w.Brought > 0:
		return "bringing what the single hub had to the cluster: " + counted(int(w.Brought), "message")
	case w.Origin && w.Reached >= w.Of:
		return "waiting for the node that brings what the single hub had"
	case w.Of == 0:
		return "waiting for the NATS cluster"
	}
	return fmt.Sprintf("waiting for the other nodes: %d of %d reached", w.Reached, w.Of)
}

// listen opens all ports, before anything is written: where one is somebody else's, no trace is left.
func (d *daemon) listen(ctx context.Context) (end func(), err error) {
	listeners, err := hub.Listen(ctx, d.config)
	if err != nil {
		return nil, explainHub(err)
	}
	end = func() {
		for _, ln := range listeners {
			_ = ln.Close() // again, if there is a hub that has them
		}
	}
	d.config.Listeners = listeners
	if d.settings.Admin == "" {
		return end, nil
	}
	var config net.ListenConfig
	if d.admin, err = config.Listen(ctx, "tcp", d.settings.Admin); err != nil {
		end()
		return nil, fmt.Errorf("--admin: %w; choose another address", err)
	}
	listeners = append(listeners, d.admin)
	return end, nil
}

// serve runs the hub until it is told to stop.
func (d *daemon) serve(ctx context.Context, failed chan error) error {
	if err := d.openAdmin(); err != nil {
		return err
	}
	go func() { failed <- d.hub.Serve(context.WithoutCancel(ctx)) }()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	if err := d.announce(); err != nil {
		return err
	}
	d.tell(sdnotify.Ready)
	for {
		select {
		case err := <-failed:
			return err
		case <-hangups:
			d.reload()
		case <-ctx.Done():
			d.tell(sdnotify.Stopping)
			if isTerminal(d.g.err) {
				fmt.Fprintln(d.g.err, d.drainText())
			}
			drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(d.settings.Drain))
			defer cancel()
			return d.hub.Drain(drain)
		}
	}
}

// drainText says what the end of the hub waits for.
func (d *daemon) drainText() string {
	s := d.hub.Status()
	var runs []string
	for _, c := range []struct {
		n    int
		what string
	}{{int(s.Requests), "request"}, {s.Circuits.Open, "circuit"}} {
		if c.n > 0 {
			runs = append(runs, counted(c.n, c.what))
		}
	}
	if runs == nil {
		return "Draining: couriers are told; nothing is under way."
	}
	return fmt.Sprintf("Draining: couriers are told; %s may finish for %s. Ctrl-C again ends at once.",
		strings.Join(runs, " and "), d.settings.Drain.String())
}

// tell tells systemd, if it has started the hub.
func (d *daemon) tell(states ...string) {
	if err := sdnotify.Send(states...); err != nil {
		d.log.Warn("systemd cannot be told how the hub is", "err", err)
	}
}

// reload reads the configuration again. What is wrong with it is logged, and changes nothing.
func (d *daemon) reload() {
	settings, err := readHubSettings(d.file, d.given)
	var cfg hub.Config
	if err == nil {
		cfg, err = settings.config()
	}
	if err != nil {
		d.log.Error("the configuration stays as it was", "err", plain(err))
		return
	}
	cfg.Dir, cfg.AppKey, cfg.Control = d.config.Dir, d.config.AppKey, d.config.Control
	cfg.Certificates, cfg.Cluster = d.config.Certificates, d.config.Cluster
	unchanged, err := d.hub.Reload(cfg)
	if err != nil {
		d.log.Error("the configuration stays as it was", "err", plain(err))
		return
	}
	unchanged = slices.AppendSeq(unchanged, differing(d.settings.nodeSettings(), settings.nodeSettings()))
	if len(unchanged) > 0 {
		d.log.Warn("some changes need a restart of the hub", "settings", unchanged)
	}
	d.settings.Drain = settings.Drain
}

// serveAdmin serves the operator, if he wants that, from before the hub is open: it may wait for other nodes.
func (d *daemon) serveAdmin(failed chan<- error) (end func()) {
	if d.admin == nil {
		return func() {}
	}
	host, _, _ := net.SplitHostPort(d.settings.Admin) // config has looked at it
	server := admin.NewServer(&d.front, d.log)
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		d.log.Warn("the admin listener speaks no TLS: whoever is on the way can read the token", "admin", d.settings.Admin)
	}
	d.settings.Admin, d.adminName = d.admin.Addr().String(), host
	go func() {
		if err := server.Serve(d.admin); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("--admin: %w", err)
		}
	}()
	return func() { _ = server.Close() }
}

// openAdmin hands the admin listener over to the hub.
func (d *daemon) openAdmin() error {
	if d.admin == nil {
		return nil
	}
	operator, err := d.hub.Operator(d.adminName)
	if err != nil {
		return err
	}
	d.hub.OperatorAt(d.settings.Admin)
	d.front.Open(operator)
	return nil
}

// certificates gives the hub its certificates from files, or sees that it can get some from an authority: see automatic.
func (d *daemon) certificates() (end func(), err error) {
	s := &d.settings
	switch {
	case s.TLS && (s.Cert != "" || s.Key != ""):
		return nil, usagef("--tls gets certificates by itself: leave out --cert and --key")
	case (s.Cert == "") != (s.Key == ""):
		return nil, usagef("--cert and --key belong together")
	case s.Cert != "":
		for _, file := range []string{s.Cert, s.Key} {
			if _, err := os.Stat(file); err != nil {
				return nil, usagef("--cert and --key name files: %w", err)
			}
		}
		files, err := cert.LoadFiles(cert.FilesOptions{Logger: d.log}, cert.Pair{Cert: s.Cert, Key: s.Key})
		if err != nil {
			return nil, usagef("--cert: %s", plain(err))
		}
		d.config.Certificates = files
		return func() { _ = files.Close() }, nil
	case s.TLS && s.Domain == "":
		return nil, usagef("--tls needs to know for which --domain")
	}
	return func() {}, nil
}

func (d *daemon) automatic(ctx context.Context) (end func(), err error) {
	s := &d.settings
	opts := cert.AutomaticOptions{
		Domain: s.Domain, Folder: filepath.Join(d.config.Dir, "tls"), AgreeToTerms: true, Email: s.Email,
		Directory: s.ACMEDirectory, KeyID: s.ACMEKeyID, MACKey: s.ACMEMACKey, Logger: d.log,
	}
	ends := []func() error{}
	end = func() {
		for _, f := range slices.Backward(ends) {
			_ = f()
		}
	}
	if len(s.DNS) > 0 {
		responder, err := cert.NewResponder(cert.ResponderOptions{Domain: s.Domain, Logger: d.log})
		if err != nil {
			return nil, err
		}
		ends = append(ends, responder.Close)
		for _, address := range s.DNS {
			if err := responder.Listen(ctx, address); err != nil {
				end()
				return nil, fmt.Errorf("--dns: %w; give it an address of this machine, and port 53", err)
			}
		}
		opts.Responder, opts.Wildcard = responder, true
	}
	opts.Challenges = d.challenges(opts.Responder != nil)
	automatic, err := cert.StartAutomatic(opts)
	if err != nil {
		end()
		return nil, err
	}
	ends = append(ends, automatic.Close)
	d.config.Certificates = automatic
	return end, nil
}

// challenges are the ways in which an authority can check the domain: what it can reach.
func (d *daemon) challenges(dns bool) []cert.Challenge {
	list := []cert.Challenge{cert.TLSALPN01}
	for _, ln := range d.config.Listeners {
		if _, port, _ := net.SplitHostPort(ln.Addr().String()); port == "80" {
			list = append(list, cert.HTTP01)
		}
	}
	if dns {
		list = append(list, cert.DNS01)
	}
	return list
}

// checkDomain refuses what is no host name before it gets into the addresses of the hub.
func checkDomain(domain string) error {
	if strings.ContainsAny(domain, "/:;~!@ ") || net.ParseIP(domain) != nil {
		return usagef("--domain takes a host name such as hub.example.org, without a scheme, a port or a path, not %q", domain)
	}
	return nil
}

// explainHub says what to do about a hub that does not start.
func explainHub(err error) error {
	switch {
	case errors.Is(err, hub.ErrConfig):
		return &usageError{err}
	case errors.Is(err, registry.ErrForeign) && strings.Contains(err.Error(), "single hub's"):
		return fmt.Errorf("%w. To begin a cluster with them, make its credential here while no hub runs: move the one that there is away, then: "+
			"secretstack hub cluster init NAME", err)
	case errors.Is(err, registry.ErrLocked):
		return fmt.Errorf("%w; a hub is running with this --root already: stop it, or choose another", err)
	case errors.Is(err, syscall.EADDRINUSE):
		if strings.Contains(err.Error(), "other nodes") {
			return fmt.Errorf("%w; choose another port with --advertise or --listen-nodes", err)
		}
		return fmt.Errorf("%w; is a hub running already? choose another port with --port", err)
	case errors.Is(err, syscall.EACCES) && strings.Contains(err.Error(), "listen"):
		return fmt.Errorf("%w; ports below 1024 need special rights; choose another port with --port", err)
	case strings.Contains(err.Error(), "hub: listen"):
		return fmt.Errorf("%w; choose an address of this machine with --address", err)
	}
	return err
}

// announce prints where the hub is, who may use it, and what to type next.
func (d *daemon) announce() error {
	addresses := d.hub.Addresses()
	if d.g.json {
		return d.g.printJSON(map[string]any{
			"id": d.hub.About().Key.Ref(), "addresses": addresses, "domain": d.config.Domain,
			"admission": d.hub.Admission().Mode(), "admin": d.settings.Admin, "dir": d.config.Dir, "node": d.node(),
		})
	}
	if len(addresses) == 0 {
		return errors.New("the hub has no address; choose one of this machine with --address")
	}
	var b strings.Builder
	line := func(label, text string) { fmt.Fprintf(&b, "  %-9s  %s\n", label, text) }
	fmt.Fprintf(&b, "secretstack hub %s\n\n", version)
	line("key", d.hub.About().Key.String())
	line("address", strings.Join(addresses, "\n             "))
	line("couriers", d.couriersAt())
	line("admission", admissionWords(d.hub.Admission().Mode()))
	if d.settings.Admin != "" {
		line("admin", "http://"+d.settings.Admin+"  (token: "+filepath.Join(d.config.Dir, "admin-token")+")")
	}
	if node := d.node(); node != "" {
		line("node", node+" of cluster "+d.settings.Cluster)
	}
	line("data", d.config.Dir)
	fmt.Fprintf(&b, `
To talk through this hub, each on a machine of his own:

  secretstack courier --hub %s
  secretstack whoami            # a contact card, for the others
  secretstack contact add NAME CARD && secretstack chat NAME

Ctrl-C stops the hub.
`, d.hubWord())
	_, err := fmt.Fprint(d.g.out, b.String())
	return err
}

// node is what this node of a cluster is called; empty if the hub is alone.
func (d *daemon) node() string {
	if d.config.Cluster == nil {
		return ""
	}
	return d.config.Cluster.Name
}

// hubWord is what couriers are told of the hub: where it is, or that each needs a link.
func (d *daemon) hubWord() string {
	if d.hub.Admission().Mode() == admission.ModeInvite {
		return "'LINK'   # one for each: secretstack hub invite"
	}
	return d.hub.Web()
}

// couriersAt says where the HTTP of couriers is.
func (d *daemon) couriersAt() string {
	if d.config.Domain == "" {
		return d.hub.CouriersAt() + ", from this machine; name a --domain for others"
	}
	return d.hub.CouriersAt()
}

func admissionWords(mode admission.Mode) string {
	switch mode {
	case admission.ModeInvite:
		return "invite: publishing takes an invitation; make one with: secretstack hub invite"
	case admission.ModeClosed:
		return "closed: only those whom a rule allows may connect; let one in with: secretstack hub rule 'allow KEY'"
	}
	return "open: everybody may publish"
}

// bestAddresses lists an app's addresses in the widest scope that has any.
func bestAddresses(app *secretstack.App) []string {
	for _, scope := range []multiserver.Scope{multiserver.Public, multiserver.Local, multiserver.Private, multiserver.Device} {
		addresses := slices.DeleteFunc(strings.Split(app.Address(scope), ";"), isIndirect)
		if len(addresses) > 0 {
			return addresses
		}
	}
	return []string{}
}

// isIndirect reports whether an address is none, or leads through a hub.
func isIndirect(address string) bool { return address == "" || strings.HasPrefix(address, "circuit:") }

// waitAndClose keeps an app running until it is told to stop.
func waitAndClose(ctx context.Context, app *secretstack.App) error {
	<-ctx.Done()
	return app.Close(context.WithoutCancel(ctx))
}
