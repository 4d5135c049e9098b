package multiserver_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/shs"
)

// isClosed reports whether the other end of a pipe has closed it.
func isClosed(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// rawDial connects to a memory listener without a handshake.
func rawDial(t *testing.T, m *memory, name string) net.Conn {
	t.Helper()
	c, err := m.Dial(t.Context(), multiserver.NewPart("mem", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestTwoPeersTalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		conns := make(chan *multiserver.Conn, 1)
		opts := memoryOptions(t, m, "alice")
		opts.OnConn = collect(conns)
		alice := listening(t, opts)
		bob := must(t, memoryOptions(t, m, "bob"))

		dialled, err := bob.Dial(t.Context(), loose(t, alice.Address(multiserver.Device)))
		if err != nil {
			t.Fatal(err)
		}
		accepted := <-conns
		if !dialled.Remote().Equal(identity(t, "alice").Public()) || !accepted.Remote().Equal(identity(t, "bob").Public()) {
			t.Error("the keys are not the peers'")
		}
		if dialled.Auth() != nil || accepted.Auth() != nil {
			t.Error("there is an authorization that nobody gave")
		}
		if got := dialled.Address(); !strings.HasSuffix(got, "~shs:"+identity(t, "alice").Public().Base64()) {
			t.Error(got)
		}
		echo(accepted)
		checkEcho(t, dialled)
		if got := alice.Stats(); got != (multiserver.Stats{Accepted: 1}) {
			t.Errorf("%+v", got)
		}
		_ = dialled.Close()
	})
}

// Defect A1: one silent client blocks every other client.
func TestDefectA1SilentClientDoesNotBlockOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		opts := memoryOptions(t, m, "alice")
		opts.OnConn = echo
		listening(t, opts)
		for range 10 {
			rawDial(t, m, "alice")
		}
		start := time.Now()
		c, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), addressOf(t, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, c)
		_ = c.Close()
		if waited := time.Since(start); waited != 0 {
			t.Errorf("the honest client waited for %v", waited)
		}
	})
}

// Defect A2: a handshake that times out leaves a goroutine and the connection
// behind. The bubble of synctest fails when a goroutine is left.
func TestDefectA2HandshakeTimeoutLeavesNothingBehind(t *testing.T) {
	for name, test := range map[string]struct{ configured, want time.Duration }{
		"default": {0, 5 * time.Second}, "configured": {15 * time.Second, 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				var logged testkit.Buffer
				opts := memoryOptions(t, m, "alice")
				opts.Limits.HandshakeTimeout, opts.Logger = test.configured, logTo(&logged)
				alice := listening(t, opts)
				c := rawDial(t, m, "alice")
				time.Sleep(test.want - time.Millisecond)
				synctest.Wait()
				if isClosed(c) || alice.Stats().Pending != 1 {
					t.Error("cut off too early")
				}
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				if !isClosed(c) || alice.Stats() != (multiserver.Stats{Failed: 1}) {
					t.Errorf("not cut off: %+v", alice.Stats())
				}
				if !strings.Contains(logged.String(), "pipe") || !strings.Contains(logged.String(), "~shs:") {
					t.Errorf("the log does not say who: %s", logged.String())
				}
			})
		})
	}
}

// The wart that the timeout is for each read, so that a peer that sends a byte
// now and then is never cut off.
func TestWartTricklingClientMeetsTheDeadlineOfTheWholeHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		listening(t, memoryOptions(t, m, "alice"))
		c := rawDial(t, m, "alice")
		start := time.Now()
		for {
			time.Sleep(time.Second)
			_ = c.SetWriteDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Write([]byte{1}); err != nil {
				break
			}
		}
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("it went on for %v", took)
		}
	})
}

// The wart that one packet with a low-order ephemeral key kills the process.
func TestWartLowOrderEphemeralKeyEndsOneConnectionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		opts := memoryOptions(t, m, "alice")
		opts.OnConn = echo
		alice := listening(t, opts)
		c := rawDial(t, m, "alice")
		if _, err := c.Write(zeroKeyChallenge(t)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !isClosed(c) || alice.Stats().Failed != 1 {
			t.Error("the connection is still open")
		}
		ok, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), addressOf(t, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, ok)
		_ = ok.Close()
	})
}

func TestTheOldestConnectionMakesRoomAboveTheCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		opts := memoryOptions(t, m, "alice")
		opts.Limits.MaxPending = 2
		opts.OnConn = echo
		alice := listening(t, opts)
		first, second, third := rawDial(t, m, "alice"), rawDial(t, m, "alice"), rawDial(t, m, "alice")
		synctest.Wait()
		if !isClosed(first) || isClosed(second) || isClosed(third) {
			t.Error("the first and only the first should be closed")
		}
		if got := alice.Stats(); got != (multiserver.Stats{Pending: 2, Refused: 1}) {
			t.Errorf("%+v", got)
		}
		c, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), addressOf(t, "alice"))
		if err != nil {
			t.Fatalf("who means well does not get in: %v", err)
		}
		checkEcho(t, c)
		_ = c.Close()
	})
}

