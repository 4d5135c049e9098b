package interop

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/cluster/credential"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

// openNodes starts two nodes of one hub, each a portal to the same room.
func openNodes(t *testing.T) (all [2]portal) {
	t.Helper()
	cred, err := credential.New("interop", identity(t, "portal"))
	if err != nil {
		t.Fatal(err)
	}
	engines, dirs := testkit.FreeAddresses(t, len(all)), [...]string{t.TempDir(), t.TempDir()}
	hubs := make([]*hub.Hub, len(all))
	var starting, serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	for i, name := range [...]string{"node-1", "node-2"} {
		starting.Go(func() { // each waits for the other
			h, err := hub.New(context.Background(), hub.Config{
				Dir: dirs[i], AppKey: appKey(t, network), Listen: []string{"127.0.0.1:0"}, Logger: slog.New(slog.DiscardHandler),
				Cluster: &hub.Cluster{
					Credential: cred, Name: name, Listen: engines[i], Peers: engines, Links: "127.0.0.1:0", Replicas: 1,
				},
			})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			hubs[i] = h
		})
	}
	starting.Wait()
	for i, h := range hubs {
		if h == nil {
			continue
		}
		t.Cleanup(func() {
			if err := h.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		serving.Go(func() {
			if err := h.Serve(context.Background()); err != nil {
				t.Error(err)
			}
		})
		all[i] = portal{h.About().Key, "net:" + h.Addrs()[0].String() + "~shs:" + h.About().Key.Base64()}
	}
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// TestPeersTalkThroughARoomOfTwoNodes, each of them at another node.
func TestPeersTalkThroughARoomOfTwoNodes(t *testing.T) {
	t.Parallel()
	requireNode(t)
	nodes := openNodes(t)
	bob, alice, carol := joinJS(t, "bob", 8, nodes[0]), joinJS(t, "alice", 6, nodes[1]), joinGo(t, "carol", nodes[1])

	// JavaScript reaches JavaScript.
	s := alice.tunnel(t, alice.sees(t, bob.id))
	if s.ID != bob.id {
		t.Errorf("alice speaks with %s", s.ID)
	}
	other := waitEvent(t, bob.node, "session", func(o jsSession) bool { return tunnelled(o) && o.ID == alice.id })
	callFromJS(t, alice.node, s.Session, some(jsCallCases, everyType))
	callFromJS(t, bob.node, other.Session, some(jsCallCases, everyType))

	// Go reaches JavaScript.
	target := identity(t, "bob").Public()
	carol.sees(t, target)
	peer := carol.connect(t, tunnel.Address(nodes[1].id, target).String())
	other = waitEvent(t, bob.node, "session", func(o jsSession) bool { return tunnelled(o) && o.ID == carol.ID().Ref() })
	checkThroughTunnel(t, bob, other, peer)

	// JavaScript reaches Go.
	dave := joinJS(t, "dave", 8, nodes[0])
	s = dave.tunnel(t, dave.sees(t, carol.ID().Ref()))
	peer = carol.nextPeer(t)
	if want := "tunnel:" + nodes[1].id.Ref() + ":" + dave.id + "~shs:"; !peer.Key().Equal(identity(t, "dave").Public()) || !strings.HasPrefix(peer.Address(), want) {
		t.Errorf("we speak with %s", peer.Address())
	}
	checkThroughTunnel(t, dave, s, peer)
}
