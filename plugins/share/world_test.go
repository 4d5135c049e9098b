package share_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/share"
)

var (
	identity   = testkit.Identity
	eventually = testkit.Eventually
)

// exchange is where the peers of a test find each other: it carries streams as a hub does, by key.
type exchange struct {
	mu     sync.Mutex
	people map[string]*streams
	cuts   []func()
}

func newExchange() *exchange { return &exchange{people: map[string]*streams{}} }

// cut cuts all connections that there are.
func (x *exchange) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, cut := range x.cuts {
		cut()
	}
	x.cuts = nil
}

// streams is the way of one peer to the exchange.
type streams struct {
	x     *exchange
	setup *secretstack.Setup
	serve func(ctx context.Context, conn *multiserver.Conn)
}

// plugin has the name of the plugin that carries streams.
func (x *exchange) plugin() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "hubclient"}, func(_ context.Context, s *secretstack.Setup) error {
		one := &streams{x: x, setup: s}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.people[s.App().ID().Ref()] = one
		s.Export(one)
		return nil
	})
}

func (s *streams) HandleStream(_ string, serve func(ctx context.Context, conn *multiserver.Conn)) error {
	s.serve = serve
	return nil
}

var errNobody = errors.New("nobody is there")

// DialStream makes a connection over TCP, so that there are halves, buffers and resets.
func (s *streams) DialStream(ctx context.Context, address, _ string) (*multiserver.Conn, error) {
	s.x.mu.Lock()
	peer := s.x.people[address]
	s.x.mu.Unlock()
	if peer == nil {
		return nil, errNobody
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	s.x.mu.Lock()
	s.x.cuts = append(s.x.cuts, func() { near.Close(); far.Close() })
	s.x.mu.Unlock()
	peer.setup.Go(func(ctx context.Context) {
		conn, err := peer.transform().Server(ctx, far)
		if err == nil {
			peer.serve(ctx, conn)
			conn.Close()
		}
	})
	return s.transform().Client(ctx, near, multiserver.NewPart("shs", peer.setup.App().ID().Base64()))
}

func (s *streams) transform() multiserver.Transform {
	return multiserver.SHS(multiserver.SHSConfig{Identity: s.setup.Identity(), AppKey: s.setup.AppKey()})
}

// person is an app with the plugin.
type person struct {
	*secretstack.App
	*share.Shares
}

func (x *exchange) person(t *testing.T, name string, cfg share.Config) person {
	t.Helper()
	stack := secretstack.New(secretstack.Options{Bare: true})
	if err := stack.Use(secretstack.SHSPlugin(), x.plugin(), share.Plugin(cfg)); err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{Identity: identity(t, name), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	shares, _ := secretstack.Find[*share.Shares](app)
	return person{app, shares}
}

// service is a listener on this machine whose connections the test gets.
type service struct {
	net.Listener
	conns chan *net.TCPConn
}

func newService(t *testing.T) *service {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{ln, make(chan *net.TCPConn, 64)}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.conns <- c.(*net.TCPConn)
		}
	}()
	t.Cleanup(func() { ln.Close() })
	return s
}

func (s *service) dial() func(context.Context) (net.Conn, error) { return share.TCP(s.Addr().String()) }

func (s *service) accept(t *testing.T) *net.TCPConn {
	t.Helper()
	c := <-s.conns
	t.Cleanup(func() { c.Close() })
	return c
}

func everybody(keys.PublicKey) bool { return true }

func only(p person) func(keys.PublicKey) bool { return p.ID().Equal }

func mustShare(t *testing.T, p person, sv share.Service) {
	t.Helper()
	if err := p.Share(t.Context(), sv); err != nil {
		t.Fatal(err)
	}
}

// local is a connection of a local program that is forwarded.
func forwarded(t *testing.T, p person, f share.Forward) (program *net.TCPConn, result <-chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close() })
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- p.Join(t.Context(), accepted, f) }()
	return dialled.(*net.TCPConn), over
}

func wantPassed(t *testing.T, from io.Writer, to io.Reader, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}
