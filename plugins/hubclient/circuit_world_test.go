package hubclient_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	tcp "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/room"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

var eventually = testkit.Eventually

// tcpHub is a hub on a real port: it gives ids to everybody and joins whom it is told to. What it does with circuits can be
// changed.
type tcpHub struct {
	t       *testing.T
	id      *keys.Identity
	app     *secretstack.App
	table   *circuits.Table
	address multiserver.Address

	mu       sync.Mutex
	couriers map[[32]byte]*courierAt
	connect  func(visitor keys.PublicKey, r native.ConnectRequest) (native.Connected, error) // answers hub.connect
	serve    func(conn net.Conn)                                                             // takes the connections of circuits
	stop     func()
}

// courierAt is a courier as the hub knows it.
type courierAt struct {
	peer      *secretstack.Peer
	serves    []string
	addresses *claim.Addresses
	receipt   claim.Receipt
}

func newTCPHub(t *testing.T, name string, limits ...circuits.Limits) *tcpHub {
	t.Helper()
	var cfg circuits.Config
	for _, l := range limits {
		cfg.Limits = l
	}
	h := &tcpHub{t: t, id: identity(t, name), table: circuits.New(cfg), couriers: map[[32]byte]*courierAt{}}
	h.serve = h.table.Serve
	h.connect = h.honest
	h.start("127.0.0.1:0")
	return h
}

// set changes what the hub does.
func (h *tcpHub) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// takeOver serves a connection of a circuit.
func (h *tcpHub) takeOver(conn net.Conn) {
	h.mu.Lock()
	serve := h.serve
	h.mu.Unlock()
	serve(conn)
}

// answer answers hub.connect.
func (h *tcpHub) answer(ctx context.Context, r native.ConnectRequest) (native.Connected, error) {
	h.mu.Lock()
	connect := h.connect
	h.mu.Unlock()
	return connect(secretstack.PeerFrom(ctx).Key(), r)
}

// start listens and serves.
func (h *tcpHub) start(at string) {
	h.t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		h.t.Fatal(err)
	}
	split := multiserver.Split(ln, multiserver.SplitOptions{}, circuit.Match)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := split.Listener(0).Accept()
			if err != nil {
				return
			}
			serving.Go(func() { h.takeOver(conn) })
		}
	})
	stack := secretstack.New(secretstack.Options{Bare: true})
	err = stack.Use(secretstack.SHSPlugin(), secretstack.TransportPlugin(tcp.New(tcp.Options{Listener: split.Rest()})),
		room.Plugin(room.Config{}), h.plugin())
	if err != nil {
		h.t.Fatal(err)
	}
	h.app, err = stack.Start(context.Background(), secretstack.Config{
		Identity: h.id,
		Logger:   slog.New(slog.DiscardHandler),
		Connections: &multiserver.Config{Incoming: map[string][]multiserver.Incoming{
			"net": {{Transform: "shs", Scope: multiserver.Scopes{multiserver.Device}}},
		}},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	h.address = multiserver.Address{multiserver.HostPortPart("net", "127.0.0.1", addr.AddrPort().Port()), multiserver.NewPart("shs", h.id.Public().Base64())}
	h.stop = sync.OnceFunc(func() {
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		_ = h.app.Close(gone)
		_ = split.Close()
		_ = h.table.Close(gone)
		serving.Wait()
	})
	h.t.Cleanup(h.stop)
}

func (h *tcpHub) plugin() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "hub", Permissions: secretstack.Anonymous("publish", "whois", "status", "connect")},
		func(_ context.Context, s *secretstack.Setup) error {
			s.OnDisconnect(h.left)
			return errors.Join(
				muxrpc.HandleAsync(s, "publish", h.publish),
				muxrpc.HandleAsync(s, "whois", h.whois),
				muxrpc.HandleAsync(s, "status", func(context.Context, muxrpc.None) (native.Status, error) { return native.Status{}, nil }),
				muxrpc.HandleAsync(s, "connect", h.answer),
			)
		})
}

func (h *tcpHub) left(p *secretstack.Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.couriers[p.Key().Array()]; c != nil && c.peer == p {
		c.peer = nil
	}
}

