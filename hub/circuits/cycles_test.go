package circuits

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/keys"
)

// cycle is the life of one circuit, from the offer to wherever it ends.
type cycle struct {
	t       *testing.T
	table   *Table
	address string
	offer   *Offer
}

func (c *cycle) dial() *net.TCPConn {
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		c.t.Error(err)
		runtime.Goexit()
	}
	return conn.(*net.TCPConn)
}

// kill ends a connection as the end of a process does that had something to read.
func kill(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	conn.Close()
}

// begin presents a token without waiting for the answer.
func (c *cycle) begin(token circuit.Token) *net.TCPConn {
	conn := c.dial()
	_, _ = conn.Write(circuit.AppendPreamble(nil, token))
	return conn
}

func (c *cycle) answer(conn net.Conn) circuit.Answer {
	var b [1]byte
	_, _ = io.ReadFull(conn, b[:])
	return circuit.Answer(b[0])
}

func (c *cycle) join() (visitor, target *net.TCPConn) {
	visitor, target = c.begin(c.offer.Visitor), c.begin(c.offer.Target)
	if a, b := c.answer(visitor), c.answer(target); a != circuit.Joined || b != circuit.Joined {
		c.t.Errorf("answered %v and %v", a, b)
	}
	return visitor, target
}

// fates are what can happen to a circuit, in the order of its life.
var fates = []func(c *cycle){
	func(*cycle) {}, // nobody comes
	func(c *cycle) { c.offer.Refuse(circuit.Refused) },
	func(c *cycle) { kill(c.dial()) },
	func(c *cycle) { // the visitor dies while it presents its token
		conn := c.dial()
		_, _ = conn.Write(circuit.AppendPreamble(nil, c.offer.Visitor)[:30])
		kill(conn)
	},
	func(c *cycle) { // the target refuses while the visitor waits
		conn := c.begin(c.offer.Visitor)
		c.offer.Refuse(circuit.Refused)
		if a := c.answer(conn); a != circuit.Refused {
			c.t.Errorf("answered %v", a)
		}
		conn.Close()
	},
	func(c *cycle) { // the visitor dies while it waits, and the target comes
		kill(c.begin(c.offer.Visitor))
		target := c.begin(c.offer.Target)
		_, _ = io.Copy(io.Discard, target)
		target.Close()
	},
	func(c *cycle) { // the other way round
		kill(c.begin(c.offer.Target))
		visitor := c.begin(c.offer.Visitor)
		_, _ = io.Copy(io.Discard, visitor)
		visitor.Close()
	},
	func(c *cycle) { // a token is presented twice
		visitor, target := c.join()
		again := c.begin(c.offer.Visitor)
		if a := c.answer(again); a != circuit.Unknown {
			c.t.Errorf("answered %v", a)
		}
		again.Close()
		kill(visitor)
		_, _ = io.Copy(io.Discard, target)
		target.Close()
	},
	func(c *cycle) { // the visitor dies in mid-stream
		visitor, target := c.join()
		go func() { _, _ = io.CopyN(target, zeros{}, 1<<20); target.Close() }()
		_, _ = io.ReadFull(visitor, make([]byte, 1000))
		kill(visitor)
	},
	func(c *cycle) { // the target dies in mid-stream, half closed
		visitor, target := c.join()
		_ = target.CloseWrite()
		_, _ = io.WriteString(visitor, "into nothing")
		_, _ = io.Copy(io.Discard, visitor)
		kill(target)
		visitor.Close()
	},
	func(c *cycle) { // the hub cuts
		visitor, target := c.join()
		c.table.Cut(func(v, _ keys.PublicKey) bool { return v.Equal(c.offer.p.visitor.key) })
		_, _ = io.Copy(io.Discard, visitor)
		_, _ = io.Copy(io.Discard, target)
		visitor.Close()
		target.Close()
	},
	func(c *cycle) { // all goes well
		visitor, target := c.join()
		wantPassed(c.t, visitor, target, "ping")
		wantPassed(c.t, target, visitor, "pong")
		_ = visitor.CloseWrite()
		_, _ = io.Copy(io.Discard, target)
		target.Close()
		_, _ = io.Copy(io.Discard, visitor)
		visitor.Close()
	},
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestTenThousandCyclesLeaveNothing ends circuits at every stage of their life, and counts what is left.
func TestTenThousandCyclesLeaveNothing(t *testing.T) {
	cycles(t, 500) // what stays is made once
	before := measure()
	cycles(t, 10_000)
	var now measures
	for range 6000 {
		if now = measure(); now.within(before) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("before: %+v, afterwards: %+v", before, now)
}

// cycles makes a table, goes through so many cycles, and closes it.
func cycles(t *testing.T, n int) {
	t.Helper()
	const workers = 16
	table := New(Config{Limits: Limits{Setup: time.Second, Preamble: time.Second, MaxPending: n, MaxPendingPerKey: n}})
	address, stop := listen(t, table)
	defer stop()
	var next atomic.Int64
	var all sync.WaitGroup
	for w := range workers {
		visitor, target := key(t, "visitor "+string(rune('a'+w))), key(t, "target")
		all.Go(func() {
			for i := next.Add(1); i <= int64(n) && !t.Failed(); i = next.Add(1) {
				o, err := table.Offer(visitor, target)
				if err != nil {
					t.Error(err)
					return
				}
				fates[int(i)%len(fates)](&cycle{t, table, address, o})
			}
		})
	}
	all.Wait()
	eventually(t, "all circuits are over", func() bool { return len(table.all()) == 0 })
	if err := table.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if s := table.Stats(); s.Offered != uint64(n) || s.Joined+s.Failed != s.Offered {
		t.Errorf("%+v", s)
	}
}

type measures struct {
	goroutines, descriptors int
	heap                    uint64
}

// within reports whether nothing worth mentioning has come since before.
func (m measures) within(before measures) bool {
	const little = 1 << 20
	return m.goroutines <= before.goroutines && m.descriptors <= before.descriptors && m.heap < before.heap+little
}

func measure() measures {
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	m := measures{goroutines: runtime.NumGoroutine(), heap: mem.HeapAlloc}
	entries, err := os.ReadDir("/proc/self/fd")
	if !errors.Is(err, os.ErrNotExist) { // only Linux has it
		m.descriptors = len(entries)
	}
	return m
}
