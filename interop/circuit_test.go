package interop

import (
	"errors"
	"strings"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

// circuitTo is the address of a peer that is to be reached by a circuit at a portal.
func circuitTo(t testing.TB, p portal, peer keys.PublicKey) string {
	t.Helper()
	a, err := hubclient.CircuitAddress(multiserver.ParseLoose(p.address)[0], peer)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

// TestJavaScriptPassesOverTheAddressesOfCircuits: it does not know the transport, and takes the next address.
func TestJavaScriptPassesOverTheAddressesOfCircuits(t *testing.T) {
	hub := identity(t, "hub").Public()
	for _, version := range []int{8, 6} {
		bob := startGo(t, "bob", goOptions{incoming: netIn(t)})
		alice := startJS(t, "alice", jsOptions{version: version})
		direct := bob.Address(multiserver.Device)
		for _, at := range []string{"net:hub.example.org:8433", "net:2001:db8::7:8433", "ws://hub.example.org/", "wss://hub.example.org:8433/a/b"} {
			circuit := circuitTo(t, portal{hub, at + "~shs:" + hub.Base64()}, bob.ID())
			s := alice.connect(t, circuit+";"+direct)
			if s.ID != bob.ID().Ref() || !strings.HasPrefix(s.Address, "net:") {
				t.Errorf("secret-stack %d has connected to %s at %s", version, s.ID, s.Address)
			}
			bob.nextPeer(t)
			if err := alice.try(t.Context(), "connect", map[string]any{"address": circuit}, nil); err == nil {
				t.Errorf("secret-stack %d has connected to %s", version, circuit)
			}
			alice.mustLive(t)
		}
	}
}

// TestAJavaScriptAttendantIsReachedByTheAddressOfACircuit: the hub says that it serves none, and a room of JavaScript does
// not know what a circuit is.
func TestAJavaScriptAttendantIsReachedByTheAddressOfACircuit(t *testing.T) {
	for _, p := range portals[1:] {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			at := p.open(t)
			bob := joinJS(t, "bob", 8, at)
			target := identity(t, "bob").Public()
			alice := joinGo(t, "alice", at)
			alice.sees(t, target)
			carol := startGo(t, "carol", goOptions{plugins: []secretstack.Plugin{hubclient.Plugin(hubclient.Config{})}})
			peer := carol.connect(t, circuitTo(t, at, target))
			s := waitEvent(t, bob.node, "session", tunnelled)
			if s.ID != carol.ID().Ref() || !peer.Key().Equal(target) || !strings.HasPrefix(peer.Address(), "tunnel:") {
				t.Errorf("we speak with %v at %s, JavaScript with %s", peer.Key(), peer.Address(), s.ID)
			}
			callFromGo(t, peer, some(goCases, everyType))
			callFromJS(t, bob.node, s.Session, some(jsCallCases, everyType))
		})
	}
}

// TestAnAppWhoseHubIsARoomOfJavaScriptIsReachedThere: the room knows nothing of hubs, and leads JavaScript to the app.
func TestAnAppWhoseHubIsARoomOfJavaScriptIsReachedThere(t *testing.T) {
	at := openJSRoom(t)
	bob := startGo(t, "bob", goOptions{plugins: []secretstack.Plugin{
		tunnel.Plugin(tunnel.Config{}), hubclient.Plugin(hubclient.Config{Hubs: []hubclient.Hub{{Address: at.address}}}),
	}})
	client, _ := secretstack.Find[*hubclient.Client](bob.App)
	eventually(t, "bob knows that it is a room", func() bool { return errors.Is(client.Hubs()[0].Err, hubclient.ErrRoom) })
	alice := joinJS(t, "alice", 8, at)
	s := alice.tunnel(t, alice.sees(t, bob.ID().Ref()))
	callFromJS(t, alice.node, s.Session, some(jsCallCases, everyType))
}
