package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/secrez"
)

var ownHost = testkit.OwnHost

// documentedNodes are the lines of OPERATING.md that make a cluster on one machine, at our own address.
func documentedNodes(t *testing.T) (prepare, nodes []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(text), "To try it on one machine:\n\n```sh\n")
	block, _, closed := strings.Cut(block, "```")
	if !found || !closed {
		t.Fatal("the manual does not say how to try it")
	}
	for line := range strings.Lines(strings.ReplaceAll(block, "127.0.0.1", ownHost())) {
		if strings.HasPrefix(line, "secretstack hub -a") {
			nodes = append(nodes, strings.TrimSpace(line))
		} else {
			prepare = append(prepare, strings.TrimSpace(line))
		}
	}
	return prepare, nodes
}

// cluster are processes that are one hub.
type cluster struct {
	t       *testing.T
	dir     string
	prepare []string
	lines   []string
	nodes   []*hubProcess
}

// newCluster prepares what the manual says, and starts nothing yet.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := bareCluster(t)
	c.prepared()
	return c
}

// bareCluster is a cluster of which there is nothing yet but the folder.
func bareCluster(t *testing.T) *cluster {
	t.Helper()
	prepare, lines := documentedNodes(t)
	return &cluster{t: t, dir: shortDir(t), prepare: prepare, lines: lines, nodes: make([]*hubProcess, len(lines))}
}

// prepared types what the manual says before the first node is started.
func (c *cluster) prepared() {
	c.t.Helper()
	for _, line := range c.prepare {
		if args, ours := strings.CutPrefix(line, "secretstack "); ours {
			if p := c.process(strings.Fields(args)...); p.wait() != exitOK {
				c.t.Fatalf("%s: %s", line, p.errs.String())
			}
			continue
		}
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir = c.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("%s: %v, %s", line, err, out)
		}
	}
}

// root is the root folder of a node, or another one beside it.
func (c *cluster) root(name string) string { return filepath.Join(c.dir, name) }

// process starts our program in the cluster's folder.
func (c *cluster) process(args ...string) *process {
	c.t.Helper()
	return startProcess(c.t, func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Dir = c.dir
		return cmd
	}, args...)
}

// launch starts a node as the manual says, with more arguments, without waiting for it.
func (c *cluster) launch(i int, more ...string) *process {
	c.t.Helper()
	args := strings.Fields(strings.TrimPrefix(c.lines[i], "secretstack "))
	return c.process(append(append(args, "--json"), more...)...)
}

// start starts nodes at the same time, and waits until they are served.
func (c *cluster) start(which ...int) {
	c.t.Helper()
	var all []*process
	for _, i := range which {
		all = append(all, c.launch(i))
	}
	for n, i := range which {
		c.nodes[i] = attend(c.t, all[n], ownHost())
	}
}

// says waits for a text among the errors of a process.
func (p *process) says(text string) {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(p.errs.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("it never says %q, but\n%s", text, p.errs.String())
		}
	}
}

// health waits until the health of the third node is as wanted: ready, or not for a reason.
func (c *cluster) health(admin, reason string) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r := command(c.t, "", "hub", "health", "--admin", admin)
		if reason == "" && r.code == exitOK || reason != "" && r.code == exitFailed && strings.Contains(r.err, reason) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("its health is %d, %s%s; wanted: %q", r.code, r.out, r.err, reason)
		}
	}
}

// status waits until the third node's status has some words.
func (c *cluster) status(words ...string) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r := command(c.t, "", "hub", "status", "--root", filepath.Join(c.dir, "three"))
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(r.out, word) }) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("its status is %d, %s%s; wanted: %q", r.code, r.out, r.err, words)
		}
	}
}

