package hub

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/port"
	"github.com/secretstack/secretstack/multiserver"
	netms "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/ws"
)

// everywhere are the scopes in which a hub is reached.
func everywhere() multiserver.Scopes {
	return multiserver.Scopes{multiserver.Device, multiserver.Local, multiserver.Public}
}

// intake is the transport "net" of a hub: what its ports hand over. Ports come and go while the app lives.
type intake struct {
	multiserver.Transport // dials, and reads addresses
	conns                 chan net.Conn

	mu    sync.Mutex
	ports []multiserver.Listener // for the addresses they have; nothing is accepted from them
}

func newIntake() *intake {
	return &intake{Transport: netms.New(netms.Options{}), conns: make(chan net.Conn)}
}

// Listen gives the app the listener for all ports.
func (t *intake) Listen(context.Context, multiserver.Incoming) (multiserver.Listener, error) {
	return &intakeListener{intake: t, done: make(chan struct{})}, nil
}

// advertise makes the address of a listener one of the app's.
func (t *intake) advertise(ctx context.Context, at net.Listener, domain string) error {
	ln, err := netms.New(netms.Options{Listener: at}).Listen(ctx, incoming(at.Addr(), domain))
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ports = append(t.ports, ln)
	return nil
}

// serve hands over the connections of a port until it is closed.
func (t *intake) serve(ctx context.Context, p *port.Port) {
	for {
		c, err := p.Secret().Accept()
		if err != nil {
			return // closed: it has no other errors
		}
		select {
		case t.conns <- c:
		case <-ctx.Done():
			_ = c.Close()
		}
	}
}

// incoming is the entry that advertises an address.
func incoming(at net.Addr, domain string) multiserver.Incoming {
	in := multiserver.Incoming{Scope: everywhere(), Transform: "shs"}
	if tcp, ok := at.(*net.TCPAddr); ok {
		in.Host, in.Port = tcp.IP.String(), uint16(tcp.Port)
	}
	if domain != "" {
		in.External = multiserver.Hosts{domain}
	}
	return in
}

func (t *intake) addresses(scope multiserver.Scope) []multiserver.Part {
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []multiserver.Part
	for _, ln := range t.ports {
		for _, p := range ln.Addresses(scope) {
			if !slices.ContainsFunc(parts, func(other multiserver.Part) bool { return other.String() == p.String() }) {
				parts = append(parts, p)
			}
		}
	}
	return parts
}

type intakeListener struct {
	*intake
	done chan struct{}
	once sync.Once
}

func (l *intakeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *intakeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *intakeListener) Addresses(scope multiserver.Scope) []multiserver.Part {
	return l.addresses(scope)
}

// webSockets is the transport "ws" of a hub, mounted in its HTTP. It is reached wherever that is.
type webSockets struct {
	*ws.Transport
	h *Hub
}

func (t webSockets) Listen(ctx context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	ln, err := t.Transport.Listen(ctx, in)
	if err != nil {
		return nil, err
	}
	return webSocketListener{ln, t.h}, nil
}

type webSocketListener struct {
	multiserver.Listener
	h *Hub
}

// Addresses returns ws://host[:port] or wss://host[:port]. TLS is for the domain alone: there is no certificate for any
// other name.
func (l webSocketListener) Addresses(scope multiserver.Scope) []multiserver.Part {
	p := l.h.places
	if p.domain != "" && scope == multiserver.Public {
		scheme := "ws"
		if p.secure {
			scheme = "wss"
		}
		return []multiserver.Part{multiserver.NewPart(scheme, "//"+p.host(p.domain))}
	}
	var parts []multiserver.Part
	for _, part := range l.h.intake.addresses(scope) {
		if host, port, _, err := multiserver.ParseHostPort("net", part, multiserver.Loose); err == nil {
			u := places{port: int(port)}
			if u.port == u.usual() {
				u.port = 0
			}
			if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
				host = "[" + host + "]"
			}
			parts = append(parts, multiserver.NewPart("ws", "//"+u.host(host)))
		}
	}
	return parts
}

// transports are the plugin that connects the hub's app with its ports.
func (h *Hub) transports() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "hubPort"}, func(_ context.Context, s *secretstack.Setup) error {
		return errors.Join(s.Transport(h.intake), s.Transport(webSockets{h.ws, h}))
	})
}
