package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/internal/rooms"
	"github.com/secretstack/secretstack/multiserver"
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

// fromTwoToThree opens a circuit and begins a request through the second node, to couriers at the third. It gives their ends.
func (c *cluster) fromTwoToThree(eventually func(what string, ok func() bool)) (circuit, visited <-chan struct{}) {
	c.t.Helper()
	asked := make(chan struct{})
	carol, _ := c.nodes[2].appAt(hubclient.Plugin(hubclient.Config{
		Hubs: []hubclient.Hub{{Address: c.nodes[2].address()}},
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(asked)
			<-r.Context().Done()
		}),
	}))
	client, _ := secretstack.Find[*hubclient.Client](carol)
	url := await(c.t, client, "online", isOnline).URL
	bob, _ := c.nodes[1].appAt(hubclient.Plugin(hubclient.Config{}))
	parsed, err := multiserver.Parse(c.nodes[1].address())
	if err != nil {
		c.t.Fatal(err)
	}
	address, err := hubclient.CircuitAddress(parsed[0], carol.ID())
	if err != nil {
		c.t.Fatal(err)
	}
	var p *secretstack.Peer
	eventually("a circuit", func() bool {
		p, err = bob.Connect(c.t.Context(), address.String())
		return err == nil
	})
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.nodes[1].visit(url)
	}()
	select {
	case <-asked:
	case <-time.After(time.Minute):
		c.t.Fatal("the request does not arrive")
	}
	return p.Done(), over
}

// otherVersions builds a program whose nodes speak the version that is in the environment.
func otherVersions(t *testing.T) (program string) {
	t.Helper()
	const file, here = "../../hub/cluster/config.go", "const version = 1\n"
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), here) {
		t.Fatalf("the version is not where it was: %v", err)
	}
	dir := t.TempDir()
	program = filepath.Join(dir, "secretstack")
	changed := strings.Replace(string(text), here, "var version, _ = strconv.Atoi(os.Getenv(\""+speaks+"\"))\n", 1)
	changed = strings.Replace(changed, "import (", "import (\n\t\"os\"\n\t\"strconv\"\n", 1)
	place, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{place: filepath.Join(dir, "config.go")}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "config.go"), changed)
	write(t, filepath.Join(dir, "overlay.json"), string(overlay))
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// speaks names the version that a program of otherVersions speaks, in the environment.
const speaks = "SECRETSTACK_TEST_NODE_VERSION"

// TestANodeDrainsAndAnotherFallsSilent, among nodes of two versions: couriers of the one are led to another by that one's own
// address, and what goes to the other ends: a circuit, a request, and a tunnel whose reader takes nothing. A node of a third version is refused.
func TestANodeDrainsAndAnotherFallsSilent(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	program := otherVersions(t)
	ports := []string{"8433", "8443", "8453"}
	launch := func(i int, version string) *process {
		args := strings.Fields(strings.TrimPrefix(c.lines[i], "secretstack "))
		args = append(args, "--json", "--advertise-couriers", ownHost()+":"+ports[i])
		return startProcess(t, func(_ string, args ...string) *exec.Cmd {
			cmd := exec.Command("env", append([]string{speaks + "=" + version, program}, args...)...)
			cmd.Dir = c.dir
			return cmd
		}, args...)
	}
	var all []*process
	for i, version := range []string{"1", "2", "1"} {
		all = append(all, launch(i, version))
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

	// Two versions at once are too much, and one node does not speak with that.
	late := launch(0, "3")
	eventually("the status of that node tells of it", func() bool {
		return strings.HasPrefix(c.told("three").Cluster.Nodes[0].State(), "refused: its version")
	})
	if code := late.wait(); code != exitFailed || !strings.Contains(late.errs.String(), `"hub-3" speaks version 1 and this node 3: one step at a time`) {
		t.Errorf("a node of a version that is too new ends with %d, %s", code, late.errs.String())
	}
	c.nodes[2].says("a node is of a version that does not work with this one")

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
	circuit, visited := c.fromTwoToThree(eventually)
	for before := int64(-1); before != said.Load(); time.Sleep(200 * time.Millisecond) {
		before = said.Load()
	}
	if err := c.nodes[2].cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	eventually("the node that is left has no tunnel", func() bool { return c.told("two").Tunnels == 0 })
	t.Logf("the tunnel has ended after %v", time.Since(stopped).Round(time.Millisecond))
	for what, ended := range map[string]<-chan struct{}{"a circuit": circuit, "a request": visited} {
		select {
		case <-ended:
		case <-time.After(20 * time.Second): // the courier may take a minute for its answer
			t.Errorf("%s to the node does not end", what)
		}
	}
	_ = c.nodes[2].cmd.Process.Kill() // nothing has to wait for it
	var err error
	for err == nil {
		_, err = tunnel.Recv(t.Context())
	}
	if errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "gone away") {
		t.Errorf("whoever did not read is told %v", err)
	}
}
