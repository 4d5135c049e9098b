// Package ws is the transport "ws": WebSocket, over TLS or not.
//
// Addresses have the form ws://host[:port][/path] or wss://…, and the entries
// of the configuration have the fields scope, host, port, external, path, key
// and cert. The server shares its port with an application's own HTTP handler:
// requests to upgrade become connections, all others are the application's.
//
// Behind a proxy that ends TLS, listen without key and cert and set external to
// the whole address, such as "wss://example.org/path". What proxies say about
// clients (X-Forwarded-For and the like) is not believed, because clients can
// say it as well.
//
// Browsers may connect from any page, as long as the transform proves keys: a
// page gains nothing that another program would not have. With noauth nothing
// is proved, so that no page may connect unless Options.OriginPatterns lets it.
//
// See docs/PROTOCOL.md §6.3.
package ws

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/secretstack/secretstack/multiserver"
)

const (
	name = "ws"

	// closeTimeout is how long Close waits for the peer to close too.
	closeTimeout = time.Second
)

// Options configures [New]. The zero value is fit for use.
type Options struct {
	// Handler serves the requests that are not for us. Nil answers 404.
	Handler http.Handler
	// Listener, when set, is listened on instead of a socket of our own, for
	// instance the HTTP side of a [multiserver.Splitter]. It serves one entry
	// of the configuration.
	Listener net.Listener
	// Mounted means that nothing is listened on: the application has an HTTP
	// server of its own and gives us its requests by ServeHTTP. The entry's
	// host, port, path and external say what to advertise.
	Mounted bool
	// TLS, when set, makes the server speak TLS. The fields key and cert of an
	// entry, files or PEM text, do the same.
	TLS *tls.Config
	// OriginPatterns lists the hosts of web pages that may connect, with the
	// wildcards of path.Match. See the package comment for what none means.
	OriginPatterns []string
	// MaxMessage bounds one WebSocket message from a peer, in bytes. Messages
	// are read piece by piece, so that it is no measure of memory. 0 means 16
	// MiB.
	MaxMessage int64
	// HeaderTimeout is how long a client may take to send the head of its
	// request, TLS included. 0 means 5 seconds.
	HeaderTimeout time.Duration
	// RequestTimeout is how long a client may take for a whole request, how long
	// for taking the answer, and how long between two requests. A Handler that
	// needs longer uses http.ResponseController; WebSockets are not bounded by
	// it. 0 means 30 seconds.
	RequestTimeout time.Duration
	// MaxPending is how many HTTP connections may be open that are not, or not
	// yet, WebSockets. Above it those that wait between two requests are cut off,
	// or the newest if there are none. 0 means 256.
	MaxPending int
	// ClientTLS is used to dial wss; nil means the system's roots.
	ClientTLS *tls.Config
	// DialContext, when set, dials instead of a net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger gets what the HTTP server has to say; nil discards it.
	Logger *slog.Logger
}

// New returns the transport.
func New(opts Options) *Transport {
	if opts.Handler == nil {
		opts.Handler = http.NotFoundHandler()
	}
	if opts.MaxMessage <= 0 {
		opts.MaxMessage = 16 << 20
	}
	if opts.HeaderTimeout <= 0 {
		opts.HeaderTimeout = 5 * time.Second
	}
	if opts.RequestTimeout <= 0 {
		opts.RequestTimeout = 30 * time.Second
	}
	if opts.MaxPending <= 0 {
		opts.MaxPending = 256
	}
	if opts.DialContext == nil {
		d := net.Dialer{KeepAliveConfig: multiserver.KeepAlive()}
		opts.DialContext = d.DialContext
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Transport{parts: multiserver.URLParts(), opts: opts}
}

// Transport is the transport. It is an http.Handler for servers of the
// application's own, see Options.Mounted.
type Transport struct {
	parts
	opts Options

	mu      sync.Mutex
	used    bool        // guarded by mu: opts.Listener has been handed to an entry
	mounted []*listener // guarded by mu
}

// parts gives the transport its name, "ws", and the reading of ws://… and wss://….
type parts = multiserver.PartParser

// ServeHTTP serves a request of the application's own server: with a listener
// whose path it asks for, or else with Options.Handler.
func (t *Transport) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.mu.Lock()
	listeners := t.mounted
	t.mu.Unlock()
	for _, l := range listeners {
		if l.wants(r) {
			l.upgrade(w, r)
			return
		}
	}
	t.opts.Handler.ServeHTTP(w, r)
}

// Dial connects to the URL and upgrades to WebSocket, without compression.
func (t *Transport) Dial(ctx context.Context, part multiserver.Part) (net.Conn, error) {
	u, canonical, err := multiserver.ParseURL(part, multiserver.Loose)
	if err != nil {
		return nil, err
	}
	var raw net.Conn
	httpTransport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: t.opts.ClientTLS,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := t.opts.DialContext(ctx, network, address)
			raw = c
			return c, err
		},
	}
	defer httpTransport.CloseIdleConnections()
	client := &http.Client{
		Transport: httpTransport,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
	c, response, err := websocket.Dial(ctx, u.String(), &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		return nil, dialError(response, err)
	}
	return newConn(c, raw, canonical, t.opts.MaxMessage), nil
}

func dialError(response *http.Response, err error) error {
	if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("there is no WebSocket at this address: the server answered %q", response.Status)
	}
	return err
}

// entry is the configuration of one listener.
type entry struct {
	multiserver.Incoming
	port uint16 // to advertise
	path string // "" is any
	tls  *tls.Config
}

func (t *Transport) entry(in multiserver.Incoming) (entry, error) {
	var options struct {
		Path string `json:"path"`
		Key  string `json:"key"`
		Cert string `json:"cert"`
	}
	if err := in.Decode(&options, "binaryType"); err != nil {
		return entry{}, err
	}
	if options.Path != "" && !strings.HasPrefix(options.Path, "/") {
		return entry{}, fmt.Errorf("path %q must begin with '/'", options.Path)
	}
	if err := multiserver.CheckExternal(in.External, t); err != nil {
		return entry{}, err
	}
	e := entry{Incoming: in, port: in.Port, path: options.Path, tls: t.opts.TLS}
	if options.Key == "" && options.Cert == "" {
		return e, nil
	}
	if options.Key == "" || options.Cert == "" {
		return entry{}, errors.New("key and cert must be given together")
	}
	certificate, err := loadCertificate(options.Cert, options.Key)
	if err != nil {
		return entry{}, err
	}
	e.tls = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	return e, nil
}

// loadCertificate reads files or PEM texts.
func loadCertificate(cert, key string) (tls.Certificate, error) {
	certPEM, err := pemText(cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cert: %w", err)
	}
	keyPEM, err := pemText(key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key: %w", err)
	}
	certificate, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key and cert: %w", err)
	}
	return certificate, nil
}

func pemText(s string) ([]byte, error) {
	if strings.HasPrefix(s, "-----BEGIN ") {
		return []byte(s), nil
	}
	return os.ReadFile(s)
}

// originAllowed reports whether a page of that origin may connect. Programs
// that are no browsers send none.
func originAllowed(origin string, patterns []string, proves bool) bool {
	if origin == "" {
		return true
	}
	if len(patterns) == 0 {
		return proves
	}
	_, host, found := strings.Cut(strings.ToLower(origin), "://")
	if !found {
		return false
	}
	for _, pattern := range patterns {
		if ok, err := path.Match(strings.ToLower(pattern), host); ok && err == nil {
			return true
		}
	}
	return false
}
