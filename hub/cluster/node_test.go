package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
)

var (
	identity   = testkit.Identity
	eventually = testkit.Eventually
)

func engine(tb testing.TB) *server.Server {
	tb.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// bus is a connection that can be taken away.
type bus struct {
	tb      testing.TB
	server  *server.Server
	mu      sync.Mutex
	conn    *nats.Conn
	changed chan struct{}
}

func newBus(tb testing.TB, s *server.Server) *bus {
	b := &bus{tb: tb, server: s, changed: make(chan struct{})}
	b.connect()
	tb.Cleanup(b.cut)
	return b
}

func (b *bus) Conn() (*nats.Conn, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conn, b.changed
}

func (b *bus) set(conn *nats.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil {
		b.conn.Close()
	}
	b.conn = conn
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *bus) cut() { b.set(nil) }

func (b *bus) connect() {
	conn, err := nats.Connect("", nats.InProcessServer(b.server), nats.NoReconnect())
	if err != nil {
		b.tb.Fatal(err)
	}
	b.set(conn)
}

func appKey(tb testing.TB, name string) keys.AppKey {
	tb.Helper()
	sum := sha256.Sum256([]byte(name))
	k, err := keys.NewAppKey(sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func configOf(tb testing.TB, b Bus, name string) Config {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return Config{
		Bus: b, Name: name, Identity: identity(tb, name), AppKey: appKey(tb, "test"), Listener: ln,
		Answer: func(_ context.Context, _ Role, _ keys.PublicKey, q []byte) ([]byte, error) {
			if r, ok := bytes.CutPrefix(q, []byte("refuse ")); ok {
				return nil, Refusal(r)
			}
			return append([]byte(name+" heard "), q...), nil
		},
		// What comes over a link goes back over it.
		Serve: func(ctx context.Context, _ keys.PublicKey, r []byte, accept func(error) (net.Conn, error)) {
			if string(r) == "refused" {
				_, _ = accept(Refusal("not this one"))
				return
			}
			conn, err := accept(nil)
			if err != nil {
				return
			}
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			defer func() { _ = conn.Close() }()
			_, _ = io.Copy(conn, conn)
		},
		Limits: Limits{AskTimeout: 2 * time.Second, HelloEvery: 20 * time.Millisecond},
	}
}

func open(tb testing.TB, cfg Config) *Node {
	tb.Helper()
	n, err := Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// found waits until a courier is found from a node.
func found(tb testing.TB, n *Node, key keys.PublicKey) (place Place) {
	tb.Helper()
	eventually(tb, "the courier is found", func() bool {
		var err error
		place, _, err = n.Ask(tb.Context(), Courier, key, nil)
		if err != nil && !errors.Is(err, ErrOffline) && !errors.Is(err, ErrUnreachable) {
			tb.Fatal(err)
		}
		return err == nil
	})
	return place
}

func gone(tb testing.TB, n *Node, key keys.PublicKey) {
	tb.Helper()
	eventually(tb, "the courier is offline", func() bool {
		_, _, err := n.Ask(tb.Context(), Courier, key, nil)
		return errors.Is(err, ErrOffline)
	})
}

func TestACourierIsFoundWhereItIs(t *testing.T) {
	s := engine(t)
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, configOf(t, newBus(t, s), "b"))
	courier := identity(t, "courier").Public()
	if _, _, err := a.Ask(t.Context(), Courier, courier, nil); !errors.Is(err, ErrOffline) {
		t.Errorf("a courier that is nowhere: %v", err)
	}
	b.Publish(Courier, courier)
	if place := found(t, a, courier); place.Node != "b" || !place.Key.Equal(identity(t, "b").Public()) {
		t.Errorf("it is at %+v", place)
	}
	if _, got, err := a.Ask(t.Context(), Courier, courier, []byte("hello")); err != nil || string(got) != "b heard hello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, _, err := a.Ask(t.Context(), Courier, courier, []byte("refuse full")); !errors.Is(err, Refusal("full")) {
		t.Errorf("a refusal arrives as %v", err)
	}
	b.Withdraw(Courier, courier)
	gone(t, a, courier)
}

func TestVisitorsAreSpreadOverTheNodesThatHaveACourier(t *testing.T) {
	s := engine(t)
	a := open(t, configOf(t, newBus(t, s), "a"))
	courier := identity(t, "courier").Public()
	for _, name := range []string{"b", "c"} {
		open(t, configOf(t, newBus(t, s), name)).Publish(Courier, courier)
	}
	seen := map[string]bool{}
	eventually(t, "both are asked", func() bool {
		place, _, err := a.Ask(t.Context(), Courier, courier, nil)
		if err == nil {
			seen[place.Node] = true
		}
		return len(seen) == 2
	})
}

func TestNothingIsLeftOfANodeThatIsGone(t *testing.T) {
	s := engine(t)
	a := open(t, configOf(t, newBus(t, s), "a"))
	theirs := newBus(t, s)
	b := open(t, configOf(t, theirs, "b"))
	courier := identity(t, "courier").Public()
	b.Publish(Courier, courier)
	found(t, a, courier)
	theirs.cut()
	gone(t, a, courier)
	theirs.connect() // it comes back by itself, with what has changed meanwhile
	found(t, a, courier)
	theirs.cut()
	eventually(t, "the node notices", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return !b.telling
	})
	other := identity(t, "other").Public()
	b.Withdraw(Courier, courier)
	b.Publish(Courier, other)
	b.mu.Lock()
	if n := len(b.changed); n > 0 {
		t.Errorf("%d changes are kept for a bus that may be away for days", n)
	}
	b.mu.Unlock()
	theirs.connect()
	found(t, a, other)
	gone(t, a, courier)
}

func TestNodesKnowEachOther(t *testing.T) {
	s := engine(t)
	cfg := configOf(t, newBus(t, s), "b")
	cfg.Load = func() Load { return Load{Couriers: 7, Peers: 9, Draining: true} }
	cfg.Release = "1.2.3"
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, cfg)
	eventually(t, "each sees both", func() bool { return len(a.Members()) == 2 && len(b.Members()) == 2 })
	m := a.Members()
	if !m[0].Self || m[0].Node != "a" || m[1].Self || m[1].Node != "b" {
		t.Errorf("the nodes are %+v", m)
	}
	if m[1].Load != cfg.Load() || m[1].Release != "1.2.3" || !m[1].Works {
		t.Errorf("the other node is %+v", m[1])
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the other is gone", func() bool { return len(a.Members()) == 1 })
}

// TestWhoIsOfflineWhileANodeDrainsMayBeOnItsWay: whoever is told that a courier is offline knows by then that its node drains.
func TestWhoIsOfflineWhileANodeDrainsMayBeOnItsWay(t *testing.T) {
	s := engine(t)
	var draining atomic.Bool
	cfg := configOf(t, newBus(t, s), "b")
	cfg.Load = func() Load { return Load{Draining: draining.Load()} }
	a, b := open(t, patient(t, newBus(t, s), "a")), open(t, cfg)
	courier := identity(t, "courier").Public()
	for range 100 {
		draining.Store(false)
		b.Announce()
		eventually(t, "nobody drains", func() bool { return !a.Draining(t.Context()) })
		b.Publish(Courier, courier)
		found(t, a, courier)
		draining.Store(true)
		b.Announce()
		b.Withdraw(Courier, courier)
		gone(t, a, courier)
		if !a.Draining(t.Context()) {
			t.Fatal("a courier is offline, and nobody knows that its node drains")
		}
	}
}

// patient is the configuration of a node that takes no other one for gone because the machine has much to do.
func patient(t *testing.T, b Bus, name string) Config {
	t.Helper()
	cfg := configOf(t, b, name)
	cfg.Limits.HelloEvery = 10 * time.Second
	return cfg
}

// TestWhatWasSaidLaterCounts: a node that drains says so while it is about to say, as every second, that it does not.
func TestWhatWasSaidLaterCounts(t *testing.T) {
	a := open(t, patient(t, newBus(t, engine(t)), "a"))
	said := func(run string, turn uint64, draining bool) {
		a.note(hello{Version: version, Run: run, Turn: turn, Place: Place{Node: "b"}, Load: Load{Draining: draining}})
	}
	said("one", 1, false)
	said("one", 3, true)
	said("one", 2, false)
	if !a.Draining(t.Context()) {
		t.Error("what was said before counts")
	}
	said("another", 1, false)
	if a.Draining(t.Context()) {
		t.Error("another process of the node is not listened to")
	}
}

func TestVersionsOneApartWorkTogetherAndOthersAreRefused(t *testing.T) {
	s := engine(t)
	a := open(t, configOf(t, newBus(t, s), "a"))
	at := func(v int) Config {
		cfg := configOf(t, newBus(t, s), fmt.Sprintf("v%d", v))
		cfg.version = v
		return cfg
	}
	next := open(t, at(version+1))
	courier := identity(t, "courier").Public()
	next.Publish(Courier, courier)
	place := found(t, a, courier)
	conn, _, err := a.Dial(t.Context(), place, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if _, err := Open(t.Context(), at(version+2)); !errors.Is(err, ErrVersion) || !strings.Contains(fmt.Sprint(err), `"a" speaks version 1 and this node 3`) {
		t.Errorf("a node two versions away: %v", err)
	}
	// A node that was away when the other came: questions and links refuse it.
	far := at(version + 2)
	far.Name, far.Bus = "far", newBus(t, engine(t))
	f := open(t, far)
	if _, _, err := a.Dial(t.Context(), f.place(), nil, false); !errors.Is(err, ErrVersion) {
		t.Errorf("a link to a node two versions away: %v", err)
	}
	if _, _, err := f.Dial(t.Context(), a.place(), nil, true); !errors.Is(err, ErrVersion) {
		t.Errorf("a link from a node two versions away: %v", err)
	}
}

func TestLinksCarryWhatIsSent(t *testing.T) {
	s := engine(t)
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, configOf(t, newBus(t, s), "b"))
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for _, bare := range []bool{false, true} {
		conn, _, err := a.Dial(t.Context(), b.place(), []byte("echo"), bare)
		if err != nil {
			t.Fatal(err)
		}
		if _, tcp := conn.(*net.TCPConn); tcp != bare {
			t.Errorf("bare %v is a %T", bare, conn)
		}
		var wrote sync.WaitGroup
		wrote.Go(func() { _, _ = conn.Write(want) })
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("bare %v: what comes back is not what was sent: %v", bare, err)
		}
		wrote.Wait()
		_ = conn.Close()
	}
	if _, _, err := a.Dial(t.Context(), b.place(), []byte("refused"), true); !errors.Is(err, Refusal("not this one")) {
		t.Errorf("a refusal arrives as %v", err)
	}
}

