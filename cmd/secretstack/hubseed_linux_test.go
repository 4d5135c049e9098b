package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/plugins/hubclient"
)

// TestASingleHubBecomesACluster with the same identity: couriers come back with their ids, which the new nodes have never seen. A
// node's backup becomes a single hub again.
func TestASingleHubBecomesACluster(t *testing.T) {
	c := newCluster(t)
	one := filepath.Join(c.dir, "one")
	if err := os.Remove(filepath.Join(one, "cluster")); err != nil { // the one that the manual makes has another identity
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(one, "hub")); err != nil {
		t.Fatal(err)
	}
	single := attend(t, c.process("hub", "--json", "-a", ownHost(), "-p", "8433", "--root", "one"), ownHost())
	courier := single.courier(nil)
	before := await(t, courier, "online", isOnline)
	single.signal(syscall.SIGTERM)
	if p := c.process("hub", "cluster", "init", "eu", "--root", "one"); p.wait() != exitOK {
		t.Fatal(p.errs.String())
	}
	if err := os.Rename(filepath.Join(one, "hub"), filepath.Join(one, "hub.alone")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(one, "cluster"))
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"two", "three"} {
		write(t, filepath.Join(c.dir, other, "cluster"), string(text))
	}
	c.start(0, 1, 2)
	after := await(t, courier, "online again", func(s hubclient.Status) bool { return s.Online && s.Since.After(before.Since) })
	if after.ID != before.ID {
		t.Errorf("the courier was %v and is %v", before.ID, after.ID)
	}

	guest := c.nodes[1].register(someone(t, 1))
	c.nodes[0].whois(someone(t, 1))
	file := filepath.Join(c.dir, "hub.tar")
	for deadline := time.Now().Add(time.Minute); ; { // nodes that have just met may have no leader for a moment
		p := c.process("hub", "backup", file, "--root", "one")
		if p.wait() == exitOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(p.errs.String())
		}
	}
	if p := c.process("hub", "restore", file, "--root", "restored"); p.wait() != exitOK {
		t.Fatal(p.errs.String())
	}
	restored := attend(t, c.process("hub", "--json", "-a", ownHost(), "-p", "0", "--root", "restored"), ownHost())
	if restored.ID != single.ID {
		t.Errorf("the hub was %s, and is %s when its nodes are lost", single.ID, restored.ID)
	}
	if got := restored.whois(someone(t, 1)); got != guest {
		t.Errorf("somebody was %v, and is %v at the hub made of a node's backup", guest, got)
	}
}
