package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/netns"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

// farNodes are three nodes of one hub, each on a machine of its own. The router between them is host 0; tests reach a node
// through a port of this machine, which leads to it by way of the router.
type farNodes struct {
	*netns.Star
	*cluster
	roots  [3]string
	scene  farScene
	clocks [3]time.Duration // how much each node's clock is ahead
	gated  bool             // nodes find each other at gates of the router
	config string           // the nodes' configuration file, if they have one
	here   string           // the address of this machine that leads to the nodes

	mu    sync.Mutex
	given map[secrez.ID]*keys.Identity // what was acknowledged
	next  int                          // number of the next owner
}

// port is the port of a node, here and there; no other scene has it.
func (f *farNodes) port(i int) string { return fmt.Sprint(8433 + 100*int(f.scene) + 10*i) }

// farHost is the address of a node's machine.
func farHost(i int) string { return fmt.Sprintf("10.77.%d.2", i+1) }

// farScene numbers the tests that run side by side.
type farScene int

const (
	killed farScene = iota + 1
	cutOff
	diskFull
	acknowledged
	clocksWrong
	slowLink
)

func newFarNodes(t *testing.T, scene farScene) *farNodes {
	t.Helper()
	t.Parallel()
	f := &farNodes{
		here: ownHost(), scene: scene,
		Star: netns.New(t, 3), cluster: &cluster{t: t, dir: shortDir(t), nodes: make([]*hubProcess, 3)}, given: map[secrez.ID]*keys.Identity{},
	}
	f.on(0, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	for i := range 3 {
		f.on(i+1, "ip", "route", "add", "default", "via", f.HubAddress(i+1))
		f.roots[i] = filepath.Join(f.dir, fmt.Sprint(i+1))
	}
	return f
}

// begin makes the credential, lays the ways to the nodes, and starts them.
func (f *farNodes) begin() {
	f.t.Helper()
	if r := command(f.t, "", "hub", "cluster", "init", "eu", "--root", f.roots[0]); r.code != exitOK {
		f.t.Fatal(r.err)
	}
	for i := range 3 {
		if i > 0 {
			f.shell("mkdir -p -m 700 %s && cp -p %s/cluster %s", f.roots[i], f.roots[0], f.roots[i])
		}
		f.front(i)
	}
	f.start(0, 1, 2)
}

func (f *farNodes) shell(format string, args ...any) {
	f.t.Helper()
	if out, err := exec.Command("sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
}

// on runs a program on a machine, to its end.
func (f *farNodes) on(host int, name string, args ...string) {
	f.t.Helper()
	if out, err := f.Command(host, name, args...).CombinedOutput(); err != nil {
		f.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// front leads what connects here to a node.
func (f *farNodes) front(i int) {
	f.t.Helper()
	ln, err := net.Listen("tcp", f.here+":"+f.port(i))
	if err != nil {
		f.t.Fatal(err)
	}
	f.each(ln, func(near net.Conn) { f.cross(near, farHost(i)+":"+f.port(i), nil) })
}

// each takes connections until the test ends, and waits for what is done with them.
func (f *farNodes) each(ln net.Listener, lead func(near net.Conn)) {
	var all sync.WaitGroup
	f.t.Cleanup(func() { _ = ln.Close(); all.Wait() })
	all.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { lead(near) })
		}
	})
}

// start starts nodes at the same time, and waits until they are served.
func (f *farNodes) start(which ...int) {
	f.t.Helper()
	var join []string
	for i := range 3 {
		join = append(join, farHost(i)+":8435")
	}
	all := map[int]*process{}
	for _, i := range which {
		args := []string{
			"hub", "--json", "-a", farHost(i), "-p", f.port(i), "-d", "hub.test", "--root", f.roots[i], "--node", fmt.Sprintf("hub-%d", i+1),
			"--cluster", "eu", "--join", strings.Join(join, ","), "--advertise", join[i],
		}
		if f.gated {
			args[slices.Index(args, "--join")+1] = strings.Join([]string{f.gate(0) + ":8435", f.gate(1) + ":8435", f.gate(2) + ":8435"}, ",")
			args[slices.Index(args, "--advertise")+1] = f.gate(i) + ":8435"
			args = append(args, "--advertise-links", f.gate(i)+":8436", "--listen-nodes", farHost(i)+":8435", "--listen-links", farHost(i)+":8436")
		}
		if f.config != "" {
			args = append(args, "--config", f.config)
		}
		all[i] = startProcess(f.t, func(name string, args ...string) *exec.Cmd {
			if f.clocks[i] != 0 {
				name, args = "env", append([]string{"SECRETSTACK_TEST_CLOCK=" + f.clocks[i].String(), name}, args...)
			}
			return f.Command(i+1, name, args...)
		}, args...)
	}
	for i, p := range all {
		f.nodes[i] = attend(f.t, p, f.here)
	}
}

