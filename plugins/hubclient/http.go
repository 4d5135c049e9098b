package hubclient

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/streamconn"
)

// webServer serves HTTP on the streams that hubs open.
type webServer struct {
	server *http.Server
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func newWebServer(cfg Config, logger *slog.Logger) *webServer {
	return &webServer{
		conns: make(chan net.Conn),
		done:  make(chan struct{}),
		server: &http.Server{
			Handler:           cfg.Handler,
			ReadHeaderTimeout: cfg.HeaderTimeout,
			IdleTimeout:       cfg.IdleTimeout,
			ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn), // panics of the handler
		},
	}
}

// start serves for as long as the app lives. When the app begins to close, idle connections end at once, so that it need
// not wait for them; requests that run have the app's grace, for their connections end with their sessions.
func (w *webServer) start(s *secretstack.Setup) {
	finished := make(chan struct{})
	s.Go(func(context.Context) {
		_ = w.server.Serve(w)
		<-finished
	})
	s.OnClose(func() {
		go func() {
			defer close(finished)
			_ = w.server.Shutdown(context.Background())
		}()
	})
}

// Accept makes the web server the listener of its HTTP server.
func (w *webServer) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (w *webServer) Close() error {
	w.once.Do(func() { close(w.done) })
	return nil
}

// Addr is nobody's.
func (w *webServer) Addr() net.Addr { return hubAddr("") }

// hubAddr is the address of the other end of a connection for HTTP: the reference of a hub's key.
type hubAddr string

func (hubAddr) Network() string  { return name }
func (a hubAddr) String() string { return string(a) }

// lateClose is how long the HTTP server may take to notice that a stream has ended.
const lateClose = 5 * time.Second

// http serves hubclient.http: the hub opens a connection on which it sends requests.
func (c *Client) http(ctx context.Context, _ muxrpc.None, stream *muxrpc.Stream[[]byte, []byte]) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	if s.conns.Add(1) > int64(c.cfg.MaxConns) {
		s.conns.Add(-1)
		return muxrpc.Errorf("too many connections are open")
	}
	defer s.conns.Add(-1)
	conn := streamconn.New(stream, streamconn.Options{Local: hubAddr(c.app.ID().Ref()), Remote: hubAddr(s.hub.key.Ref())})
	defer func() { _ = conn.Close() }()
	select {
	case c.web.conns <- conn:
	case <-c.web.done:
		return muxrpc.Errorf("the courier is closing")
	case <-ctx.Done():
		return ctx.Err()
	}
	conn.Linger(ctx, lateClose)
	return nil
}
