package secrezapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier/secrezapi"
)

func TestAMessageIsDeliveredToAnotherCourier(t *testing.T) {
	o := bobs(t)
	client := clientTo(t, newServer(t, o.api.Public()))
	message := sealed(t, account(t, alice), account(t, bob).Public(), "hi", noon)
	check(t, client.Deliver(t.Context(), "http://7y-6ro-3z.127zero0one.com:8433", message))
	if n := o.count(t); n != 1 {
		t.Errorf("%d messages", n)
	}
	stranger := sealed(t, account(t, carol), account(t, bob).Public(), "hi", noon)
	err := client.Deliver(t.Context(), "http://7y-6ro-3z.127zero0one.com:8433", stranger)
	if refused, ok := errors.AsType[*secrezapi.RefusedError](err); !ok || refused.Status != 400 {
		t.Errorf("a stranger's: %v", err)
	}
}

func TestACourierThatIsAwayIsOffline(t *testing.T) {
	message := sealed(t, account(t, alice), account(t, bob).Public(), "hi", noon)
	for _, status := range []int{404, 502, 503, 504} {
		client := clientTo(t, newServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })))
		if err := client.Deliver(t.Context(), "http://7y-6ro-3z.127zero0one.com", message); !errors.Is(err, secrezapi.ErrOffline) {
			t.Errorf("%d: %v", status, err)
		}
	}
	for name, answer := range map[string]string{"no JSON": "hello", "nothing": ""} {
		client := clientTo(t, newServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) })))
		if err := client.Deliver(t.Context(), "http://7y-6ro-3z.127zero0one.com", message); !errors.Is(err, secrezapi.ErrOffline) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, address := range []string{"", "http://example.com", "ftp://7y-6ro-3z.example.com"} {
		if err := secrezapi.NewClient(secrezapi.ClientOptions{}).Deliver(t.Context(), address, message); !errors.Is(err, secrezapi.ErrOffline) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	followed := false
	elsewhere := newServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed = true }))
	client := clientTo(t, newServer(t, http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect)))
	err := client.Deliver(t.Context(), "http://7y-6ro-3z.127zero0one.com", sealed(t, account(t, alice), account(t, bob).Public(), "hi", noon))
	if refused, ok := errors.AsType[*secrezapi.RefusedError](err); !ok || refused.Status != 307 || followed {
		t.Errorf("%v, followed %v", err, followed)
	}
}

func TestAnAnswerThatDoesNotComeIsNotWaitedFor(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	client := secrezapi.ClientTo(secrezapi.ClientOptions{Timeout: 50 * time.Millisecond}, server.Listener.Addr().String())
	err := client.Deliver(t.Context(), "http://7y-6ro-3z.localhost", sealed(t, account(t, alice), account(t, bob).Public(), "hi", noon))
	if !errors.Is(err, secrezapi.ErrOffline) {
		t.Errorf("%v", err)
	}
}

// fakeHub gives out one port, on which it sends requests as Secrez's hub does.
type fakeHub struct {
	*httptest.Server
	port  net.Listener
	socks chan net.Conn
}

func newFakeHub(t *testing.T, sockets int) *fakeHub {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	h := &fakeHub{port: ln, socks: make(chan net.Conn, 100)}
	h.Server = newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/tunnel/new" || r.URL.Query().Get("payload") == "" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"status_code":400,"message":"Wrong parameters"}`)
			return
		}
		port := ln.Addr().(*net.TCPAddr).Port
		_, _ = io.WriteString(w, `{"id":"7y-6ro-3z","port":`+strconv.Itoa(port)+`,"max_conn_count":`+strconv.Itoa(sockets)+`,"url":"http://7y-6ro-3z.example.com"}`)
	}))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			h.socks <- c
		}
	}()
	t.Cleanup(h.stop)
	return h
}

func (h *fakeHub) stop() {
	_ = h.port.Close()
	for {
		select {
		case c := <-h.socks:
			_ = c.Close()
		default:
			return
		}
	}
}

// ask makes a request over a socket of the courier.
func (h *fakeHub) ask(t *testing.T, c net.Conn, r *http.Request) string {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: false, DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	r.RequestURI, r.URL.Scheme, r.URL.Host = "", "http", "7y-6ro-3z.example.com"
	response, err := transport.RoundTrip(r)
	check(t, err)
	return body(t, response)
}

// clientAt is the client of a courier whose owner has chosen a hub.
func clientAt(hub *fakeHub) *secrezapi.Client {
	return secrezapi.NewClient(secrezapi.ClientOptions{Hubs: []string{hub.Listener.Addr().String()}})
}

