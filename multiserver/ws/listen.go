package ws

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/coder/websocket"

	"github.com/secretstack/secretstack/multiserver"
)

// Listen listens as the entry says, unless the transport is mounted.
func (t *Transport) Listen(ctx context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	e, err := t.entry(in)
	if err != nil {
		return nil, err
	}
	l := &listener{t: t, entry: e, conns: make(chan net.Conn), done: make(chan struct{}), open: map[net.Conn]http.ConnState{}}
	if t.opts.Mounted {
		t.mount(l)
		return l, nil
	}
	ln, err := t.listen(ctx, in)
	if err != nil {
		return nil, err
	}
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && l.entry.port == 0 {
		l.entry.port = tcp.AddrPort().Port()
	}
	l.serve(ln)
	return l, nil
}

func (t *Transport) mount(l *listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mounted = append(slices.Clone(t.mounted), l)
}

func (t *Transport) unmount(l *listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mounted = slices.DeleteFunc(slices.Clone(t.mounted), func(other *listener) bool { return other == l })
}

func (t *Transport) listen(ctx context.Context, in multiserver.Incoming) (net.Listener, error) {
	if t.opts.Listener == nil {
		config := net.ListenConfig{KeepAliveConfig: multiserver.KeepAlive()}
		return in.ListenPort(func(address string) (net.Listener, error) {
			return config.Listen(ctx, "tcp", address)
		})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used {
		return nil, fmt.Errorf("the listener that was given serves one entry of connections.incoming.%s", name)
	}
	t.used = true
	return t.opts.Listener, nil
}

type listener struct {
	t      *Transport
	entry  entry
	server *http.Server // nil when mounted
	conns  chan net.Conn
	done   chan struct{} // closed by Close

	mu     sync.Mutex
	closed bool                        // guarded by mu
	open   map[net.Conn]http.ConnState // guarded by mu: connections that are no WebSockets, or not yet
	wg     sync.WaitGroup              // upgrades and the server's loop

	once sync.Once
	err  error // set inside once
}

// serve starts an HTTP server on ln.
func (l *listener) serve(ln net.Listener) {
	opts := l.t.opts
	l.server = &http.Server{
		Handler:           l,
		ReadHeaderTimeout: opts.HeaderTimeout,
		ReadTimeout:       opts.RequestTimeout,
		WriteTimeout:      opts.RequestTimeout, // a connection that is taken over loses both
		IdleTimeout:       opts.RequestTimeout,
		MaxHeaderBytes:    64 << 10,
		ConnState:         l.connState,
		ErrorLog:          slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
	}
	l.wg.Go(func() {
		err := l.serveOn(ln)
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			opts.Logger.Error("the HTTP server ended", "err", err)
		}
	})
}

func (l *listener) serveOn(ln net.Listener) error {
	if l.entry.tls == nil {
		return l.server.Serve(ln)
	}
	l.server.TLSConfig = l.entry.tls
	return l.server.ServeTLS(ln, "", "")
}

// connState counts the connections whose clients have proved nothing yet, and
// makes room for new ones above the limit.
func (l *listener) connState(c net.Conn, state http.ConnState) {
	l.mu.Lock()
	var cut net.Conn
	switch _, known := l.open[c]; {
	case state == http.StateNew:
		if len(l.open) >= l.t.opts.MaxPending {
			cut = l.dispensable(c)
		}
		l.open[c] = state
	case state == http.StateClosed || state == http.StateHijacked:
		delete(l.open, c)
	case known:
		l.open[c] = state
	}
	l.mu.Unlock()
	if cut == nil {
		return
	}
	if secure, ok := cut.(*tls.Conn); ok {
		cut = secure.NetConn() // without TLS's goodbye, which may wait
	}
	_ = cut.Close()
}

// dispensable returns a connection that waits for its next request, or
// newcomer if there is none. Called with mu held.
func (l *listener) dispensable(newcomer net.Conn) net.Conn {
	for c, state := range l.open {
		if state == http.StateIdle {
			delete(l.open, c)
			return c
		}
	}
	return newcomer
}

