package hub_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

// greeter is a plugin that greets everybody.
func greeter() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "greeter", Permissions: secretstack.Anonymous("hello")},
		func(_ context.Context, s *secretstack.Setup) error {
			return muxrpc.HandleAsync(s, "hello", func(ctx context.Context, name string) (string, error) {
				return "hello " + name + " of " + secretstack.PeerFrom(ctx).Key().Short(), nil
			})
		})
}

// circuitTo returns the address of a peer by circuit through the hub at an address.
func circuitTo(t *testing.T, hubAddress string, app *secretstack.App) string {
	t.Helper()
	parsed, err := multiserver.Parse(hubAddress)
	if err != nil {
		t.Fatal(err)
	}
	a, err := hubclient.CircuitAddress(parsed[0], app.ID())
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

func greet(t *testing.T, p *secretstack.Peer) {
	t.Helper()
	got, err := muxrpc.Call[string](t.Context(), p, "greeter.hello", "bob")
	if want := "hello bob of " + identity(t, "bob").Public().Short(); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestPeersAreJoinedByCircuits(t *testing.T) {
	h := start(t, hub.Config{})
	alice := peer(t, "alice", greeter(), hubclient.Plugin(hubclient.Config{Hubs: []hubclient.Hub{{Address: h.address()}}}))
	client, _ := secretstack.Find[*hubclient.Client](alice)
	(&courier{client, alice}).online(t)
	bob := peer(t, "bob", hubclient.Plugin(hubclient.Config{}))
	p := connect(t, bob, circuitTo(t, h.address(), alice))
	greet(t, p)
	if n := h.Status().Circuits.Open; n != 1 {
		t.Errorf("there are %d circuits", n)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "the circuit is over", func() bool { return h.Status().Circuits.Open == 0 })
}

// TestCircuitsGoOverWebSocketsToo: of a hub that is mounted in another server.
func TestCircuitsGoOverWebSocketsToo(t *testing.T) {
	h, err := hub.New(t.Context(), hub.Config{Dir: t.TempDir(), Domain: domain})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	defer server.Close()
	defer func() { _ = h.Close(context.Background()) }()
	address := "ws://" + strings.TrimPrefix(server.URL, "http://") + "/~shs:" + h.About().Key.Base64()
	alice := peer(t, "alice", greeter(), hubclient.Plugin(hubclient.Config{Hubs: []hubclient.Hub{{Address: address}}}))
	client, _ := secretstack.Find[*hubclient.Client](alice)
	(&courier{client, alice}).online(t)
	bob := peer(t, "bob", hubclient.Plugin(hubclient.Config{}))
	greet(t, connect(t, bob, circuitTo(t, address, alice)))
	if n := h.Status().Circuits.Open; n != 1 {
		t.Errorf("there are %d circuits", n)
	}
}

// TestWhoServesNoCircuitsIsReachedThroughTheRoom, as JavaScript attendants are.
func TestWhoServesNoCircuitsIsReachedThroughTheRoom(t *testing.T) {
	h := start(t, hub.Config{})
	alice := peer(t, "alice", greeter(), tunnel.Plugin(tunnel.Config{Portals: []string{h.address()}}))
	bob := peer(t, "bob", hubclient.Plugin(hubclient.Config{}))
	eventually(t, "alice is in the room", func() bool { return len(h.Couriers()) == 1 })
	greet(t, connect(t, bob, circuitTo(t, h.address(), alice)))
	if s := h.Status(); s.Circuits.Open != 0 || s.Tunnels != 1 {
		t.Errorf("%+v", s)
	}
}

func TestCircuitsAreRefusedWithTheReason(t *testing.T) {
	h := start(t, hub.Config{Limits: hub.Limits{Circuits: circuits.Limits{MaxPerVisitor: 1}}})
	alice := newCourier(t, "alice", h, hubclient.Config{})
	s := alice.online(t)
	bob := connect(t, peer(t, "bob"), h.address())
	carol := identity(t, "carol").Public()
	for name, c := range map[string]struct {
		request native.ConnectRequest
		code    native.Code
	}{
		"nothing":     {native.ConnectRequest{}, native.BadRequest},
		"both":        {native.ConnectRequest{ID: s.ID, Key: carol}, native.BadRequest},
		"oneself":     {native.ConnectRequest{Key: bob.App().ID()}, native.BadRequest},
		"no such id":  {native.ConnectRequest{ID: someID(t)}, native.Unknown},
		"no such key": {native.ConnectRequest{Key: carol}, native.Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := call[native.Connected](t, bob, native.MethodConnect, c.request)
			wantCode(t, err, c.code)
		})
	}
	answer, err := call[native.Connected](t, bob, native.MethodConnect, native.ConnectRequest{ID: s.ID})
	if err != nil || !answer.Key.Equal(alice.app.ID()) || answer.Lifetime <= 0 || answer.Addresses == nil ||
		answer.Addresses.Verify(alice.app.ID()) != nil {
		t.Errorf("%+v, %v", answer, err)
	}
	_, err = call[native.Connected](t, bob, native.MethodConnect, native.ConnectRequest{ID: s.ID})
	wantCode(t, err, native.RateLimited)

	if err := alice.app.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "alice is away", func() bool {
		_, err := call[native.Connected](t, bob, native.MethodConnect, native.ConnectRequest{ID: s.ID})
		return native.CodeOf(err) == native.Offline
	})
	// Where else she may be is remembered.
	who, err := call[native.Who](t, bob, native.MethodWhois, native.WhoisRequest{ID: s.ID})
	if err != nil || who.Online || who.Addresses == nil || who.Addresses.Verify(who.Key) != nil {
		t.Errorf("%+v, %v", who, err)
	}
}

