package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/secrezapi"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// A courier of Secrez registers with our hub and serves through it. Its client
// is js/tunnel.js, its account is made by Secrez's own crypto package.

// secrezHub is as much of a hub as such a courier needs. It is at a fixed
// address of this machine, over restarts.
type secrezHub struct {
	t        *testing.T
	dir      string
	addr     string
	registry *registry.Registry
	pools    *vhost.Pools
	server   *http.Server
	served   sync.WaitGroup
}

func startSecrezHub(t *testing.T) *secrezHub {
	t.Helper()
	h := &secrezHub{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	t.Cleanup(h.stop)
	h.start()
	return h
}

func (h *secrezHub) start() {
	h.t.Helper()
	id, err := keys.FromSeed(bytes.Repeat([]byte{7}, keys.SeedSize))
	h.must(err)
	h.registry, err = registry.Open(h.t.Context(), registry.Config{Dir: h.dir, Identity: id, Limits: registry.Limits{MinFree: -1}})
	h.must(err)
	used, err := h.registry.Bucket(h.t.Context(), "used")
	h.must(err)
	ports, err := vhost.NewPorts("127.0.0.1", vhost.PortRange{})
	h.must(err)
	h.pools = vhost.NewPools(ports, vhost.PoolConfig{}, nil)
	api, err := secrezapi.New(secrezapi.Config{Registry: h.registry, Pools: h.pools, Used: used, Domain: "hub.test"})
	h.must(err)
	front, err := vhost.NewHandler(vhost.Config{Domain: "hub.test", Directory: h, Next: api})
	h.must(err)
	l, err := net.Listen("tcp", h.addr)
	h.must(err)
	h.addr = l.Addr().String()
	h.server = &http.Server{Handler: front, ReadHeaderTimeout: 10 * time.Second}
	h.served.Go(func() { _ = h.server.Serve(l) })
}

func (h *secrezHub) stop() {
	if h.server == nil {
		return
	}
	_ = h.server.Close()
	h.served.Wait()
	_ = h.pools.Close()
	if err := h.registry.Close(); err != nil {
		h.t.Error(err)
	}
	h.server = nil
}

func (h *secrezHub) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// Courier finds couriers by their tunnel sockets.
func (h *secrezHub) Courier(ctx context.Context, id secrez.ID) (vhost.Courier, error) {
	if _, ok := h.registry.Lookup(id); !ok {
		return nil, vhost.ErrUnknown
	}
	return h.pools.Courier(ctx, id)
}

// secrezInfo is what the hub told the client, and how often it asked.
type secrezInfo struct {
	Info *struct {
		ID    secrez.ID `json:"id"`
		Port  int       `json:"port"`
		Count int       `json:"max_conn_count"`
		URL   string    `json:"url"`
	} `json:"info"`
	Attempts int `json:"attempts"`
}

func startSecrezTunnel(t *testing.T, n *node, hub string, args map[string]any) secrezInfo {
	t.Helper()
	all := map[string]any{"hub": "http://" + hub, "name": "alice", "body": map[string]any{"id": 0}, "timeout": patience.Milliseconds()}
	for name, value := range args {
		all[name] = value
	}
	var res secrezInfo
	n.do(t, "start", all, &res)
	return res
}

// opened waits until the client has opened so many sockets.
func opened(t *testing.T, n *node, count int) {
	t.Helper()
	waitEvent(t, n, "opened", func(got int) bool { return got >= count })
}

// post sends a message to a courier as other couriers do, and wants it taken.
func (h *secrezHub) post(id secrez.ID, path string, message secrez.Signed) {
	h.t.Helper()
	body, err := json.Marshal(message)
	h.must(err)
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, "http://"+h.addr+path, bytes.NewReader(body))
	h.must(err)
	req.Host = id.String() + ".hub.test"
	res, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		h.t.Error(err)
		return
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	want := fmt.Sprintf(`{"success":true,"method":"POST","url":"%s","host":"%s.hub.test"}`, path, id)
	if err != nil || res.StatusCode != http.StatusOK || string(text) != want {
		h.t.Errorf("got %d %s, %v; want %s", res.StatusCode, text, err, want)
	}
}

