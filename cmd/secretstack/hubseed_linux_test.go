package main

import (
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

// originIDs is how many ids of Secrez a single hub has that becomes a cluster.
const originIDs = 60

// furnishedHub is a single hub with all that a hub can hold.
type furnishedHub struct {
	*hubProcess
	c       *cluster
	courier *hubclient.Client
	since   time.Time
	id      secrez.ID         // of the courier
	guests  map[int]secrez.ID // by the number of someone
	bob     *home             // away, and has mail
}

// furnish starts a single hub in the first node's place.
func furnish(c *cluster) *furnishedHub {
	t := c.t
	t.Helper()
	f := &furnishedHub{c: c, guests: map[int]secrez.ID{}}
	f.hubProcess = attend(t, c.process("hub", "--json", "-a", ownHost(), "-p", "8433", "--root", "one"), ownHost())
	f.courier = f.hubProcess.courier(nil)
	online := await(t, f.courier, "online", isOnline)
	f.id, f.since = online.ID, online.Since
	for n := range originIDs {
		f.guests[n] = f.register(someone(t, n))
	}
	c.must("hub", "rule", "deny 192.0.2.0/24 # noise", "--root", "one")
	c.must("hub", "invite", "--uses", "5", "--note", "the club", "--root", "one")

	alice := newHome(t, "--name", "Alice", "--hub", f.hubProcess.address(), "--listen", "none")
	f.bob = newHome(t, "--name", "Bob", "--hub", f.hubProcess.address(), "--listen", "none")
	alice.do("contact", "add", "bob", f.bob.card())
	f.bob.do("contact", "add", "alice", alice.card())
	testkit.Eventually(t, "bob has a mailbox", func() bool { return strings.Contains(f.bob.try("", "doctor").out, "with a mailbox") })
	f.bob.stop()
	alice.do("send", "bob", "hello", "bob")
	testkit.Eventually(t, "there is mail for bob", func() bool {
		return strings.Contains(alice.do("messages", "bob", "--sent", "--json"), `"at the hub"`)
	})
	return f
}

// must runs a command to its end, which must be good, and gives what it prints.
func (c *cluster) must(args ...string) string {
	c.t.Helper()
	p := c.process(args...)
	out, err := io.ReadAll(p.out)
	if code := p.wait(); code != exitOK || err != nil {
		c.t.Fatalf("%v ends with %d, %v: %s", args, code, err, p.errs.String())
	}
	return string(out)
}

// knows sees that a node knows the ids of Secrez.
func (p *hubProcess) knows(guests map[int]secrez.ID) {
	p.t.Helper()
	var all []*keys.Identity
	for _, n := range slices.Sorted(maps.Keys(guests)) {
		all = append(all, someone(p.t, n))
	}
	for n, id := range p.whoAre(all...) {
		if id != guests[n] {
			p.t.Errorf("%s takes number %d for %v, and not %v", p.Addresses[0], n, id, guests[n])
		}
	}
}

// isAt sees that a node has all that the single hub had.
func (f *furnishedHub) isAt(node *hubProcess, root string) {
	f.t.Helper()
	node.knows(f.guests)
	if rules := f.c.must("hub", "rule", "--root", root); !strings.Contains(rules, "deny 192.0.2.0/24 # noise") {
		f.t.Errorf("the rules in %s are %q", root, rules)
	}
	if invites := f.c.must("hub", "invite", "--list", "--root", root); !strings.Contains(invites, "the club") {
		f.t.Errorf("the invites in %s are %q", root, invites)
	}
}

// TestASingleHubBecomesACluster with all that it has, though the node that brings it is killed meanwhile. A node's backup becomes a
// single hub again.
func TestASingleHubBecomesACluster(t *testing.T) {
	c := bareCluster(t)
	single := furnish(c)
	if p := c.process("hub", "cluster", "init", "eu", "--root", "one"); p.wait() != exitFailed || !strings.Contains(p.errs.String(), "stop it first") {
		t.Errorf("a hub that runs: %s", p.errs.String())
	}
	single.signal(syscall.SIGTERM)
	c.prepared()
	if p := c.process("hub", "-a", ownHost(), "--root", "one"); p.wait() != exitFailed || !strings.Contains(p.errs.String(), "To go on alone instead") {
		t.Errorf("the hub is started alone once more: %s", p.errs.String())
	}

	others := []*process{c.launch(1), c.launch(2)}
	first := c.launch(0)
	first.says("bringing what the single hub had")
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.wait()
	c.start(0)
	for i, p := range others {
		c.nodes[i+1] = attend(t, p, ownHost())
	}
	for i, root := range []string{"one", "two", "three"} {
		single.isAt(c.nodes[i], root)
	}
	after := await(t, single.courier, "online again", func(s hubclient.Status) bool { return s.Online && s.Since.After(single.since) })
	if after.ID != single.id {
		t.Errorf("the courier was %v and is %v", single.id, after.ID)
	}
	single.bob.args = []string{"--name", "Bob", "--hub", c.nodes[2].address(), "--listen", "none"}
	single.bob.start()
	testkit.Eventually(t, "bob gets his mail at another node", func() bool {
		return strings.Contains(single.bob.do("messages", "alice"), "hello bob")
	})

	single.guests[originIDs] = c.nodes[1].register(someone(t, originIDs))
	c.must("hub", "backup", "hub.tar", "--root", "one") // it has what another node has acknowledged a moment ago
	c.must("hub", "restore", "hub.tar", "--root", "alone")
	restored := attend(t, c.process("hub", "--json", "-a", ownHost(), "-p", "0", "--root", "alone"), ownHost())
	if restored.ID != single.ID {
		t.Errorf("the hub was %s, and is %s when its nodes are lost", single.ID, restored.ID)
	}
	single.isAt(restored, "alone")
}
