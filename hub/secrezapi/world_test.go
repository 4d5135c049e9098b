package secrezapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

var waitFor = testkit.Eventually

const (
	testDomain = "hub.test"
	testCode   = "s3cret"
)

// clock is a clock that a test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func (c *clock) advance(d time.Duration) { c.set(c.now().Add(d)) }

// world is a hub that speaks HTTP and gives tunnel ports, and nothing else: registry, pools, virtual hosts and the API.
type world struct {
	t        *testing.T
	dir      string
	clock    *clock
	registry *registry.Registry
	pools    *vhost.Pools
	api      *Handler
	logs     *testkit.Buffer
	addr     string // of the server

	server *http.Server
	served sync.WaitGroup
}

// newWorld starts a hub at hub.test:8433, as the recorded one was, with the changes that a test needs.
func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	return newWorldAt(t, time.Now().Truncate(time.Millisecond), change)
}

// newWorldAt starts a hub at a time of its own.
func newWorldAt(t *testing.T, now time.Time, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), clock: &clock{t: now}, logs: new(testkit.Buffer)}
	t.Cleanup(w.stop)
	w.start(change)
	return w
}

func hubIdentity(t *testing.T) *keys.Identity { return identity(t, "hub") }

func identity(t *testing.T, name string) *keys.Identity {
	t.Helper()
	seed := sha256.Sum256([]byte("secrezapi test " + name))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// account gives the same account for the same name.
func account(t *testing.T, name string) *secrez.Account {
	t.Helper()
	a, err := secrez.FromIdentity(identity(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) start(change func(*Config)) {
	w.t.Helper()
	var err error
	w.registry, err = registry.Open(w.t.Context(), registry.Config{
		Dir: w.dir, Identity: hubIdentity(w.t), Limits: registry.Limits{MinFree: -1},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.pools = w.newPools(vhost.PortRange{}, vhost.PoolConfig{})
	cfg := Config{
		Registry: w.registry, Pools: w.pools, Domain: testDomain, Port: 8433, Code: testCode, Now: w.clock.now,
		Logger: slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	w.pools = cfg.Pools
	if w.api, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	w.serve(cfg)
}

func (w *world) newPools(ports vhost.PortRange, cfg vhost.PoolConfig) *vhost.Pools {
	w.t.Helper()
	p, err := vhost.NewPorts("127.0.0.1", ports)
	if err != nil {
		w.t.Fatal(err)
	}
	pools := vhost.NewPools(p, cfg, nil)
	w.t.Cleanup(func() { _ = pools.Close() })
	return pools
}

// used opens the bucket in which used payloads are remembered.
func (w *world) used() *registry.Bucket {
	w.t.Helper()
	b, err := w.registry.Bucket(w.t.Context(), "used")
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) shared() *registry.Bucket {
	w.t.Helper()
	b, err := w.registry.TemporaryBucket(w.t.Context(), "shared", LedgerLife)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) serve(cfg Config) {
	w.t.Helper()
	var front http.Handler = w.api
	if cfg.Domain != "" {
		handler, err := vhost.NewHandler(vhost.Config{Domain: cfg.Domain, Directory: w, Next: w.api})
		if err != nil {
			w.t.Fatal(err)
		}
		front = handler
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = l.Addr().String()
	complaints := slog.NewLogLogger(slog.NewTextHandler(w.logs, nil), slog.LevelError)
	w.server = &http.Server{Handler: front, ReadHeaderTimeout: 10 * time.Second, ErrorLog: complaints}
	w.served.Go(func() { _ = w.server.Serve(l) })
}

// Courier finds couriers by their pools, as a hub without native couriers does.
func (w *world) Courier(ctx context.Context, id secrez.ID) (vhost.Courier, error) {
	if _, ok := w.registry.Lookup(id); !ok {
		return nil, vhost.ErrUnknown
	}
	return w.pools.Courier(ctx, id)
}

func (w *world) stop() {
	if w.server != nil {
		_ = w.server.Close()
		w.served.Wait()
	}
	if w.pools != nil {
		_ = w.pools.Close()
	}
	if w.registry != nil {
		if err := w.registry.Close(); err != nil {
			w.t.Error(err)
		}
	}
	w.server, w.pools, w.registry = nil, nil, nil
}

// restart is what an operator does, or a power cut.
func (w *world) restart(change func(*Config)) {
	w.t.Helper()
	w.stop()
	w.start(change)
}

// A reply is what the hub answered.
type reply struct {
	status  int
	headers http.Header
	body    string
}

// do sends a request for the hub's own name.
func (w *world) do(method, target string, body io.Reader, headers ...string) reply {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.addr+target, body)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Host = testDomain + ":8433"
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       30 * time.Second,
	}
	res, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(text)}
}

func (w *world) get(target string, headers ...string) reply {
	w.t.Helper()
	return w.do(http.MethodGet, target, nil, headers...)
}

// sign signs a registration by the world's clock.
func (w *world) sign(a *secrez.Account, body map[string]any) secrez.Signed {
	w.t.Helper()
	return w.signAt(a, body, w.clock.now())
}

func (w *world) signAt(a *secrez.Account, body map[string]any, when time.Time) secrez.Signed {
	w.t.Helper()
	var object any // stays nil for no body
	if body != nil {
		object = body
	}
	s, err := a.SignPayload(object, when)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// signText signs a payload as it is.
func signText(a *secrez.Account, payload string) secrez.Signed {
	return secrez.Signed{Payload: payload, Signature: a.Sign([]byte(payload))}
}

// query writes a registration as the JavaScript client does.
func query(s secrez.Signed, more ...string) string {
	values := url.Values{"payload": {s.Payload}, "signature": {s.Signature}}
	for i := 0; i+1 < len(more); i += 2 {
		values.Add(more[i], more[i+1])
	}
	return "/api/v1/tunnel/new?" + values.Encode()
}

// register registers and wants it to succeed.
func (w *world) register(s secrez.Signed) registered {
	w.t.Helper()
	return w.registered(w.get(query(s)))
}

func (w *world) registered(r reply) registered {
	w.t.Helper()
	var res registered
	if r.status != http.StatusOK {
		w.t.Fatalf("got %d %s", r.status, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &res); err != nil || res.ID.IsZero() || res.Port == 0 || res.MaxSockets == 0 {
		w.t.Fatalf("got %s: %v", r.body, err)
	}
	return res
}

// refuses checks that an answer is an error of the API, and that its text begins as it should.
func refuses(t *testing.T, r reply, status int, message string) {
	t.Helper()
	var doc struct {
		Status  int    `json:"status_code"`
		Message string `json:"message"`
	}
	err := json.Unmarshal([]byte(r.body), &doc)
	if err != nil || r.status != status || doc.Status != status || !strings.HasPrefix(doc.Message, message) {
		t.Errorf("got %d %s, want %d %s…", r.status, r.body, status, message)
	}
	if got := r.headers.Get("Content-Type"); got != typeJSON {
		t.Errorf("an error of type %q", got)
	}
}

// connect opens a tunnel socket, and waits until it is in the pool.
func (w *world) connect(res registered) net.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.tunnel(res))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	waitFor(w.t, "the socket is in the pool", func() bool {
		p := w.pools.Pool(res.ID)
		return p != nil && p.Stats().Open > 0
	})
	return c
}

func (w *world) tunnel(res registered) string {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(res.Port)).String()
}

// isReadable reports whether the other end of a connection has written to it or closed it.
func isReadable(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	timeout, ok := errors.AsType[net.Error](err)
	return !ok || !timeout.Timeout()
}