// ServeHTTP serves a request to our own server.
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if l.wants(r) {
		l.upgrade(w, r)
		return
	}
	l.t.opts.Handler.ServeHTTP(w, r)
}

// wants reports whether the request is to upgrade, at our path.
func (l *listener) wants(r *http.Request) bool {
	if l.entry.path != "" && r.URL.Path != l.entry.path {
		return false
	}
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// upgrade makes the request a connection and hands it to Accept.
func (l *listener) upgrade(w http.ResponseWriter, r *http.Request) {
	if !l.begin() {
		http.Error(w, "closing", http.StatusServiceUnavailable)
		return
	}
	defer l.wg.Done()
	proves := l.entry.Transform != "noauth"
	if !originAllowed(r.Header.Get("Origin"), l.t.opts.OriginPatterns, proves) {
		http.Error(w, "pages of this origin may not connect", http.StatusForbidden)
		return
	}
	hijack := &hijackWriter{ResponseWriter: w}
	// Whether the origin may connect has just been decided.
	c, err := websocket.Accept(hijack, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return // Accept has answered
	}
	conn := newConn(c, hijack.raw, peerPart(r), l.t.opts.MaxMessage)
	select {
	case l.conns <- conn:
	case <-l.done:
		_ = conn.Abort()
	}
}

// begin counts an upgrade, for which Close waits.
func (l *listener) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.wg.Add(1)
	return true
}

// hijackWriter remembers the connection that was taken over.
type hijackWriter struct {
	http.ResponseWriter
	raw net.Conn
}

// Unwrap is for http.ResponseController.
func (w *hijackWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// peerPart is ws:address of the client. For a page on this machine it is the
// page's origin, as in JavaScript, which says more than a loopback address.
func peerPart(r *http.Request) multiserver.Part {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return multiserver.NewPart(name, "unknown")
	}
	addr := remote.Addr().Unmap()
	if addr.IsLoopback() {
		if part, ok := originPart(r.Header.Get("Origin")); ok {
			return part
		}
	}
	return multiserver.NewPart(name, addr.String())
}

func originPart(origin string) (multiserver.Part, bool) {
	if origin == "null" {
		return multiserver.NewPart(name, "null"), true
	}
	u, err := url.Parse(origin)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") {
		return multiserver.Part{}, false
	}
	part := multiserver.NewPart(strings.Replace(u.Scheme, "http", "ws", 1), "//"+u.Host)
	_, _, err = multiserver.ParseURL(part, multiserver.Strict) // a client can write anything there
	return part, err == nil
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addresses returns ws://host[:port][path] for each host by which the scope
// reaches us, or wss when we speak TLS.
func (l *listener) Addresses(scope multiserver.Scope) []multiserver.Part {
	var parts []multiserver.Part
	for _, host := range l.entry.AdvertisedHosts(scope) {
		if scheme, rest, isURL := strings.Cut(host, ":"); isURL && strings.HasPrefix(rest, "//") {
			parts = append(parts, multiserver.NewPart(scheme, rest))
			continue
		}
		parts = append(parts, l.part(host))
	}
	return parts
}

func (l *listener) part(host string) multiserver.Part {
	scheme, usual := "ws", uint16(80)
	if l.entry.tls != nil {
		scheme, usual = "wss", 443
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port := l.entry.port; port != usual && port != 0 {
		host += ":" + strconv.Itoa(int(port))
	}
	escaped := url.URL{Path: l.entry.path}
	return multiserver.NewPart(scheme, "//"+host+escaped.EscapedPath())
}

// Close stops listening and cuts off HTTP clients. Connections that were handed
// over stay.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.done)
		l.t.unmount(l)
		l.err = l.shutdown()
		l.wg.Wait()
	})
	return l.err
}

// shutdown lets the application's requests end, for a short while.
func (l *listener) shutdown() error {
	if l.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := l.server.Shutdown(ctx); err == nil {
		return nil
	}
	return l.server.Close()
}
