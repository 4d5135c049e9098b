package multiserver

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Transport moves bytes between peers. Plugins add transports by implementing
// it. See docs/PROTOCOL.md §6.3.
type Transport interface {
	PartParser
	// Listen begins to listen as the entry says, and returns once peers can
	// connect. ctx ends when it need not begin any more; it does not bound the
	// listener's life. A transport that can only dial returns an error that
	// says so.
	Listen(ctx context.Context, in Incoming) (Listener, error)
	// Dial connects to the part, which is canonical. Ending ctx aborts it, and
	// has no effect once it has returned. A connection that is not TCP should
	// implement [PeerParter], and one whose Close waits for the peer should have
	// a method Abort() error that does not.
	Dial(ctx context.Context, part Part) (net.Conn, error)
}

// Listener hands over the connections that a transport accepts.
type Listener interface {
	// Accept waits for the next connection. It never waits for anything that a
	// peer does. After Close it returns net.ErrClosed; other errors are taken
	// to be temporary. A connection that is in between only until the peer has
	// proved its key may have a method Proved() net.Conn, which the handshake
	// calls then, and which returns the connection to go on with.
	Accept() (net.Conn, error)
	// Close stops listening and waits for everything that the listener
	// started. Connections that were handed over stay. It may be called twice.
	Close() error
	// Addresses returns the transport parts by which peers in the scope reach
	// this listener, none when it is not for them.
	Addresses(scope Scope) []Part
}

// Transform proves who is at the other end of a connection and protects what is
// sent.
type Transform interface {
	PartParser
	// Client runs the side that dialled, with the address's transform part. On
	// an error it has closed raw. Ending ctx aborts it, and has no effect once
	// it has returned.
	Client(ctx context.Context, raw net.Conn, part Part) (*Conn, error)
	// Server runs the side that accepted, under the same rules.
	Server(ctx context.Context, raw net.Conn) (*Conn, error)
	// Address is the transform part that our own addresses end with.
	Address() string
}

// KeepAlive is what transports over TCP ask of their sockets: to find peers that
// vanished within about a minute, and to keep the mappings of address translators
// alive.
func KeepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 4}
}

// PeerParter is implemented by the connections of transports, to say what
// the transport part of the peer's address is. TCP connections need not.
type PeerParter interface {
	PeerPart() Part
}

// PeerPart returns the transport part of the address of the peer at the other
// end of conn, such as net:192.0.2.7:40112 for a TCP connection.
func PeerPart(conn net.Conn) Part {
	if p, ok := conn.(PeerParter); ok {
		return p.PeerPart()
	}
	remote := conn.RemoteAddr()
	if remote == nil {
		return Part{}
	}
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return NewPart(remote.Network(), remote.String())
	}
	addr := tcp.AddrPort()
	return HostPortPart("net", addr.Addr().Unmap().String(), addr.Port())
}

// guarded is implemented by connections that are in between only until the peer
// has proved its key, such as one that counts strangers.
type guarded interface {
	// Proved says that the peer has proved its key, and returns the connection
	// to go on with: this one, or the one underneath.
	Proved() net.Conn
}

// proved tells conn, or what is underneath, that the peer has proved its key, and
// returns the connection to go on with.
func proved(conn net.Conn) net.Conn {
	switch c := conn.(type) {
	case guarded:
		return c.Proved()
	case interface{ NetConn() net.Conn }:
		_ = proved(c.NetConn()) // conn keeps it
	}
	return conn
}

// aborter is implemented by connections whose Close talks to the peer, to end
// them at once.
type aborter interface {
	Abort() error
}

// Abort closes a connection without a word to the peer, and without waiting for anything.
func Abort(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn() // TLS's own goodbye may wait
	}
	if a, ok := conn.(aborter); ok {
		_ = a.Abort()
		return
	}
	_ = conn.Close()
}
