package hub_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/cluster"
	"github.com/secretstack/secretstack/hub/cluster/credential"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

var freeAddresses = testkit.FreeAddresses

// startNodes starts the nodes of one hub, at the same time.
func startNodes(t *testing.T, n int, change ...func(*hub.Config)) []*running {
	t.Helper()
	cred, err := credential.New("test", identity(t, "hub"))
	if err != nil {
		t.Fatal(err)
	}
	engines, ports := freeAddresses(t, n), freeAddresses(t, n)
	dirs := make([]string, n)
	hubs := make([]*hub.Hub, n)
	cfgs := make([]hub.Config, n)
	var wg sync.WaitGroup
	for i := range n {
		dirs[i] = t.TempDir()
		wg.Go(func() {
			cfg := hub.Config{
				Dir: dirs[i], Domain: domain, Listen: []string{ports[i]}, Logger: slog.New(slog.DiscardHandler), TunnelAddress: "127.0.0.1",
				Cluster: &hub.Cluster{
					Public:     "net:" + ports[i],
					Credential: cred, Name: fmt.Sprintf("node-%d", i+1), Listen: engines[i], Peers: engines, Links: "127.0.0.1:0",
				},
			}
			cfg.Limits.Registry.MinFree = -1
			for _, f := range change {
				f(&cfg)
			}
			h, err := hub.New(context.Background(), cfg)
			if err != nil {
				t.Errorf("node %d: %v", i+1, err)
				return
			}
			hubs[i], cfgs[i] = h, cfg
		})
	}
	wg.Wait()
	var all []*running
	for i, h := range hubs {
		if h == nil {
			continue
		}
		r := serveNode(t, h, cfgs[i])
		all = append(all, r)
	}
	if t.Failed() {
		t.FailNow()
	}
	return all
}

func serveNode(t *testing.T, h *hub.Hub, cfg hub.Config) *running {
	t.Helper()
	r := &running{Hub: h, t: t, dir: cfg.Dir, addr: h.Addrs()[0].String(), done: make(chan error, 1), cfg: cfg}
	r.serve()
	return r
}

func TestSeveralNodesAreOneHub(t *testing.T) {
	nodes := startNodes(t, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	eventually(t, "each node sees all", func() bool {
		return len(a.Nodes()) == 3 && len(b.Nodes()) == 3 && len(c.Nodes()) == 3
	})
	alice := peer(t, "alice", greeter(), hubclient.Plugin(hubclient.Config{
		Hubs: []hubclient.Hub{{Address: a.address()}}, Handler: says("alice"),
	}))
	client, _ := secretstack.Find[*hubclient.Client](alice)
	s := (&courier{client, alice}).online(t)

	bob := peer(t, "bob", hubclient.Plugin(hubclient.Config{}))
	toB := connect(t, bob, b.address())
	eventually(t, "alice is seen from another node", func() bool {
		who, err := call[native.Who](t, toB, native.MethodWhois, native.WhoisRequest{ID: s.ID})
		return err == nil && who.Online && who.Key.Equal(alice.ID())
	})
	greet(t, connect(t, bob, circuitTo(t, c.address(), alice)))
	if n := a.Status().Circuits.Open; n != 1 {
		t.Errorf("there are %d circuits where alice is", n)
	}
	for range 3 { // with the same connection behind it
		if status, body := get(t, b.visitor(), "http://"+s.ID.String()+"."+domain+"/there"); status != http.StatusOK {
			t.Errorf("%d %s", status, body)
		} else {
			contains(t, body, "alice "+s.ID.String())
		}
	}
	if status, _ := get(t, c.visitor(), "http://"+someID(t).String()+"."+domain+"/"); status != http.StatusNotFound {
		t.Errorf("an id that nobody has: %d", status)
	}
	if err := alice.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "alice is away", func() bool {
		_, err := call[native.Connected](t, toB, native.MethodConnect, native.ConnectRequest{ID: s.ID})
		return native.CodeOf(err) == native.Offline
	})
	eventually(t, "the visitor is told so", func() bool {
		status, _ := get(t, b.visitor(), "http://"+s.ID.String()+"."+domain+"/")
		return status == http.StatusServiceUnavailable
	})
}

