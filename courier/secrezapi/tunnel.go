package secrezapi

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/secrez"
)

const (
	// maxSockets bounds the sockets that a hub may ask for; Secrez's hub closes those over ten.
	maxSockets = 10
	// goneAfter is how many attempts in vain a socket makes before the tunnel counts as gone.
	goneAfter = 4
)

// Tunnel makes a handler reachable through a hub of Secrez: it registers an account there and keeps sockets open to the
// port that it gets, over which the hub sends requests.
type Tunnel struct {
	client  *Client
	hub     string
	handler http.Handler
	retry   time.Duration
	log     *slog.Logger

	publishing sync.Mutex // held by Publish

	mu    sync.Mutex // guards the rest
	lines *lines     // nil: none
	shut  bool
}

// TunnelOptions describe a [Tunnel]. All but Logger and Retry are needed.
type TunnelOptions struct {
	Client  *Client
	Hub     string // which the owner has chosen, such as "https://example.com:8433"
	Handler http.Handler
	// Retry is the first pause before a socket that was lost is opened again; it doubles. Zero: 1 second.
	Retry  time.Duration
	Logger *slog.Logger // nil: none
}

// NewTunnel makes a tunnel that leads nowhere yet.
func NewTunnel(o TunnelOptions) *Tunnel {
	if o.Retry <= 0 {
		o.Retry = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Tunnel{client: o.Client, hub: o.Hub, handler: o.Handler, retry: o.Retry, log: o.Logger}
}

// Published tells where the handler can be reached now; nowhere while no socket is open.
func (t *Tunnel) Published() Published {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines == nil || !t.lines.alive() {
		return Published{}
	}
	return t.lines.at
}

// Publish registers an account with a payload that it has just signed, and returns when the first socket is open. Its error
// is [ErrOffline] or a [*RefusedError].
func (t *Tunnel) Publish(ctx context.Context, s secrez.Signed) (Published, error) {
	t.publishing.Lock()
	defer t.publishing.Unlock()
	got, err := t.client.register(ctx, t.hub, s)
	if err != nil {
		return Published{}, err
	}
	u, err := url.Parse(t.hub)
	if err != nil {
		return Published{}, ErrOffline
	}
	port := strconv.Itoa(int(got.Port))
	own := dialer{hubs: []string{net.JoinHostPort(u.Hostname(), port)}, resolver: t.client.dialer.resolver}
	l := t.open(Published{got.ID, got.URL}, own, net.JoinHostPort(cmp.Or(got.IP, u.Hostname()), port), min(max(got.Sockets, 1), maxSockets))
	if !t.replace(l) {
		l.close()
		return Published{}, ErrOffline
	}
	select {
	case <-l.first:
		return l.at, nil
	case <-l.gone:
	case <-ctx.Done():
	}
	return Published{}, ErrOffline
}

// Lost gives a channel that is closed when the sockets of the last registration are gone for good, or nil when there was
// none: then it is time to publish again.
func (t *Tunnel) Lost() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines == nil {
		return nil
	}
	return t.lines.gone
}

// replace puts new sockets in the place of the old ones, unless the tunnel is closed.
func (t *Tunnel) replace(l *lines) bool {
	t.mu.Lock()
	old, shut := t.lines, t.shut
	if !shut {
		t.lines = l
	}
	t.mu.Unlock()
	if old != nil {
		old.close()
	}
	return !shut
}

// Close closes the sockets and waits for the requests on them. It may be called again.
func (t *Tunnel) Close() error {
	t.mu.Lock()
	t.shut = true
	l := t.lines
	t.lines = nil
	t.mu.Unlock()
	if l != nil {
		l.close()
	}
	return nil
}

// lines are the sockets of one registration, as a listener that hands each to the HTTP server.
type lines struct {
	at     Published
	tunnel *Tunnel
	dialer dialer // to the hub's host at any port, wherever the owner has a hub
	port   string
	conns  chan net.Conn
	server *http.Server
	ctx    context.Context
	stop   context.CancelFunc
	work   sync.WaitGroup
	first  chan struct{} // closed when the first socket is open
	gone   chan struct{} // closed when no socket can be opened any more
	opened func()
	lost   func()

	mu    sync.Mutex
	count int // of open sockets
}

func (t *Tunnel) open(at Published, d dialer, port string, sockets int) *lines {
	ctx, stop := context.WithCancel(context.Background())
	l := &lines{at: at, tunnel: t, dialer: d, port: port, conns: make(chan net.Conn), ctx: ctx, stop: stop, first: make(chan struct{}), gone: make(chan struct{})}
	l.opened = sync.OnceFunc(func() { close(l.first) })
	l.lost = sync.OnceFunc(func() { close(l.gone) })
	// No deadline for a request's beginning: a socket waits for the next one as long as the hub likes.
	l.server = &http.Server{Handler: t.handler, ErrorLog: slog.NewLogLogger(t.log.Handler(), slog.LevelDebug), MaxHeaderBytes: maxAnswer}
	l.work.Go(func() { _ = l.server.Serve(l) }) // ends with close
	for range sockets {
		l.work.Go(l.keep)
	}
	return l
}

// keep keeps one socket open.
func (l *lines) keep() {
	wait := l.tunnel.retry
	for vain := 0; l.ctx.Err() == nil; {
		conn, err := l.dialer.dial(l.ctx, "tcp", l.port)
		if err != nil {
			if vain++; vain >= goneAfter && !l.alive() {
				l.lost()
				return // the port is no more: the account has to register again
			}
			pause.Sleep(l.ctx, wait)
			wait = min(2*wait, 30*time.Second)
			continue
		}
		vain, wait = 0, l.tunnel.retry
		ended := make(chan struct{})
		l.add(1)
		c := &line{Conn: conn, end: sync.OnceFunc(func() { l.add(-1); close(ended) })}
		select {
		case l.conns <- c:
			l.opened()
			<-ended
			pause.Sleep(l.ctx, min(wait, 100*time.Millisecond)) // a hub that closes at once must not keep us busy
		case <-l.ctx.Done():
			_ = c.Close()
		}
	}
}

func (l *lines) add(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count += n
}

func (l *lines) alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count > 0
}

func (l *lines) close() {
	l.stop()
	_ = l.server.Close()
	l.work.Wait()
}

// line is a socket that says when it has been closed.
type line struct {
	net.Conn
	end func()
}

func (c *line) Close() error {
	defer c.end()
	return c.Conn.Close()
}

// Accept, Close and Addr make lines a net.Listener.
func (l *lines) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, errors.Join(http.ErrServerClosed, net.ErrClosed)
	}
}

func (l *lines) Close() error   { l.stop(); return nil }
func (l *lines) Addr() net.Addr { return &net.TCPAddr{} }
