package hub_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/multiserver"
	netms "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/ws"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

var (
	identity   = testkit.Identity
	eventually = testkit.Eventually
)

const domain = "hub.test"

// running is a hub that is served on a port of its own.
type running struct {
	*hub.Hub
	t    testing.TB
	dir  string
	addr string // of its port
	done chan error
	cfg  hub.Config // of a node
}

// start starts a hub. What cfg leaves open is filled in for a test.
func start(t testing.TB, cfg hub.Config) *running {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Identity == nil {
		cfg.Identity = identity(t, "hub")
	}
	if cfg.Listen == nil {
		cfg.Listen = []string{"127.0.0.1:0"}
	}
	if cfg.Domain == "" {
		cfg.Domain = domain
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.TunnelAddress = "127.0.0.1"
	if cfg.Limits.Registry.MinFree == 0 {
		cfg.Limits.Registry.MinFree = -1
	}
	if cfg.Limits.Registry.WriteTimeout == 0 {
		cfg.Limits.Registry.WriteTimeout = time.Minute // a machine with much to do is no failing disk
	}
	h, err := hub.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Hub: h, t: t, dir: cfg.Dir, addr: h.Addrs()[0].String(), done: make(chan error, 1)}
	r.serve()
	return r
}

// serve serves the hub until the test ends, and waits until it is served.
func (r *running) serve() {
	r.t.Helper()
	go func() { r.done <- r.Serve(context.Background()) }()
	r.t.Cleanup(r.end)
	eventually(r.t, "the hub is served", func() bool { // until then, a connection waits
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			return false
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	})
}

// end closes the hub.
func (r *running) end() {
	if err := r.Close(context.Background()); err != nil {
		r.t.Error(err)
	}
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Error(err)
		}
		r.done <- nil
	case <-time.After(2 * time.Minute):
		r.t.Error("Serve does not return")
	}
}

// address is where peers find the hub.
func (r *running) address() string {
	return "net:" + r.addr + "~shs:" + r.About().Key.Base64()
}

// peer starts an app that can dial.
func peer(t testing.TB, name string, plugins ...secretstack.Plugin) *secretstack.App {
	t.Helper()
	return peerIn(t, name, "", plugins...)
}

func peerIn(t testing.TB, name, dir string, plugins ...secretstack.Plugin) *secretstack.App {
	t.Helper()
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(append(plugins, secretstack.TransportPlugin(ws.New(ws.Options{})))...); err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{
		Identity: identity(t, name), Dir: dir, Logger: slog.New(slog.DiscardHandler),
		Connections: &multiserver.Config{Outgoing: map[string][]multiserver.Outgoing{
			"net": {{Transform: "shs"}}, "ws": {{Transform: "shs"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return app
}

// peerFrom starts an app that connects from an address, as far as a proxy says so.
func peerFrom(t testing.TB, name, addr string) *secretstack.App {
	t.Helper()
	dial := func(ctx context.Context, network, to string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, to)
		if err == nil {
			_, err = fmt.Fprintf(c, "PROXY TCP4 %s 127.0.0.1 40000 8433\r\n", addr)
		}
		return c, err
	}
	stack := secretstack.New(secretstack.Options{Bare: true})
	if err := stack.Use(secretstack.SHSPlugin(), secretstack.TransportPlugin(netms.New(netms.Options{DialContext: dial}))); err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{Identity: identity(t, name), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Close(context.Background()) })
	return app
}

// courier is a peer that has published itself at a hub.
type courier struct {
	*hubclient.Client
	app *secretstack.App
}

func newCourier(t testing.TB, name string, r *running, cfg hubclient.Config) *courier {
	t.Helper()
	return courierIn(t, name, "", r, cfg)
}

func courierIn(t testing.TB, name, dir string, r *running, cfg hubclient.Config) *courier {
	t.Helper()
	if cfg.Hubs == nil {
		cfg.Hubs = []hubclient.Hub{{Address: r.address()}}
	}
	if cfg.RetryMin == 0 {
		cfg.RetryMin, cfg.RetryMax = 20*time.Millisecond, 200*time.Millisecond
	}
	app := peerIn(t, name, dir, hubclient.Plugin(cfg))
	client, _ := secretstack.Find[*hubclient.Client](app)
	return &courier{client, app}
}

// online waits until the courier is, and returns its status.
func (c *courier) online(t testing.TB) hubclient.Status {
	t.Helper()
	return c.await(t, "online", func(s hubclient.Status) bool { return s.Online })
}

func (c *courier) await(t testing.TB, what string, wanted func(hubclient.Status) bool) hubclient.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for all := range c.Watch(ctx) {
		if wanted(all[0]) {
			return all[0]
		}
	}
	t.Fatalf("not %s: %+v", what, c.Hubs()[0])
	return hubclient.Status{}
}

// visitor is an HTTP client for which every name is the hub.
func (r *running) visitor() *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, r.addr)
	}}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// get returns the status and the body of an answer.
func get(t testing.TB, client *http.Client, url string) (int, string) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// says is a handler that says what it is asked.
func says(what string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", what, r.Host, r.URL.Path)
	})
}

func contains(t testing.TB, text, part string) {
	t.Helper()
	if !strings.Contains(text, part) {
		t.Errorf("%q does not contain %q", text, part)
	}
}

// waits is a handler that says once that a request is there, and then waits for the visitor to leave.
func waits(there chan<- struct{}) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(there)
		<-r.Context().Done()
	})
}
