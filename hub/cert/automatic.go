package cert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/secretstack/secretstack/internal/netaddr"
)

// LetsEncrypt is the directory of the authority that is asked unless another is configured.
const LetsEncrypt = "https://acme-v02.api.letsencrypt.org/directory"

const (
	issueTimeout = 5 * time.Minute  // for one attempt to get a certificate
	askTimeout   = 20 * time.Second // for one question when to renew
	askAgain     = 6 * time.Hour    // after an answer that does not say, or none
	lookAgain    = time.Hour        // at the clock, which may have been set
)

// AutomaticOptions configures [StartAutomatic].
type AutomaticOptions struct {
	// Domain is the hub's, in lower case, such as hub.example.org. Required.
	Domain string
	// Wildcard gets a certificate for *.Domain as well. It needs a Responder.
	Wildcard bool
	// Folder is where account, keys and certificates are kept. It is made when it is not there. Required.
	Folder string
	// AgreeToTerms says that the operator agrees to the terms of service of the authority. Required.
	AgreeToTerms bool
	// Email is given to the authority; none need be.
	Email string
	// Directory is the URL of the authority's directory; empty: [LetsEncrypt].
	Directory string
	// KeyID and MACKey bind the account to one that the authority has given out before, where it wants that.
	KeyID, MACKey string
	// Roots are trusted when the authority's server is spoken to; nil: those of the system.
	Roots *x509.CertPool
	// Challenges are the ways in which the authority may check the domain itself. nil: TLSALPN01, and DNS01 when there is
	// a Responder.
	Challenges []Challenge
	// Responder answers for DNS01. The caller closes it.
	Responder *Responder
	// Logger is told of certificates and of failures to get them. nil: none
	Logger *slog.Logger
}

// Automatic are certificates that are got and renewed by themselves.
type Automatic struct {
	opts       AutomaticOptions
	store      store
	http       *http.Client
	challenges challenges
	subjects   []*subject
	wake       chan struct{} // of one element: attempts that failed are to be made again
	cancel     context.CancelFunc
	done       chan struct{} // closed when run has returned
}

// subject is what one certificate is for.
type subject struct {
	name    string // the domain, or the wildcard below it
	solvers map[string]acmez.Solver
	current atomic.Pointer[tls.Certificate] // nil before there is one

	mu  sync.Mutex
	err error // guarded by mu: of the latest attempt

	// Owned by run.
	saved    time.Time        // when current was saved
	failures int              // since the latest success
	retry    time.Time        // when to try again after a failure
	advice   acme.RenewalInfo // of the authority, about current
	ask      time.Time        // when to ask for it again
}

// StartAutomatic loads what is in the folder, and gets and renews certificates in the background until Close.
func StartAutomatic(opts AutomaticOptions) (*Automatic, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	kept, err := openStore(opts.Folder)
	if err != nil {
		return nil, err
	}
	a := &Automatic{
		opts: opts, store: kept, http: authorityClient(opts.Roots), wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	a.subjects = append(a.subjects, &subject{name: opts.Domain, solvers: a.solvers(opts.Challenges)})
	if opts.Wildcard {
		a.subjects = append(a.subjects, &subject{name: "*." + opts.Domain, solvers: a.solvers([]Challenge{DNS01})})
	}
	for _, s := range a.subjects {
		a.load(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	go a.run(ctx)
	return a, nil
}

// authorityClient is what the authority is spoken to with.
func authorityClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:             http.ProxyFromEnvironment,
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true,
			IdleConnTimeout:   time.Minute,
		},
		Timeout: 30 * time.Second,
	}
}

