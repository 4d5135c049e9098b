package hub_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

// listed waits until a node's room shows that somebody is there, or not.
func listed(t *testing.T, p *secretstack.Peer, ref string, there bool) {
	t.Helper()
	for keys, err := range muxrpc.Source[[]string](t.Context(), p, "tunnel.endpoints") {
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(keys, ref) == there {
			return
		}
	}
	t.Fatal("the list of who is in the room has ended")
}

func TestNodesAreOneRoom(t *testing.T) {
	nodes := startNodes(t, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	alice := peer(t, "alice", greeter(), tunnel.Plugin(tunnel.Config{Portals: []string{a.address()}}))
	ref := identity(t, "alice").Public().Ref()
	bob := peer(t, "bob", tunnel.Plugin(tunnel.Config{DialOnly: true}))
	carol := peer(t, "carol")
	toB, toC := connect(t, bob, b.address()), connect(t, carol, c.address())
	listed(t, toC, ref, true)

	p := connect(t, bob, "tunnel:"+b.About().Key.Ref()+":"+ref+"~shs:"+identity(t, "alice").Public().Base64())
	greet(t, p)
	tunnels := func(n int) bool {
		there, here := a.Status(), b.Status()
		return there.Tunnels == n && there.Cluster.TunnelsIn == n && there.Cluster.TunnelsOut == 0 &&
			here.Tunnels == n && here.Cluster.TunnelsOut == n && here.Cluster.TunnelsIn == 0
	}
	eventually(t, "the tunnel is known to both nodes", func() bool { return tunnels(1) })
	p.Abort(errors.New("enough"))
	eventually(t, "both halves have ended", func() bool { return tunnels(0) })

	refused := func(target, why string) {
		t.Helper()
		s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), toB, rooms.MethodConnect, rooms.ConnectRequest{Target: target})
		if err == nil {
			_, err = s.Recv(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, not %q", err, why)
		}
	}
	refused(identity(t, "dave").Public().Ref(), "could not connect to")
	refused(carol.ID().Ref(), "not in list of allowed methods") // what she says reaches bob: she takes no tunnels

	if err := alice.Close(t.Context()); err != nil {
		t.Error(err)
	}
	listed(t, toC, ref, false)
}
