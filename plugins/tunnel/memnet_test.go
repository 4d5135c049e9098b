package tunnel_test

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

// memNet is a network in memory, for tests inside a synctest bubble, which sockets do not fit. It is a transport of its
// own, mem:NAME, where the NAME to listen on is the entry's host.
type memNet struct {
	mu        sync.Mutex
	listeners map[string]*memListener
}

func newMemNet() *memNet { return &memNet{listeners: map[string]*memListener{}} }

func (n *memNet) Name() string { return "mem" }

func (n *memNet) ParsePart(p multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if p.Name != "mem" {
		return p, multiserver.ErrOtherPart
	}
	return p, nil
}

func (n *memNet) Listen(_ context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[in.Host] != nil {
		return nil, fmt.Errorf("mem: %q is taken", in.Host)
	}
	l := &memListener{net: n, in: in, conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[in.Host] = l
	return l, nil
}

func (n *memNet) Dial(ctx context.Context, p multiserver.Part) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[p.Rest()]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("mem: nobody is at %q", p.Rest())
	}
	near, far := net.Pipe()
	select {
	case l.conns <- memConn{far, multiserver.NewPart("mem", "somewhere")}:
		return memConn{near, p}, nil
	case <-l.done:
		return nil, fmt.Errorf("mem: nobody is at %q", p.Rest())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memConn struct {
	net.Conn
	peer multiserver.Part
}

func (c memConn) PeerPart() multiserver.Part { return c.peer }

type memListener struct {
	net   *memNet
	in    multiserver.Incoming
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.listeners, l.in.Host)
	})
	return nil
}

func (l *memListener) Addresses(scope multiserver.Scope) []multiserver.Part {
	if scope != multiserver.Device {
		return nil
	}
	return []multiserver.Part{multiserver.NewPart("mem", l.in.Host)}
}

// claim is a transform for tests: either side says which key it has, and is believed.
type claim struct{ s *secretstack.Setup }

func (c claim) Name() string { return "claim" }

func (c claim) ParsePart(p multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if p.Name != "claim" {
		return p, multiserver.ErrOtherPart
	}
	return p, nil
}

func (c claim) Address() string { return "claim:" + c.s.Identity().Public().Base64() }

func (c claim) Client(ctx context.Context, raw net.Conn, _ multiserver.Part) (*multiserver.Conn, error) {
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	_, err := raw.Write(c.s.Identity().Public().Bytes())
	if err != nil {
		raw.Close()
		return nil, err
	}
	return c.conn(raw, nil)
}

func (c claim) Server(ctx context.Context, raw net.Conn) (*multiserver.Conn, error) {
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	key := make([]byte, 32)
	if _, err := io.ReadFull(raw, key); err != nil {
		raw.Close()
		return nil, err
	}
	peer, _ := keys.NewPublicKey(key)
	auth, err := c.s.Authorize(ctx, peer, multiserver.PeerPart(raw).String())
	if err != nil {
		raw.Close()
		return nil, err
	}
	if _, err := raw.Write(c.s.Identity().Public().Bytes()); err != nil {
		raw.Close()
		return nil, err
	}
	return multiserver.NewConn(multiserver.ConnConfig{Raw: raw, Remote: peer, Auth: auth, Transform: "claim:" + peer.Base64()}), nil
}

func (c claim) conn(raw net.Conn, auth any) (*multiserver.Conn, error) {
	key := make([]byte, 32)
	if _, err := io.ReadFull(raw, key); err != nil {
		raw.Close()
		return nil, fmt.Errorf("claim: the server hung up")
	}
	peer, _ := keys.NewPublicKey(key)
	return multiserver.NewConn(multiserver.ConnConfig{Raw: raw, Remote: peer, Auth: auth, Transform: "claim:" + peer.Base64()}), nil
}

// memory is a plugin that puts apps on a memNet, each under the name in its settings.
func memory(n *memNet) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "memory"}, func(_ context.Context, s *secretstack.Setup) error {
		var settings struct{ Name string }
		if err := s.Config(&settings); err != nil {
			return err
		}
		s.Export(n)
		if err := s.Transform(claim{s}); err != nil {
			return err
		}
		return s.Transport(n, multiserver.Config{
			Incoming: map[string][]multiserver.Incoming{"mem": {{Host: settings.Name, Transform: "claim"}, {Host: settings.Name + ".shs", Transform: "shs"}}},
			Outgoing: map[string][]multiserver.Outgoing{"mem": {{Transform: "claim"}, {Transform: "shs"}}},
		})
	})
}
