package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

const (
	// crossing is how long a byte is under way from the far node to another or back, give or take jitter.
	crossing = 100 * time.Millisecond
	jitter   = 25 * time.Millisecond
	// narrow is how many bytes a second go each way over one connection.
	narrow = 256 << 10
)

// gate is the address of the router at which a node is found by the others.
func (f *farNodes) gate(i int) string { return f.HubAddress(i + 1) }

// gates has nodes find each other at the router, where the ways between one of them and the others can be made slow and narrow by what is
// returned. It must be called before nodes start.
func (f *farNodes) gates(lone int) (slowDown func()) {
	f.t.Helper()
	f.gated = true
	var slow atomic.Bool
	for i := range 3 {
		for _, port := range []string{"8435", "8436"} {
			var ln net.Listener
			var err error
			f.At(0, func() { ln, err = net.Listen("tcp", f.gate(i)+":"+port) })
			if err != nil {
				f.t.Fatal(err)
			}
			f.each(ln, func(near net.Conn) {
				var way *atomic.Bool
				if i == lone || strings.HasPrefix(near.RemoteAddr().String(), farHost(lone)+":") {
					way = &slow
				}
				f.cross(near, farHost(i)+":"+port, way)
			})
		}
	}
	return func() { slow.Store(true) }
}

// cross passes bytes between a connection and one that is opened at the router; if slow is not nil, slowly when it is true.
func (f *farNodes) cross(near net.Conn, to string, slow *atomic.Bool) {
	defer func() { _ = near.Close() }()
	var far net.Conn
	var err error
	f.At(0, func() { far, err = net.DialTimeout("tcp", to, time.Second) })
	if err != nil {
		return
	}
	var back sync.WaitGroup
	defer back.Wait()
	defer func() { _ = far.Close() }()
	pass := func(to, from net.Conn) { _, _ = io.Copy(to, from) }
	if slow != nil {
		pass = func(to, from net.Conn) { crawl(to, from, slow) }
	}
	back.Go(func() {
		pass(near, far)
		_ = near.Close()
	})
	pass(far, near)
}

// crawl passes bytes on, slowly when slow is true.
func crawl(to, from net.Conn, slow *atomic.Bool) {
	type piece struct {
		data []byte
		due  time.Time
	}
	under := make(chan piece, 64)
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(under)
	writer.Go(func() {
		for p := range under {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close()
			}
		}
	})
	var free, last time.Time // when the way is free for the next byte; when the last one arrives
	for {
		b := make([]byte, 8<<10)
		n, err := from.Read(b)
		if n > 0 {
			due := time.Now()
			if slow.Load() {
				free = later(free, due).Add(time.Duration(n) * time.Second / narrow)
				due = free.Add(crossing + rand.N(2*jitter) - jitter)
			}
			due = later(due, last)
			last = due
			under <- piece{b[:n], due}
		}
		if err != nil {
			return
		}
	}
}

// visitor is somebody who opens circuits by way of a node.
func (f *farNodes) visitor() *secretstack.App {
	f.t.Helper()
	stack := secretstack.New(secretstack.Options{})
	err := stack.Use(hubclient.Plugin(hubclient.Config{}))
	if err != nil {
		f.t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = app.Close(canceled()) })
	return app
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestTheWayToANodeIsSlow: what goes over it works, and look-ups that do not need it are as quick as ever.
func TestTheWayToANodeIsSlow(t *testing.T) {
	f := newFarNodes(t, slowLink)
	f.configure("")
	slowDown := f.gates(2)
	f.begin()
	l := newLedger(f, 0)
	near, far := f.courier(0), f.courier(2)
	here, there := await(t, near, "online", isOnline), await(t, far, "online", isOnline)
	slowDown()

	busy, stop := context.WithCancel(context.Background())
	var visits sync.WaitGroup
	defer visits.Wait()
	defer stop()
	for range 4 { // the way is full
		visits.Go(func() {
			for busy.Err() == nil {
				f.nodes[0].visit(there.URL)
			}
		})
	}
	nobody := secrez.NewID()
	for i, id := range []secrez.ID{here.ID, here.ID, nobody} { // what needs no question over the slow way
		c := l.client(someone(t, 1), i)
		if id != nobody { // another node hears of it a moment later
			testkit.Eventually(t, "the courier is known", func() bool {
				who, err := tell[native.Who](c, native.MethodWhois, native.WhoisRequest{ID: id})
				return err == nil && who.Online
			})
		}
		var took []time.Duration
		for range 50 {
			began := time.Now()
			who, err := tell[native.Who](c, native.MethodWhois, native.WhoisRequest{ID: id})
			if id == nobody && native.CodeOf(err) != native.Unknown || id != nobody && !who.Online {
				t.Fatalf("node %d says of %v: %+v, %v", i+1, id, who, err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		if half := took[len(took)/2]; half >= crossing {
			t.Errorf("a look-up at node %d takes %v, as if it went over the slow way", i+1, half)
		}
	}
	stop()
	visits.Wait()

	for i, courier := range map[int]hubclient.Status{0: there, 2: here} {
		f.reached(i, courier.URL)
		who, err := tell[native.Who](l.client(someone(t, 1), i), native.MethodWhois, native.WhoisRequest{ID: courier.ID})
		if err != nil || !who.Online {
			t.Errorf("node %d does not see a courier over the slow way: %v", i+1, err)
			continue
		}
		to, err := hubclient.CircuitAddress(multiserver.ParseLoose(f.nodes[i].address())[0], who.Key)
		if err != nil {
			t.Fatal(err)
		}
		visitor := f.visitor()
		f.eventually(fmt.Sprintf("a circuit by way of node %d", i+1), func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_, err := visitor.Connect(ctx, to.String())
			return err == nil
		})
	}
	for i := range f.nodes { // one after the other: two that write at the same time wait for each other
		f.more(i)
		from := l.client(l.senders[i], i)
		for range l.recipients {
			f.eventually(fmt.Sprintf("a deposit at node %d", i+1), func() bool {
				before := l.kept[i]
				l.deposit(from, i)
				return l.kept[i] > before
			})
		}
	}
	for i, to := range l.recipients {
		l.remove(l.client(to, i), i)
	}
	f.whole(0, 1, 2)
	l.balance()
}