func TestTheCapIsTwoHundredAndFiftySixByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		alice := listening(t, memoryOptions(t, m, "alice"))
		for range 300 {
			rawDial(t, m, "alice")
		}
		synctest.Wait()
		if got := alice.Stats(); got != (multiserver.Stats{Pending: 256, Refused: 44}) {
			t.Errorf("%+v", got)
		}
	})
}

func TestErrorsOfAcceptingBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		for range 10 {
			m.failures = append(m.failures, errors.New("too many open files"))
		}
		opts := memoryOptions(t, m, "alice")
		opts.OnConn = echo
		listening(t, opts)
		start := time.Now()
		c, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), addressOf(t, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		// 5, 10, 20, … 640 ms, then a second each.
		if took, want := time.Since(start), 1275*time.Millisecond+2*time.Second; took != want {
			t.Errorf("it took %v, want %v", took, want)
		}
	})
}

// The wart that listen errors are swallowed, and the peer believes it listens.
func TestWartListenErrorsSurface(t *testing.T) {
	m := newMemory()
	opts := memoryOptions(t, m, "alice")
	opts.Config.Incoming["mem"] = append(opts.Config.Incoming["mem"], opts.Config.Incoming["mem"][0])
	s := must(t, opts)
	err := s.Listen(t.Context())
	if err == nil || !strings.Contains(err.Error(), "cannot listen with mem~shs: the name alice is taken") {
		t.Error(err)
	}
	if len(m.listeners) != 0 {
		t.Error("the listener that had begun is still there")
	}
	if s.Address(multiserver.Device) != "" {
		t.Error("an address is advertised")
	}
}

func TestListenIsOnceAndNotAfterClose(t *testing.T) {
	m := newMemory()
	s := listening(t, memoryOptions(t, m, "alice"))
	if err := s.Listen(t.Context()); err == nil {
		t.Error("it listens twice")
	}
	closed := must(t, memoryOptions(t, m, "bob"))
	_ = closed.Close()
	if err := closed.Listen(t.Context()); !errors.Is(err, multiserver.ErrServerClosed) {
		t.Error(err)
	}
	if _, err := closed.Dial(t.Context(), addressOf(t, "alice")); !errors.Is(err, multiserver.ErrServerClosed) {
		t.Error(err)
	}
}

func TestCloseEndsHandshakesAndDialsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		alice := listening(t, memoryOptions(t, m, "alice"))
		c := rawDial(t, m, "alice")
		dialled := make(chan error, 1)
		go func() {
			_, err := alice.Dial(context.Background(), loose(t, "mem:blackhole~shs:"+key))
			dialled <- err
		}()
		synctest.Wait()
		start := time.Now()
		if err := alice.Close(); err != nil {
			t.Error(err)
		}
		if time.Since(start) != 0 || !isClosed(c) {
			t.Error("Close waited, or left a connection")
		}
		if err := <-dialled; !errors.Is(err, multiserver.ErrServerClosed) {
			t.Error(err)
		}
		if err := alice.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
	})
}

func TestCloseLeavesConnectionsThatWereHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		opts := memoryOptions(t, m, "alice")
		opts.OnConn = echo
		alice := listening(t, opts)
		c, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), addressOf(t, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until it has been handed over
		_ = alice.Close()
		checkEcho(t, c)
		_ = c.Close()
	})
}

func TestAuthorizeDecidesAndItsAnswerStaysWithTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		config := shsConfig(t, "alice")
		down := errors.New("db down")
		config.Authorize = func(ctx context.Context, peer keys.PublicKey, remote string) (any, error) {
			if _, ok := ctx.Deadline(); !ok || !strings.HasPrefix(remote, "pipe:") {
				t.Errorf("deadline %v, remote %q", ok, remote)
			}
			if peer.Equal(identity(t, "bob").Public()) {
				return "friend", nil
			}
			return nil, down
		}
		opts := memoryOptions(t, m, "alice")
		opts.Transforms = []multiserver.Transform{multiserver.SHS(config)}
		conns := make(chan *multiserver.Conn, 1)
		opts.OnConn = collect(conns)
		var logged testkit.Buffer
		opts.Logger = logTo(&logged)
		alice := listening(t, opts)

		c, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), addressOf(t, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		if got := (<-conns).Auth(); got != "friend" {
			t.Errorf("auth is %v", got)
		}
		_ = c.Close()

		_, err = must(t, memoryOptions(t, m, "carol")).Dial(t.Context(), addressOf(t, "alice"))
		if !errors.Is(err, shs.ErrRefused) || strings.Contains(err.Error(), "db down") {
			t.Errorf("carol got %v", err)
		}
		synctest.Wait()
		if alice.Stats().Failed != 1 || !strings.Contains(logged.String(), "db down") {
			t.Errorf("%+v, log %s", alice.Stats(), logged.String())
		}
	})
}

