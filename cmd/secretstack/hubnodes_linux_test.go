package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/secrez"
)

// sees waits until the status at a node has a line for each of the patterns, which are regular expressions.
func (c *cluster) sees(root string, patterns ...string) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		r := command(c.t, "", "hub", "status", "--root", c.root(root))
		missing := ""
		for _, pattern := range patterns {
			if !regexp.MustCompile(`(?m)` + pattern + `$`).MatchString(r.out) {
				missing = pattern
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the status at %s is %d, %s%s; wanted: %q", root, r.code, r.out, r.err, missing)
		}
	}
}

// TestNodesAreReplacedAddedAndRemoved as the manual says.
func TestNodesAreReplacedAddedAndRemoved(t *testing.T) {
	c := newCluster(t)
	c.start(0, 1, 2)
	given := map[int]secrez.ID{}
	register := func(at int) {
		t.Helper()
		n := len(given)
		given[n] = c.nodes[at].register(someone(t, n))
	}
	for i := range c.nodes {
		register(i)
	}
	c.must("hub", "rule", "deny 192.0.2.0/24 # noise", "--root", "two")
	well := []string{`hub-1  (works|leads)[^/]*`, `hub-2  (works|leads)[^/]*`, `hub-3  (works|leads)[^/]*`}
	c.sees("two", well...)
	c.nodes[0].signal(syscall.SIGTERM)
	if err := os.RemoveAll(filepath.Join(c.root("one"), "hub")); err != nil {
		t.Fatal(err)
	}
	register(1)
	c.start(0)
	register(0)
	c.sees("two", well...)

	// A fourth node, of which the others' lists know nothing.
	line := c.lines[2]
	for _, change := range [][2]string{{"8453", "8463"}, {"hub-3", "hub-4"}, {"three", "four"}, {"8455 --adv", "8455," + ownHost() + ":8465 --adv"},
		{"--advertise " + ownHost() + ":8455", "--advertise " + ownHost() + ":8465"}} {
		changed := strings.Replace(line, change[0], change[1], 1)
		if changed == line {
			t.Fatalf("there is no %q in %q", change[0], line)
		}
		line = changed
	}
	c.lines, c.nodes = append(c.lines, line), append(c.nodes, nil)
	if err := os.Mkdir(c.root("four"), 0o700); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(c.root("one"), "cluster"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(c.root("four"), "cluster"), string(text))
	c.start(3)
	c.nodes[3].knows(given)
	register(3)
	c.sees("one", append(well, `hub-4  works[^/]*`)...)

	if p := c.process("hub", "cluster", "remove", "hub-4", "--root", "one"); p.wait() != exitFailed || !strings.Contains(p.errs.String(), "stop it first") {
		t.Errorf("a node that runs is removed: %s", p.errs.String())
	}
	if p := c.process("hub", "cluster", "remove", "hub-5", "--root", "one"); p.wait() != exitFailed || !strings.Contains(p.errs.String(), "no node that is called") {
		t.Errorf("a node that nobody knows is removed: %s", p.errs.String())
	}
	c.nodes[3].signal(syscall.SIGTERM)
	testkit.Eventually(t, "the fourth node is removed", func() bool {
		return c.process("hub", "cluster", "remove", "hub-4", "--root", "one").wait() == exitOK
	})
	if p := c.process("hub", "cluster", "remove", "hub-4", "--root", "two"); p.wait() != exitFailed || !strings.Contains(p.errs.String(), "no node that is called") {
		t.Errorf("a node that was removed counts still: %s", p.errs.String())
	}
	c.sees("one", well...)
	// Two of three are a majority; of four they would be none. The first node has lost its disk, and both must have what is new.
	c.nodes[2].signal(syscall.SIGTERM)
	register(0)
	for i, root := range []string{"one", "two"} {
		c.nodes[i].knows(given)
		if rules := c.must("hub", "rule", "--root", root); !strings.Contains(rules, "deny 192.0.2.0/24 # noise") {
			t.Errorf("the rules of node %d are %q", i+1, rules)
		}
	}
}