// check sets defaults, and says what is missing.
func (opts *AutomaticOptions) check() error {
	if opts.Directory == "" {
		opts.Directory = LetsEncrypt
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Challenges == nil {
		opts.Challenges = []Challenge{TLSALPN01}
		if opts.Responder != nil {
			opts.Challenges = append(opts.Challenges, DNS01)
		}
	}
	switch {
	case !isHostname(opts.Domain):
		return fmt.Errorf("cert: %q is no domain to get certificates for", opts.Domain)
	case opts.Folder == "":
		return errors.New("cert: automatic certificates need a folder")
	case !opts.AgreeToTerms:
		return fmt.Errorf("cert: the terms of service of the authority at %s must be agreed to", opts.Directory)
	case opts.Responder == nil && (opts.Wildcard || slices.Contains(opts.Challenges, DNS01)):
		return fmt.Errorf("cert: a certificate for *.%s, and the challenge %s, need the hub to answer DNS", opts.Domain, DNS01)
	case opts.Responder != nil && opts.Responder.domain != opts.Domain:
		return fmt.Errorf("cert: DNS is answered for %s, not for %s", opts.Responder.domain, opts.Domain)
	}
	for _, c := range opts.Challenges {
		if c != TLSALPN01 && c != HTTP01 && c != DNS01 {
			return fmt.Errorf("cert: there is no challenge %q", c)
		}
	}
	return nil
}

// isHostname reports whether a name has the form of a host's, in lower case and with a dot in it.
func isHostname(name string) bool {
	return strings.Contains(name, ".") && netaddr.IsHostName(name)
}

func (a *Automatic) solvers(of []Challenge) map[string]acmez.Solver {
	all := map[string]acmez.Solver{}
	for _, c := range of {
		switch c {
		case TLSALPN01:
			all[string(c)] = alpnSolver{&a.challenges}
		case HTTP01:
			all[string(c)] = httpSolver{&a.challenges}
		case DNS01:
			all[string(c)] = dnsSolver{a.opts.Responder}
		}
	}
	return all
}

// load takes what was saved before. What cannot be used is got anew.
func (a *Automatic) load(s *subject) {
	c, saved, err := a.store.certificate(s.name)
	if err == nil && c != nil {
		err = covers(c, []string{s.example()})
	}
	switch {
	case err != nil:
		a.opts.Logger.Error("a saved certificate cannot be used", "err", err)
		s.report(err)
	case c == nil:
		s.report(errNone)
	default:
		s.current.Store(c)
		if s.saved = saved; saved.After(time.Now()) { // the clock has been set
			s.saved = c.Leaf.NotBefore
		}
		a.opts.Logger.Info("certificate loaded", "name", s.name, "is", timeLeft(c, time.Now()))
	}
}

// example returns a name that the certificate must be for.
func (s *subject) example() string { return strings.Replace(s.name, "*", "x", 1) }

// serves reports whether the certificate is for a host. Who names none wants the domain.
func (s *subject) serves(host string) bool {
	if below, wildcard := strings.CutPrefix(s.name, "*."); wildcard {
		_, domain, _ := strings.Cut(host, ".")
		return domain == below
	}
	return host == s.name || host == ""
}

func (s *subject) report(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// run keeps all certificates.
func (a *Automatic) run(ctx context.Context) {
	defer close(a.done)
	for ctx.Err() == nil {
		next := time.Now().Add(lookAgain)
		for _, s := range a.subjects {
			if at := a.attend(ctx, s); at.Before(next) {
				next = at
			}
		}
		if a.sleep(ctx, time.Until(next)) {
			for _, s := range a.subjects {
				s.retry = time.Time{}
			}
		}
	}
}

// sleep waits, and reports whether it was woken.
func (a *Automatic) sleep(ctx context.Context, d time.Duration) (woken bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-a.wake:
		return true
	}
	return false
}

// attend renews a certificate if it is time, and returns when to look again.
func (a *Automatic) attend(ctx context.Context, s *subject) time.Time {
	if s.current.Load() != nil && !time.Now().Before(s.ask) {
		a.askAdvice(ctx, s)
	}
	if at := s.due(); time.Now().Before(at) {
		return at
	}
	a.renew(ctx, s)
	return s.due()
}

// due returns when to get a certificate.
func (s *subject) due() time.Time {
	at := time.Time{}
	if c := s.current.Load(); c != nil {
		at = renewAt(c.Leaf, s.saved, s.advice.SelectedTime)
	}
	if s.retry.After(at) {
		return s.retry
	}
	return at
}

// renewAt returns when a certificate is to be renewed: when the authority advises it, if it does, or when a third of its
// time is left. Whatever the authority advises, it is not later than when a sixth is left, and not so soon that we would
// do nothing else.
func renewAt(leaf *x509.Certificate, saved, advised time.Time) time.Time {
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	at := leaf.NotAfter.Add(-lifetime / 3)
	if latest := leaf.NotAfter.Add(-lifetime / 6); !advised.IsZero() {
		at = advised
		if at.After(latest) {
			at = latest
		}
	}
	if earliest := saved.Add(min(time.Hour, lifetime/4)); at.Before(earliest) {
		return earliest
	}
	return at
}

// askAdvice asks the authority when to renew. A certificate that it revokes is renewed early that way.
func (a *Automatic) askAdvice(ctx context.Context, s *subject) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	s.ask = time.Now().Add(askAgain)
	advice, err := a.client().GetRenewalInfo(ctx, s.current.Load().Leaf)
	if err != nil {
		a.opts.Logger.Debug("the certificate authority does not say when to renew", "name", s.name, "err", err)
		return
	}
	if !advice.SameWindow(s.advice) { // a time within it is chosen once
		s.advice = advice
	}
	if advice.RetryAfter != nil && advice.RetryAfter.After(time.Now().Add(time.Minute)) {
		s.ask = *advice.RetryAfter
	}
}

