package port

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Bounds of the server that [Port.Server] makes.
const (
	HeaderTimeout  = 10 * time.Second // for the header of a request
	IdleTimeout    = 2 * time.Minute  // between two requests
	MaxHeaderBytes = 64 << 10         // of a request
	MaxStreams     = 100              // requests at once on a connection of HTTP/2
)

// Server makes the server for [Port.HTTP]: HTTP/1.1, and HTTP/2 inside TLS. It bounds what a visitor can cost before
// its request is with the handler; how long bodies and answers take is for the handler to bound. The caller may change
// all of it but ConnState and ConnContext, by which the port knows for whom something is being done.
func (p *Port) Server(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           withTLS(handler),
		ReadHeaderTimeout: HeaderTimeout,
		IdleTimeout:       IdleTimeout,
		MaxHeaderBytes:    MaxHeaderBytes,
		Protocols:         protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: MaxStreams,
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     30 * time.Second,
		},
		ConnState:   p.state,
		ConnContext: remember,
		ErrorLog:    slog.NewLogLogger(p.opts.Logger.Handler(), slog.LevelDebug),
	}
}

// state hears what becomes of the server's connections.
func (p *Port) state(conn net.Conn, state http.ConnState) {
	c := below[*visit](conn)
	if c == nil {
		return
	}
	switch state {
	case http.StateActive, http.StateHijacked:
		p.guests.busy(c)
	case http.StateIdle:
		p.guests.idle(c)
	}
}

// secureKey is the key of a *tls.Conn in the context of a connection.
type secureKey struct{}

// remember keeps the TLS connection of requests whose server does not see it, because the client did not ask for HTTP
// by ALPN and its first bytes were read to find that out.
func remember(ctx context.Context, conn net.Conn) context.Context {
	if _, direct := conn.(*tls.Conn); direct {
		return ctx
	}
	if secure := below[*tls.Conn](conn); secure != nil {
		return context.WithValue(ctx, secureKey{}, secure)
	}
	return ctx
}

// withTLS sets the TLS field of such requests.
func withTLS(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if secure, ok := r.Context().Value(secureKey{}).(*tls.Conn); ok && r.TLS == nil {
			state := secure.ConnectionState()
			r = r.WithContext(r.Context())
			r.TLS = &state
		}
		next.ServeHTTP(w, r)
	})
}
