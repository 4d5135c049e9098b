package vhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/secrez"
)

// testPool is a pool in memory.
type testPool struct {
	*Pool
	t    *testing.T
	gate *memListener
}

func newTestPool(t *testing.T, cfg PoolConfig) *testPool {
	t.Helper()
	gate := newMemListener()
	p := &testPool{newPool(gate, cfg, courierAddr, nil), t, gate}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// connect opens a socket from an address.
func (p *testPool) connect(from netip.Addr) *wire {
	p.t.Helper()
	c, err := p.gate.dialFrom(net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 40000)))
	if err != nil {
		p.t.Fatal(err)
	}
	return newWire(p.t, c)
}

func (p *testPool) want(s Stats) {
	p.t.Helper()
	synctest.Wait()
	if got := p.Stats(); got != s {
		p.t.Errorf("stats %+v, want %+v", got, s)
	}
}

// dial takes a socket for an exchange.
func (p *testPool) dial() *lease {
	p.t.Helper()
	c, err := p.Dial(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	l, _ := c.(*lease)
	return l
}

func TestAPoolHearsOnlyFromWhoRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, PoolConfig{})
		p.connect(strangerAddr).gone()
		p.connect(netip.MustParseAddr("::ffff:203.0.113.7")) // the courier, in the form of IPv6
		p.want(Stats{Open: 1, Idle: 1})
		if err := p.Register(strangerAddr); err != nil { // the courier has moved
			t.Fatal(err)
		}
		p.connect(courierAddr).gone()
		p.connect(strangerAddr)
		p.want(Stats{Open: 1, Idle: 1})
	})
}

func TestAPoolKeepsABoundedNumberOfSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, PoolConfig{MaxSockets: 3, Grace: time.Hour})
		sockets := []*wire{p.connect(courierAddr), p.connect(courierAddr), p.connect(courierAddr)}
		p.want(Stats{Open: 3, Idle: 3})
		sockets = append(sockets, p.connect(courierAddr))
		p.want(Stats{Open: 3, Idle: 3})
		sockets[1].quiet(settle / 2)
		within(t, settle, sockets[0].gone) // the one used longest ago makes room
		p.want(Stats{Open: 3, Idle: 3})

		// Sockets that are in use do not make room: the next one waits, untouched.
		a, b, c := p.dial(), p.dial(), p.dial()
		extra := p.connect(courierAddr)
		extra.quiet(time.Minute)
		p.want(Stats{Open: 3})
		_ = b.Close()
		p.want(Stats{Open: 3, Idle: 1})
		a.Release()
		c.Release()
		p.want(Stats{Open: 3, Idle: 3})
	})
}

func TestTwoClientsOfOneCourierDoNotStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sockets, seconds = 4, 60
		p := newTestPool(t, PoolConfig{MaxSockets: sockets})
		var mu sync.Mutex
		opened := 0
		done := time.After(seconds * time.Second)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 * sockets { // each opens another socket as soon as one ends, as tunnel clients do
			wg.Go(func() {
				for {
					c, err := p.gate.dialFrom(net.TCPAddrFromAddrPort(netip.AddrPortFrom(courierAddr, 40000)))
					if err != nil {
						return
					}
					mu.Lock()
					opened++
					mu.Unlock()
					ended := make(chan struct{})
					wg.Go(func() { defer close(ended); _, _ = c.Read(make([]byte, 1)) })
					select {
					case <-ended:
					case <-stop:
						_ = c.Close()
						return
					}
				}
			})
		}
		<-done
		mu.Lock()
		got := opened
		mu.Unlock()
		if limit := 2*sockets + sockets + seconds; got > limit {
			t.Errorf("%d sockets were opened in %d s, want at most %d", got, seconds, limit)
		}
		close(stop)
		p.mustEnd(t)
		wg.Wait()
	})
}

func TestASocketThatEndsWhileItsSuccessorArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, PoolConfig{MaxSockets: 2})
		first, second := p.connect(courierAddr), p.connect(courierAddr)
		p.want(Stats{Open: 2, Idle: 2})
		p.connect(courierAddr) // before the pool sees that second has ended
		time.Sleep(settle / 2)
		_ = second.c.Close()
		p.want(Stats{Open: 2, Idle: 2})
		first.quiet(time.Minute) // nobody was thrown out
	})
}