// mend puts the cable of a node right that was cut.
func (f *farNodes) mend(i int) {
	f.t.Helper()
	f.Mend(i + 1)
	f.on(i+1, "ip", "route", "replace", "default", "via", f.HubAddress(i+1)) // it goes with the cable
}

// configure writes the nodes' configuration file. In it, there is no bound to how much one address may ask for.
func (f *farNodes) configure(more string) {
	f.t.Helper()
	f.config = filepath.Join(f.dir, "hub.toml")
	write(f.t, f.config, "[limits.admission]\nexempt = [\"10.77.0.0/16\"]\n"+more)
}

// part keeps what two sides send from each other. Each node can still be reached from here. It gives the way to undo that.
func (f *farNodes) part(lone int) (heal func()) {
	f.t.Helper()
	rules := [][]string{{"iif", fmt.Sprintf("hub%d", lone+1)}}
	for i := range 3 {
		if i != lone {
			rules = append(rules, []string{"iif", fmt.Sprintf("hub%d", i+1), "to", farHost(lone)})
		}
	}
	all := func(what string) {
		for _, rule := range rules {
			f.on(0, "ip", append(append([]string{"rule", what}, rule...), "blackhole")...)
		}
	}
	all("add")
	return func() { all("del") }
}

// ask registers at a node, once, and reports whether that was acknowledged.
func (f *farNodes) ask(i int, id *keys.Identity, patience time.Duration) bool {
	f.t.Helper()
	return f.askAt(f.nodes[i], id, patience)
}

// askAt is ask for a node that may be replaced meanwhile by one at the same place.
func (f *farNodes) askAt(p *hubProcess, id *keys.Identity, patience time.Duration) bool {
	f.t.Helper()
	var answer struct{ ID secrez.ID }
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	status, err := getJSON(client, p.registration(id), &answer)
	if err != nil || status != http.StatusOK {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if owner := f.given[answer.ID]; owner != nil && !owner.Public().Equal(id.Public()) {
		f.t.Errorf("%v is given to two", answer.ID)
	}
	f.given[answer.ID] = id
	return true
}

// more registers somebody new at each of some nodes, as often as it takes.
func (f *farNodes) more(which ...int) {
	f.t.Helper()
	type newcomer struct {
		node  int
		id    *keys.Identity
		given bool
	}
	var all []*newcomer
	for _, i := range which {
		f.next++
		all = append(all, &newcomer{node: i, id: someone(f.t, f.next)})
	}
	f.eventually(fmt.Sprintf("registrations at nodes %v, counted from 0", which), func() bool {
		var asking sync.WaitGroup
		for _, n := range all {
			if !n.given {
				asking.Go(func() { n.given = f.ask(n.node, n.id, 10*time.Second) })
			}
		}
		asking.Wait()
		return !slices.ContainsFunc(all, func(n *newcomer) bool { return !n.given })
	})
}

// eventually waits for what others do, with patience.
func (f *farNodes) eventually(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("not in time: %s", what)
		}
	}
}

// whole sees that nodes know everything that was acknowledged, each id as one owner's.
func (f *farNodes) whole(which ...int) {
	f.t.Helper()
	var ids []secrez.ID
	var owners []*keys.Identity
	for id, owner := range f.given {
		ids, owners = append(ids, id), append(owners, owner)
	}
	for _, i := range which {
		for n, got := range f.nodes[i].whoAre(owners...) {
			if got != ids[n] {
				f.t.Errorf("node %d takes the owner of %v for %v", i+1, ids[n], got)
			}
		}
	}
}

// problem is why a node says that nothing can be registered with it.
func (f *farNodes) problem(i int) string {
	f.t.Helper()
	var status struct{ Problem string }
	if r := command(f.t, "", "hub", "status", "--json", "--root", f.roots[i]); r.code != exitOK {
		f.t.Fatal(r.err)
	} else if err := json.Unmarshal([]byte(r.out), &status); err != nil {
		f.t.Fatal(err)
	}
	return status.Problem
}

