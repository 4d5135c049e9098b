package hubclient_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	tcp "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/room"
	"github.com/secretstack/secretstack/plugins/tunnel"
	"github.com/secretstack/secretstack/shs"
)

func TestAnyAppDialsAPeerThroughAHubByAddress(t *testing.T) {
	hub := newTCPHub(t, "hub")
	alice := newPerson(t, "alice", []*tcpHub{hub})
	bob := newPerson(t, "bob", nil)
	p := mustConnect(t, bob.app, hub.to(t, "alice"), "alice")
	if p.Address() != hub.to(t, "alice") {
		t.Errorf("the peer is at %s", p.Address())
	}
	back := alice.app.PeersOf(bob.app.ID())
	if len(back) != 1 || back[0].IsClient() || back[0].Address() != hub.to(t, "bob") {
		t.Errorf("alice sees %v", back)
	}
	stream, err := muxrpc.Duplex[[]byte, []byte](t.Context(), p, "test.echo")
	if err != nil {
		t.Fatal(err)
	}
	piece := bytes.Repeat([]byte("x"), 60_000)
	for range 20 {
		if err := stream.Send(t.Context(), piece); err != nil {
			t.Fatal(err)
		}
		if got, err := stream.Recv(t.Context()); err != nil || !bytes.Equal(got, piece) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	if err := stream.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if s := hub.table.Stats(); s.Joined != 1 || s.InKernel != 1 || s.Bytes < 2*20*60_000 {
		t.Errorf("the hub has joined: %+v", s)
	}
	again := mustConnect(t, bob.app, hub.to(t, "alice"), "alice")
	if n := len(bob.app.PeersOf(hub.id.Public())); n != 1 {
		t.Errorf("bob has %d connections to the hub", n)
	}
	for _, p := range []*secretstack.Peer{p, again} {
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestCouriersReachEachOtherOverTheConnectionsThatTheyHave(t *testing.T) {
	hub := newTCPHub(t, "hub")
	alice, bob := newPerson(t, "alice", []*tcpHub{hub}), newPerson(t, "bob", []*tcpHub{hub})
	mustConnect(t, bob.app, hub.to(t, "alice"), "alice")
	mustConnect(t, alice.app, hub.to(t, "bob"), "bob")
	if n := len(hub.app.Peers()); n != 2 {
		t.Errorf("the hub has %d connections", n)
	}
}

func TestAnAppTellsItsAddressesAtItsHubs(t *testing.T) {
	one, two := newTCPHub(t, "one"), newTCPHub(t, "two")
	alice := newPerson(t, "alice", []*tcpHub{one, two})
	want := one.to(t, "alice") + ";" + two.to(t, "alice")
	if got := alice.app.Address(multiserver.Public); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := alice.app.Address(multiserver.Device); got != "" {
		t.Errorf("for this machine: %s", got)
	}
	signed := alice.client.Addresses()
	if err := signed.Verify(alice.app.ID()); err != nil || signed.Text != want {
		t.Errorf("signed: %+v, %v", signed, err)
	}
	if c := one.courier(alice.app.ID()); c.addresses == nil || c.addresses.Text != want {
		t.Errorf("the hub knows %+v", c.addresses)
	}
	if none := newPerson(t, "bob", nil).client.Addresses(); none.Text != "" {
		t.Errorf("%+v", none)
	}
}

// refusing makes a hub answer every request for a circuit with a refusal.
func (h *tcpHub) refusing(code native.Code) {
	h.set(func() {
		h.connect = func(keys.PublicKey, native.ConnectRequest) (native.Connected, error) {
			return native.Connected{}, (&native.Error{Code: code, Text: "a test"}).ForPeer()
		}
	})
}

func TestAVisitorTriesTheNextHub(t *testing.T) {
	for _, code := range []native.Code{native.Offline, native.Unavailable, native.Draining, native.RateLimited, native.Denied} {
		one, two := newTCPHub(t, "one"), newTCPHub(t, "two")
		newPerson(t, "alice", []*tcpHub{one, two})
		bob := newPerson(t, "bob", nil)
		one.refusing(code)
		p := mustConnect(t, bob.app, one.to(t, "alice"), "alice")
		if p.Address() != two.to(t, "alice") {
			t.Errorf("%s: found at %s", code, p.Address())
		}
	}
}

func TestAVisitorRemembersTheOtherHubsOfAPeer(t *testing.T) {
	one, two := newTCPHub(t, "one"), newTCPHub(t, "two")
	newPerson(t, "alice", []*tcpHub{one, two})
	bob := newPerson(t, "bob", nil)
	mustConnect(t, bob.app, one.to(t, "alice"), "alice")
	one.stop()
	if p := mustConnect(t, bob.app, one.to(t, "alice"), "alice"); p.Address() != two.to(t, "alice") {
		t.Errorf("found at %s", p.Address())
	}
}

func TestAHubCannotSayWhereAPeerIs(t *testing.T) {
	one, two := newTCPHub(t, "one"), newTCPHub(t, "two")
	newPerson(t, "alice", []*tcpHub{two})
	lie, err := claim.Addresses{Text: two.to(t, "alice"), Time: time.Now()}.Sign(one.id)
	if err != nil {
		t.Fatal(err)
	}
	alice := identity(t, "alice").Public()
	asAlice := lie
	asAlice.Key = alice
	for _, said := range []claim.Addresses{lie, asAlice} {
		one.set(func() { one.couriers[alice.Array()] = &courierAt{addresses: &said} })
		_, err := newPerson(t, "bob", nil).app.Connect(t.Context(), one.to(t, "alice"))
		if native.CodeOf(err) != native.Offline {
			t.Errorf("got %v", err)
		}
	}
}

func TestAPeerWithoutCircuitsIsReachedThroughTheHubsRoom(t *testing.T) {
	hub := newTCPHub(t, "hub")
	attendant(t, "carol", hub)
	bob := newPerson(t, "bob", nil)
	eventually(t, "carol is in the room", func() bool { return hub.inRoom(identity(t, "carol").Public()) })
	p := mustConnect(t, bob.app, hub.to(t, "carol"), "carol")
	if want := "tunnel:" + hub.id.Public().Ref() + ":" + identity(t, "carol").Public().Ref(); !strings.HasPrefix(p.Address(), want) {
		t.Errorf("reached by %s", p.Address())
	}
	if s := hub.table.Stats(); s.Offered != 0 {
		t.Errorf("%+v", s)
	}
	if _, err := bob.client.DialStream(t.Context(), hub.to(t, "carol"), "bytes"); native.CodeOf(err) != native.NoCircuits {
		t.Errorf("a stream of bytes: %v", err)
	}
}

func TestAHubThatIsNothingButARoomWillDo(t *testing.T) {
	hub := newTCPHub(t, "hub")
	hub.set(func() {
		hub.connect = func(keys.PublicKey, native.ConnectRequest) (native.Connected, error) {
			return native.Connected{}, muxrpc.Errorf("method:hub,connect is not in list of allowed methods") // as all peers say it
		}
	})
	attendant(t, "carol", hub)
	eventually(t, "carol is in the room", func() bool { return hub.inRoom(identity(t, "carol").Public()) })
	mustConnect(t, newPerson(t, "bob", nil).app, hub.to(t, "carol"), "carol")
}

func TestErrorsSayWhoseFaultItIs(t *testing.T) {
	hub := newTCPHub(t, "hub", circuits.Limits{Setup: 3 * time.Second})
	alice := newPerson(t, "alice", []*tcpHub{hub})
	bob := newPerson(t, "bob", nil)
	try := func(address string) error {
		_, err := bob.app.Connect(t.Context(), address)
		return err
	}
	hubFailed := func(t *testing.T, err error) {
		t.Helper()
		if at, ok := errors.AsType[*hubclient.HubError](err); !ok || !at.Hub.Equal(hub.id.Public()) {
			t.Errorf("no fault of the hub: %v", err)
		}
	}
	answered := func(t *testing.T, err error, want circuit.Answer) {
		t.Helper()
		hubFailed(t, err)
		if got, ok := errors.AsType[*circuit.AnswerError](err); !ok || got.Answer != want {
			t.Errorf("got %v, want: %v", err, want)
		}
	}
	t.Run("nobody has the key", func(t *testing.T) {
		err := try(hub.to(t, "nobody"))
		if hubFailed(t, err); native.CodeOf(err) != native.Unknown {
			t.Error(err)
		}
	})
	t.Run("another key than the hub's", func(t *testing.T) {
		wrong := multiserver.Address{hub.address.Transport(), multiserver.NewPart("shs", identity(t, "other hub").Public().Base64())}
		a, err := hubclient.CircuitAddress(wrong, alice.app.ID())
		if err != nil {
			t.Fatal(err)
		}
		err = try(a.String())
		if at, ok := errors.AsType[*hubclient.HubError](err); !ok || !at.Hub.Equal(identity(t, "other hub").Public()) || !errors.Is(err, shs.ErrRefused) {
			t.Error(err)
		}
	})
	t.Run("no hub there", func(t *testing.T) {
		nowhere := multiserver.Address{multiserver.HostPortPart("net", "127.0.0.1", 1), hub.address[1]}
		a, err := hubclient.CircuitAddress(nowhere, alice.app.ID())
		if err != nil {
			t.Fatal(err)
		}
		hubFailed(t, func() error { _, err := newPerson(t, "carol", nil).app.Connect(t.Context(), a.String()); return err }())
	})
	t.Run("the peer does not come", func(t *testing.T) {
		hub.set(func() {
			hub.connect = func(visitor keys.PublicKey, r native.ConnectRequest) (native.Connected, error) {
				o, err := hub.table.Offer(visitor, r.Key)
				return native.Connected{Key: r.Key, Token: o.Visitor, Lifetime: 30_000}, err
			}
		})
		answered(t, try(hub.to(t, "alice")), circuit.Absent)
		hub.set(func() { hub.connect = hub.honest })
	})
	t.Run("the hub answers for somebody else", func(t *testing.T) {
		hub.set(func() {
			hub.connect = func(keys.PublicKey, native.ConnectRequest) (native.Connected, error) {
				return native.Connected{Key: hub.id.Public(), Lifetime: 1000}, nil
			}
		})
		hubFailed(t, try(hub.to(t, "alice")))
		hub.set(func() { hub.connect = hub.honest })
	})
	t.Run("the peer refuses", func(t *testing.T) {
		newPerson(t, "dave", []*tcpHub{hub}, func(cfg *hubclient.Config) { cfg.MaxCircuits = 1 })
		if err := try(hub.to(t, "dave")); err != nil {
			t.Fatal(err)
		}
		answered(t, try(hub.to(t, "dave")), circuit.Refused)
	})
	t.Run("offline", func(t *testing.T) {
		if err := alice.app.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "alice has gone", func() bool { return hub.courier(alice.app.ID()).peer == nil })
		err := try(hub.to(t, "alice"))
		if hubFailed(t, err); native.CodeOf(err) != native.Offline {
			t.Error(err)
		}
	})
}

func TestAnAppCanDoWithoutCircuits(t *testing.T) {
	hub := newTCPHub(t, "hub")
	alice := newPerson(t, "alice", []*tcpHub{hub}, func(cfg *hubclient.Config) { cfg.NoCircuits = true })
	if c := hub.courier(alice.app.ID()); len(c.serves) != 0 || c.addresses != nil {
		t.Errorf("it says %+v", c)
	}
	if _, err := alice.app.Connect(t.Context(), hub.to(t, "bob")); err == nil {
		t.Error("it can dial")
	}
	if err := alice.client.HandleStream("bytes", nil); err == nil {
		t.Error("it can serve streams")
	}
	if _, err := alice.client.DialStream(t.Context(), hub.to(t, "bob"), "bytes"); err == nil {
		t.Error("it can dial streams")
	}
}

func TestOnlyAHubThatTheAppHasDialledOffersCircuits(t *testing.T) {
	hub := newTCPHub(t, "hub")
	newPerson(t, "alice", []*tcpHub{hub})
	mallory := newPerson(t, "mallory", nil)
	p := mustConnect(t, mallory.app, hub.to(t, "alice"), "alice")
	_, err := muxrpc.Call[muxrpc.None](t.Context(), p, native.MethodCircuit, native.CircuitOffer{Origin: mallory.app.ID(), Lifetime: 1000})
	if _, ok := errors.AsType[*muxrpc.RemoteError](err); !ok {
		t.Errorf("got %v", err)
	}
}

func TestOffersThatAreNoneAreRefused(t *testing.T) {
	hub := newTCPHub(t, "hub")
	alice := newPerson(t, "alice", []*tcpHub{hub})
	if err := hub.offer(hub.courier(alice.app.ID()).peer, keys.PublicKey{}, circuit.NewToken()); err == nil {
		t.Error("an offer without an origin was taken")
	}
}

// bytesProtocol is spoken by people who want no muxrpc.
const bytesProtocol = "bytes"

// handled is a connection that a handler of streams has got.
type handled struct {
	*multiserver.Conn
	done chan struct{}
}

// handleStreams hands over the connections of a protocol.
func handleStreams(t *testing.T, p *person, protocol string) <-chan *handled {
	t.Helper()
	conns := make(chan *handled, 1)
	err := p.client.HandleStream(protocol, func(ctx context.Context, conn *multiserver.Conn) {
		h := &handled{conn, make(chan struct{})}
		select {
		case conns <- h:
		case <-ctx.Done():
			return
		}
		select {
		case <-h.done:
		case <-ctx.Done():
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return conns
}

func TestCircuitsCarryStreamsOfBytes(t *testing.T) {
	hub := newTCPHub(t, "hub")
	alice, bob := newPerson(t, "alice", []*tcpHub{hub}), newPerson(t, "bob", nil)
	conns := handleStreams(t, alice, bytesProtocol)
	handleStreams(t, alice, "another protocol")
	if err := alice.client.HandleStream(bytesProtocol, nil); err == nil {
		t.Error("a protocol is served twice")
	}
	dialled, err := bob.client.DialStream(t.Context(), hub.to(t, "alice"), bytesProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted := <-conns
	if !dialled.Remote().Equal(alice.app.ID()) || !accepted.Remote().Equal(bob.app.ID()) {
		t.Errorf("%s talks to %s", accepted.Remote(), dialled.Remote())
	}
	question, answer := bytes.Repeat([]byte("question "), 100_000), bytes.Repeat([]byte("answer "), 200_000)
	go func() {
		_, _ = dialled.Write(question)
		_ = dialled.CloseWrite()
	}()
	if got, err := io.ReadAll(accepted); err != nil || !bytes.Equal(got, question) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	go func() {
		_, _ = accepted.Write(answer) // the other half is still open
		_ = accepted.CloseWrite()
	}()
	if got, err := io.ReadAll(dialled); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	close(accepted.done)
	mustConnect(t, bob.app, hub.to(t, "alice"), "alice") // muxrpc is still spoken
}

func TestAStreamIsForOneProtocol(t *testing.T) {
	hub := newTCPHub(t, "hub")
	alice, bob := newPerson(t, "alice", []*tcpHub{hub}), newPerson(t, "bob", nil)
	handleStreams(t, alice, bytesProtocol)
	for _, other := range []string{"other", "", bytesProtocol + "x"} {
		if conn, err := bob.client.DialStream(t.Context(), hub.to(t, "alice"), other); err == nil {
			conn.Close()
			t.Errorf("%q was taken for %q", other, bytesProtocol)
		}
	}
}

func TestAStreamNeedsTheAddressOfACircuit(t *testing.T) {
	bob := newPerson(t, "bob", nil)
	for _, address := range []string{"", "net:127.0.0.1:1~shs:" + bob.app.ID().Base64(), "circuit:net:h:1~shs:" + bob.app.ID().Base64()} {
		if _, err := bob.client.DialStream(t.Context(), address, bytesProtocol); err == nil {
			t.Errorf("%q was dialled", address)
		}
	}
}

func TestADialledCircuitEndsWithItsContext(t *testing.T) {
	hub := newTCPHub(t, "hub")
	alice, bob := newPerson(t, "alice", []*tcpHub{hub}), newPerson(t, "bob", nil)
	ctx, cancel := context.WithCancel(t.Context())
	hub.set(func() { hub.serve = func(conn net.Conn) { cancel(); <-ctx.Done(); conn.Close() } })
	if _, err := bob.app.Connect(ctx, hub.to(t, "alice")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	_ = alice
}

func TestCircuitAddressesRoundTrip(t *testing.T) {
	hub, peer := identity(t, "hub").Public(), identity(t, "alice").Public()
	behind := ":" + hub.Ref() + ":" + peer.Ref() + "~shs:" + peer.Base64()
	for _, good := range []string{
		"circuit:net:hub.example.org:8433" + behind,
		"circuit:net:192.0.2.7:8433" + behind,
		"circuit:net:2001:db8::7:8433" + behind,
		"circuit:ws://hub.example.org/" + behind,
		"circuit:wss://hub.example.org:8433/below/there" + behind,
		"circuit:wss://[2001:db8::7]:8433/?a=b" + behind,
		"circuit:onion:abcdef.onion:8433" + behind,
	} {
		strict, err := multiserver.Parse(good)
		if err != nil || len(strict) != 1 || strict[0].String() != good {
			t.Errorf("%s is read as %v, %v", good, strict, err)
			continue
		}
		loose := multiserver.ParseLoose(good)
		if len(loose) != 1 || loose[0].String() != good {
			t.Errorf("%s is read loosely as %v", good, loose)
		}
		if key, ok := loose[0].Key(); !ok || !key.Equal(peer) {
			t.Errorf("%s leads to %s", good, key)
		}
	}
}

// TestAHubThatIsAMereRoomIsStayedAt, and the app is reached through it by a tunnel.
func TestAHubThatIsAMereRoomIsStayedAt(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stack := secretstack.New(secretstack.Options{Bare: true})
	err = stack.Use(secretstack.SHSPlugin(), secretstack.TransportPlugin(tcp.New(tcp.Options{Listener: ln})), room.Plugin(room.Config{}))
	if err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{
		Identity: identity(t, "room"), Logger: slog.New(slog.DiscardHandler),
		Connections: &multiserver.Config{Incoming: map[string][]multiserver.Incoming{
			"net": {{Transform: "shs", Scope: multiserver.Scopes{multiserver.Device}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Close(context.Background()) })
	address := "net:" + ln.Addr().String() + "~shs:" + app.ID().Base64()

	alice := newApp(t, "alice", tunnel.Plugin(tunnel.Config{}), hubclient.Plugin(hubclient.Config{
		Hubs: []hubclient.Hub{{Address: address}}, RetryMin: time.Millisecond, RetryMax: time.Millisecond,
	}))
	client, _ := secretstack.Find[*hubclient.Client](alice)
	s := await(t, client, "told that it is a room", func(s hubclient.Status) bool { return errors.Is(s.Err, hubclient.ErrRoom) })
	if s.Online || !s.ID.IsZero() {
		t.Errorf("%+v", s)
	}
	bob := newApp(t, "bob", tunnel.Plugin(tunnel.Config{}), hubclient.Plugin(hubclient.Config{}))
	circuit, err := hubclient.CircuitAddress(multiserver.ParseLoose(address)[0], alice.ID())
	if err != nil {
		t.Fatal(err)
	}
	rooms, _ := secretstack.Find[*room.Room](app)
	eventually(t, "alice is in the room", func() bool { return slices.Contains(rooms.Attendants(), alice.ID().Ref()) })
	mustConnect(t, bob, circuit.String(), "alice")
	if n := len(app.PeersOf(alice.ID())); n != 1 {
		t.Errorf("alice has %d connections", n)
	}
}