func TestATunnelMakesTheHandlerReachable(t *testing.T) {
	o, hub := bobs(t), newFakeHub(t, 3)
	tunnel := secrezapi.NewTunnel(secrezapi.TunnelOptions{Client: clientAt(hub), Hub: hub.URL, Handler: o.api.Public(), Retry: time.Millisecond})
	defer func() { check(t, tunnel.Close()) }()
	if at := tunnel.Published(); !at.ID.IsZero() {
		t.Errorf("published at %v before anything", at)
	}
	at, err := tunnel.Publish(t.Context(), signed(t, account(t, bob), action{}, noon))
	if err != nil || at.ID.String() != "7y-6ro-3z" || tunnel.Published() != at {
		t.Fatalf("%v, %v", at, err)
	}
	var socks []net.Conn
	for range 3 {
		socks = append(socks, <-hub.socks)
	}
	if got := hub.ask(t, socks[0], httptest.NewRequest("GET", "/", nil)); got != `{"error":"Error"}` {
		t.Errorf("GET /: %s", got)
	}
	_ = socks[1].Close()
	socks[1] = <-hub.socks // another one takes its place
	if got := hub.ask(t, socks[1], httptest.NewRequest("POST", "/", strings.NewReader("{}"))); got != `{"error":"Bad request"}` {
		t.Errorf("POST /: %s", got)
	}
	hub.stop()
	for _, c := range socks {
		_ = c.Close()
	}
	for deadline := time.Now().Add(time.Minute); !tunnel.Published().ID.IsZero(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the hub has ended, and the tunnel says that it is there")
		}
	}
	<-tunnel.Lost()
}

func TestATunnelThatDoesNotOpenSaysSo(t *testing.T) {
	hub := newFakeHub(t, 1)
	check(t, hub.port.Close())
	tunnel := secrezapi.NewTunnel(secrezapi.TunnelOptions{Client: clientAt(hub), Hub: hub.URL, Handler: http.NotFoundHandler(), Retry: time.Millisecond})
	defer func() { check(t, tunnel.Close()) }()
	if _, err := tunnel.Publish(t.Context(), signed(t, account(t, bob), action{}, noon)); !errors.Is(err, secrezapi.ErrOffline) {
		t.Errorf("a port that is closed: %v", err)
	}
	gone := secrezapi.NewTunnel(secrezapi.TunnelOptions{Client: clientAt(hub), Hub: "http://127.0.0.1:1", Handler: http.NotFoundHandler()})
	if _, err := gone.Publish(t.Context(), signed(t, account(t, bob), action{}, noon)); !errors.Is(err, secrezapi.ErrOffline) {
		t.Errorf("no hub: %v", err)
	}
	check(t, gone.Close())
	if _, err := tunnel.Publish(t.Context(), signed(t, account(t, bob), action{}, noon)); err == nil {
		t.Error("published without a port")
	}
}

func TestTheCertificateIsForThisMachine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	first, err := secrezapi.LoadCertificates(dir, noon)
	check(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(first.CA)) {
		t.Fatal("no CA")
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, err := first.Leaf.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: pool, CurrentTime: noon}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := first.Leaf.Leaf.Verify(x509.VerifyOptions{DNSName: "example.com", Roots: pool, CurrentTime: noon}); err == nil {
		t.Error("it is good for example.com")
	}
	again, err := secrezapi.LoadCertificates(dir, noon)
	if err != nil || again.CA != first.CA || !again.Leaf.Leaf.Equal(first.Leaf.Leaf) {
		t.Errorf("read again, they are others: %v", err)
	}
	later, err := secrezapi.LoadCertificates(dir, noon.AddDate(3, 0, 0))
	if err != nil || later.CA != first.CA || later.Leaf.Leaf.Equal(first.Leaf.Leaf) {
		t.Errorf("years later the leaf is not another, by the same authority: %v", err)
	}
	info, err := os.Stat(filepath.Join(dir, "ca.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	check(t, os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("poem"), 0o600))
	if _, err := secrezapi.LoadCertificates(dir, noon); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged file: %v", err)
	}
}

func TestTheCertificateWorksInTLS(t *testing.T) {
	certs, err := secrezapi.LoadCertificates(t.TempDir(), time.Now())
	check(t, err)
	server := httptest.NewUnstartedServer(bobs(t).api.Local())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certs.Leaf}}
	server.StartTLS()
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(certs.CA))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}}
	u, err := url.Parse(server.URL)
	check(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://127.0.0.1:"+u.Port()+"/", nil)
	check(t, err)
	response, err := client.Do(r)
	check(t, err)
	if got := body(t, response); got != `{"hello":"world"}` {
		t.Errorf("%s", got)
	}
}