// renew makes one attempt to get a certificate.
func (a *Automatic) renew(ctx context.Context, s *subject) {
	trying, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	var replaces *x509.Certificate
	if s.advice.HasWindow() {
		replaces = s.current.Load().Leaf
	}
	c, err := a.issue(trying, s, replaces)
	if ctx.Err() != nil {
		return
	}
	if c != nil {
		s.current.Store(c)
		s.saved, s.failures, s.retry = time.Now(), 0, time.Time{}
		s.advice, s.ask = acme.RenewalInfo{}, time.Time{}
		a.opts.Logger.Info("certificate issued", "name", s.name, "is", timeLeft(c, time.Now()))
	} else {
		s.failures++
		s.retry = time.Now().Add(patience(s.failures))
	}
	if err != nil {
		err = fmt.Errorf("cert: certificate for %s: %w", s.name, err)
		a.opts.Logger.Error("a certificate could not be got or saved", "err", err, "retry", s.due().Format(time.RFC3339))
	}
	s.report(err)
}

// patience returns how long to wait after a number of failures, give or take a tenth.
func patience(failures int) time.Duration {
	minutes := [...]int{2, 15, 60, 120, 240, 360}
	wait := time.Duration(minutes[min(failures, len(minutes))-1]) * time.Minute
	return wait + time.Duration((rand.Float64()-0.5)/5*float64(wait))
}

// Reload makes attempts that failed again at once, for instance after a change to the domain's DNS.
func (a *Automatic) Reload() error {
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

// GetCertificate is for tls.Config. There is none for names that are not ours.
func (a *Automatic) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if asks(hello) {
		return a.challenges.certificate(hello.ServerName), nil
	}
	host := strings.ToLower(hello.ServerName)
	for _, s := range a.subjects {
		if s.serves(host) {
			return s.current.Load(), nil
		}
	}
	return nil, nil // crypto/tls says that the name is unknown
}

// TLSConfig returns a configuration for servers that uses the certificates, and answers TLS-ALPN-01.
func (a *Automatic) TLSConfig() *tls.Config {
	config := serverConfig(a.GetCertificate)
	config.NextProtos = append(config.NextProtos, acmez.ACMETLS1Protocol)
	return config
}

// HTTPHandler answers HTTP-01, and leaves all other requests to next; nil answers 404.
func (a *Automatic) HTTPHandler(next http.Handler) http.Handler {
	if next == nil {
		next = http.NotFoundHandler()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := a.challenges.answer(r)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write([]byte(answer))
	})
}

// Status says how each certificate is doing.
func (a *Automatic) Status() []Status {
	var all []Status
	for _, s := range a.subjects {
		s.mu.Lock()
		status := Status{Names: []string{s.name}, Err: s.err}
		s.mu.Unlock()
		if c := s.current.Load(); c != nil {
			status.NotAfter = c.Leaf.NotAfter
		}
		all = append(all, status)
	}
	return all
}

// Close ends what happens in the background and waits for it. The certificates can still be used.
func (a *Automatic) Close() error {
	a.cancel()
	<-a.done
	a.http.CloseIdleConnections()
	return nil
}
