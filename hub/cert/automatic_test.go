package cert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// nobody is the directory of an authority that does not answer.
func nobody(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	return s.URL + "/dir"
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	r, err := NewResponder(ResponderOptions{Domain: "other.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	good := AutomaticOptions{Domain: "hub.example.org", Folder: filepath.Join(t.TempDir(), "tls"), AgreeToTerms: true}
	for want, change := range map[string]func(*AutomaticOptions){
		"is no domain":               func(o *AutomaticOptions) { o.Domain = "" },
		`"localhost" is no domain`:   func(o *AutomaticOptions) { o.Domain = "localhost" },
		`"Hub.example.org" is no`:    func(o *AutomaticOptions) { o.Domain = "Hub.example.org" },
		`"*.example.org" is no`:      func(o *AutomaticOptions) { o.Domain = "*.example.org" },
		`"-a.example.org" is no`:     func(o *AutomaticOptions) { o.Domain = "-a.example.org" },
		`"../x.org" is no`:           func(o *AutomaticOptions) { o.Domain = "../x.org" },
		"need a folder":              func(o *AutomaticOptions) { o.Folder = "" },
		"must be agreed to":          func(o *AutomaticOptions) { o.AgreeToTerms = false },
		"need the hub to answer DNS": func(o *AutomaticOptions) { o.Wildcard = true },
		"dns-01, need the hub":       func(o *AutomaticOptions) { o.Challenges = []Challenge{DNS01} },
		`no challenge "dns-02"`:      func(o *AutomaticOptions) { o.Challenges = []Challenge{"dns-02"} },
		"for other.example.org":      func(o *AutomaticOptions) { o.Responder = r },
	} {
		opts := good
		change(&opts)
		a, err := StartAutomatic(opts)
		if err == nil {
			_ = a.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// startWith starts with saved certificates, of an authority that does not answer.
func startWith(t *testing.T, folder string, saved map[string]made) *Automatic {
	t.Helper()
	for name, m := range saved {
		if err := os.WriteFile(filepath.Join(folder, name), append(m.key, m.cert...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := NewResponder(ResponderOptions{Domain: "hub.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := StartAutomatic(AutomaticOptions{
		Domain: "hub.example.org", Wildcard: true, Folder: folder, AgreeToTerms: true, Directory: nobody(t), Responder: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), r.Close() })
	return a
}

func TestSavedCertificatesAreUsedWithoutAskingAnybody(t *testing.T) {
	a := startWith(t, t.TempDir(), map[string]made{
		"hub.example.org.pem":   current(t, 1, "hub.example.org"),
		"_.hub.example.org.pem": makeCert(t, 2, -2*time.Hour, -time.Hour, "*.hub.example.org"), // expired
	})
	for host, want := range map[string]int64{
		"hub.example.org": 1, "HUB.example.org": 1, "": 1, "a.hub.example.org": 2, "7y-6ro-3z.hub.example.org": 2,
		"a.b.hub.example.org": 0, "example.org": 0, "xhub.example.org": 0, "elsewhere.org": 0, "*.hub.example.org": 2,
	} {
		wantSerial(t, a, host, want)
	}
	c, err := a.GetCertificate(hello("hub.example.org", "acme-tls/1"))
	if c != nil || err != nil {
		t.Error("a challenge that there is not was answered")
	}
	status := a.Status()
	if len(status) != 2 || status[0].Names[0] != "hub.example.org" || status[0].Err != nil ||
		status[1].Names[0] != "*.hub.example.org" || time.Now().Before(status[1].NotAfter) {
		t.Errorf("%+v", status)
	}
}

func TestASavedCertificateThatCannotBeUsedIsNotUsed(t *testing.T) {
	broken := current(t, 1, "hub.example.org")
	broken.key = current(t, 9, "hub.example.org").key
	a := startWith(t, t.TempDir(), map[string]made{
		"hub.example.org.pem":   broken,
		"_.hub.example.org.pem": current(t, 2, "*.other.example.org"),
	})
	wantSerial(t, a, "hub.example.org", 0)
	wantSerial(t, a, "a.hub.example.org", 0)
	for _, s := range a.Status() {
		if s.Err == nil || !s.NotAfter.IsZero() {
			t.Errorf("%+v", s)
		}
	}
	if err := a.Reload(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(a.Close(), a.Close()); err != nil {
		t.Error(err)
	}
}

func TestKeysAreForTheirOwnerAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a system where files have permission bits")
	}
	folder := filepath.Join(t.TempDir(), "tls")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := openStore(folder)
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	made := acme.Account{Location: "https://ca.example.org/1", PrivateKey: key}
	if err := errors.Join(s.writable(), s.saveAccount("https://ca.example.org", made),
		s.saveCertificate("*.hub.example.org", key, current(t, 1, "hub.example.org").cert)); err != nil {
		t.Fatal(err)
	}
	again, err := s.account("https://ca.example.org")
	if err != nil || again.Location != made.Location || !key.Equal(again.PrivateKey) || again.Status != acme.StatusValid {
		t.Errorf("%+v %v", again, err)
	}
	if _, err := s.account("https://another.example.org"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	var files []string
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %s", path, info.Mode())
		}
		files = append(files, d.Name())
		return nil
	})
	if err != nil || len(files) != 3 {
		t.Errorf("%v %v", files, err)
	}
	if err := s.forgetAccount("https://ca.example.org"); err != nil {
		t.Error(err)
	}
	if _, err := s.account("https://ca.example.org"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestAnAccountThatCannotBeReadIsNotMadeAnew(t *testing.T) {
	folder := t.TempDir()
	s, err := openStore(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{}", `{"directory":"d","location":"l","key":"x"}`} {
		if err := os.WriteFile(filepath.Join(folder, accountFile("d")), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.account("d"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Authorities count what they issue: nothing is asked for that could not be kept.
func TestNothingIsIssuedWhenItCouldNotBeSaved(t *testing.T) {
	folder := t.TempDir()
	a := startWith(t, folder, nil)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if _, err := a.issue(context.Background(), a.subjects[0], nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestCertificatesAreRenewedInTime(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	leaf := &x509.Certificate{NotBefore: start, NotAfter: start.Add(90 * day)}
	for name, c := range map[string]struct {
		advised time.Duration // after the start; 0: none
		want    time.Duration
	}{
		"without advice":     {0, 60 * day},
		"with advice":        {50 * day, 50 * day},
		"revoked":            {10 * day, 10 * day},
		"advice in the past": {-10 * day, time.Hour},
		"advice too late":    {100 * day, 75 * day},
	} {
		var advised time.Time
		if c.advised != 0 {
			advised = start.Add(c.advised)
		}
		if got := renewAt(leaf, start, advised).Sub(start); got != c.want {
			t.Errorf("%s: after %s, want %s", name, got, c.want)
		}
	}
	short := &x509.Certificate{NotBefore: start, NotAfter: start.Add(8 * time.Second)}
	if got := renewAt(short, start, start.Add(-day)).Sub(start); got != 2*time.Second {
		t.Errorf("a short one after %s", got)
	}
}

func TestPatienceGrows(t *testing.T) {
	last := time.Duration(0)
	for failures := 1; failures < 20; failures++ {
		wait := patience(failures)
		if failures <= 6 && wait <= last {
			t.Errorf("%s after %s", wait, last)
		}
		if wait > 400*time.Minute {
			t.Errorf("%s", wait)
		}
		last = wait
	}
}

func TestOnlyTheChallengeThatIsWaitedForIsAnswered(t *testing.T) {
	a := startWith(t, t.TempDir(), nil)
	solver := httpSolver{&a.challenges}
	c := acme.Challenge{Identifier: acme.Identifier{Type: "dns", Value: "hub.example.org"}, Token: "token", KeyAuthorization: "token.thumb"}
	if err := solver.Present(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	handler := a.HTTPHandler(nil)
	ask := func(url string) (int, string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
		return w.Code, w.Body.String()
	}
	const path = "/.well-known/acme-challenge/token"
	for url, want := range map[string]int{
		"http://hub.example.org" + path: 200, "http://HUB.example.org:80" + path: 200, "http://other.example.org" + path: 404,
		"http://hub.example.org" + path + "x": 404, "http://hub.example.org/": 404,
	} {
		code, body := ask(url)
		if code != want || code == 200 && body != "token.thumb" {
			t.Errorf("%s: %d %q", url, code, body)
		}
	}
	if err := solver.CleanUp(t.Context(), c); err != nil {
		t.Error(err)
	}
	if code, _ := ask("http://hub.example.org" + path); code != 404 {
		t.Error("answered when nobody waits any more")
	}
	alpn := alpnSolver{&a.challenges}
	if err := alpn.Present(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, err := a.GetCertificate(hello("HUB.example.org", "acme-tls/1")); err != nil || got == nil {
		t.Errorf("%v %v", got, err)
	}
	if got, _ := a.GetCertificate(hello("hub.example.org", "acme-tls/1", "h2")); got != nil {
		t.Error("a visitor got the certificate of a challenge")
	}
	if err := alpn.CleanUp(t.Context(), c); err != nil {
		t.Error(err)
	}
	if got, _ := a.GetCertificate(hello("hub.example.org", "acme-tls/1")); got != nil {
		t.Error("answered when nobody waits any more")
	}
}

func TestCloseDoesNotWaitForAnAuthority(t *testing.T) {
	asked, leave := make(chan struct{}, 1), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-leave
	}))
	defer s.Close()
	defer close(leave)
	a, err := StartAutomatic(AutomaticOptions{
		Domain: "hub.example.org", Folder: t.TempDir(), AgreeToTerms: true, Directory: s.URL,
	})
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if err := a.Status()[0].Err; !errors.Is(err, errNone) {
		t.Errorf("the end was taken for a failure: %v", err)
	}
}

func TestVisitorsGetTheCertificateAndHTTP2(t *testing.T) {
	p := pairIn(t.TempDir())
	one := current(t, 1, "hub.example.org")
	one.save(t, p)
	files, err := LoadFiles(FilesOptions{}, p)
	if err != nil {
		t.Fatal(err)
	}
	automatic := startWith(t, t.TempDir(), map[string]made{"hub.example.org.pem": one})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(one.cert)
	for _, config := range []*tls.Config{files.TLSConfig(), automatic.TLSConfig()} {
		shake := func(host string) (*tls.Conn, error) {
			near, far := net.Pipe()
			t.Cleanup(func() { _, _ = near.Close(), far.Close() })
			go func() { _ = tls.Server(far, config).Handshake() }()
			client := tls.Client(near, &tls.Config{ServerName: host, RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}})
			return client, client.Handshake()
		}
		c, err := shake("hub.example.org")
		if err != nil || c.ConnectionState().NegotiatedProtocol != "h2" {
			t.Errorf("%v %+v", err, c.ConnectionState())
		}
		if _, err := shake("elsewhere.org"); err == nil {
			t.Error("a certificate for any name")
		}
	}
}
