package tunnel_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/room"
	"github.com/secretstack/secretstack/plugins/tunnel"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
)

// streamConn is as much of a net.Conn as the client's side of a handshake needs.
type streamConn struct {
	net.Conn // nil
	*muxrpc.Stream[[]byte, []byte]
	rest []byte
}

func (c *streamConn) Read(p []byte) (n int, err error) {
	if len(c.rest) == 0 {
		c.rest, err = c.Recv(context.Background())
	}
	n = copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, err
}
func (c *streamConn) Write(p []byte) (int, error)      { return len(p), c.Send(context.Background(), p) }
func (c *streamConn) Close() error                     { return c.CloseSend() }
func (c *streamConn) SetDeadline(time.Time) error      { return nil }
func (c *streamConn) SetReadDeadline(time.Time) error  { return nil }
func (c *streamConn) SetWriteDeadline(time.Time) error { return nil }
func (c *streamConn) PeerPart() multiserver.Part       { return multiserver.NewPart("test", "") }

// handshake runs the client's side of the secret handshake over a stream.
func handshake(t *testing.T, s *muxrpc.Stream[[]byte, []byte], as *keys.Identity, with keys.PublicKey) net.Conn {
	t.Helper()
	conn, err := multiserver.SHS(multiserver.SHSConfig{Identity: as, AppKey: keys.MainNet()}).
		Client(t.Context(), &streamConn{Stream: s}, multiserver.NewPart("shs", with.Base64()))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestTheFirstBytesAreSentAtOnce: the handshake begins without waiting for the portal's word.
func TestTheFirstBytesAreSentAtOnce(t *testing.T) {
	w := newWorld()
	got := make(chan int, 1)
	portal := w.app(t, "portal", secretstack.NewPlugin(secretstack.Info{Name: "tunnel", Permissions: secretstack.Anonymous("connect")},
		func(_ context.Context, s *secretstack.Setup) error {
			return muxrpc.HandleDuplex(s, "connect", func(ctx context.Context, _ map[string]any, s *muxrpc.Stream[[]byte, []byte]) error {
				b, _ := s.Recv(ctx)
				got <- len(b)
				return muxrpc.Errorf("seen")
			})
		}))
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
	connect(t, alice, portal)
	_, err := alice.Connect(t.Context(), tunnel.Address(portal.ID(), key(t, "bob")).String())
	wantErr(t, err, "secretstack: seen (")
	if n := <-got; n != 64 {
		t.Errorf("the first item has %d bytes", n)
	}
}

// rawEnds returns both ends of a tunnel without a transform.
func rawEnds(t testing.TB) (near, far net.Conn, stop func()) {
	t.Helper()
	w := newWorld()
	accepted := make(chan net.Conn, 1)
	dialled := make(chan net.Conn, 1)
	portal := w.app(t, "portal", room.Plugin(room.Config{MaxTunnels: 100}))
	alice := w.rawApp(t, "alice", accepted)
	carol := w.rawApp(t, "carol", dialled)
	connect(t, alice, portal)
	connect(t, carol, portal)
	inRoom(t, portal, alice, carol)
	_, err := carol.Connect(t.Context(), tunnel.Address(portal.ID(), alice.ID())[:1].String()+"~raw:x")
	if !errors.Is(err, errTaken) {
		t.Fatal(err)
	}
	near = <-dialled
	if _, err := near.Write([]byte{1}); err != nil { // JavaScript's portal, too, opens the tunnel with the first item
		t.Fatal(err)
	}
	far = <-accepted
	if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return near, far, func() {
		near.Close()
		far.Close()
		for _, app := range []*secretstack.App{alice, carol, portal} {
			_ = app.Close(context.Background())
		}
	}
}

// rawApp starts an app whose tunnels have the transform "raw", which hands over what is below it.
func (w world) rawApp(t testing.TB, name string, conns chan<- net.Conn) *secretstack.App {
	t.Helper()
	stack := secretstack.New(secretstack.Options{Bare: true})
	raw := secretstack.NewPlugin(secretstack.Info{Name: "raw"}, func(_ context.Context, s *secretstack.Setup) error {
		return s.Transform(rawTransform{conns})
	})
	if err := stack.Use(tunnel.Plugin(tunnel.Config{}), raw, memnet.Plugin(w.Network, memnet.RealHandshakes), secretstack.SHSPlugin()); err != nil {
		t.Fatal(err)
	}
	return start(t, stack, secretstack.Config{
		Identity: identity(t, name),
		Logger:   slog.New(slog.DiscardHandler),
		Settings: secretstack.Settings{"memory": map[string]any{"name": name}},
		Connections: &multiserver.Config{
			Incoming: map[string][]multiserver.Incoming{"tunnel": {{Transform: "raw"}}},
			Outgoing: map[string][]multiserver.Outgoing{"tunnel": {{Transform: "raw"}}},
		},
	})
}

type rawTransform struct{ conns chan<- net.Conn }

func (rawTransform) Name() string    { return "raw" }
func (rawTransform) Address() string { return "raw:x" }
func (rawTransform) ParsePart(p multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if p.Name != "raw" {
		return p, multiserver.ErrOtherPart
	}
	return p, nil
}

var errTaken = errors.New("taken")

func (r rawTransform) Client(_ context.Context, conn net.Conn, _ multiserver.Part) (*multiserver.Conn, error) {
	r.conns <- conn
	return nil, errTaken
}

func (r rawTransform) Server(_ context.Context, conn net.Conn) (*multiserver.Conn, error) {
	r.conns <- conn
	return nil, errTaken
}

// TestTunnelsAreConnections holds the ends of a tunnel to what net.Conn promises.
func TestTunnelsAreConnections(t *testing.T) {
	nettest.TestConn(t, func() (near, far net.Conn, stop func(), err error) {
		near, far, stop = rawEnds(t)
		return near, far, stop, nil
	})
}

func TestEndsOfTunnelsSayWhoIsThere(t *testing.T) {
	near, far, stop := rawEnds(t)
	defer stop()
	prefix := "tunnel:" + ref(t, "portal") + ":"
	if got := multiserver.PeerPart(near).String(); got != prefix+ref(t, "alice") {
		t.Errorf("the near end has %s at the other", got)
	}
	if got := multiserver.PeerPart(far).String(); got != prefix+ref(t, "carol") {
		t.Errorf("the far end has %s at the other", got)
	}
	if near.RemoteAddr().Network() != "tunnel" || near.LocalAddr() == nil {
		t.Errorf("addresses %v, %v", near.LocalAddr(), near.RemoteAddr())
	}
}

func TestAbortedTunnelsEndWithAnError(t *testing.T) {
	near, far, stop := rawEnds(t)
	defer stop()
	if err := near.(interface{ Abort() error }).Abort(); err != nil {
		t.Error(err)
	}
	far.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := far.Read(make([]byte, 1))
	wantErr(t, err, "the tunnel was cut")
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading gives %v", err)
	}
	if _, err := near.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing gives %v", err)
	}
}

func FuzzAddress(f *testing.F) {
	app := newWorld().app(f, "alice", tunnel.Plugin(tunnel.Config{}))
	bob := key(f, "bob")
	f.Add(tunnel.Address(bob, bob).String())
	f.Add("tunnel:x:y~shs:z")
	f.Add("tunnel::~shs:")
	f.Add("tunnel~shs")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f.Fuzz(func(t *testing.T, address string) {
		if p, err := app.Connect(ctx, address); err == nil || p != nil {
			t.Errorf("connected to %s", address)
		}
	})
}
