// Package memnet is a network in memory for tests of apps: inside a bubble of testing/synctest, which sockets do not fit,
// timers run at once.
package memnet

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// Network is a transport of its own, mem:NAME, where the NAME to listen on is the entry's host.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

// New returns a network where nobody is yet.
func New() *Network { return &Network{listeners: map[string]*listener{}} }

func (n *Network) Name() string { return "mem" }

func (n *Network) ParsePart(p multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if p.Name != "mem" {
		return p, multiserver.ErrOtherPart
	}
	return p, nil
}

func (n *Network) Listen(_ context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[in.Host] != nil {
		return nil, fmt.Errorf("mem: %q is taken", in.Host)
	}
	l := &listener{net: n, in: in, conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[in.Host] = l
	return l, nil
}

func (n *Network) Dial(ctx context.Context, p multiserver.Part) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[p.Rest()]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("mem: nobody is at %q", p.Rest())
	}
	near, far := net.Pipe()
	select {
	case l.conns <- conn{far, multiserver.NewPart("mem", "somewhere")}:
		return conn{near, p}, nil
	case <-l.done:
		return nil, fmt.Errorf("mem: nobody is at %q", p.Rest())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type conn struct {
	net.Conn
	peer multiserver.Part
}

func (c conn) PeerPart() multiserver.Part { return c.peer }

type listener struct {
	net   *Network
	in    multiserver.Incoming
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.listeners, l.in.Host)
	})
	return nil
}

func (l *listener) Addresses(scope multiserver.Scope) []multiserver.Part {
	if scope != multiserver.Device {
		return nil
	}
	return []multiserver.Part{multiserver.NewPart("mem", l.in.Host)}
}

// Claim is a transform for tests: either side says which key it has, and is believed.
type Claim struct{ Setup *secretstack.Setup }

func (c Claim) Name() string { return "claim" }

func (c Claim) ParsePart(p multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if p.Name != "claim" {
		return p, multiserver.ErrOtherPart
	}
	return p, nil
}

func (c Claim) Address() string { return "claim:" + c.Setup.Identity().Public().Base64() }

func (c Claim) Client(ctx context.Context, raw net.Conn, _ multiserver.Part) (*multiserver.Conn, error) {
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	_, err := raw.Write(c.Setup.Identity().Public().Bytes())
	if err != nil {
		raw.Close()
		return nil, err
	}
	return c.conn(raw, nil)
}

func (c Claim) Server(ctx context.Context, raw net.Conn) (*multiserver.Conn, error) {
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	key := make([]byte, 32)
	if _, err := io.ReadFull(raw, key); err != nil {
		raw.Close()
		return nil, err
	}
	peer, _ := keys.NewPublicKey(key)
	auth, err := c.Setup.Authorize(ctx, peer, multiserver.PeerPart(raw).String())
	if err != nil {
		raw.Close()
		return nil, err
	}
	if _, err := raw.Write(c.Setup.Identity().Public().Bytes()); err != nil {
		raw.Close()
		return nil, err
	}
	return multiserver.NewConn(multiserver.ConnConfig{Raw: raw, Remote: peer, Auth: auth, Transform: "claim:" + peer.Base64()}), nil
}

func (c Claim) conn(raw net.Conn, auth any) (*multiserver.Conn, error) {
	key := make([]byte, 32)
	if _, err := io.ReadFull(raw, key); err != nil {
		raw.Close()
		return nil, fmt.Errorf("claim: the server hung up")
	}
	peer, _ := keys.NewPublicKey(key)
	return multiserver.NewConn(multiserver.ConnConfig{Raw: raw, Remote: peer, Auth: auth, Transform: "claim:" + peer.Base64()}), nil
}

// Plugin puts apps on the network, each under the name in its settings ("memory": {"name": …}), where keys are claimed.
// With real handshakes each app is at mem:NAME.shs as well, proving its key there; the app must know the transform shs.
func Plugin(n *Network, options ...Option) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "memory"}, func(_ context.Context, s *secretstack.Setup) error {
		var settings struct{ Name string }
		if err := s.Config(&settings); err != nil {
			return err
		}
		s.Export(n)
		if err := s.Transform(Claim{s}); err != nil {
			return err
		}
		incoming := []multiserver.Incoming{{Host: settings.Name, Transform: "claim"}}
		outgoing := []multiserver.Outgoing{{Transform: "claim"}}
		for _, option := range options {
			if option == RealHandshakes {
				incoming = append(incoming, multiserver.Incoming{Host: settings.Name + ".shs", Transform: "shs"})
				outgoing = append(outgoing, multiserver.Outgoing{Transform: "shs"})
			}
		}
		return s.Transport(n, multiserver.Config{
			Incoming: map[string][]multiserver.Incoming{"mem": incoming},
			Outgoing: map[string][]multiserver.Outgoing{"mem": outgoing},
		})
	})
}

// Option changes what Plugin does.
type Option int

// RealHandshakes adds an entry with the transform shs.
const RealHandshakes Option = iota
