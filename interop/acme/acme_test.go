package acme

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/secretstack/secretstack/hub/cert"
	"github.com/secretstack/secretstack/hub/port"
)

func listen(t *testing.T) (net.Listener, int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln, ln.Addr().(*net.TCPAddr).Port
}

func responder(t *testing.T) *cert.Responder {
	t.Helper()
	r, err := cert.NewResponder(cert.ResponderOptions{Domain: domain})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// serve opens the hub's port with certificates.
func serve(t *testing.T, ln net.Listener, a *cert.Automatic) {
	t.Helper()
	p := port.Open(port.Options{TLS: a.TLSConfig()}, ln)
	server := p.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(p.HTTP())
	}()
	t.Cleanup(func() {
		_, _ = p.Close(), server.Close()
		<-done
	})
}

// The authority's handshake comes in at the same port as everything else.
func TestTheDomainByTLSALPN01(t *testing.T) {
	ln, tlsPort := listen(t)
	authority := newAuthority(t, authorityOptions{tlsPort: tlsPort, resolver: newParentZone(t, nil).addr})
	told := newRecord(t)
	a := start(t, authority.options(t, t.TempDir(), told))
	serve(t, ln, a)
	told.wait(1, "certificate issued", "name="+domain)
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: authority.roots(t), ServerName: domain, MinVersion: tls.VersionTLS12},
	}}
	defer client.CloseIdleConnections()
	response, err := client.Get("https://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "HTTP/2.0" {
		t.Errorf("%q %v", body, err)
	}
}

func TestTheDomainByHTTP01(t *testing.T) {
	ln, httpPort := listen(t)
	authority := newAuthority(t, authorityOptions{httpPort: httpPort, resolver: newParentZone(t, nil).addr})
	told := newRecord(t)
	opts := authority.options(t, t.TempDir(), told)
	opts.Challenges = []cert.Challenge{cert.HTTP01}
	a := start(t, opts)
	server := &httptest.Server{Listener: ln, Config: &http.Server{Handler: a.HTTPHandler(http.RedirectHandler("https://x", http.StatusFound))}}
	server.Start()
	defer server.Close()
	told.wait(1, "certificate issued", "name="+domain)
	show(t, a.TLSConfig(), authority.roots(t), domain)
}

// The authority asks the hub itself, over TCP, as Pebble does.
func TestEveryIDByDNS01(t *testing.T) {
	r := responder(t)
	authority := newAuthority(t, authorityOptions{resolver: r.Addr().String()})
	told := newRecord(t)
	opts := authority.options(t, t.TempDir(), told)
	opts.Wildcard, opts.Responder, opts.Challenges = true, r, []cert.Challenge{cert.DNS01}
	a := start(t, opts)
	told.wait(1, "certificate issued", "name=*."+domain)
	told.wait(1, "certificate issued", "name="+domain)
	for _, host := range []string{domain, "7y-6ro-3z." + domain, "x." + domain} {
		show(t, a.TLSConfig(), authority.roots(t), host)
	}
	question := new(dns.Msg).SetQuestion("_acme-challenge."+domain+".", dns.TypeTXT)
	left, _, err := new(dns.Client).Exchange(question, r.Addr().String())
	if err != nil || len(left.Answer) != 0 {
		t.Errorf("proofs are left: %v %v", left, err)
	}
	for _, s := range a.Status() {
		if s.Err != nil || s.NotAfter.IsZero() {
			t.Errorf("%+v", s)
		}
	}
}

// Both at once, the domain's zone being somebody else's, with a delegation that is asked over UDP.
func TestDomainAndIDsOnAHubWithADelegatedZone(t *testing.T) {
	ln, tlsPort := listen(t)
	r := responder(t)
	authority := newAuthority(t, authorityOptions{tlsPort: tlsPort, resolver: newParentZone(t, r).addr})
	told := newRecord(t)
	opts := authority.options(t, t.TempDir(), told)
	opts.Wildcard, opts.Responder = true, r
	a := start(t, opts)
	serve(t, ln, a)
	told.wait(1, "certificate issued", "name="+domain)
	told.wait(1, "certificate issued", "name=*."+domain)
	for _, host := range []string{domain, "7y-6ro-3z." + domain} {
		show(t, a.TLSConfig(), authority.roots(t), host)
	}
}

