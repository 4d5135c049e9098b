// Package onion is the transport "onion": TCP through a SOCKS5 proxy, as Tor
// provides it, to addresses that only the proxy can find.
//
// Addresses have the form onion:host:port. It only dials: to be reached over
// Tor, listen with the transport net and let Tor forward to it. See
// docs/PROTOCOL.md §6.3.
package onion

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/secretstack/secretstack/multiserver"
)

const name = "onion"

// Options configures [New]. The zero value is fit for use.
type Options struct {
	// Proxies are the addresses of SOCKS5 proxies, tried in turn until one
	// takes the connection. None means Tor's two usual ones, 127.0.0.1:9050 of
	// the daemon and 127.0.0.1:9150 of the browser.
	Proxies []string
	// DialContext, when set, dials the proxies instead of a net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// New returns the transport.
func New(opts Options) multiserver.Transport {
	if len(opts.Proxies) == 0 {
		opts.Proxies = []string{"127.0.0.1:9050", "127.0.0.1:9150"}
	}
	if opts.DialContext == nil {
		var d net.Dialer
		opts.DialContext = d.DialContext
	}
	return transport{multiserver.HostPortParts(name), opts}
}

type transport struct {
	multiserver.PartParser
	opts Options
}

// Listen always fails.
func (transport) Listen(context.Context, multiserver.Incoming) (multiserver.Listener, error) {
	return nil, errors.New("onion can only dial: to be reached over Tor, listen with net and let Tor's HiddenServicePort forward to it")
}

// Dial connects to the part through the first proxy that is there. The proxy
// looks up the host: no name leaves this machine in another way.
func (t transport) Dial(ctx context.Context, part multiserver.Part) (net.Conn, error) {
	host, port, canonical, err := multiserver.ParseHostPort(name, part, multiserver.Loose)
	if err != nil {
		return nil, err
	}
	request, err := connectRequest(host, port)
	if err != nil {
		return nil, err
	}
	proxy, err := t.proxy(ctx)
	if err != nil {
		return nil, err
	}
	if err := connect(ctx, proxy, request); err != nil {
		_ = proxy.Close()
		return nil, err
	}
	return &conn{proxy, canonical}, nil
}

// proxy connects to the first proxy that answers.
func (t transport) proxy(ctx context.Context) (net.Conn, error) {
	var last error
	for _, address := range t.opts.Proxies {
		c, err := t.opts.DialContext(ctx, "tcp", address)
		if err == nil {
			return c, nil
		}
		last = err
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return nil, fmt.Errorf("no SOCKS5 proxy at %s (is Tor running?): %w", strings.Join(t.opts.Proxies, " or "), last)
}

// connect asks the proxy for the connection.
func connect(ctx context.Context, c net.Conn, request []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err := negotiate(c, request)
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// The numbers of RFC 1928.
const (
	version      = 5
	noAuth       = 0
	cmdConnect   = 1
	atypIPv4     = 1
	atypDomain   = 3
	atypIPv6     = 4
	replyGranted = 0
)

// connectRequest builds the request of RFC 1928 §4.
func connectRequest(host string, port uint16) ([]byte, error) {
	b := []byte{version, cmdConnect, 0}
	ip := net.ParseIP(host)
	switch {
	case ip.To4() != nil:
		b = append(append(b, atypIPv4), ip.To4()...)
	case ip != nil:
		b = append(append(b, atypIPv6), ip...)
	case len(host) > 255:
		return nil, errors.New("the host has more than 255 bytes, which SOCKS5 cannot name")
	default:
		b = append(append(b, atypDomain, byte(len(host))), host...)
	}
	return binary.BigEndian.AppendUint16(b, port), nil
}

// negotiate runs RFC 1928 §3 and §4, and reads not a byte more than its own.
func negotiate(c io.ReadWriter, request []byte) error {
	if _, err := c.Write([]byte{version, 1, noAuth}); err != nil {
		return proxyError(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(c, head[:2]); err != nil {
		return proxyError(err)
	}
	if head[0] != version {
		return errors.New("what answers at the proxy's address does not speak SOCKS5")
	}
	if head[1] != noAuth {
		return errors.New("the SOCKS5 proxy wants a password, and there is none to give")
	}
	if _, err := c.Write(request); err != nil {
		return proxyError(err)
	}
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return proxyError(err)
	}
	if head[0] != version {
		return errors.New("the SOCKS5 proxy sent an answer that is none")
	}
	if head[1] != replyGranted {
		return fmt.Errorf("the SOCKS5 proxy could not connect: %s", reason(head[1]))
	}
	return skipBound(c, head[3])
}

// skipBound reads the address that the proxy connects from, which is of no use.
func skipBound(r io.Reader, atyp byte) error {
	var length int
	switch atyp {
	case atypIPv4:
		length = net.IPv4len
	case atypIPv6:
		length = net.IPv6len
	case atypDomain:
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return proxyError(err)
		}
		length = int(n[0])
	default:
		return errors.New("the SOCKS5 proxy sent an address of an unknown kind")
	}
	if _, err := io.CopyN(io.Discard, r, int64(length)+2); err != nil {
		return proxyError(err)
	}
	return nil
}

func proxyError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the SOCKS5 proxy broke off: %w", err)
}

// reason is the text for a reply code.
func reason(code byte) string {
	texts := [...]string{
		1: "general failure", 2: "its rules forbid it", 3: "network unreachable", 4: "host unreachable or unknown",
		5: "connection refused", 6: "no answer in time", 7: "it cannot do that", 8: "it cannot use this kind of address",
	}
	if int(code) < len(texts) && texts[code] != "" {
		return texts[code]
	}
	return fmt.Sprintf("code %d", code)
}

// conn is a connection through the proxy that knows the peer's address.
type conn struct {
	net.Conn
	part multiserver.Part
}

// PeerPart returns onion:host:port.
func (c *conn) PeerPart() multiserver.Part { return c.part }

// NetConn returns the connection to the proxy.
func (c *conn) NetConn() net.Conn { return c.Conn }

// CloseWrite half-closes the connection.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
