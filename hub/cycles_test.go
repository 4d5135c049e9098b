package hub_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// cycles is how many circuits live and die in TestCyclesFromEndToEndLeaveNothing:
//
//	go test ./hub -run TestCyclesFromEndToEndLeaveNothing -v -cycles 10000
var cycles = flag.Int("cycles", 256, "how many circuits live and die from end to end")

// cycling is a hub with everybody who takes part: alice, whom bob and carol visit, and couriers that fail.
type cycling struct {
	t                 *testing.T
	h                 *running
	alice, bob, carol *courier
	hubOfBob          *secretstack.Peer
	cutting           sync.Mutex // held while a circuit of carol lives
}

// flood is spoken by alice, who sends without an end; drop too, who hangs up in the middle of it.
const flood, drop = "flood", "drop"

func newCycling(t *testing.T, n int) *cycling {
	h := start(t, hub.Config{Limits: hub.Limits{Circuits: circuits.Limits{MaxPendingPerKey: n + 1}}})
	c := &cycling{t: t, h: h}
	alice := peer(t, "alice", greeter(), hubclient.Plugin(hubclient.Config{Hubs: []hubclient.Hub{{Address: h.address()}}}))
	client, _ := secretstack.Find[*hubclient.Client](alice)
	c.alice = &courier{client, alice}
	c.alice.online(t)
	rings(t, c.alice)
	for protocol, serve := range map[string]func(conn *multiserver.Conn){
		flood: func(conn *multiserver.Conn) { _, _ = io.Copy(conn, endless{}) },
		drop:  func(conn *multiserver.Conn) { _, _ = io.CopyN(conn, endless{}, 100_000); _ = conn.Abort() },
	} {
		err := client.HandleStream(protocol, func(_ context.Context, conn *multiserver.Conn) { serve(conn) })
		if err != nil {
			t.Fatal(err)
		}
	}
	c.bob, c.carol = newVisitor(t, "bob"), newVisitor(t, "carol")
	c.hubOfBob = connect(t, c.bob.app, h.address())
	for name, take := range failing {
		c.failing(name, take)
	}
	return c
}

// endless is zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// failing are couriers that publish themselves and then fail those who want to reach them, at one stage or another.
var failing = map[string]func(c *cycling, token circuit.Token) error{
	"refuses":      func(*cycling, circuit.Token) error { return muxrpc.Errorf("no") },
	"never comes":  func(*cycling, circuit.Token) error { return nil },
	"dies waiting": func(c *cycling, token circuit.Token) error { c.present(token, 0, nil); return nil },
	"dies joined":  func(c *cycling, token circuit.Token) error { c.present(token, 1, nil); return nil },
	"babbles":      func(c *cycling, token circuit.Token) error { c.present(token, 1, make([]byte, 500)); return nil },
}

