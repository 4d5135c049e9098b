package courier_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

const (
	childEnv = "COURIER_TEST_CHILD"     // what the process is that is killed
	killTime = "COURIER_TEST_KILL_TIME" // for how long, instead of five seconds
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		fmt.Fprintln(os.Stderr, runChild(text))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child is a process of the test: a hub, or a courier at one.
type child struct {
	Dir  string
	Seed []byte
	Port string // of the hub
	Hub  string // its address, for a courier; empty: it is the hub

	cmd *exec.Cmd
}

func runChild(text string) error {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	id, err := keys.FromSeed(c.Seed)
	if err != nil {
		return err
	}
	quiet := slog.New(slog.DiscardHandler)
	if c.Hub != "" {
		_, err := courier.Start(context.Background(), courier.Config{
			Identity: id, Dir: c.Dir, Hubs: []hubclient.Hub{{Address: c.Hub}}, RetryMin: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond, Logger: quiet,
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "ready")
		select {}
	}
	cfg := hub.Config{Dir: c.Dir, Identity: id, Listen: []string{"127.0.0.1:" + c.Port}, TunnelAddress: "127.0.0.1", Logger: quiet}
	cfg.Limits.Registry.MinFree, cfg.Limits.Registry.WriteTimeout = -1, time.Minute // a machine with much to do is no failing disk
	h, err := hub.New(context.Background(), cfg)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "ready")
	return h.Serve(context.Background())
}

// start runs the process until it is ready.
func (c *child) start(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(c)
	check(t, err)
	c.cmd = exec.Command(os.Args[0], "-test.run=^$")
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	check(t, err)
	check(t, c.cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("a process says %q, %v", line, err)
	}
}

func (c *child) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
		c.cmd = nil
	}
}

// TestNoMessageIsLostByKillingAnybody kills the hub and both couriers, one at a time and again and again, while messages
// are sent, and counts what has arrived.
func TestNoMessageIsLostByKillingAnybody(t *testing.T) {
	howLong := 5 * time.Second
	if text := os.Getenv(killTime); text != "" {
		var err error
		howLong, err = time.ParseDuration(text)
		check(t, err)
	}
	procs := killWorld(t)
	alice, bob := procs[1].Dir, procs[2].Dir
	sending, stop := context.WithCancel(t.Context())
	kept := make(chan []string, 1)
	go func() { kept <- sendUntil(sending, alice) }()
	kills := 0
	for deadline := time.Now().Add(howLong); kills < 9 || time.Now().Before(deadline); kills++ {
		victim := procs[rand.IntN(len(procs))]
		time.Sleep(rand.N(60 * time.Millisecond)) // at any moment
		victim.kill()
		victim.start(t)
	}
	stop()
	acknowledged := <-kept
	got := receivedBy(t, bob, acknowledged[len(acknowledged)-1])
	t.Logf("%d kills, %d messages acknowledged, %d arrived", kills, len(acknowledged), len(got))
	if !slices.IsSortedFunc(got, func(a, b string) int { return number(a) - number(b) }) {
		t.Errorf("they arrived in another order: %v", got)
	}
	if n := len(slices.Compact(slices.Clone(got))); n != len(got) {
		t.Errorf("%d arrived more than once", len(got)-n)
	}
	for _, text := range acknowledged {
		if !slices.Contains(got, text) {
			t.Errorf("message %s is lost", text)
		}
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// killWorld starts a hub and two couriers who know each other.
func killWorld(t *testing.T) []*child {
	t.Helper()
	var procs []*child
	for range 3 {
		dir, err := os.MkdirTemp("", "courier") //nolint:usetesting // short, because it holds a socket
		check(t, err)
		c := &child{Dir: dir, Seed: newIdentity(t).Seed()}
		procs = append(procs, c)
		t.Cleanup(func() {
			c.kill()
			check(t, os.RemoveAll(dir))
		})
	}
	procs[0].Port = strconv.Itoa(int(testkit.FreePort(t)))
	hubID, err := keys.FromSeed(procs[0].Seed)
	check(t, err)
	for _, c := range procs[1:] {
		c.Hub = "net:" + net.JoinHostPort("127.0.0.1", procs[0].Port) + "~shs:" + hubID.Public().Base64()
	}
	var ids []*keys.Identity
	for _, c := range procs {
		c.start(t)
		id, err := keys.FromSeed(c.Seed)
		check(t, err)
		ids = append(ids, id)
	}
	for i, other := range map[int]int{1: 2, 2: 1} {
		ctl, err := courier.Dial(t.Context(), procs[i].Dir)
		check(t, err)
		_, err = ctl.AddContact(t.Context(), "friend", ids[other].Public().Ref())
		check(t, err)
		check(t, ctl.Close())
	}
	return procs
}

// sendUntil sends numbers until ctx ends, and gives those that were acknowledged.
func sendUntil(ctx context.Context, dir string) (acknowledged []string) {
	var ctl *courier.Client
	for i := 0; ctx.Err() == nil; i++ {
		if ctl == nil {
			c, err := courier.Dial(ctx, dir)
			if err != nil {
				time.Sleep(time.Millisecond) // it is being started
				continue
			}
			ctl = c
		}
		if _, err := ctl.Send(ctx, "friend", strconv.Itoa(i)); err != nil {
			_ = ctl.Close()
			ctl = nil
			continue
		}
		acknowledged = append(acknowledged, strconv.Itoa(i))
	}
	if ctl != nil {
		_ = ctl.Close()
	}
	return acknowledged
}

// receivedBy gives what somebody has received, when the last has.
func receivedBy(t *testing.T, dir, last string) (got []string) {
	t.Helper()
	ctl, err := courier.Dial(t.Context(), dir)
	check(t, err)
	defer func() { check(t, ctl.Close()) }()
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	for m, err := range ctl.Messages(ctx, courier.Query{Direction: "received", Follow: true}) {
		if err != nil {
			t.Fatalf("%v; %d have arrived", errors.Join(err, ctx.Err()), len(got))
		}
		got = append(got, m.Text)
		if m.Text == last {
			break
		}
	}
	return got
}