// courier is reached at the first of some nodes that is there.
func (f *farNodes) courier(which ...int) *hubclient.Client {
	f.t.Helper()
	var addresses []string
	for _, i := range which {
		addresses = append(addresses, f.nodes[i].address())
	}
	return courierAt(f.t, strings.Join(addresses, ";"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
}

// reached waits until a visitor of a node reaches a courier.
func (f *farNodes) reached(i int, address string) {
	f.t.Helper()
	f.eventually(fmt.Sprintf("a visit by way of node %d", i+1), func() bool {
		status, body := f.nodes[i].visit(address)
		return status == http.StatusOK && body == "here"
	})
}

// failover is how soon a courier must be reached again whose node has died.
const failover = 5 * time.Second

// TestANodeIsKilled has the node die that a courier is at, while others register.
func TestANodeIsKilled(t *testing.T) {
	f := newFarNodes(t, killed)
	f.begin()
	url := await(t, f.courier(0, 1), "online", isOnline).URL
	f.reached(2, url)
	var took time.Duration
	for attempt := range 3 { // a machine with other things to do may need more than one
		victim := attempt % 2
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					f.ask([]int{victim, 1 - victim, 2}[n%3], someone(t, 1000*(attempt+1)+n), 2*time.Second)
				}
			}
		}()
		died := time.Now()
		f.nodes[victim].signal(syscall.SIGKILL)
		f.reached(2, url)
		took = time.Since(died)
		t.Logf("reached again after %v", took.Round(time.Millisecond))
		close(stop)
		<-stopped
		f.more(1-victim, 2)
		f.whole(1-victim, 2)
		f.start(victim)
		f.more(victim)
		f.whole(0, 1, 2)
		if took <= failover {
			return
		}
	}
	t.Errorf("a courier is reached only %v after its node has died", took)
}

// TestANodeIsCutOff parts a node from the others, in two ways: it can be reached by visitors and not by nodes, and by nobody.
func TestANodeIsCutOff(t *testing.T) {
	f := newFarNodes(t, cutOff)
	f.begin()
	f.more(0, 1, 2)
	f.whole(0, 1, 2)
	alice, bob := f.courier(0), f.courier(1)
	here, there := await(t, alice, "online", isOnline).URL, await(t, bob, "online", isOnline).URL
	f.reached(2, here)

	heal := f.part(0)
	f.eventually("the lone node says so", func() bool { return strings.Contains(f.problem(0), "majority") })
	f.whole(0)
	f.reached(0, here)
	f.reached(2, there)
	stranger := someone(t, 9000)
	if f.ask(0, stranger, 2*time.Second) {
		t.Error("a node without a majority gives ids")
	}
	f.more(1, 2)
	if id := f.nodes[1].register(stranger); f.given[id] != nil {
		t.Errorf("%v is given to two", id)
	}
	heal()
	f.eventually("the lone node is one of many", func() bool { return f.problem(0) == "" })
	f.more(0, 1, 2)
	f.whole(0, 1, 2)
	f.reached(0, there)
	f.reached(2, here)

	f.Cut(1)
	f.more(1, 2)
	f.reached(2, there)
	f.eventually("the node that is cut off says so", func() bool { return strings.Contains(f.problem(0), "majority") })
	f.mend(0)
	f.more(0, 1, 2)
	f.whole(0, 1, 2)
	f.reached(2, here)
}

// TestADiskOfANodeIsFull fills it until nothing more can be written. When there is room again, the node has everything on its disk
// as before: it is a majority with one of the others.
func TestADiskOfANodeIsFull(t *testing.T) {
	f := newFarNodes(t, diskFull)
	disk, _ := smallDisk(t, "160m")
	f.roots[2] = filepath.Join(disk, "node")
	f.begin()
	f.more(0, 1, 2)
	f.whole(0, 1, 2)
	url := await(t, f.courier(2), "online", isOnline).URL
	f.reached(0, url)
	f.shell("cat /dev/zero >%s/ballast || true", disk)
	f.eventually("it says so", func() bool { return strings.Contains(f.problem(2), "are free") })
	before := len(f.given)
	f.more(0, 1, 0, 1)
	f.nodes[2].says("DISABLED") // the engine has met the full disk
	if f.ask(2, someone(t, 9000), time.Second) {
		t.Error("a node with a full disk gives ids")
	}
	f.more(1, 0)
	f.whole(0, 1, 2) // it learns from the others what it cannot keep
	f.reached(0, url)
	if len(f.given) != before+6 {
		t.Errorf("%d ids are given, and there should be %d", len(f.given), before+6)
	}

	f.shell("rm %s/ballast", disk)
	f.nodes[2].says("the engine works again")
	f.eventually("it says nothing any more", func() bool { return f.problem(2) == "" })
	f.more(2)
	f.nodes[0].signal(syscall.SIGKILL)
	f.more(1, 2)
	f.whole(1, 2)
	f.reached(1, url)
}