func TestLinksAreForNodesThatProveTheirKeys(t *testing.T) {
	s := engine(t)
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, configOf(t, newBus(t, s), "b"))
	wrong := b.place()
	wrong.Key = identity(t, "somebody else").Public()
	if _, _, err := a.Dial(t.Context(), wrong, nil, false); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a node with another key: %v", err)
	}
	stranger := configOf(t, newBus(t, engine(t)), "stranger")
	stranger.AppKey = appKey(t, "another cluster")
	if _, _, err := open(t, stranger).Dial(t.Context(), b.place(), nil, false); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a node of another cluster: %v", err)
	}
	dead := b.place()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := a.Dial(t.Context(), dead, nil, false); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a node that is gone: %v", err)
	}
}

func TestAnIncompleteConfigurationIsRefused(t *testing.T) {
	if _, err := Open(t.Context(), Config{Name: "a"}); err == nil {
		t.Error("it is taken")
	}
}

func FuzzReadJSON(f *testing.F) {
	var b bytes.Buffer
	if err := writeJSON(&b, linkRequest{Version: 1, Node: "a", Body: []byte("x")}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r linkRequest
		if err := readJSON(bytes.NewReader(b), &r); err == nil && len(r.Body) > len(b) {
			t.Error("more came than was there")
		}
	})
}
