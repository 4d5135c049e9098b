// Command transport shows a plugin that adds a transport of its own: "mem" connects apps of one process through memory.
// Everything else stays as it is: addresses (mem:NAME~shs:KEY), the secret handshake, and the calls.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// network is the memory through which apps meet: who listens, by name.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
}

// plugin makes an app listen on the network under a name, and able to dial there.
func (n *network) plugin(listenAs string) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "mem"}, func(_ context.Context, s *secretstack.Setup) error {
		defaults := multiserver.Config{
			Outgoing: map[string][]multiserver.Outgoing{"mem": {{Transform: "shs"}}},
			Incoming: map[string][]multiserver.Incoming{"mem": {{
				Scope: multiserver.Scopes{multiserver.Device}, Transform: "shs", Host: listenAs,
			}}},
		}
		return s.Transport(transport{n}, defaults)
	})
}

// transport is what package multiserver asks of a transport.
type transport struct{ network *network }

func (transport) Name() string { return "mem" }

// ParsePart accepts mem:NAME.
func (transport) ParsePart(part multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if part.Name != "mem" {
		return part, multiserver.ErrOtherPart
	}
	if len(part.Data) != 1 || part.Data[0] == "" {
		return part, errors.New("a mem: part needs a name, as in mem:alice")
	}
	return part, nil
}

func (t transport) Listen(_ context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	t.network.mu.Lock()
	defer t.network.mu.Unlock()
	if t.network.listeners[in.Host] != nil {
		return nil, fmt.Errorf("mem: %q is taken", in.Host)
	}
	l := &listener{network: t.network, name: in.Host, conns: make(chan net.Conn), closed: make(chan struct{})}
	t.network.listeners[in.Host] = l
	return l, nil
}

func (t transport) Dial(ctx context.Context, part multiserver.Part) (net.Conn, error) {
	t.network.mu.Lock()
	l := t.network.listeners[part.Data[0]]
	t.network.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("mem: nobody listens as %q", part.Data[0])
	}
	here, there := net.Pipe()
	select {
	case l.conns <- conn{there, "dialler"}:
		return conn{here, part.Data[0]}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type listener struct {
	network *network
	name    string
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		delete(l.network.listeners, l.name)
		l.network.mu.Unlock()
		close(l.closed)
	})
	return nil
}

// Addresses is what App.Address shows.
func (l *listener) Addresses(scope multiserver.Scope) []multiserver.Part {
	if scope != multiserver.Device {
		return nil
	}
	return []multiserver.Part{multiserver.NewPart("mem", l.name)}
}

// conn says where the other end is, as TCP connections do by themselves.
type conn struct {
	net.Conn
	peer string
}

func (c conn) PeerPart() multiserver.Part { return multiserver.NewPart("mem", c.peer) }

func run(ctx context.Context, out io.Writer) error {
	meeting := &network{listeners: map[string]*listener{}}
	alice, err := start(ctx, meeting, "alice")
	if err != nil {
		return err
	}
	defer alice.Close(ctx)
	bob, err := start(ctx, meeting, "bob")
	if err != nil {
		return err
	}
	defer bob.Close(ctx)

	peer, err := bob.Connect(ctx, alice.Address(multiserver.Device))
	if err != nil {
		return err
	}
	address, err := muxrpc.Call[string](ctx, peer, "whereami.address")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "bob has reached", address)
	return nil
}

// start makes an app that knows no network but ours.
func start(ctx context.Context, n *network, name string) (*secretstack.App, error) {
	stack := secretstack.New(secretstack.Options{Bare: true})
	if err := stack.Use(secretstack.SHSPlugin(), n.plugin(name), whereami(name)); err != nil {
		return nil, err
	}
	return stack.Start(ctx, secretstack.Config{})
}

func whereami(name string) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:        "whereami",
		Permissions: secretstack.Anonymous("address"),
	}, func(_ context.Context, s *secretstack.Setup) error {
		return muxrpc.HandleSync(s, "address", func(context.Context, muxrpc.None) (string, error) {
			return "mem:" + name, nil
		})
	})
}