// failing starts such a courier.
func (c *cycling) failing(name string, take func(c *cycling, token circuit.Token) error) {
	c.t.Helper()
	plugin := secretstack.NewPlugin(secretstack.Info{Name: "hubclient", Permissions: secretstack.Anonymous("circuit")},
		func(_ context.Context, s *secretstack.Setup) error {
			return muxrpc.HandleAsync(s, "circuit", func(_ context.Context, o native.CircuitOffer) (muxrpc.None, error) {
				return muxrpc.None{}, take(c, o.Token)
			})
		})
	p := connect(c.t, peer(c.t, name, plugin), c.h.address())
	_, err := call[native.Published](c.t, p, native.MethodPublish, native.PublishRequest{
		Signed: signed(c.t, identity(c.t, name), claim.Statement{Hub: c.h.About().Key, Action: claim.Register}),
		Serves: []string{native.ServesCircuits},
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// present presents a token on a plain connection, waits for so many bytes, says something, and dies.
func (c *cycling) present(token circuit.Token, wait int, say []byte) {
	conn, err := net.Dial("tcp", c.h.addr)
	if err != nil {
		c.t.Error(err)
		return
	}
	_, _ = conn.Write(circuit.AppendPreamble(nil, token))
	_, _ = io.ReadFull(conn, make([]byte, wait))
	_, _ = conn.Write(say)
	_ = conn.(*net.TCPConn).SetLinger(0) // what has come and was not read is of no interest
	_ = conn.Close()
}

// token asks for a circuit to alice as bob does.
func (c *cycling) token() (circuit.Token, error) {
	answer, err := muxrpc.Call[native.Connected](c.t.Context(), c.hubOfBob, native.MethodConnect, native.ConnectRequest{Key: c.alice.app.ID()})
	return answer.Token, err
}

// asBob does with bob's token what an end can do that is about to die.
func asBob(wait int, say []byte) func(c *cycling, _ int) error {
	return func(c *cycling, _ int) error {
		token, err := c.token()
		if err == nil {
			c.present(token, wait, say)
		}
		return err
	}
}

// isFailed dials a courier that fails, and is told so while there is time left.
func isFailed(name string, wanted circuit.Answer) func(c *cycling, _ int) error {
	return func(c *cycling, _ int) error {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
		defer cancel()
		conn, err := c.bob.DialStream(ctx, c.h.to(c.t, c.h.address(), name), ring)
		if err == nil {
			_ = conn.Abort()
			return fmt.Errorf("%q was reached", name)
		}
		answer, answered := errors.AsType[*circuit.AnswerError](err)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("nobody has said that %q fails: %w", name, err)
		case wanted != 0 && (!answered || answer.Answer != wanted):
			return fmt.Errorf("of %q it is said: %w", name, err)
		}
		return nil
	}
}

// ways are what can happen to a circuit from end to end, in the order of its life.
var ways = []func(c *cycling, i int) error{
	func(c *cycling, _ int) error { // the visitor does not come
		_, err := c.token()
		return err
	},
	asBob(0, nil), // it dies while it waits
	isFailed("refuses", circuit.Refused),
	isFailed("dies waiting", 0),
	func(c *cycling, _ int) error { // the target does not come, and the visitor does not wait for it
		return c.givesUp("never comes", time.Millisecond)
	},
	asBob(1, nil), // joined, it dies before the handshake
	isFailed("dies joined", 0),
	asBob(1, make([]byte, 30)),  // in the middle of it
	asBob(1, make([]byte, 200)), // it has not the visitor's key, nor the app key
	isFailed("babbles", 0),
	func(c *cycling, i int) error { // the visitor gives up at some moment
		return c.givesUp("alice", time.Duration(i%64)*100*time.Microsecond)
	},
	func(c *cycling, _ int) error { // the visitor dies in mid-stream
		return c.stream(c.bob, flood, func(conn *multiserver.Conn) error {
			_, err := io.ReadFull(conn, make([]byte, 10_000))
			return errors.Join(err, conn.Abort())
		})
	},
	func(c *cycling, _ int) error { // the target does
		return c.stream(c.bob, drop, wantCut)
	},
	func(c *cycling, _ int) error { // the hub cuts
		c.cutting.Lock() // all of hers are cut
		defer c.cutting.Unlock()
		return c.stream(c.carol, flood, func(conn *multiserver.Conn) error {
			c.h.Circuits().Cut(func(visitor, _ keys.PublicKey) bool { return visitor.Equal(c.carol.app.ID()) })
			return wantCut(conn)
		})
	},
	func(c *cycling, _ int) error { // all goes well
		return c.stream(c.bob, ring, func(conn *multiserver.Conn) error {
			const text = "around"
			_, errWrite := io.WriteString(conn, text)
			errClose := conn.CloseWrite()
			got, err := io.ReadAll(conn)
			if string(got) != text {
				err = errors.Join(err, fmt.Errorf("%q came back", got))
			}
			return errors.Join(errWrite, errClose, err)
		})
	},
	func(c *cycling, _ int) error { // with muxrpc, too
		p, err := c.bob.app.Connect(c.t.Context(), c.h.to(c.t, c.h.address(), "alice"))
		if err != nil {
			return err
		}
		_, err = muxrpc.Call[string](c.t.Context(), p, "greeter.hello", "bob")
		return errors.Join(err, p.Close(c.t.Context()))
	},
}

// givesUp dials, and stops that after a while. That it is done before is no error.
func (c *cycling) givesUp(name string, after time.Duration) error {
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	defer time.AfterFunc(after, cancel).Stop()
	conn, err := c.bob.DialStream(ctx, c.h.to(c.t, c.h.address(), name), ring)
	if err == nil {
		return conn.Abort()
	}
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// stream dials alice and uses the stream.
func (c *cycling) stream(who *courier, protocol string, use func(conn *multiserver.Conn) error) error {
	conn, err := who.DialStream(c.t.Context(), c.h.to(c.t, c.h.address(), "alice"), protocol)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return use(conn)
}

// wantCut reads until the stream is cut, which is no end that the peer has proved.
func wantCut(conn *multiserver.Conn) error {
	if _, err := io.Copy(io.Discard, conn); err == nil {
		return errors.New("the cut looks like an end")
	}
	return nil
}

// run lets n circuits live and die, and waits until nobody is at it any more.
func (c *cycling) run(n int) {
	c.t.Helper()
	const workers = 8
	var next atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n && !c.t.Failed(); i = int(next.Add(1)) {
				if err := ways[i%len(ways)](c, i); err != nil {
					c.t.Errorf("cycle %d, way %d: %v", i, i%len(ways), err)
				}
			}
		})
	}
	all.Wait()
	// Those of which one end has not come would wait for it.
	eventually(c.t, "all circuits are over", func() bool {
		c.h.Circuits().Cut(func(_, _ keys.PublicKey) bool { return true })
		s := c.h.Circuits().Stats()
		return s.Open == 0 && s.Pending == 0
	})
}