func TestCertificatesAreRenewedAndSurviveARestart(t *testing.T) {
	r := responder(t)
	authority := newAuthority(t, authorityOptions{resolver: r.Addr().String(), validity: 8})
	told := newRecord(t)
	folder := t.TempDir()
	opts := authority.options(t, folder, told)
	opts.Wildcard, opts.Responder, opts.Challenges = true, r, []cert.Challenge{cert.DNS01}
	a := start(t, opts)
	told.wait(1, "certificate issued", "name=*."+domain)
	first := current(t, a, "x."+domain)
	told.wait(3, "certificate issued", "name=*."+domain)
	third := current(t, a, "x."+domain)
	if first == third {
		t.Error("the same certificate")
	}
	end(t, a)
	last := current(t, a, "x."+domain)
	account := accounts(t, folder)

	// The authority has gone. What was issued last is there.
	authority.server.Close()
	again := start(t, opts)
	if got := current(t, again, "x."+domain); got != last {
		t.Errorf("certificate %s, want %s", got, last)
	}
	if now := accounts(t, folder); now != account || now == "" {
		t.Error("another account")
	}
}

// current returns the serial number of the certificate for a host.
func current(t *testing.T, a *cert.Automatic, host string) string {
	t.Helper()
	c, err := a.GetCertificate(&tls.ClientHelloInfo{ServerName: host})
	if err != nil || c == nil {
		t.Fatalf("%s: no certificate, %v", host, err)
	}
	return c.Leaf.SerialNumber.Text(16)
}

// accounts returns what is kept of accounts.
func accounts(t *testing.T, folder string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(folder, "account-*.json"))
	if err != nil || len(names) != 1 {
		t.Fatalf("%v %v", names, err)
	}
	text, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAFailureIsReportedAndTriedAgainWhenAsked(t *testing.T) {
	ln, tlsPort := listen(t)
	parent := newParentZone(t, nil)
	parent.set(false) // the domain has no address yet
	authority := newAuthority(t, authorityOptions{tlsPort: tlsPort, resolver: parent.addr})
	told := newRecord(t)
	a := start(t, authority.options(t, t.TempDir(), told))
	serve(t, ln, a)
	told.wait(1, "could not be got", domain, "Could not resolve", "retry=")
	if s := a.Status()[0]; s.Err == nil || !strings.Contains(s.Err.Error(), "Could not resolve") || !s.NotAfter.IsZero() {
		t.Errorf("%+v", s)
	}
	parent.set(true)
	if err := a.Reload(); err != nil {
		t.Error(err)
	}
	told.wait(1, "certificate issued", "name="+domain)
	show(t, a.TLSConfig(), authority.roots(t), domain)
	if s := a.Status()[0]; s.Err != nil || s.NotAfter.IsZero() {
		t.Errorf("%+v", s)
	}
}

func TestAnAuthorityThatHasForgottenUsGetsANewAccount(t *testing.T) {
	r := responder(t)
	authority := newAuthority(t, authorityOptions{resolver: r.Addr().String()})
	folder := t.TempDir()
	for range 2 {
		told := newRecord(t)
		opts := authority.options(t, folder, told)
		opts.Responder, opts.Challenges = r, []cert.Challenge{cert.DNS01}
		a := start(t, opts)
		told.wait(1, "certificate issued", "name="+domain)
		end(t, a)
		if err := os.Remove(filepath.Join(folder, domain+".pem")); err != nil {
			t.Fatal(err)
		}
		authority.forget(t)
	}
}

func TestAnAuthorityThatWantsAnAccountOfItsOwn(t *testing.T) {
	r := responder(t)
	authority := newAuthority(t, authorityOptions{resolver: r.Addr().String(), account: "kid-1"})
	told := newRecord(t)
	opts := authority.options(t, t.TempDir(), told)
	opts.Responder, opts.Challenges = r, []cert.Challenge{cert.DNS01}
	stranger := start(t, opts)
	told.wait(1, "could not be got", "making an account")
	end(t, stranger)
	opts.KeyID, opts.MACKey = "kid-1", macKey
	start(t, opts)
	told.wait(1, "certificate issued", "name="+domain)
}