// TestCouriersGoToAnotherNodeWhenTheirsEnds: with the same id, and those who look for them find them.
func TestCouriersGoToAnotherNodeWhenTheirsEnds(t *testing.T) {
	nodes := startNodes(t, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	// What is in front of the nodes leads to one that is there.
	var mu sync.Mutex
	front := a.addr
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			to := front
			mu.Unlock()
			go relay(conn, to)
		}
	}()
	address := strings.Replace(a.address(), a.addr, ln.Addr().String(), 1)
	alice := newCourier(t, "alice", a, hubclient.Config{Hubs: []hubclient.Hub{{Address: address}}, Handler: says("alice")})
	s := alice.online(t)
	mu.Lock()
	front = b.addr
	mu.Unlock()
	if err := a.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "alice is found", func() bool {
		status, _ := get(t, c.visitor(), "http://"+s.ID.String()+"."+domain+"/")
		return status == http.StatusOK
	})
	if now := alice.online(t); now.ID != s.ID {
		t.Errorf("alice was %v and is %v", s.ID, now.ID)
	}
	carol := connect(t, peer(t, "carol"), c.address())
	statement := signed(t, identity(t, "carol"), claim.Statement{Hub: c.About().Key, Action: claim.Register, Sequence: 1})
	eventually(t, "somebody new can register while a node is down", func() bool {
		_, err := call[native.Published](t, carol, native.MethodPublish, native.PublishRequest{Signed: statement})
		return err == nil
	})
}

// relay passes bytes between a connection and an address.
func relay(conn net.Conn, to string) {
	defer func() { _ = conn.Close() }()
	other, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = other.Close() }()
	go func() {
		_, _ = io.Copy(other, conn)
		_ = other.Close()
	}()
	_, _ = io.Copy(conn, other)
}

func TestANodeIsConfiguredCompletely(t *testing.T) {
	cred, err := credential.New("test", identity(t, "hub"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*hub.Cluster{
		"no credential": {Name: "a", Listen: ":0", Links: ":0"},
		"no name":       {Credential: cred, Listen: ":0", Links: ":0"},
		"no engine":     {Credential: cred, Name: "a", Links: ":0"},
		"no links":      {Credential: cred, Name: "a", Listen: ":0"},
	} {
		if _, err := hub.New(t.Context(), hub.Config{Dir: t.TempDir(), Cluster: c}); !errors.Is(err, hub.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestARollingRestartFailsNoDial drains one node after the other and starts it again, while visitors dial a courier and ask for
// what it serves, by way of the nodes that stay.
func TestARollingRestartFailsNoDial(t *testing.T) {
	nodes := startNodes(t, 3)
	eventually(t, "each node sees all", func() bool {
		for _, n := range nodes {
			if len(n.Nodes()) != 3 || slices.ContainsFunc(n.Nodes(), func(m cluster.Member) bool { return m.Public == "" }) {
				return false
			}
		}
		return true
	})
	alice := newCourier(t, "alice", nodes[0], hubclient.Config{Hubs: []hubclient.Hub{{Address: nodes[0].address()}}, Handler: says("alice")})
	url := "http://" + alice.online(t).ID.String() + "." + domain + "/"
	for _, away := range []int{0, 1} { // alice is at one of them, or has come to the third
		var visitors []*http.Client
		for i, n := range nodes {
			if i == away {
				continue
			}
			visitor := n.visitor() // whose connections are its only ones: there are many visits
			visitors = append(visitors, visitor)
			eventually(t, "a node knows alice", func() bool {
				status, _ := get(t, visitor, url)
				return status == http.StatusOK
			})
		}
		drained := make(chan error, 1)
		started := make(chan struct{})
		go func() {
			<-started
			drained <- nodes[away].Drain(context.Background())
		}()
		for n, over := 0, false; !over; n++ {
			if n == 1 {
				close(started)
			}
			status, body := get(t, visitors[n%len(visitors)], url)
			if status != http.StatusOK {
				t.Errorf("visit %d while node %d drains: %d %s", n, away+1, status, body)
			}
			select {
			case err := <-drained:
				if err != nil {
					t.Error(err)
				}
				over = n > 0
			default:
			}
		}
		if away == 0 {
			h, err := hub.New(context.Background(), nodes[0].cfg)
			if err != nil {
				t.Fatal(err)
			}
			nodes[0] = serveNode(t, h, nodes[0].cfg)
		}
	}
}