func signedByGo(t *testing.T) secrez.Signed {
	t.Helper()
	id, err := keys.FromSeed(bytes.Repeat([]byte{9}, keys.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	account, err := secrez.FromIdentity(id)
	if err != nil {
		t.Fatal(err)
	}
	s, err := account.SignPayload(map[string]string{"message": "sealed"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestACourierOfSecrezServesThroughOurHub(t *testing.T) {
	t.Parallel()
	n := startNode(t, "tunnel.js")
	h := startSecrezHub(t)
	res := startSecrezTunnel(t, n, h.addr, nil)
	if res.Info == nil || res.Info.Count != 4 || res.Info.URL != "http://"+res.Info.ID.String()+".hub.test" {
		t.Fatalf("got %+v", res.Info)
	}
	opened(t, n, 4)

	// Messages signed in Go are verified by Secrez's crypto, ten at once over four sockets.
	var wg sync.WaitGroup
	for i := range 10 {
		message := signedByGo(t)
		wg.Go(func() {
			for j := range 5 {
				h.post(res.Info.ID, fmt.Sprintf("/%d/%d", i, j), message)
			}
		})
	}
	wg.Wait()

	// The hub names the account that it was told, and verifies what that account signs.
	var key string
	n.do(t, "publicKey", map[string]any{"name": "alice"}, &key)
	rec, ok := h.registry.Lookup(res.Info.ID)
	if !ok {
		t.Fatal("nobody has the id")
	}
	if got, err := rec.PublicKey(); err != nil || got.String() != key {
		t.Errorf("the key is %v, %v; want %s", got, err, key)
	}
	var signed secrez.Signed
	n.do(t, "sign", map[string]any{"name": "alice", "body": map[string]any{"message": "<€\u2028😀>"}}, &signed)
	if payload, err := signed.Verify(); err != nil || payload.PublicKey().String() != key {
		t.Errorf("what Secrez signs: %v", err)
	}
	n.mustLive(t)
}

// The original's hub locks a courier out that comes back too soon.
func TestACourierOfSecrezComesBackAtOnceAndKeepsItsID(t *testing.T) {
	t.Parallel()
	n := startNode(t, "tunnel.js")
	h := startSecrezHub(t)
	first := startSecrezTunnel(t, n, h.addr, nil)
	opened(t, n, 4)
	again := startSecrezTunnel(t, n, h.addr, nil) // the sockets of before may be half open
	opened(t, n, 4)
	if again.Info == nil || again.Attempts != 1 || again.Info.ID != first.Info.ID || again.Info.Port == 0 {
		t.Fatalf("got %+v after %d attempts, want %+v", again.Info, again.Attempts, first.Info)
	}
	h.post(again.Info.ID, "/", signedByGo(t))

	h.stop()
	waitEvent(t, n, "closed", func(string) bool { return true }) // for good
	h.start()
	after := startSecrezTunnel(t, n, h.addr, nil)
	opened(t, n, 4)
	if after.Info == nil || after.Info.ID != first.Info.ID {
		t.Fatalf("after the hub's restart: %+v, want %v", after.Info, first.Info.ID)
	}
	h.post(after.Info.ID, "/", signedByGo(t))
}

// The client repeats a registration whose answer it has not heard, in the same
// bytes. The original's hub refuses that for ever.
func TestACourierOfSecrezThatMissedTheAnswerGetsIt(t *testing.T) {
	t.Parallel()
	n := startNode(t, "tunnel.js")
	h := startSecrezHub(t)
	var requests atomic.Int32
	behind := &url.URL{Scheme: "http", Host: h.addr}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(behind) },
		ModifyResponse: func(*http.Response) error {
			if requests.Add(1) <= 2 {
				return http.ErrAbortHandler // the answer is lost on its way
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	front := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = front.Serve(l) })
	t.Cleanup(func() { _ = front.Close(); served.Wait() })

	res := startSecrezTunnel(t, n, l.Addr().String(), nil)
	if res.Info == nil || res.Attempts != 3 {
		t.Fatalf("got %+v after %d attempts", res.Info, res.Attempts)
	}
	opened(t, n, 4)
	h.post(res.Info.ID, "/", signedByGo(t))
	if h.registry.Count() != 1 || h.pools.Len() != 1 {
		t.Errorf("%d records, %d ports", h.registry.Count(), h.pools.Len())
	}
}

func TestACourierOfSecrezIsToldWhyItsResetIsRefused(t *testing.T) {
	t.Parallel()
	n := startNode(t, "tunnel.js")
	h := startSecrezHub(t)
	first := startSecrezTunnel(t, n, h.addr, nil)
	refused := startSecrezTunnel(t, n, h.addr, map[string]any{"reset": true, "timeout": 500})
	if refused.Info != nil {
		t.Fatalf("an unsigned reset gave %+v", refused.Info)
	}
	type refusal struct {
		Status int    `json:"status"`
		Body   string `json:"body"`
	}
	waitEvent(t, n, "refused", func(r refusal) bool {
		return r.Status == http.StatusBadRequest && strings.Contains(r.Body, "a reset must be signed")
	})
	signed := startSecrezTunnel(t, n, h.addr, map[string]any{"reset": true, "body": map[string]any{"reset": true}})
	opened(t, n, 4)
	if signed.Info == nil || signed.Info.ID == first.Info.ID {
		t.Fatalf("a signed reset gave %+v", signed.Info)
	}
	h.post(signed.Info.ID, "/", signedByGo(t))
}
