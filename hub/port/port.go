package port

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/secretstack/secretstack/multiserver"
)

// Options configures [Open]. The zero value is fit for use.
type Options struct {
	// TrustedProxies are the networks of the proxies whose PROXY headers are believed. From everybody else such a header
	// is no kind of connection, and refused.
	TrustedProxies []netip.Prefix
	// RequireHeader refuses connections of trusted proxies that do not begin with a header. It must be set when a trusted
	// proxy hands on bytes of its clients without one: they could write it themselves.
	RequireHeader bool

	// Connect is asked about the address of each connection; an error refuses it. It is not asked about trusted proxies
	// that do not say whom they speak for, nor about peers without an address of IP. It runs beside other calls, and must not wait. nil: everybody is let in.
	Connect func(visitor netip.Addr) error

	// TLS ends TLS on the port. Without NextProtos it offers h2 and http/1.1. nil: TLS is refused, with an alert.
	TLS *tls.Config
	// Circuit tells the connections that are for Circuits. nil: none is.
	Circuit multiserver.Matcher

	Timeout       time.Duration // for all stages up to the hand-over; 0: 10 s
	MaxPending    int           // connections in these stages; 0: 1024
	MaxUnproved   int           // open connections whose peer has proved no key; 0: 8192
	MaxPerAddress int           // of these, those of one address; 0: 512

	// Logger gets errors of the listeners and limits that are reached; at the level of debugging, why a connection was
	// refused. nil: none
	Logger *slog.Logger
}

// The kinds, as the splitter counts them. What is of none is a secret handshake.
const (
	kindHeader = iota
	kindTLS
	kindHTTP
	kindCircuit
)

// Port is an open port.
type Port struct {
	opts   Options
	split  *multiserver.Splitter
	guests guests
}

// Open starts to accept from the listeners, at least one, which the port owns from then on.
func Open(opts Options, first net.Listener, more ...net.Listener) *Port {
	opts = withDefaults(opts)
	p := &Port{opts: opts, guests: guests{
		max: opts.MaxUnproved, maxPerAddress: opts.MaxPerAddress, log: opts.Logger,
	}}
	p.split = multiserver.Split(join(first, more), multiserver.SplitOptions{
		Timeout: opts.Timeout, MaxPending: opts.MaxPending, Logger: opts.Logger, Open: p.enter, Inside: p.inside,
	}, matchHeader, multiserver.MatchTLS, multiserver.MatchHTTP, opts.Circuit)
	return p
}

func withDefaults(opts Options) Options {
	opts.TrustedProxies = slices.Clone(opts.TrustedProxies)
	if opts.Timeout <= 0 {
		opts.Timeout = 10 * time.Second
	}
	if opts.MaxPending <= 0 {
		opts.MaxPending = 1024
	}
	if opts.MaxUnproved <= 0 {
		opts.MaxUnproved = 8192
	}
	if opts.MaxPerAddress <= 0 {
		opts.MaxPerAddress = 512
	}
	if opts.Connect == nil {
		opts.Connect = func(netip.Addr) error { return nil }
	}
	if opts.Circuit == nil {
		opts.Circuit = func([]byte) multiserver.Match { return multiserver.MatchNo }
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.TLS != nil && len(opts.TLS.NextProtos) == 0 {
		opts.TLS = opts.TLS.Clone()
		opts.TLS.NextProtos = []string{"h2", "http/1.1"}
	}
	return opts
}

// HTTP hands over connections that speak HTTP, for the server that [Port.Server] makes. Those on which ALPN has agreed
// on HTTP are a *tls.Conn.
func (p *Port) HTTP() net.Listener { return p.split.Listener(kindHTTP) }

// Circuits hands over connections that Options.Circuit matches. [multiserver.TCPConn] finds the TCP connection below
// those that came in the clear.
func (p *Port) Circuits() net.Listener { return p.split.Listener(kindCircuit) }

// Secret hands over all other connections, which ought to be secret handshakes, for the transport net of multiserver.
func (p *Port) Secret() net.Listener { return p.split.Rest() }

// Addr returns the address of the first listener.
func (p *Port) Addr() net.Addr { return p.split.Rest().Addr() }

// Close closes the listeners and the connections that were not handed over, and waits for everything that Open
// started. Connections that were handed over stay.
func (p *Port) Close() error { return p.split.Close() }

// Proved says that the peer at the other end of conn has proved a key, or has a place that is counted elsewhere: the
// connection counts no longer. conn is a connection that was handed over, or one on top of it that has a method NetConn,
// as those of multiserver and TLS have. The secret handshake of multiserver says it by itself.
func (p *Port) Proved(conn net.Conn) {
	if c := below[*visit](conn); c != nil {
		p.guests.leave(c)
	}
}

// below finds the first connection of a type in a pile.
func below[T net.Conn](conn net.Conn) (found T) {
	for {
		switch c := conn.(type) {
		case T:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return found
		}
	}
}

// Stats counts connections. All but the first two grow for ever.
type Stats struct {
	Unproved  int    // are open, and their peers have proved no key
	Addresses int    // from which these come, as far as they are counted by address
	Accepted  uint64 // were let in
	Denied    uint64 // were refused by Options.Connect
	Crowded   uint64 // were refused because there were too many, of their address or altogether
	Malformed uint64 // were refused because of their PROXY header, or because they have none
	MadeRoom  uint64 // were closed because of Options.MaxUnproved
}

// Stats returns what has been counted so far.
func (p *Port) Stats() Stats { return p.guests.stats() }

// enter is the first thing that is done with a connection: it finds out who the visitor is and lets it in.
func (p *Port) enter(_ context.Context, raw net.Conn) (net.Conn, error) {
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(multiserver.KeepAlive()) // a peer that vanished is noticed somewhat later without
	}
	c := &visit{Conn: raw, guests: &p.guests}
	if p.trusts(addrOf(raw)) {
		told, err := c.readHeader(p.opts.RequireHeader)
		if err != nil {
			p.guests.count(malformed)
			return c, err
		}
		if !told { // it speaks for itself, or for many
			return c, p.guests.enter(c, netip.Addr{})
		}
	}
	visitor := addrOf(c)
	if err := p.connect(visitor); err != nil {
		p.guests.count(denied)
		return c, err
	}
	return c, p.guests.enter(c, visitor)
}

func (p *Port) connect(visitor netip.Addr) error {
	if !visitor.IsValid() {
		return nil
	}
	return p.opts.Connect(visitor)
}

func (p *Port) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p.opts.TrustedProxies, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// addrOf returns the address of the peer, the zero value when it is not one of IP.
func addrOf(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}