// Defect A8: callers cannot tell a wrong app key from not being authorised.
func TestDefectA8ReasonsCanBeToldApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		listening(t, memoryOptions(t, m, "alice"))
		dial := func(appKey byte, target string) error {
			config := shsConfig(t, "bob")
			if appKey != 0 {
				k, err := keys.NewAppKey([]byte(strings.Repeat(string(rune(appKey)), 32)))
				if err != nil {
					t.Fatal(err)
				}
				config.AppKey = k
			}
			opts := memoryOptions(t, m, "bob")
			opts.Transforms = []multiserver.Transform{multiserver.SHS(config)}
			_, err := must(t, opts).Dial(t.Context(), loose(t, "mem:alice~shs:"+target))
			return err
		}
		if err := dial('x', identity(t, "alice").Public().Base64()); !errors.Is(err, shs.ErrAppKey) {
			t.Errorf("wrong app key: %v", err)
		}
		if err := dial(0, identity(t, "carol").Public().Base64()); !errors.Is(err, shs.ErrRefused) {
			t.Errorf("wrong server key: %v", err)
		}
		m.silent(t, "mute")
		_, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), loose(t, "mem:mute~shs:"+key))
		if !errors.Is(err, shs.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("timeout: %v", err)
		}
		var peer *multiserver.PeerError
		if !errors.As(err, &peer) || peer.Address != "mem:mute~shs:"+key {
			t.Errorf("the error does not carry the peer's address: %v", err)
		}
	})
}

// silent adds a listener that accepts and then does nothing.
func (m *memory) silent(t *testing.T, name string) {
	t.Helper()
	l, err := m.Listen(t.Context(), multiserver.Incoming{Host: name})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
}

// Defect A5: dialling a key that is not on the curve panics.
func TestDefectA5KeyThatIsNoPointIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		listening(t, memoryOptions(t, m, "alice"))
		bob := must(t, memoryOptions(t, m, "bob"))
		for _, k := range []string{
			"AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", // no point has this y
			"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", // the neutral element
			"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", // no key
		} {
			if _, err := bob.Dial(t.Context(), loose(t, "mem:alice~shs:"+k)); err == nil {
				t.Errorf("%s could be dialled", k)
			}
		}
	})
}

func TestDialTriesEachAddressInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		opts := memoryOptions(t, m, "alice")
		opts.OnConn = echo
		listening(t, opts)
		aliceKey := identity(t, "alice").Public().Base64()
		bob := must(t, memoryOptions(t, m, "bob"))
		c, err := bob.Dial(t.Context(), loose(t, "tcp:x~shs:"+key+";mem:nobody~shs:"+key+";mem:alice~shs:short;mem:alice~shs:"+
			identity(t, "carol").Public().Base64()+";mem:alice~shs:"+aliceKey+";mem:never~shs:"+key))
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, c)
		_ = c.Close()
		if got := strings.Join(m.dials, " "); got != "nobody alice alice" {
			t.Errorf("dialled %s", got)
		}

		_, err = bob.Dial(t.Context(), loose(t, "mem:nobody~shs:"+key+":"+seed+";mem:~shs:"+key+";mem:noone~shs:"+key))
		if err == nil {
			t.Fatal("it connected")
		}
		for _, want := range []string{"none of 3 addresses", "mem:nobody~shs:" + key, "nobody is called nobody", "nobody is called noone", "mem needs a name"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
		if peer, ok := errors.AsType[*multiserver.PeerError](err); !ok || peer.Address != "mem:~shs:"+key {
			t.Errorf("the attempts cannot be told apart in %#v", err)
		}
		if strings.Contains(err.Error(), seed) || strings.Contains(err.Error(), "\n") {
			t.Errorf("a seed or a line end in %v", err)
		}
	})
}

func TestDialSharesItsTimeBetweenTheAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		opts := memoryOptions(t, m, "alice")
		opts.OnConn = echo
		listening(t, opts)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		c, err := must(t, memoryOptions(t, m, "bob")).Dial(ctx, append(loose(t, "mem:blackhole~shs:"+key), addressOf(t, "alice")...))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("the first address took %v", took)
		}
		time.Sleep(time.Minute)
		checkEcho(t, c) // the context has no effect any more
		_ = c.Close()
	})
}

func TestDialTimeoutBoundsAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		start := time.Now()
		_, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), loose(t, "mem:blackhole~shs:"+key))
		if took := time.Since(start); took != 15*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, took)
		}
		if want := "no answer in time"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	})
}

func TestCancelEndsADialAtAnyMoment(t *testing.T) {
	for _, target := range []string{"blackhole", "mute"} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			m.silent(t, "mute")
			gone := errors.New("gone")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(gone) })
			start := time.Now()
			_, err := must(t, memoryOptions(t, m, "bob")).Dial(ctx, loose(t, "mem:"+target+"~shs:"+key+";mem:"+target+"~shs:"+key))
			if took := time.Since(start); took != time.Second || !errors.Is(err, gone) {
				t.Errorf("%s: %v after %v", target, err, took)
			}
			if len(m.dials) != 1 {
				t.Errorf("%s: it went on with %v", target, m.dials)
			}
		})
	}
}

// The wart that an address without a transform makes the dialler wait in the
// role of the server.
func TestWartAddressWithoutTransformIsNotDialled(t *testing.T) {
	m := newMemory()
	_, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), loose(t, "mem:alice"))
	if err == nil || len(m.dials) != 0 || !strings.Contains(err.Error(), "a transport and exactly one transform are needed") {
		t.Errorf("%v, dialled %v", err, m.dials)
	}
}

func TestSeedInTheAddressIsTheKeyThatIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		conns := make(chan *multiserver.Conn, 1)
		opts := memoryOptions(t, m, "alice")
		opts.OnConn = collect(conns)
		listening(t, opts)
		bob := must(t, memoryOptions(t, m, "bob"))
		addr := loose(t, "mem:alice~shs:"+identity(t, "alice").Public().Base64()+":"+seed)
		c, err := bob.Dial(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		_, raw, _, err := multiserver.ParseKeyPart(addr[0][1], multiserver.Strict)
		if err != nil {
			t.Fatal(err)
		}
		invited, err := keys.FromSeed(raw)
		if err != nil {
			t.Fatal(err)
		}
		accepted := <-conns
		if !accepted.Remote().Equal(invited.Public()) {
			t.Errorf("alice sees %s", accepted.Remote())
		}
		go func() { _, _ = io.Copy(io.Discard, c) }()
		_ = accepted.Close()
		_ = c.Close()
	})
}

func TestNoAuthTakesEverybodyForUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		self := identity(t, "alice").Public()
		conns := make(chan *multiserver.Conn, 1)
		server := listening(t, multiserver.Options{
			Transports: []multiserver.Transport{m},
			Transforms: []multiserver.Transform{multiserver.NoAuth(multiserver.NoAuthConfig{Self: self, Auth: "all"})},
			Config:     multiserver.Config{Incoming: map[string][]multiserver.Incoming{"mem": {{Transform: "noauth", Host: "alice"}}}},
			OnConn:     collect(conns),
		})
		if got := server.Address(multiserver.Device); got != "mem:alice~noauth" {
			t.Error(got)
		}
		client := must(t, multiserver.Options{
			Transports: []multiserver.Transport{m},
			Transforms: []multiserver.Transform{multiserver.NoAuth(multiserver.NoAuthConfig{Self: identity(t, "bob").Public(), Auth: "all"})},
			Config:     multiserver.Config{Outgoing: map[string][]multiserver.Outgoing{"mem": {{Transform: "noauth"}}}},
		})
		c, err := client.Dial(t.Context(), loose(t, "mem:alice~noauth:anything"))
		if err != nil {
			t.Fatal(err)
		}
		accepted := <-conns
		if !accepted.Remote().Equal(self) || accepted.Auth() != "all" || c.Auth() != nil {
			t.Errorf("%s %v %v", accepted.Remote(), accepted.Auth(), c.Auth())
		}
		if !strings.HasSuffix(accepted.Address(), "~noauth:"+self.Base64()) {
			t.Error(accepted.Address())
		}
		go func() { _, _ = io.WriteString(c, "plain") }()
		got := make([]byte, 5)
		if _, err := io.ReadFull(accepted.NetConn(), got); err != nil || string(got) != "plain" {
			t.Errorf("%q %v", got, err)
		}
		_ = c.Close()
		if _, err := accepted.Read(got); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		_ = accepted.Close()
	})
}

func TestConnectionsNobodyWantsAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		listening(t, memoryOptions(t, m, "alice"))
		c, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), addressOf(t, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		_ = c.Close()
	})
}
