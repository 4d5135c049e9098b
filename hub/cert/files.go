package cert

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Pair names two files with PEM text.
type Pair struct {
	Cert string // the certificate, and those that lead to the authority's
	Key  string // its private key
}

// FilesOptions configures [LoadFiles]. The zero value is fit for use.
type FilesOptions struct {
	// Every is how often handshakes look whether the files have changed; 0: 10 s.
	Every time.Duration
	// Logger is told of certificates that were loaded, and that could not be. nil: none
	Logger *slog.Logger
}

// Files are certificates from files. Handshakes notice that a file has changed.
type Files struct {
	opts  FilesOptions
	start time.Time
	pairs []*filePair
	next  atomic.Int64 // nanoseconds after start: when a handshake looks at the files again
}

// LoadFiles loads certificates. A client gets the first that suits it, or else the first.
func LoadFiles(opts FilesOptions, first Pair, more ...Pair) (*Files, error) {
	opts.Every = cmp.Or(max(opts.Every, 0), 10*time.Second)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Files{opts: opts, start: time.Now()}
	f.next.Store(int64(opts.Every))
	for _, names := range append([]Pair{first}, more...) {
		p := &filePair{Pair: names, log: opts.Logger}
		if err := p.reload(time.Now(), true); err != nil {
			return nil, err
		}
		f.pairs = append(f.pairs, p)
	}
	return f, nil
}

// Reload loads all files again, whether they have changed or not. Those that cannot be used leave what was loaded before
// in place.
func (f *Files) Reload() error {
	var errs []error
	for _, p := range f.pairs {
		errs = append(errs, p.reload(time.Now(), true))
	}
	return errors.Join(errs...)
}

// GetCertificate is for tls.Config.
func (f *Files) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.refresh(time.Now())
	for _, p := range f.pairs {
		if c := p.current.Load(); hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	return f.pairs[0].current.Load(), nil
}

// refresh looks at the files when it is time, in one handshake of many.
func (f *Files) refresh(now time.Time) {
	next, elapsed := f.next.Load(), int64(now.Sub(f.start))
	if elapsed < next || !f.next.CompareAndSwap(next, elapsed+int64(f.opts.Every)) {
		return
	}
	for _, p := range f.pairs {
		_ = p.reload(now, false) // it has been logged, and Status has it
	}
}

// TLSConfig returns a configuration for servers that uses the certificates.
func (f *Files) TLSConfig() *tls.Config { return serverConfig(f.GetCertificate) }

// Status says how each certificate is doing.
func (f *Files) Status() []Status {
	var all []Status
	for _, p := range f.pairs {
		all = append(all, p.status())
	}
	return all
}

// Close does nothing: there is nothing to end.
func (f *Files) Close() error { return nil }

// serverConfig is what all certificates are used with.
func serverConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: get, NextProtos: []string{"h2", "http/1.1"}}
}

// filePair is one certificate from files.
type filePair struct {
	Pair
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate] // never nil once it is in use

	mu     sync.Mutex
	loaded [2]version // guarded by mu: of the files that were read last
	err    error      // guarded by mu: why they could not be used
}

// version tells whether a file has changed.
type version struct {
	modified time.Time
	size     int64
}

// reload reads the files, when they have changed or must be read. What is valid is not replaced by what is not.
func (p *filePair) reload(now time.Time, must bool) error {
	versions, err := p.versions()
	if err == nil && !must && p.upToDate(versions) {
		return nil
	}
	var c *tls.Certificate
	if err == nil {
		c, err = p.load()
	}
	if old := p.current.Load(); err == nil && old != nil && valid(old, now) && !valid(c, now) {
		err = errors.New("the new one is not valid now, and the old one is")
	}
	if err != nil {
		return p.failed(fmt.Errorf("cert: certificate %s: %w", p.Cert, err))
	}
	p.current.Store(c)
	p.succeeded(versions)
	p.log.Info("certificate loaded", "file", p.Cert, "names", c.Leaf.DNSNames, "is", timeLeft(c, now))
	return nil
}

// upToDate reports whether what is in use is what the files of these versions hold.
func (p *filePair) upToDate(versions [2]version) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return versions == p.loaded && p.err == nil
}

func (p *filePair) succeeded(versions [2]version) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded, p.err = versions, nil
}

// failed keeps an error, and logs it when it is new.
func (p *filePair) failed(err error) error {
	p.mu.Lock()
	known := p.err != nil && p.err.Error() == err.Error()
	p.err = err
	p.mu.Unlock()
	if !known {
		p.log.Error("a certificate cannot be used", "err", err)
	}
	return err
}

func (p *filePair) versions() (v [2]version, err error) {
	for i, name := range [...]string{p.Cert, p.Key} {
		info, err := os.Stat(name)
		if err != nil {
			return v, err
		}
		v[i] = version{info.ModTime(), info.Size()}
	}
	return v, nil
}

func (p *filePair) load() (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(p.Cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(p.Key)
	if err != nil {
		return nil, err
	}
	return parse(certPEM, keyPEM)
}

func (p *filePair) status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	leaf := p.current.Load().Leaf
	return Status{Names: leaf.DNSNames, NotAfter: leaf.NotAfter, Err: p.err}
}