func TestAddressesThatOthersHaveSignedAreRefused(t *testing.T) {
	h := start(t, hub.Config{})
	newCourier(t, "alice", h, hubclient.Config{}).online(t)
	bob := connect(t, peer(t, "bob"), h.address())
	who, err := call[native.Who](t, bob, native.MethodWhois, native.WhoisRequest{Key: identity(t, "alice").Public()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = call[native.Published](t, bob, native.MethodPublish, native.PublishRequest{Addresses: who.Addresses})
	wantCode(t, err, native.Evidence)
}

func TestCircuitsOfTheUnwelcomeAreCut(t *testing.T) {
	for name, who := range map[string]string{"the target": "alice", "the visitor": "bob"} {
		t.Run(name, func(t *testing.T) {
			h := start(t, hub.Config{})
			alice := peer(t, "alice", greeter(), hubclient.Plugin(hubclient.Config{Hubs: []hubclient.Hub{{Address: h.address()}}}))
			client, _ := secretstack.Find[*hubclient.Client](alice)
			(&courier{client, alice}).online(t)
			bob := peer(t, "bob", hubclient.Plugin(hubclient.Config{}))
			p := connect(t, bob, circuitTo(t, h.address(), alice))
			greet(t, p)
			err := h.Admission().SetRule(t.Context(), admission.Rule{Effect: admission.Deny, Subject: admission.KeySubject(identity(t, who).Public())})
			if err != nil {
				t.Fatal(err)
			}
			<-p.Done()
			eventually(t, "the circuit is over", func() bool { return h.Status().Circuits.Open == 0 })
		})
	}
}

func TestDrainLetsCircuitsFinish(t *testing.T) {
	h := start(t, hub.Config{})
	alice := peer(t, "alice", greeter(), hubclient.Plugin(hubclient.Config{Hubs: []hubclient.Hub{{Address: h.address()}}}))
	client, _ := secretstack.Find[*hubclient.Client](alice)
	(&courier{client, alice}).online(t)
	p := connect(t, peer(t, "bob", hubclient.Plugin(hubclient.Config{})), circuitTo(t, h.address(), alice))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- h.Drain(ctx) }()
	eventually(t, "it drains", func() bool { return h.Status().Draining })
	greet(t, p)
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}