func TestAPoolEndsWhenItsCourierIsGone(t *testing.T) {
	ended := func(t *testing.T, p *testPool, after time.Duration) {
		t.Helper()
		within(t, after, func() { <-p.Done() })
		if _, err := p.Dial(context.Background()); !errors.Is(err, ErrAway) {
			t.Errorf("Dial: %v", err)
		}
		if err := p.Register(courierAddr); !errors.Is(err, ErrClosed) {
			t.Errorf("Register: %v", err)
		}
		if _, err := p.gate.dialFrom(nil); err == nil {
			t.Error("the port is still open")
		}
	}
	t.Run("because it never came", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPool(t, PoolConfig{Grace: 5 * time.Second})
			ended(t, p, 5*time.Second)
		})
	})
	t.Run("because its last socket ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPool(t, PoolConfig{Grace: 5 * time.Second})
			a, b := p.connect(courierAddr), p.connect(courierAddr)
			time.Sleep(time.Hour)
			_ = a.c.Close()
			time.Sleep(time.Hour)
			_ = b.c.Close()
			ended(t, p, 5*time.Second)
		})
	})
	t.Run("not when it comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPool(t, PoolConfig{Grace: 5 * time.Second})
			for range 5 {
				a := p.connect(courierAddr)
				synctest.Wait()
				_ = a.c.Close()
				time.Sleep(4 * time.Second)
			}
			p.connect(courierAddr)
			time.Sleep(time.Hour)
			p.want(Stats{Open: 1, Idle: 1})
		})
	})
	t.Run("because it registered and did not come", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newTestPool(t, PoolConfig{Grace: 5 * time.Second})
			p.connect(courierAddr)
			synctest.Wait()
			inUse := p.dial()
			time.Sleep(time.Minute)
			if err := p.Register(courierAddr); err != nil {
				t.Fatal(err)
			}
			ended(t, p, 5*time.Second)
			if _, err := inUse.Read(make([]byte, 1)); err == nil {
				t.Error("a socket outlived the pool")
			}
		})
	})
}

func TestRegisteringAgainDropsWhatMayBeHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, PoolConfig{MaxSockets: 2, Grace: time.Minute})
		idle, inUse := p.connect(courierAddr), p.connect(courierAddr)
		synctest.Wait()
		first := p.dial() // the newest: inUse
		if err := p.Register(courierAddr); err != nil {
			t.Fatal(err)
		}
		within(t, 0, idle.gone)
		a, b := p.connect(courierAddr), p.connect(courierAddr)
		p.want(Stats{Open: 3, Idle: 2}) // the one in use does not count
		first.Release()
		within(t, 0, inUse.gone)
		p.want(Stats{Open: 2, Idle: 2})

		second := p.dial()
		if err := p.Register(courierAddr); err != nil {
			t.Fatal(err)
		}
		if err := p.Register(courierAddr); err != nil { // twice: what is still in use goes too
			t.Fatal(err)
		}
		within(t, 0, a.gone)
		within(t, 0, b.gone)
		_ = second.Close()
		p.want(Stats{})
	})
}

func TestAVisitorOutlastsARegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{MaxSockets: 1})
		s, v, waiting := w.socket(), w.visitor(), w.visitor()
		v.get("/1")
		s.request()
		waiting.get("/2")
		synctest.Wait()
		if err := w.pool.Register(courierAddr); err != nil {
			t.Fatal(err)
		}
		next := w.socket()
		next.request()
		next.reply("second")
		s.reply("first")
		if a, b := v.response(), waiting.response(); a.body != "first" || b.body != "second" {
			t.Errorf("got %q and %q", a.body, b.body)
		}
		s.gone()
	})
}

func TestALeaseEndsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, PoolConfig{})
		s := p.connect(courierAddr)
		synctest.Wait()
		first := p.dial()
		first.Release()
		second := p.dial()
		_ = first.Close() // too late to hurt whoever has the socket now
		first.Release()
		p.want(Stats{Open: 1})
		if _, err := second.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		s.bytes(1)
		_ = second.Close()
		_ = second.Close()
		s.gone()
		p.want(Stats{})
	})
}

func TestDialHonoursItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, PoolConfig{Grace: time.Hour, Wait: time.Hour})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := p.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if _, err := p.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		// What comes at the very moment is not lost.
		for range 100 {
			ctx, cancel := context.WithCancel(context.Background())
			got := make(chan *lease, 1)
			go func() {
				c, _ := p.Dial(ctx)
				l, _ := c.(*lease)
				got <- l
			}()
			synctest.Wait()
			go cancel()
			s := p.connect(courierAddr)
			if l := <-got; l != nil {
				l.Release()
			}
			p.want(Stats{Open: 1, Idle: 1})
			_ = s.c.Close()
			p.want(Stats{})
		}
	})
}

// deafConn does not keep its read deadlines.
type deafConn struct{ *memConn }

func (deafConn) SetReadDeadline(time.Time) error { return nil }

func TestAConnectionThatCannotBeClaimedIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, PoolConfig{})
		theirs, _ := memPair(net.TCPAddrFromAddrPort(netip.AddrPortFrom(courierAddr, 1)))
		p.gate.conns <- deafConn{theirs}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := p.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		p.want(Stats{})
	})
}

// failingListener fails for a while, as for want of file descriptors.
type failingListener struct {
	*memListener
	failures int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures--; l.failures >= 0 {
		return nil, errors.New("too many open files")
	}
	return l.memListener.Accept()
}

func TestAPoolAcceptsAgainAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newMemListener()
		p := &testPool{newPool(&failingListener{gate, 12}, PoolConfig{Grace: time.Minute}, courierAddr, nil), t, gate}
		defer p.mustEnd(t)
		p.connect(courierAddr)
		time.Sleep(10 * time.Second)
		p.want(Stats{Open: 1, Idle: 1})
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPool(&failingListener{newMemListener(), 1 << 30}, PoolConfig{}, courierAddr, nil)
		time.Sleep(5 * time.Second)
		p.mustEnd(t) // in the middle of a pause
	})
}

func TestAHeldSocketEndsWithItsPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, PoolConfig{MaxSockets: 1})
		p.connect(courierAddr)
		synctest.Wait()
		p.dial()
		held := p.connect(courierAddr)
		held.quiet(time.Second)
		p.mustEnd(t)
		held.gone()
		p.mustEnd(t) // again
	})
	synctest.Test(t, func(t *testing.T) { // or with the courier's address
		p := newTestPool(t, PoolConfig{MaxSockets: 1})
		p.connect(courierAddr)
		synctest.Wait()
		p.dial()
		held := p.connect(courierAddr)
		held.quiet(time.Second)
		if err := p.Register(strangerAddr); err != nil {
			t.Fatal(err)
		}
		held.gone()
	})
}

