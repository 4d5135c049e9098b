// Package net is the transport "net": TCP.
//
// Addresses have the form net:host:port, an IPv6 address without brackets, and
// the entries of the configuration have the fields scope, host, port and
// external. See docs/PROTOCOL.md §6.3.
package net

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/secretstack/secretstack/multiserver"
)

const name = "net"

// Options configures [New]. The zero value is fit for use.
type Options struct {
	// Listener, when set, is listened on instead of a socket of our own, for
	// instance one side of a [multiserver.Splitter]. It serves one entry of the
	// configuration, whose host and port are not bound but may be
	// advertised; without a port there, that of the listener is.
	Listener net.Listener
	// DialContext, when set, dials instead of a net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// New returns the transport.
func New(opts Options) multiserver.Transport {
	return &transport{PartParser: multiserver.HostPortParts(name), opts: opts}
}

type transport struct {
	multiserver.PartParser
	opts Options

	mu   sync.Mutex
	used bool // guarded by mu: opts.Listener has been handed to an entry
}

// Dial connects over TCP, to the addresses of the host in turn and by both
// versions of IP. The system's algorithm that gathers small writes is off, as
// it is for every Go connection.
func (t *transport) Dial(ctx context.Context, part multiserver.Part) (net.Conn, error) {
	host, port, _, err := multiserver.ParseHostPort(name, part, multiserver.Loose)
	if err != nil {
		return nil, err
	}
	dial := t.opts.DialContext
	if dial == nil {
		dialer := net.Dialer{KeepAliveConfig: multiserver.KeepAlive()}
		dial = dialer.DialContext
	}
	return dial(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
}

// Listen listens on TCP.
func (t *transport) Listen(ctx context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	var none struct{}
	if err := in.Decode(&none, "allowHalfOpen", "pauseOnConnect"); err != nil {
		return nil, err
	}
	if err := multiserver.CheckExternal(in.External, t); err != nil {
		return nil, err
	}
	ln, err := t.listen(ctx, in)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: ln, in: in, port: port(in, ln)}, nil
}

func (t *transport) listen(ctx context.Context, in multiserver.Incoming) (net.Listener, error) {
	if t.opts.Listener != nil {
		return t.shared()
	}
	config := net.ListenConfig{KeepAliveConfig: multiserver.KeepAlive()}
	return in.ListenPort(func(address string) (net.Listener, error) {
		return config.Listen(ctx, "tcp", address)
	})
}

func (t *transport) shared() (net.Listener, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.used {
		return nil, fmt.Errorf("the listener that was given serves one entry of connections.incoming.%s", name)
	}
	t.used = true
	return t.opts.Listener, nil
}

// port is the port to advertise.
func port(in multiserver.Incoming, ln net.Listener) uint16 {
	if in.Port != 0 {
		return in.Port
	}
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Port()
	}
	return 0
}

type listener struct {
	net.Listener
	in   multiserver.Incoming
	port uint16

	once sync.Once
	err  error // set inside once
}

// Close stops listening.
func (l *listener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}

// Addresses returns net:host:port for each host by which the scope reaches us.
func (l *listener) Addresses(scope multiserver.Scope) []multiserver.Part {
	var parts []multiserver.Part
	for _, host := range l.in.AdvertisedHosts(scope) {
		if whole, isPart := strings.CutPrefix(host, name+":"); isPart {
			parts = append(parts, multiserver.NewPart(name, whole))
			continue
		}
		parts = append(parts, multiserver.HostPortPart(name, host, l.port))
	}
	return parts
}
