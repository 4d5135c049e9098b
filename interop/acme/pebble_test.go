package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/secretstack/secretstack/hub/cert"
)

const domain = "hub.example.org"

// authority is a Pebble.
type authority struct {
	server  *httptest.Server // over TLS, with a certificate that nobody trusts
	current atomic.Pointer[http.Handler]
	issuer  *ca.CAImpl
	opts    authorityOptions
}

type authorityOptions struct {
	httpPort, tlsPort int    // where it looks for us
	resolver          string // whom it asks
	validity          uint64 // seconds; 0: years
	account           string // key id of an account that newcomers must have
}

const macKey = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W" // base64url, as Pebble's own tests have it

func newAuthority(t *testing.T, opts authorityOptions) *authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_AUTHZREUSE", "0") // each certificate is a challenge
	a := &authority{opts: opts}
	a.forget(t)
	a.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*a.current.Load()).ServeHTTP(w, r)
	}))
	a.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.server.StartTLS()
	t.Cleanup(a.server.Close)
	return a
}

// forget makes a new Pebble at the same address, which knows nobody.
func (a *authority) forget(t *testing.T) {
	t.Helper()
	logger := log.New(testWriter{t}, "pebble: ", 0)
	if !testing.Verbose() {
		logger.SetOutput(io.Discard)
	}
	store := db.NewMemoryStore()
	if a.opts.account != "" {
		if err := store.AddExternalAccountKeyByID(a.opts.account, macKey); err != nil {
			t.Fatal(err)
		}
	}
	profiles := map[string]ca.Profile{"default": {Description: "the only one", ValidityPeriod: a.opts.validity}}
	a.issuer = ca.New(logger, store, "", "ecdsa", 0, 1, profiles)
	checker := va.New(logger, a.opts.httpPort, a.opts.tlsPort, true, a.opts.resolver, store)
	front := wfe.New(logger, store, checker, a.issuer, []string{"pebble.example.org"}, true, a.opts.account != "", 0, 0)
	handler := front.Handler()
	a.current.Store(&handler)
}

// testWriter writes to a test's log as long as there is one: Pebble goes on for ever.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// roots trusts what the authority issues.
func (a *authority) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	root, err := x509.ParseCertificate(a.issuer.GetRootCert(0).DER)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return pool
}

// options are those of a hub that uses the authority.
func (a *authority) options(t *testing.T, folder string, told *record) cert.AutomaticOptions {
	t.Helper()
	front := x509.NewCertPool()
	front.AddCert(a.server.Certificate())
	return cert.AutomaticOptions{
		Domain: domain, Folder: folder, AgreeToTerms: true, Email: "operator@example.org",
		Directory: a.server.URL + wfe.DirectoryPath, Roots: front, Logger: slog.New(told),
	}
}

// start starts automatic certificates, which end with the test, and completely.
func start(t *testing.T, opts cert.AutomaticOptions) *cert.Automatic {
	t.Helper()
	a, err := cert.StartAutomatic(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, a) })
	return a
}

func end(t *testing.T, a *cert.Automatic) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	for range 1000 { // a goroutine that has said that it is done may not have ended yet
		if !running() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("it goes on after Close")
}

// running reports whether any certificates are kept in the background.
func running() bool {
	stacks := make([]byte, 1<<20)
	return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "cert.(*Automatic).run")
}

// record is a log that can be waited for.
type record struct {
	t     *testing.T
	mu    sync.Mutex
	lines []string
	added chan struct{} // closed and made anew with each line
}

func newRecord(t *testing.T) *record { return &record{t: t, added: make(chan struct{})} }

func (*record) Enabled(context.Context, slog.Level) bool { return true }
func (r *record) WithAttrs([]slog.Attr) slog.Handler     { return r }
func (r *record) WithGroup(string) slog.Handler          { return r }
func (r *record) Handle(_ context.Context, e slog.Record) error {
	line := e.Message
	e.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, line)
	close(r.added)
	r.added = make(chan struct{})
	return nil
}

// wait waits until so many lines have all the parts.
func (r *record) wait(n int, parts ...string) {
	r.t.Helper()
	late := time.After(2 * time.Minute)
	for {
		r.mu.Lock()
		found, added := 0, r.added
		for _, line := range r.lines {
			if has(line, parts) {
				found++
			}
		}
		lines := strings.Join(r.lines, "\n")
		r.mu.Unlock()
		if found >= n {
			return
		}
		select {
		case <-added:
		case <-late:
			r.t.Fatalf("waited in vain for %q; there is:\n%s", parts, lines)
		}
	}
}

func has(line string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(line, part) {
			return false
		}
	}
	return true
}

// parentZone answers for everything above the zone of proofs, which it delegates: it asks the hub over UDP.
type parentZone struct {
	addr string
	hub  *cert.Responder

	mu   sync.Mutex
	live bool // guarded by mu: the domain has an address
}

func newParentZone(t *testing.T, hub *cert.Responder) *parentZone {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &parentZone{addr: ln.Addr().String(), hub: hub, live: true}
	server := &dns.Server{Listener: ln, Handler: p}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe()
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return p
}

func (p *parentZone) set(live bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live = live
}

func (p *parentZone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	p.mu.Lock()
	live := p.live
	p.mu.Unlock()
	if strings.HasPrefix(q.Question[0].Name, "_acme-challenge.") && p.hub != nil {
		q.SetEdns0(1232, false)
		if answer, _, err := new(dns.Client).Exchange(q, p.hub.Addr().String()); err == nil {
			_ = w.WriteMsg(answer)
			return
		}
	}
	answer := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA && live {
		h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}
		answer.Answer = append(answer.Answer, &dns.A{Hdr: h, A: net.IPv4(127, 0, 0, 1)})
	}
	_ = w.WriteMsg(answer)
}

// show returns the certificate that a visitor of a host sees, which must be trusted.
func show(t *testing.T, config *tls.Config, roots *x509.CertPool, host string) *x509.Certificate {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	server := tls.Server(far, config)
	defer far.Close()
	go func() { _ = server.HandshakeContext(context.Background()) }()
	client := tls.Client(near, &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12})
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	return client.ConnectionState().PeerCertificates[0]
}
