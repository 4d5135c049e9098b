package interop

import (
	"bufio"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/room"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

// portal is a room that members can join.
type portal struct {
	id      keys.PublicKey
	address string
}

// portals are the rooms of the tests: ours as a plugin, ours as a program over
// both of its transports, and the first room that was.
var portals = []struct {
	name string
	open func(t *testing.T) portal
}{
	{"our room", openRoom},
	{"our hub over TCP", func(t *testing.T) portal { return openHub(t, "net:") }},
	{"our hub over WebSocket", func(t *testing.T) portal { return openHub(t, "ws:") }},
	{"ssb-room", openJSRoom},
}

func startRoom(t testing.TB, change shsTransform) goPeer {
	t.Helper()
	return startGo(t, "portal", goOptions{
		incoming: netIn(t),
		plugins:  []secretstack.Plugin{room.Plugin(room.Config{Name: "the room"})},
		shs:      change,
	})
}

func openRoom(t *testing.T) portal {
	p := startRoom(t, nil)
	return portal{p.ID(), p.Address(multiserver.Device)}
}

func openHub(t *testing.T, transport string) portal {
	requireNode(t) // before the program is built for nothing
	var hub struct {
		ID        string   `json:"id"`
		Addresses []string `json:"addresses"`
	}
	startProgram(t, &hub, "hub", "--address", "127.0.0.1", "--port", "0", "--name", "the room")
	id, err := keys.ParsePublicKey(hub.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range hub.Addresses {
		if strings.HasPrefix(a, transport) {
			return portal{id, a}
		}
	}
	t.Fatalf("no %s address among %v", transport, hub.Addresses)
	return portal{}
}

func openJSRoom(t *testing.T) portal {
	n := startNode(t, "room.js")
	var r struct {
		ID      string `json:"id"`
		Address string `json:"address"`
	}
	n.do(t, "start", map[string]any{"name": "portal", "cap": encode64(appKey(t, network).Bytes()), "port": freePort(t)}, &r)
	id, err := keys.ParsePublicKey(r.ID)
	if err != nil {
		t.Fatal(err)
	}
	return portal{id, r.Address}
}

// goMember is a peer of ours that joins rooms.
type goMember struct {
	goPeer
	attendant *tunnel.Attendant
}

func joinGo(t testing.TB, name string, p portal) goMember {
	t.Helper()
	m := goMember{goPeer: startGo(t, name, goOptions{plugins: []secretstack.Plugin{tunnel.Plugin(tunnel.Config{})}})}
	var ok bool
	if m.attendant, ok = secretstack.Find[*tunnel.Attendant](m.App); !ok {
		t.Fatal("the tunnel plugin exports no attendant")
	}
	m.connect(t, p.address)
	return m
}

// sees waits until the member knows that the other is in the room.
func (m goMember) sees(t testing.TB, other keys.PublicKey) {
	t.Helper()
	eventually(t, "our member sees "+other.Short(), func() bool {
		return slices.ContainsFunc(m.attendant.Rooms(), func(r tunnel.Room) bool {
			return slices.ContainsFunc(r.Attendants, other.Equal)
		})
	})
}

func joinJS(t testing.TB, name string, version int, p portal) jsPeer {
	t.Helper()
	js := startJS(t, name, jsOptions{version: version, room: true,
		incoming: map[string]any{"tunnel": []any{map[string]any{"scope": "public", "transform": "shs"}}}})
	js.do(t, "join", map[string]any{"address": p.address}, nil)
	return js
}

// jsAttendant is somebody whom a JavaScript member has discovered.
type jsAttendant struct {
	Address string `json:"address"`
	Key     string `json:"key"`
	Room    string `json:"room"`
}

// sees waits until the member has discovered the other, and returns the other's address.
func (p jsPeer) sees(t testing.TB, other string) string {
	t.Helper()
	return waitEvent(t, p.node, "attendant", func(a jsAttendant) bool { return a.Key == other }).Address
}

func (p jsPeer) tunnel(t testing.TB, address string) jsSession {
	t.Helper()
	var s jsSession
	p.do(t, "tunnel", map[string]any{"address": address}, &s)
	return s
}

func tunnelled(s jsSession) bool { return !s.IsClient && strings.HasPrefix(s.Address, "tunnel:") }

// The main job: two peers that know nothing but the room talk through it.
func TestTwoPeersTalkThroughARoom(t *testing.T) {
	for _, p := range portals {
		for _, version := range []int{8, 6} {
			t.Run(fmt.Sprintf("%s, two peers of secret-stack %d", p.name, version), func(t *testing.T) {
				t.Parallel()
				portal := p.open(t)
				bob := joinJS(t, "bob", version, portal)
				alice := joinJS(t, "alice", version, portal)
				s := alice.tunnel(t, alice.sees(t, bob.id))
				if s.ID != bob.id {
					t.Errorf("alice speaks with %s", s.ID)
				}
				other := waitEvent(t, bob.node, "session", tunnelled)
				if other.ID != alice.id {
					t.Errorf("bob speaks with %s", other.ID)
				}
				callFromJS(t, alice.node, s.Session, some(jsCallCases, everyType))
				callFromJS(t, bob.node, other.Session, some(jsCallCases, everyType))
			})
		}
		t.Run(p.name+", JavaScript reaches Go", func(t *testing.T) {
			t.Parallel()
			portal := p.open(t)
			bob := joinGo(t, "bob", portal)
			alice := joinJS(t, "alice", 8, portal)
			s := alice.tunnel(t, alice.sees(t, bob.ID().Ref()))
			peer := bob.nextPeer(t)
			if !peer.Key().Equal(identity(t, "alice").Public()) || s.ID != bob.ID().Ref() {
				t.Errorf("we speak with %v, JavaScript with %s", peer.Key(), s.ID)
			}
			if want := "tunnel:" + portal.id.Ref() + ":" + alice.id + "~shs:"; !strings.HasPrefix(peer.Address(), want) {
				t.Errorf("the peer's address is %s", peer.Address())
			}
			if p.name == portals[0].name {
				callFromJS(t, alice.node, s.Session, slices.Concat(jsCallCases, missingCases))
				callFromGo(t, peer, goCases)
			}
			checkThroughTunnel(t, alice, s, peer)
		})
		t.Run(p.name+", Go reaches JavaScript", func(t *testing.T) {
			t.Parallel()
			portal := p.open(t)
			bob := joinJS(t, "bob", 8, portal)
			alice := joinGo(t, "alice", portal)
			target := identity(t, "bob").Public()
			alice.sees(t, target)
			peer := alice.connect(t, tunnel.Address(portal.id, target).String())
			s := waitEvent(t, bob.node, "session", tunnelled)
			if s.ID != alice.ID().Ref() || !peer.Key().Equal(target) {
				t.Errorf("we speak with %v, JavaScript with %s", peer.Key(), s.ID)
			}
			if p.name == portals[0].name {
				callFromGo(t, peer, goCases)
				callFromJS(t, bob.node, s.Session, slices.Concat(jsCallCases, missingCases))
			}
			checkThroughTunnel(t, bob, s, peer)
		})
	}
}

// checkThroughTunnel makes calls of every type in both directions, and moves
// what takes many packets. Each of them is several of JavaScript's WebSocket messages, so that more takes long.
func checkThroughTunnel(t *testing.T, js jsPeer, s jsSession, peer *secretstack.Peer) {
	t.Helper()
	callFromJS(t, js.node, s.Session, some(jsCallCases, everyType))
	callFromGo(t, peer, some(goCases, everyType))
	const items = 1000
	got := js.call(t, jsCall{Session: s.Session, Path: "test.chunks", Type: "source", Args: args(16, 16<<10), Summary: true})
	if got.SHA256 != sum256(16, 16<<10) || got.End.String() != "well" {
		t.Errorf("through the tunnel JavaScript got %d bytes, %v", got.Bytes, got.End)
	}
	n := 0
	for v, err := range muxrpc.Source[int](t.Context(), peer, "test.count", items) {
		if err != nil || v != n {
			t.Fatalf("item %d is %d, %v", n, v, err)
		}
		n++
	}
	b, err := muxrpc.Call[[]byte](t.Context(), peer, "test.big", mebibyte)
	if n != items || err != nil || len(b) != mebibyte {
		t.Errorf("through the tunnel we got %d items, %d bytes, %v", n, len(b), err)
	}
}

func TestTwoPeersOfOursTalkThroughARoomOfJavaScript(t *testing.T) {
	portal := openJSRoom(t)
	bob := joinGo(t, "bob", portal)
	alice := joinGo(t, "alice", portal)
	alice.sees(t, bob.ID())
	peer := alice.connect(t, tunnel.Address(portal.id, bob.ID()).String())
	callFromGo(t, peer, without(goCases, "async undefined"))
	bob.nextPeer(t)
}

// What ssb-room-client learns about our room.
func TestJavaScriptRecognisesOurRoom(t *testing.T) {
	bob := joinJS(t, "bob", 8, openRoom(t))
	room := waitEvent(t, bob.node, "room", func(r struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}) bool {
		return r.Type == "room"
	})
	if room.Name != "the room" {
		t.Errorf("the room is called %q", room.Name)
	}
}

func TestALeavingAttendantIsSeenToLeave(t *testing.T) {
	for _, p := range portals[:2] {
		t.Run(p.name, func(t *testing.T) {
			portal := p.open(t)
			watcher := joinJS(t, "carol", 8, portal)
			ours := joinGo(t, "dave", portal)
			bob := joinJS(t, "bob", 8, portal)
			address := watcher.sees(t, bob.id)
			ours.sees(t, identity(t, "bob").Public())
			bob.stdin.Close()
			waitEvent(t, watcher.node, "unstaged", func(u struct {
				Address string `json:"address"`
			}) bool {
				return u.Address == address
			})
			eventually(t, "bob is gone for us", func() bool {
				rooms := ours.attendant.Rooms()
				return len(rooms) == 1 && !slices.ContainsFunc(rooms[0].Attendants, identity(t, "bob").Public().Equal)
			})
		})
	}
}

func TestSomebodyWhoIsNotThereCannotBeReached(t *testing.T) {
	absent := identity(t, "nobody").Public()
	for _, p := range []int{0, 3} {
		t.Run("Go in "+portals[p].name, func(t *testing.T) {
			portal := portals[p].open(t)
			alice := joinGo(t, "alice", portal)
			eventually(t, "the room is known", func() bool { return len(alice.attendant.Rooms()) == 1 })
			_, err := alice.tryConnect(tunnel.Address(portal.id, absent).String())
			remote, ok := asRemote(err)
			if !ok || !strings.HasPrefix(remote.Message, "could not connect to") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("JavaScript in our room", func(t *testing.T) {
		portal := openRoom(t)
		alice := joinJS(t, "alice", 8, portal)
		waitEvent(t, alice.node, "room", func(any) bool { return true })
		err := alice.try(t.Context(), "tunnel", map[string]any{"address": tunnel.Address(portal.id, absent).String()}, nil)
		if err == nil {
			t.Error("connected to nobody")
		}
		alice.mustLive(t)
	})
}

// The two halves of a tunnel end together, whoever ends.
func TestATunnelEndsOnBothSides(t *testing.T) {
	setUp := func(t *testing.T) (alice, bob jsPeer, there, here jsSession) {
		portal := openRoom(t)
		bob = joinJS(t, "bob", 8, portal)
		alice = joinJS(t, "alice", 8, portal)
		here = alice.tunnel(t, alice.sees(t, bob.id))
		return alice, bob, waitEvent(t, bob.node, "session", tunnelled), here
	}
	t.Run("the initiator closes", func(t *testing.T) {
		t.Parallel()
		alice, bob, there, here := setUp(t)
		alice.do(t, "closeSession", map[string]any{"session": here.Session, "hard": true}, nil)
		waitEvent(t, bob.node, "closed", closedEvent(there.Session))
		bob.mustLive(t)
	})
	t.Run("the attendant closes", func(t *testing.T) {
		t.Parallel()
		alice, bob, there, here := setUp(t)
		bob.do(t, "closeSession", map[string]any{"session": there.Session, "hard": true}, nil)
		waitEvent(t, alice.node, "closed", closedEvent(here.Session))
		alice.mustLive(t)
	})
	t.Run("the initiator is killed", func(t *testing.T) {
		t.Parallel()
		alice, bob, there, _ := setUp(t)
		alice.stdin.Close()
		waitEvent(t, bob.node, "closed", closedEvent(there.Session))
		bob.mustLive(t)
	})
	t.Run("the attendant is killed", func(t *testing.T) {
		t.Parallel()
		alice, bob, _, here := setUp(t)
		bob.stdin.Close()
		waitEvent(t, alice.node, "closed", closedEvent(here.Session))
		alice.mustLive(t)
	})
}

// A hub answers browsers on the port that peers use.
func TestTheHubServesPeersAndBrowsersOnOnePort(t *testing.T) {
	portal := openHub(t, "net:")
	conn := dialLoopback(t, hostPort(t, portal.address))
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: hub.example.org\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		t.Errorf("a browser gets %q, %v", line, err)
	}
	bob := joinJS(t, "bob", 8, portal)
	bob.mustLive(t)
}
