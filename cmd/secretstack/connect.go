package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/share"
)

type connectFlags struct {
	hubs    []string
	timeout duration
}

func newConnect(g *globals) *cobra.Command {
	f := connectFlags{timeout: duration(20 * time.Second)}
	cmd := &cobra.Command{
		Use:   "connect PEER[/NAME] LOCAL",
		Short: "use a service that somebody shares with you",
		Long: `connect gives this machine a port that leads to a service of somebody who shares it with you. PEER is the address
that share has printed, a contact, a key or an id; NAME is needed when he shares several services with you. LOCAL is

  9000               a port of this machine
  0.0.0.0:9000       a port that others can connect to, too
  ./path/of/socket   a unix socket, made for you alone
  -                  standard input and output, as for ssh:

      ssh -o ProxyCommand='secretstack connect alice/ssh -' alice`,
		Example: "  secretstack connect alice/web 9000\n  secretstack connect 'circuit:…~shs:KEY/web' 9000",
		Args:    argsBetween(2, 2, "PEER/NAME and what it becomes here: a port, host:port, the path of a unix socket, or -"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runConnect(cmd.Context(), g, f, args[0], args[1])
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.hubs, "hub", "H", nil, "hub at which the peer is, when PEER does not tell: its address, or HOST:PORT; may be given more than once")
	flags.Var(&f.timeout, "timeout", "how long connecting may take")
	return cmd
}

func runConnect(ctx context.Context, g *globals, f connectFlags, peer, local string) error {
	if f.timeout <= 0 {
		return usagef("--timeout must be more than 0, such as 5s")
	}
	at, err := parseLocal(local)
	if err != nil {
		return err
	}
	remote := splitRemote(peer)
	app, err := startCaller(ctx, g)
	if err != nil {
		return err
	}
	defer func() { _ = app.Close(context.WithoutCancel(ctx)) }()
	w, err := findRemote(ctx, g, f, app, remote.peer)
	if err != nil {
		return err
	}
	shares, ok := secretstack.Find[*share.Shares](app)
	if !ok {
		return errors.New("this build cannot connect to shares")
	}
	c := connecting{globals: g, shares: shares, whom: w, service: remote.service, timeout: time.Duration(f.timeout)}
	if at.network == "-" {
		return c.stdio(ctx)
	}
	return c.listen(ctx, at)
}

// findRemote finds the peer.
func findRemote(ctx context.Context, g *globals, f connectFlags, app *secretstack.App, text string) (whom, error) {
	found, err := findOurHubs(ctx, f.hubs)
	if err != nil {
		return whom{}, err
	}
	hubs := found.addresses
	c, err := g.runningCourier(ctx)
	if err != nil {
		return whom{}, err
	}
	if c != nil {
		defer func() { _ = c.Close() }()
	}
	if len(hubs) == 0 {
		options, err := g.loadOptions() // the courier's hubs are ours, whether it runs or not
		if err != nil {
			return whom{}, err
		}
		for _, address := range options.Hubs {
			hubs = append(hubs, multiserver.ParseLoose(withoutInvite(address))...)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(f.timeout))
	defer cancel()
	return (&finder{globals: g, app: app, hubs: hubs, courier: c}).find(ctx, text)
}

// local is what a service becomes on this machine.
type local struct{ network, address string }

func parseLocal(text string) (local, error) {
	if text == "-" {
		return local{network: "-"}, nil
	}
	if port, err := strconv.ParseUint(text, 10, 16); err == nil {
		return local{"tcp", net.JoinHostPort("127.0.0.1", strconv.FormatUint(port, 10))}, nil
	}
	if strings.ContainsRune(text, '/') {
		path, err := filepath.Abs(text)
		return local{"unix", path}, err
	}
	_, port, err := net.SplitHostPort(text)
	if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
		return local{}, usagef("%q is no port such as 9000, no host:port, no path of a unix socket such as ./socket, and not -", text)
	}
	return local{"tcp", text}, nil
}

// connecting is a service of somebody while it is used.
type connecting struct {
	*globals
	shares  *share.Shares
	whom    whom
	service string
	timeout time.Duration
}

// stdio connects standard input and output.
func (c *connecting) stdio(ctx context.Context) error {
	peer, err := c.connect(ctx)
	if err != nil {
		return err
	}
	here := newStdio(c.in, c.out)
	err = share.Pump(ctx, here, peer)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		return fmt.Errorf("the connection to %s was cut: %s", c.whom.shown, plain(err))
	}
	return nil
}