func TestPoolsAreFoundMadeAndForgotten(t *testing.T) {
	testkit.LeakCheckOf(t, "hub/vhost.")
	ports, err := NewPorts("127.0.0.1", PortRange{})
	if err != nil {
		t.Fatal(err)
	}
	id := testID(t)
	gone := make(chan string, 10)
	ps := NewPools(ports, PoolConfig{Grace: 200 * time.Millisecond}, nil)
	ps.away = func(id secrez.ID) { gone <- fmt.Sprint(id, " ", ps.Len(), ps.Pool(id) == nil) }
	if _, err := ps.Courier(t.Context(), id); !errors.Is(err, ErrAway) {
		t.Errorf("Courier: %v", err)
	}
	first, err := ps.Register(t.Context(), id, loopback)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ps.Register(t.Context(), id, loopback)
	if err != nil || again != first || again.Port() != first.Port() || first.Port() == 0 || first.MaxSockets() != 4 {
		t.Errorf("registering again gives another pool (%v)", err)
	}
	if c, err := ps.Courier(t.Context(), id); err != nil || c != Courier(first) {
		t.Errorf("Courier: %v %v", c, err)
	}
	if got, want := <-gone, id.String()+" 0 true"; got != want {
		t.Errorf("away says %q, want %q", got, want)
	}
	second, err := ps.Register(t.Context(), id, loopback)
	if err != nil || second == first || ps.Len() != 1 {
		t.Errorf("a new pool: %v, %d pools", err, ps.Len())
	}
	ps.Remove(id)
	<-second.Done()
	if ps.Len() != 0 {
		t.Error("a removed pool is still there")
	}
	third, err := ps.Register(t.Context(), id, loopback)
	if err != nil {
		t.Fatal(err)
	}
	if err := ps.Close(); err != nil {
		t.Error(err)
	}
	<-third.Done()
	if _, err := ps.Register(t.Context(), id, loopback); !errors.Is(err, ErrClosed) {
		t.Errorf("Register after Close: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ps.opening <- struct{}{}
	if _, err := ps.Register(ctx, id, loopback); !errors.Is(err, context.Canceled) {
		t.Errorf("Register: %v", err)
	}
}

func TestPortsComeBackAndRunOut(t *testing.T) {
	testkit.LeakCheckOf(t, "hub/vhost.")
	r := freeRange(t, 3)
	ports, err := NewPorts("127.0.0.1", r)
	if err != nil {
		t.Fatal(err)
	}
	if got := ports.Free(); got != 3 {
		t.Errorf("%d free", got)
	}
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.First)) // by somebody else
	if err != nil {
		t.Fatal(err)
	}
	ps := NewPools(ports, PoolConfig{Grace: time.Minute}, nil)
	defer func() { _ = ps.Close() }()
	ids := []string{"yb-ndr-fg", "yb-ndr-fy", "yb-ndr-fb"}
	var pools []*Pool
	for i, text := range ids {
		p, err := ps.Register(t.Context(), mustID(t, text), loopback)
		if i < 2 {
			if err != nil {
				t.Fatal(err)
			}
			if port := p.Port(); port <= int(r.First) || port > int(r.Last) {
				t.Errorf("port %d is not in %v", port, r)
			}
			pools = append(pools, p)
			continue
		}
		if !errors.Is(err, ErrNoPorts) || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("no port left: %v", err)
		}
	}
	_ = taken.Close()
	if p, err := ps.Register(t.Context(), mustID(t, ids[2]), loopback); err != nil || p.Port() != int(r.First) {
		t.Errorf("the port that came free: %v", err)
	}
	if got := ports.Free(); got != 0 {
		t.Errorf("%d free", got)
	}
	_ = pools[0].Close()
	if got := ports.Free(); got != 1 {
		t.Errorf("%d free", got)
	}
	if p, err := NewPool(t.Context(), ports, PoolConfig{}, loopback); err != nil || p.Port() != pools[0].Port() {
		t.Errorf("the port that came back: %v", err)
	} else {
		_ = p.Close()
		_ = p.Close()
	}
	if got := ports.Free(); got != 1 {
		t.Errorf("%d free: a port came back twice", got)
	}
}

