//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier"
)

// envKills is how many processes TestNoMessageIsLostByKillingTheProgram kills, instead of a few.
const envKills = "SECRETSTACK_TEST_KILLS"

// program builds the command as people have it, and gives its path.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secretstack")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "GOFLAGS=") // what tests are built with is not for people
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// daemonProcess is a hub or a courier that is killed and started again.
type daemonProcess struct {
	t       *testing.T
	program string
	root    string
	args    []string
	said    string // when it was ready, in JSON
	*process
}

func newDaemon(t *testing.T, program string, args ...string) *daemonProcess {
	t.Helper()
	d := &daemonProcess{t: t, program: program, root: shortDir(t), args: args}
	d.start()
	return d
}

// start runs it until it says that it is ready.
func (d *daemonProcess) start() {
	d.t.Helper()
	named := func(_ string, args ...string) *exec.Cmd { return exec.Command(d.program, args...) }
	d.process = startProcess(d.t, named, append(d.args, "--json", "--root", d.root)...)
	d.said = d.line()
}

func (d *daemonProcess) kill() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
	d.wait()
}

// do runs a command for the owner, in a process of its own.
func (d *daemonProcess) do(args ...string) (out string, err error) {
	cmd := exec.Command(d.program, append(args, "--root", d.root)...)
	var text bytes.Buffer
	cmd.Stdout = &text
	err = cmd.Run()
	return text.String(), err
}

// must is do for what has to succeed.
func (d *daemonProcess) must(args ...string) string {
	d.t.Helper()
	out, err := d.do(args...)
	if err != nil {
		d.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// messages gives what has been sent to a contact or received from it.
func (d *daemonProcess) messages(contact, direction string) []courier.Message {
	d.t.Helper()
	var all []courier.Message
	for lines := json.NewDecoder(bytes.NewReader([]byte(d.must("messages", contact, "--"+direction, "--json")))); lines.More(); {
		var m courier.Message
		if err := lines.Decode(&m); err != nil {
			d.t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// sendNumbers sends numbers until ctx ends, each in a process of its own, and gives those that were taken.
func (d *daemonProcess) sendNumbers(ctx context.Context, to string) (taken []int) {
	for i := 1; ctx.Err() == nil; i++ {
		if _, err := d.do("send", to, strconv.Itoa(i)); err == nil {
			taken = append(taken, i)
		}
	}
	return taken
}

// TestNoMessageIsLostByKillingTheProgram kills a hub and the couriers of two who talk through it, at any moment, again and
// again: what send has taken arrives, once and in order, and its sender sees that.
func TestNoMessageIsLostByKillingTheProgram(t *testing.T) {
	kills := 12
	if text := os.Getenv(envKills); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", envKills, err)
		}
	}
	path := program(t)
	hub := newDaemon(t, path, "hub", "-a", "127.0.0.1", "-p", freePort("127.0.0.1"))
	var at node
	if err := json.Unmarshal([]byte(hub.said), &at); err != nil {
		t.Fatal(err)
	}
	alice := newDaemon(t, path, "courier", "--hub", at.Addresses[0], "--listen", "none")
	bob := newDaemon(t, path, "courier", "--hub", at.Addresses[0], "--listen", "none")
	alice.must("contact", "add", "bob", strings.TrimSpace(bob.must("keys")))
	bob.must("contact", "add", "alice", strings.TrimSpace(alice.must("keys")))

	sending, stop := context.WithCancel(t.Context())
	var senders sync.WaitGroup
	defer senders.Wait()
	defer stop()
	var ofAlice, ofBob []int
	senders.Go(func() { ofAlice = alice.sendNumbers(sending, "bob") })
	senders.Go(func() { ofBob = bob.sendNumbers(sending, "alice") })
	daemons := []*daemonProcess{hub, alice, bob}
	for range kills {
		// At any moment: while things start, while they connect, and while mail is on its way.
		time.Sleep(rand.N([]time.Duration{30 * time.Millisecond, 300 * time.Millisecond, time.Second}[rand.IntN(3)]))
		victim := daemons[rand.IntN(len(daemons))]
		victim.kill()
		victim.start()
	}
	stop()
	senders.Wait()
	for _, d := range daemons { // all at once, which also ends the pauses of those who have lost the hub often
		d.kill()
	}
	for _, d := range daemons {
		d.start()
	}
	arrive(t, ofAlice, func() []courier.Message { return alice.messages("bob", "sent") }, func() []courier.Message { return bob.messages("alice", "received") })
	arrive(t, ofBob, func() []courier.Message { return bob.messages("alice", "sent") }, func() []courier.Message { return alice.messages("bob", "received") })
	t.Logf("%d kills, and of all at once; %d and %d messages taken", kills, len(ofAlice), len(ofBob))
}

// arrive waits until what was taken is delivered by its sender's account, and looks at what the recipient has.
func arrive(t *testing.T, taken []int, sent, received func() []courier.Message) {
	t.Helper()
	waits := func(m courier.Message) bool { return m.State != "delivered" }
	for deadline := time.Now().Add(3 * time.Minute); slices.ContainsFunc(sent(), waits); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			all := sent()
			i := slices.IndexFunc(all, waits)
			t.Fatalf("message %q of %d is %s for its sender", all[i].Text, len(all), all[i].State)
		}
	}
	var got []int
	for _, m := range received() {
		n, err := strconv.Atoi(m.Text)
		if err != nil {
			t.Fatalf("nobody has sent %q", m.Text)
		}
		got = append(got, n)
	}
	if !slices.IsSorted(got) {
		t.Errorf("they arrived in another order: %v", got)
	}
	if n := len(slices.Compact(slices.Clone(got))); n != len(got) {
		t.Errorf("%d arrived more than once", len(got)-n)
	}
	for _, n := range taken {
		if !slices.Contains(got, n) {
			t.Errorf("message %d is lost", n)
		}
	}
}