// TestCyclesFromEndToEndLeaveNothing ends circuits between apps at every stage, from the question to the hub to the last
// byte, and counts what is left.
func TestCyclesFromEndToEndLeaveNothing(t *testing.T) {
	c := newCycling(t, *cycles)
	c.run(4 * len(ways)) // what stays is made once
	before := settled(t, nil)
	begun := time.Now()
	c.run(*cycles)
	took := time.Since(begun)
	if t.Failed() {
		return
	}
	after := settled(t, &before)
	t.Logf("%d cycles in %v; %+v, %+v", *cycles, took.Round(time.Millisecond), before, c.h.Circuits().Stats())
	t.Logf("afterwards %+v", after)
}

// left is what a process has.
type left struct {
	goroutines, sockets, pipes int
	heap                       uint64
}

// within reports whether nothing worth mentioning has come since before. Pipes are kept for the next circuits, up to 128.
func (l left) within(before left) bool {
	const few, pipes, little = 8, 2 * 128, 4 << 20
	return l.goroutines <= before.goroutines+few && l.sockets <= before.sockets && l.pipes <= before.pipes+pipes && l.heap < before.heap+little
}

// settled waits until what the process has does not become less any more; with before, until it has no more than then.
func settled(t *testing.T, before *left) left {
	t.Helper()
	last, same := measure(), 0
	for range 1200 {
		if before != nil && last.within(*before) || before == nil && same > 40 {
			return last
		}
		time.Sleep(50 * time.Millisecond)
		now := measure()
		if same++; now.goroutines < last.goroutines || now.sockets < last.sockets {
			same = 0
		}
		last = now
	}
	t.Fatalf("before: %+v, afterwards: %+v", before, last)
	return last
}

func measure() (l left) {
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	l.goroutines, l.heap = runtime.NumGoroutine(), mem.HeapAlloc
	const folder = "/proc/self/fd" // only Linux has it
	entries, _ := os.ReadDir(folder)
	for _, e := range entries {
		switch target, _ := os.Readlink(filepath.Join(folder, e.Name())); {
		case strings.HasPrefix(target, "socket:"):
			l.sockets++
		case strings.HasPrefix(target, "pipe:"):
			l.pipes++
		}
	}
	return l
}