// register registers with a node by the v1 API until it is acknowledged, as couriers do.
func (p *hubProcess) register(id *keys.Identity) (given secrez.ID) {
	p.t.Helper()
	client := &http.Client{Timeout: time.Minute}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var answer struct{ ID secrez.ID }
		status, err := getJSON(client, p.registration(id), &answer)
		if err == nil && status == http.StatusOK {
			return answer.ID
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("nothing can be registered: %d, %v", status, err)
		}
	}
}

// whois asks a node for the id of a key until it knows it.
func (p *hubProcess) whois(id *keys.Identity) secrez.ID {
	p.t.Helper()
	return p.whoAre(id)[0]
}

// whoAre asks a node for the ids of keys until it knows them.
func (p *hubProcess) whoAre(ids ...*keys.Identity) (all []secrez.ID) {
	p.t.Helper()
	app, err := secretstack.New(secretstack.Options{}).Start(context.Background(), secretstack.Config{Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = app.Close(context.Background()) }()
	for deadline := time.Now().Add(time.Minute); len(all) < len(ids); {
		peer, err := app.Connect(p.t.Context(), p.address()) // the same while it is there
		var who native.Who
		if err == nil {
			who, err = muxrpc.Call[native.Who](p.t.Context(), peer, native.MethodWhois, native.WhoisRequest{Key: ids[len(all)].Public()})
		}
		if err == nil {
			all = append(all, who.ID)
			continue
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("it never knows the key: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return all
}

// TestThreeProcessesAreOneHub as the manual says, started one after the other.
func TestThreeProcessesAreOneHub(t *testing.T) {
	c := newCluster(t)
	admin := net.JoinHostPort(ownHost(), "8434")
	first := c.launch(2, "--admin", admin)
	first.says("reached=1 of=3")
	// Whoever watches over processes must see that it lives, and what it waits for.
	if status, err := getJSON(http.DefaultClient, "http://"+admin+"/healthz", &map[string]any{}); err != nil || status != http.StatusOK {
		t.Errorf("a node that waits is not alive: %d, %v", status, err)
	}
	c.health(admin, "waiting for the other nodes: ")
	if r := command(t, "", "hub", "status", "--root", c.root("three")); r.code != exitFailed || !strings.Contains(r.err, "a node that waits for others") {
		t.Errorf("the status of a node that waits is %d, %s", r.code, r.err)
	}
	c.start(1, 0)
	c.nodes[2] = attend(t, first, ownHost())
	alice, bob := someone(t, 1), someone(t, 2)
	id := c.nodes[0].register(alice)
	if got := c.nodes[1].whois(alice); got != id {
		t.Errorf("alice is %v at one node and %v at another", id, got)
	}
	c.nodes[0].signal(syscall.SIGKILL)
	other := c.nodes[2].register(bob)
	if got := c.nodes[1].whois(bob); got != other {
		t.Errorf("bob is %v at one node and %v at another", other, got)
	}
	c.start(0)
	if got := c.nodes[0].whois(bob); got != other {
		t.Errorf("the node that was away takes bob for %v, and he is %v", got, other)
	}
	c.health(admin, "")
	c.status("hub-1  ", "hub-2  ", "hub-3  ", "this one", "leads")
	if r := command(t, "", "doctor", "--root", c.root("three")); strings.Contains(r.out, "fail") || !strings.Contains(r.out, "ok    node hub-2: ") {
		t.Errorf("the doctor says %d, %s", r.code, r.out)
	}

	c.nodes[0].signal(syscall.SIGKILL)
	c.nodes[1].signal(syscall.SIGKILL)
	c.health(admin, "not ready, serving what it knows: this node is cut off from the majority of nodes")
	c.status("cut off from the majority", "hub-1  away", "hub-2  away", "problem", "to do", "Start the others")
	r := command(t, "", "doctor", "--root", c.root("three"))
	if r.code != exitFailed || !strings.Contains(r.out, "fail  hub here: it is cut off from the majority") || !strings.Contains(r.out, "fail  node hub-1: away; start it") {
		t.Errorf("the doctor says %d, %s", r.code, r.out)
	}
	if got := c.nodes[2].whois(bob); got != other {
		t.Errorf("the node that is left alone takes bob for %v, and he is %v", got, other)
	}
	c.nodes[2].signal(syscall.SIGKILL) // it could not know who may not come any more
	c.launch(2, "--admin", admin)
	c.health(admin, "waiting for the other nodes: 1 of 3 reached")
}

func TestNodesWithDifferentCredentialsSaySo(t *testing.T) {
	c := newCluster(t)
	if err := os.Remove(filepath.Join(c.dir, "two/cluster")); err != nil {
		t.Fatal(err)
	}
	if p := c.process("hub", "cluster", "init", "eu", "--root", "two"); p.wait() != exitOK {
		t.Fatal(p.errs.String())
	}
	a, b := c.launch(0), c.launch(1)
	for _, p := range []*process{a, b} {
		p.says("a node with another credential")
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := p.wait(); code != exitFailed || !strings.Contains(p.errs.String(), "secretstack: interrupted") {
			t.Errorf("a node that waits ends with %d, %s", code, p.errs.String())
		}
	}
}

func TestANodeThatCannotStartSaysWhatToDo(t *testing.T) {
	c := newCluster(t)
	root := filepath.Join(c.dir, "one")
	for says, args := range map[string][]string{
		"--cluster needs --join":                   {"--cluster", "eu", "--root", root},
		"the credential of cluster \"eu\", not":    {"--cluster", "us", "--join", "a", "--root", root},
		"no address of --join is that of this":     {"--cluster", "eu", "--join", "192.0.2.1", "--root", root},
		"are all addresses of this machine":        {"--cluster", "eu", "--join", "127.0.0.1,127.0.0.2", "--root", root},
		"--join takes addresses of nodes":          {"--cluster", "eu", "--join", "a:b", "--root", root},
		"--advertise takes an address":             {"--cluster", "eu", "--join", "a", "--advertise", "a:0", "--root", root},
		"--advertise-couriers takes an address":    {"--cluster", "eu", "--join", "127.0.0.1", "--advertise-couriers", "hub 1", "--root", root},
		"--node takes 1 to 63":                     {"--cluster", "eu", "--join", "a", "--node", "A", "--root", root},
		"--replicas takes 1, 3 or 5":               {"--cluster", "eu", "--join", "127.0.0.1", "--replicas", "2", "--root", root},
		"--join names no node but this one":        {"--cluster", "eu", "--join", "127.0.0.1", "--root", root},
		"--listen-nodes takes an address":          {"--cluster", "eu", "--join", "127.0.0.1", "--listen-nodes", "a", "--root", root},
		"leave it out with --nats-url":             {"--cluster", "eu", "--join", "a", "--nats-url", "nats://127.0.0.1", "--root", root},
		"--join is for a node of a cluster":        {"--join", "a"},
		"cluster's name has 1 to 63":               {"cluster", "init", "EU"},
		"it takes the name of the cluster":         {"cluster", "init"},
		"it takes no arguments but a command":      {"cluster", "form"},
		"--nats-credentials is for a node of a cl": {"--nats-credentials", "file"},
	} {
		r := command(t, "", append([]string{"hub"}, args...)...)
		if r.code != exitUsage || !strings.Contains(r.err, says) || strings.Count(r.err, "\n") != 1 || r.out != "" {
			t.Errorf("%v: %d, %q, %q; want %q", args, r.code, r.err, r.out, says)
		}
	}
	if r := command(t, "", "hub", "--cluster", "eu", "--join", "a"); r.code != exitFailed || !strings.Contains(r.err, "copy it from another node") {
		t.Errorf("no credential: %d, %s", r.code, r.err)
	}
	if r := command(t, "", "hub", "cluster", "init", "eu", "--root", root); r.code != exitFailed || !strings.Contains(r.err, "is not replaced") {
		t.Errorf("a second credential: %d, %s", r.code, r.err)
	}
	if info, err := os.Stat(filepath.Join(root, "cluster")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the credential is %v, %v", info, err)
	}
	c.launch(0).says("reached=1")
	for engine, links := range map[string]string{"8435": "9436", "9435": "8436"} {
		p := c.launch(1, "--listen-nodes", ownHost()+":"+engine, "--listen-links", ownHost()+":"+links)
		if code := p.wait(); code != exitFailed || !strings.Contains(p.errs.String(), "choose another port with --advertise") {
			t.Errorf("a port that is taken: %d, %s", code, p.errs.String())
		}
	}
	c.must("hub", "cluster", "init", "eu", "--root", "other")
	p := c.launch(0, "-p", "0", "--credential", filepath.Join("other", "cluster"))
	if code := p.wait(); code != exitUsage || !strings.Contains(p.errs.String(), "use that hub's credential, or an empty folder") {
		t.Errorf("another hub's credential: %d, %s", code, p.errs.String())
	}
	p = c.launch(0, "--node", "hub-9")
	if code := p.wait(); code != exitUsage || !strings.Contains(p.errs.String(), `are those of node "hub-1"`) {
		t.Errorf("another name: %d, %s", code, p.errs.String())
	}
}

func TestANodeFindsItsOwnAddress(t *testing.T) {
	for _, c := range []struct {
		name  string
		peers []string
		want  string
	}{
		{"hub-2", []string{"hub-1:1", "hub-2.example.org:2", "hub-3:3"}, "hub-2.example.org:2"},
		{"x", []string{"192.0.2.1:1", "127.0.0.1:2", "[2001:db8::1]:3"}, "127.0.0.1:2"},
		{"x", []string{"192.0.2.1:1", "localhost:2"}, "localhost:2"},
	} {
		if got, err := ownAddress(t.Context(), c.name, c.peers); err != nil || got != c.want {
			t.Errorf("%s of %v is %q, %v", c.name, c.peers, got, err)
		}
	}
	for host, want := range map[string]string{"Hub_1.Example.org": "hub-1", "": "", strings.Repeat("a", 70): strings.Repeat("a", 63)} {
		if got := nodeNameOf(host); got != want {
			t.Errorf("%q becomes %q", host, got)
		}
	}
	for text, want := range map[string]string{
		"hub-1": "hub-1:8435", "hub-1:7": "hub-1:7", "2001:db8::1": "[2001:db8::1]:8435", "[2001:db8::1]": "[2001:db8::1]:8435", "[2001:db8::1]:7": "[2001:db8::1]:7",
	} {
		if got, err := nodeAddress(text); err != nil || got != want {
			t.Errorf("%s is %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ":1", "a:0", "a:b", "a:b:c", "nats://a:1", "a b"} {
		if got, err := nodeAddress(text); err == nil {
			t.Errorf("%q is taken as %q", text, got)
		}
	}
	key := someone(t, 1).Public()
	for text, want := range map[string]string{
		"hub-1": "net:hub-1:8433", "hub-1:7": "net:hub-1:7", "2001:db8::1": "net:[2001:db8::1]:8433", "wss://hub-1:443": "wss://hub-1:443",
	} {
		if got, err := couriersAddress(text, key); err != nil || got != want {
			t.Errorf("%s is %q to couriers, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a b", "net:a:0:b", "wss:", "net:hub-1:8433~shs:x"} {
		if got, err := couriersAddress(text, key); err == nil {
			t.Errorf("%q is taken as %q", text, got)
		}
	}
	if _, err := nextPort("a:65535"); err == nil {
		t.Error("there is a port after the last one")
	}
}

// getJSON asks for a URL and decodes what comes back.
func getJSON(client *http.Client, address string, into any) (status int, err error) {
	res, err := client.Get(address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	return res.StatusCode, json.NewDecoder(res.Body).Decode(into)
}