// A client that still knocks at a port should not meet the next courier.
func TestThePortGivenBackLastIsHandedOutLast(t *testing.T) {
	ports, err := NewPorts("127.0.0.1", freeRange(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 3 {
		l, err := ports.Listen(t.Context(), net.ListenConfig{})
		if err != nil {
			t.Fatal(err)
		}
		seen[l.Addr().String()] = true
		_ = l.Close()
	}
	if len(seen) != 3 {
		t.Errorf("ports %v", seen)
	}
}

func TestABindAddressThatIsNotOurs(t *testing.T) {
	ports, err := NewPorts("192.0.2.1", PortRange{40000, 40009})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewPool(t.Context(), ports, PoolConfig{}, loopback); err == nil || errors.Is(err, ErrNoPorts) {
		t.Errorf("got %v", err)
	}
	if got := ports.Free(); got != 10 {
		t.Errorf("%d free", got)
	}
	ports, err = NewPorts("127.0.0.1", PortRange{})
	if err != nil || ports.Free() != -1 {
		t.Errorf("the system's choice: %d, %v", ports.Free(), err)
	}
	if _, err := NewPorts("", PortRange{5, 4}); !errors.Is(err, ErrRange) {
		t.Errorf("got %v", err)
	}
}

func TestPortRanges(t *testing.T) {
	for s, want := range map[string]PortRange{"": {}, "40000": {40000, 40000}, "40000-40999": {40000, 40999}, "1-65535": {1, 65535}} {
		got, err := ParsePortRange(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("%q is %v (%q), %v", s, got, got.String(), err)
		}
	}
	if got := (PortRange{1, 65535}).Len(); got != 65535 {
		t.Errorf("%d ports", got)
	}
	for _, s := range []string{"0", "-", "1-", "-1", "2-1", "65536", "1-65536", "a", "1-2-3", " 1", "0-5", "+1"} {
		if got, err := ParsePortRange(s); !errors.Is(err, ErrRange) {
			t.Errorf("%q is %v, %v", s, got, err)
		}
	}
}

func TestTheStreamsOfACourier(t *testing.T) {
	t.Run("are opened up to a number, and then waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newStreamWorld(t, Config{}, StreamsConfig{MaxStreams: 2})
			a, b, c := w.visitor(), w.visitor(), w.visitor()
			a.get("/")
			sa := w.stream()
			b.get("/")
			sb := w.stream()
			c.get("/")
			sa.request()
			sb.request()
			sa.reply("a")
			sa.request()
			sa.reply("c")
			if a, c := a.response(), c.response(); a.body != "a" || c.body != "c" {
				t.Errorf("got %q and %q", a.body, c.body)
			}
			sb.reply("b")
			b.response()
		})
	})
	t.Run("are opened when one fails for which somebody waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newStreamWorld(t, Config{}, StreamsConfig{MaxStreams: 1})
			a, b := w.visitor(), w.visitor()
			a.send(smallPost)
			s := w.stream()
			s.request()
			b.get("/")
			synctest.Wait()
			_ = s.c.Close()
			a.answer(502)
			s = w.stream()
			s.request()
			s.reply("ok")
			b.response()
		})
	})
	t.Run("are closed when nobody uses them", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newStreamWorld(t, Config{}, StreamsConfig{IdleTimeout: 5 * time.Second})
			v := w.visitor()
			v.get("/")
			s := w.stream()
			s.request()
			s.reply("")
			v.response()
			within(t, 5*time.Second, s.gone)
		})
	})
	t.Run("fail in the way that opening them does", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for status, err := range map[int]error{503: ErrAway, 504: ErrTooSlow, 502: errors.New("refused")} {
				w := newStreamWorld(t, Config{}, StreamsConfig{MaxStreams: 1, Open: func(context.Context) (net.Conn, error) { return nil, err }})
				for range 2 { // the place is given back
					v := w.visitor()
					v.get("/")
					v.answer(status)
				}
			}
		})
	})
	t.Run("take no longer to open than they may", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newStreamWorld(t, Config{}, StreamsConfig{Open: func(ctx context.Context) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			v := w.visitor()
			v.get("/")
			within(t, defaultDialTimeout, func() { v.answer(504) })
		})
	})
	t.Run("end with their courier", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate := newMemListener()
			open := make(chan struct{})
			st := openStreams(t, StreamsConfig{Open: func(ctx context.Context) (net.Conn, error) {
				<-open
				return gate.dial(ctx)
			}})
			failed := make(chan error)
			go func() { _, err := st.Dial(context.Background()); failed <- err }()
			synctest.Wait()
			_ = st.Close()
			close(open) // too late
			if err := <-failed; !errors.Is(err, ErrAway) {
				t.Errorf("got %v", err)
			}
			if _, err := st.Dial(context.Background()); !errors.Is(err, ErrAway) {
				t.Errorf("got %v", err)
			}
			if got := st.Stats(); got != (Stats{}) {
				t.Errorf("stats %+v", got)
			}
		})
	})
}