func (h *tcpHub) publish(ctx context.Context, r native.PublishRequest) (native.Published, error) {
	p := secretstack.PeerFrom(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.couriers[p.Key().Array()]
	if c == nil {
		receipt := claim.Receipt{Key: p.Key(), ID: parsedID(h.t, ids[len(h.couriers)]), Sequence: 1}
		c = &courierAt{receipt: receipt.Sign(h.id)}
		h.couriers[p.Key().Array()] = c
	}
	c.peer, c.serves, c.addresses = p, r.Serves, r.Addresses
	return native.Published{ID: c.receipt.ID, Sequence: 1, Receipt: c.receipt, PublicKey: secrezKey(h.t, p.Key())}, nil
}

func (h *tcpHub) whois(_ context.Context, q native.WhoisRequest) (native.Who, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.couriers[q.Key.Array()]
	if c == nil {
		return native.Who{}, (&native.Error{Code: native.Unknown, Text: "nobody"}).ForPeer()
	}
	return native.Who{
		ID: c.receipt.ID, Key: q.Key, PublicKey: secrezKey(h.t, q.Key), Online: c.peer != nil, Serves: c.serves, Addresses: c.addresses,
	}, nil
}

// courier returns what the hub knows of a courier, or nil.
func (h *tcpHub) courier(key keys.PublicKey) *courierAt {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.couriers[key.Array()]; c != nil {
		found := *c
		return &found
	}
	return nil
}

// honest is what a good hub does.
func (h *tcpHub) honest(visitor keys.PublicKey, r native.ConnectRequest) (native.Connected, error) {
	c := h.courier(r.Key)
	switch {
	case c == nil && h.inRoom(r.Key):
		return native.Connected{}, (&native.Error{Code: native.NoCircuits, Text: "it serves none"}).ForPeer()
	case c == nil:
		return native.Connected{}, (&native.Error{Code: native.Unknown, Text: "nobody has this key"}).ForPeer()
	case c.peer == nil:
		return native.Connected{}, (&native.Error{Code: native.Offline, Text: "it is not here"}).ForPeer()
	}
	o, err := h.table.Offer(visitor, r.Key)
	if err != nil {
		return native.Connected{}, (&native.Error{Code: native.Unavailable, Text: "no room"}).ForPeer()
	}
	go func() {
		if err := h.offer(c.peer, visitor, o.Target); err != nil {
			o.Refuse(circuit.Refused)
		}
	}()
	return native.Connected{Key: r.Key, Token: o.Visitor, Lifetime: o.Lifetime.Milliseconds(), Addresses: c.addresses}, nil
}

func (h *tcpHub) offer(target *secretstack.Peer, origin keys.PublicKey, token circuit.Token) error {
	_, err := muxrpc.Call[muxrpc.None](context.Background(), target, native.MethodCircuit,
		native.CircuitOffer{Origin: origin, Token: token, Lifetime: 15_000})
	return err
}

func (h *tcpHub) inRoom(key keys.PublicKey) bool {
	r, _ := secretstack.Find[*room.Room](h.app)
	for _, id := range r.Attendants() {
		if id == key.Ref() {
			return true
		}
	}
	return false
}

// person is an app with the plugin.
type person struct {
	app    *secretstack.App
	client *hubclient.Client
}

// newPerson starts an app that does not listen but for circuits, at some hubs or at none.
func newPerson(t *testing.T, name string, hubs []*tcpHub, change ...func(cfg *hubclient.Config)) *person {
	t.Helper()
	var cfg hubclient.Config
	for _, h := range hubs {
		cfg.Hubs = append(cfg.Hubs, hubclient.Hub{Address: h.address.String()})
	}
	for _, c := range change {
		c(&cfg)
	}
	p := &person{app: newApp(t, name, hubclient.Plugin(cfg))}
	p.client, _ = secretstack.Find[*hubclient.Client](p.app)
	for range hubs {
		await(t, p.client, "online", online)
	}
	for all := range p.client.Watch(t.Context()) {
		if len(all) == 0 || onlineAll(all) {
			break
		}
	}
	return p
}

func onlineAll(all []hubclient.Status) bool {
	for _, s := range all {
		if !s.Online {
			return false
		}
	}
	return true
}

// newApp starts an app that can dial with net and does not listen with it. It serves "test.whoami" and "test.echo".
func newApp(t *testing.T, name string, plugins ...secretstack.Plugin) *secretstack.App {
	t.Helper()
	stack := secretstack.New(secretstack.Options{Bare: true})
	plugins = append(plugins, secretstack.SHSPlugin(), secretstack.TransportPlugin(tcp.New(tcp.Options{})), testPlugin())
	if err := stack.Use(plugins...); err != nil {
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
	return app
}

func testPlugin() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "test", Permissions: secretstack.Anonymous("whoami", "echo")},
		func(_ context.Context, s *secretstack.Setup) error {
			return errors.Join(
				muxrpc.HandleAsync(s, "whoami", func(ctx context.Context, _ muxrpc.None) (string, error) {
					return secretstack.PeerFrom(ctx).Key().Ref(), nil
				}),
				muxrpc.HandleDuplex(s, "echo", func(ctx context.Context, _ muxrpc.None, st *muxrpc.Stream[[]byte, []byte]) error {
					for b, err := range st.All(ctx) {
						if err != nil {
							return err
						}
						if err := st.Send(ctx, b); err != nil {
							return err
						}
					}
					return nil
				}),
			)
		})
}

// attendant starts an app that knows rooms and no hubs, as a JavaScript peer does.
func attendant(t *testing.T, name string, h *tcpHub) *secretstack.App {
	t.Helper()
	return newApp(t, name, tunnel.Plugin(tunnel.Config{Portals: []string{h.address.String()}}))
}

// to is the address of a peer at a hub.
func (h *tcpHub) to(t testing.TB, peer string) string {
	t.Helper()
	a, err := hubclient.CircuitAddress(h.address, identity(t, peer).Public())
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

// mustConnect dials a peer and checks who it is, and who it thinks we are.
func mustConnect(t *testing.T, from *secretstack.App, address string, peer string) *secretstack.Peer {
	t.Helper()
	p, err := from.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Key().Equal(identity(t, peer).Public()) {
		t.Fatalf("connected with %s", p.Key())
	}
	me, err := muxrpc.Call[string](t.Context(), p, "test.whoami")
	if err != nil || me != from.ID().Ref() {
		t.Fatalf("%s takes us for %q, %v", peer, me, err)
	}
	return p
}