func (c *connecting) connect(ctx context.Context) (*multiserver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	peer, err := c.shares.Connect(ctx, c.whom.address, c.service)
	if err != nil {
		return nil, explainCircuit(err, c.whom.shown)
	}
	return peer, nil
}

// listen makes the port or socket, once it is known that the service can be reached.
func (c *connecting) listen(ctx context.Context, at local) error {
	if err := c.check(ctx); err != nil {
		return err
	}
	ln, err := listenLocal(ctx, at)
	if err != nil {
		return err
	}
	live := newLiveLine(c.err)
	defer live.end()
	var t traffic
	var meter share.Meter
	if err := c.announce(ln.Addr()); err != nil {
		_ = ln.Close()
		return err
	}
	stop := c.every(func(now time.Time) {
		sent, received := meter.Read()
		t.passed(now, sent, received)
		live.show(t.String())
	})
	defer stop()
	err = c.shares.Forward(ctx, ln, share.Forward{
		Address: c.whom.address, Service: c.service, Meter: &meter, Timeout: c.timeout,
		Watch: func(e share.Event) { c.tell(live, &t, e) },
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// check asks the peer for the service before anybody here relies on it.
func (c *connecting) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	names, err := c.shares.Services(ctx, c.whom.address)
	if err != nil {
		return explainCircuit(err, c.whom.shown)
	}
	switch {
	case c.service == "" && len(names) == 1:
		c.service = names[0]
	case c.service == "":
		return explainShare(&share.Error{Status: share.Which, Services: names}, c.whom.shown)
	case !slices.Contains(names, c.service):
		return explainShare(&share.Error{Status: share.Unknown, Service: c.service, Services: names}, c.whom.shown)
	}
	return nil
}

func (c *connecting) announce(addr net.Addr) error {
	if c.json {
		return c.printJSON(map[string]any{"type": "listening", "local": addr.String(), "peer": c.whom.address, "service": c.service})
	}
	fmt.Fprintf(c.out, "%s leads to %s/%s\n", addr, c.whom.shown, c.service)
	if isTerminal(c.out) {
		fmt.Fprintln(c.out, "Ctrl-C ends it.")
	}
	return nil
}

func (c *connecting) tell(live *liveLine, t *traffic, e share.Event) {
	if c.json {
		_ = c.printJSON(e)
		return
	}
	switch e.Type {
	case share.Opened:
		t.opened()
	case share.Closed:
		t.closed()
		if e.Error != "" {
			live.log("a connection was cut: " + e.Error)
		}
	case share.Failed:
		live.log(plain(explainCircuit(e.Err, c.whom.shown)))
	}
}

// every calls f each second until stop is called, which waits for it.
func (c *connecting) every(f func(now time.Time)) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			f(time.Now())
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

// listenLocal makes the port or socket. A socket that nobody listens on any more is replaced.
func listenLocal(ctx context.Context, at local) (net.Listener, error) {
	var config net.ListenConfig
	if at.network == "unix" {
		return listenUnix(ctx, config, at.address)
	}
	ln, err := config.Listen(ctx, at.network, at.address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %s", at.address, listenProblem(err))
	}
	return ln, nil
}

func listenUnix(ctx context.Context, config net.ListenConfig, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("somebody listens on %s already", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	ln, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %s", path, listenProblem(err))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

func listenProblem(err error) string {
	if cause, ok := errors.AsType[*os.SyscallError](err); ok {
		return cause.Err.Error()
	}
	return err.Error()
}

// stdio is standard input and output as a connection. Reading ends with Close although the system's read does not.
type stdio struct {
	net.Conn // nil: of a connection it has what share needs
	in       *io.PipeReader
	feed     *io.PipeWriter // of in
	out      io.Writer
}

func newStdio(in io.Reader, out io.Writer) *stdio {
	r, w := io.Pipe()
	go func() { // ends with standard input, or with the program
		_, err := io.Copy(w, in)
		_ = w.CloseWithError(err)
	}()
	return &stdio{in: r, feed: w, out: out}
}

func (s *stdio) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *stdio) Write(p []byte) (int, error) { return s.out.Write(p) }

// CloseWrite closes standard output, so that whoever reads it sees the end. From a person at a terminal nothing more is to
// be expected then.
func (s *stdio) CloseWrite() error {
	f, ok := s.out.(*os.File)
	switch {
	case !ok:
		return nil
	case isTerminal(f):
		return s.feed.Close()
	}
	return f.Close()
}

// Close ends Read.
func (s *stdio) Close() error { return s.feed.CloseWithError(net.ErrClosed) }
