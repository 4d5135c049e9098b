package port

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/secretstack/secretstack/multiserver"
)

// acmeProtocol is what a certificate authority speaks when it checks that a domain is ours (RFC 8737): the handshake
// alone.
const acmeProtocol = "acme-tls/1"

var (
	errNoTLS     = errors.New("TLS is not configured")
	errTLSTwice  = errors.New("TLS inside TLS")
	errValidated = errors.New("a certificate authority checked the domain")
)

// inside is asked about every connection whose kind is known.
func (p *Port) inside(ctx context.Context, conn net.Conn, kind int) (net.Conn, int, error) {
	switch kind {
	case kindHeader:
		p.guests.count(malformed)
		return nil, kind, errUntrusted
	case kindTLS:
		if below[*tls.Conn](conn) != nil {
			return nil, kind, errTLSTwice
		}
		if p.opts.TLS == nil {
			refuseTLS(conn)
			return nil, kind, errNoTLS
		}
		return handshake(ctx, tls.Server(conn, p.opts.TLS))
	}
	return conn, kind, nil
}

// handshake ends TLS. Where ALPN has agreed on HTTP the kind is known, and not a byte is read, because http.Server wants
// the *tls.Conn itself.
func handshake(ctx context.Context, conn *tls.Conn) (net.Conn, int, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, kindTLS, fmt.Errorf("TLS handshake: %w", err)
	}
	switch conn.ConnectionState().NegotiatedProtocol {
	case "h2", "http/1.1":
		return conn, kindHTTP, nil
	case acmeProtocol:
		_ = conn.CloseWrite() // the other side has what it wanted
		return nil, kindTLS, errValidated
	}
	return conn, multiserver.Unsorted, nil
}

// refuseTLS says that the handshake fails, and takes what the client has sent, because closing with bytes unread would
// take the alert back.
func refuseTLS(conn net.Conn) {
	alert := [...]byte{
		0x15, 3, 1, // a record with an alert,
		0, 2, // of two bytes:
		2, 40, // fatal, handshake failure
	}
	if _, err := conn.Write(alert[:]); err != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	const hello = 64 << 10
	_, _ = io.CopyN(io.Discard, conn, hello)
}
