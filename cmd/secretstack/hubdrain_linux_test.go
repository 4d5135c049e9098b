package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// appAt is an app that is connected to a node.
func (p *hubProcess) appAt(plugins ...secretstack.Plugin) (*secretstack.App, *secretstack.Peer) {
	p.t.Helper()
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(plugins...); err != nil {
		p.t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = app.Close(context.Background()) })
	peer, err := app.Connect(p.t.Context(), p.address())
	if err != nil {
		p.t.Fatal(err)
	}
	return app, peer
}

// told is what a node's control socket tells.
func (c *cluster) told(root string) (s hub.ControlStatus) {
	c.t.Helper()
	if r := command(c.t, "", "hub", "status", "--json", "--root", filepath.Join(c.dir, root)); r.code != exitOK {
		c.t.Fatal(r.err)
	} else if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// TestANodeDrainsAndAnotherFallsSilent: couriers of the one are led to another by that one's own address, and a tunnel to the
// other, whose reader takes nothing, ends.
func TestANodeDrainsAndAnotherFallsSilent(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ports := []string{"8433", "8443", "8453"}
	var all []*process
	for i, port := range ports {
		all = append(all, c.launch(i, "--advertise-couriers", ownHost()+":"+port))
	}
	for i, p := range all {
		c.nodes[i] = attend(t, p, ownHost())
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s", what)
			}
		}
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	courier := c.nodes[0].courier(handler)
	id := await(t, courier, "online", isOnline).ID
	eventually("the nodes know each other", func() bool {
		n := 0
		for _, node := range c.told("one").Cluster.Nodes {
			if node.Seen {
				n++
			}
		}
		return n == 3
	})
	c.nodes[0].signal(syscall.SIGTERM)
	eventually("the courier is at another node", func() bool { return c.told("two").Native+c.told("three").Native == 1 })
	await(t, courier, "there with its id", func(s hubclient.Status) bool { return s.Online && s.ID == id })

	// One who says more than the other takes, and both nodes in between hold what is on its way.
	var said atomic.Int64
	talks := secretstack.NewPlugin(secretstack.Info{Name: "tunnel", Permissions: secretstack.Anonymous("connect")}, func(_ context.Context, s *secretstack.Setup) error {
		return muxrpc.HandleDuplex(s, "connect", func(ctx context.Context, _ muxrpc.Args, out *muxrpc.Stream[[]byte, []byte]) error {
			for words := make([]byte, 16<<10); ; said.Add(1) {
				if err := out.Send(ctx, words); err != nil {
					return err
				}
			}
		})
	})
	alice, at := c.nodes[2].appAt(talks)
	if _, err := muxrpc.Call[any](t.Context(), at, "tunnel.announce"); err != nil {
		t.Fatal(err)
	}
	_, room := c.nodes[1].appAt()
	var tunnel *muxrpc.Stream[[]byte, []byte]
	eventually("a tunnel to another node", func() bool {
		s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), room, rooms.MethodConnect, rooms.ConnectRequest{Target: alice.ID().Ref()})
		if err == nil {
			_, err = s.Recv(t.Context())
		}
		tunnel = s
		return err == nil
	})
	if s := c.told("two").Cluster; s.TunnelsOut != 1 || s.TunnelsIn != 0 {
		t.Errorf("%d tunnels of visitors and %d of attendants are counted", s.TunnelsOut, s.TunnelsIn)
	}
	for before := int64(-1); before != said.Load(); time.Sleep(200 * time.Millisecond) {
		before = said.Load()
	}
	if err := c.nodes[2].cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	eventually("the node that is left has no tunnel", func() bool { return c.told("two").Tunnels == 0 })
	t.Logf("the tunnel has ended after %v", time.Since(stopped).Round(time.Millisecond))
	var err error
	for err == nil {
		_, err = tunnel.Recv(t.Context())
	}
	if errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "gone away") {
		t.Errorf("whoever did not read is told %v", err)
	}
}
