package secretstack_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	tcp "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/muxrpc"
)

// TestCloseEndsBothSides is the original's test "close": a source is open, and closing hard ends it at both ends.
func TestCloseEndsBothSides(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{}, testPlugin())
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	p := connect(t, alice, bob)
	pending := make(chan error, 1)
	go func() {
		_, err := muxrpc.Call[any](context.Background(), p, "test.never")
		pending <- err
	}()
	eventually(t, "the call has arrived", func() bool {
		peers := bob.Peers()
		return len(peers) == 1 && peers[0].Stats().Handlers == 1
	})
	if err := bob.Close(expired()); err != nil {
		t.Error(err)
	}
	if err := <-pending; !errors.Is(err, muxrpc.ErrUnexpectedEnd) {
		t.Errorf("the call ended with %v", err)
	}
	eventually(t, "alice has no peer", func() bool { return len(alice.Peers()) == 0 })
}

// TestWartCloseEndsWithCallsOpen: in the original, close without an error waited for ever while a call was open.
func TestWartCloseEndsWithCallsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stack := memStack(t, testPlugin())
		a, b := memConfig(t, "alice"), memConfig(t, "bob")
		b.Limits.CloseTimeout = 3 * time.Second
		alice, bob := start(t, stack, a), start(t, stack, b)
		p := connect(t, alice, bob)
		go func() { _, _ = muxrpc.Call[any](context.Background(), p, "test.never") }()
		synctest.Wait()
		began := time.Now()
		if err := bob.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("closing took %v", took)
		}
	})
}

func TestCloseLetsOpenCallsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := secretstack.NewPlugin(secretstack.Info{Name: "slow", Permissions: secretstack.Anonymous("down")},
			func(_ context.Context, s *secretstack.Setup) error {
				return muxrpc.HandleAsync(s, "down", func(ctx context.Context, _ muxrpc.None) (string, error) {
					select {
					case <-time.After(2 * time.Second):
						return "done", nil
					case <-ctx.Done():
						return "", ctx.Err()
					}
				})
			})
		stack := memStack(t, slow)
		alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
		p := connect(t, alice, bob)
		answers := make(chan string, 1)
		go func() {
			got, _ := muxrpc.Call[string](context.Background(), p, "slow.down")
			answers <- got
		}()
		synctest.Wait()
		began := time.Now()
		if err := bob.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if got := <-answers; got != "done" || time.Since(began) > 3*time.Second {
			t.Errorf("%q after %v", got, time.Since(began))
		}
	})
}

// TestCloseEndsWithASilentPeer: a peer that neither reads nor answers costs no more than the grace.
func TestCloseEndsWithASilentPeer(t *testing.T) {
	leakCheck(t)
	for name, network := range map[string]func() (*secretstack.App, net.Conn){
		"whose system takes what is sent": func() (*secretstack.App, net.Conn) {
			bob := start(t, stackOf(t, secretstack.Options{}, testPlugin()), shortGrace(quiet(t, "bob")))
			return bob, dialSecret(t, bob, "mallory")
		},
		"that takes nothing": func() (*secretstack.App, net.Conn) {
			bob := start(t, memStack(t, testPlugin()), shortGrace(memConfig(t, "bob")))
			return bob, dialRaw(t, bob, "mallory")
		},
	} {
		t.Run(name, func(t *testing.T) {
			bob, conn := network()
			defer conn.Close()
			eventually(t, "connected", func() bool { return len(bob.Peers()) == 1 })
			began := time.Now()
			if err := bob.Close(context.Background()); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("closing took %v", took)
			}
		})
	}
}

func shortGrace(cfg secretstack.Config) secretstack.Config {
	cfg.Limits.CloseTimeout = 100 * time.Millisecond
	return cfg
}

// dialSecret connects to an app with the key of name, and gives what is inside the box stream.
func dialSecret(t testing.TB, to *secretstack.App, name string) net.Conn {
	t.Helper()
	addresses, err := multiserver.Parse(to.Address("device"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := tcp.New(tcp.Options{}).Dial(t.Context(), addresses[0].Transport())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := multiserver.SHS(multiserver.SHSConfig{Identity: identity(t, name), AppKey: keys.MainNet()}).
		Client(t.Context(), raw, addresses[0].Transforms()[0])
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestCloseCutsHandshakesOff: connections that have proved nothing do not hold it up.
func TestCloseCutsHandshakesOff(t *testing.T) {
	leakCheck(t)
	cfg := quiet(t, "bob")
	cfg.HandshakeTimeout = time.Hour
	bob := start(t, stackOf(t, secretstack.Options{}), cfg)
	_, port, _ := net.SplitHostPort(bob.Address("device")[len("net:") : len(bob.Address("device"))-len("~shs:")-44])
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	if err := bob.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("closing took %v", took)
	}
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, context.DeadlineExceeded) || err == nil {
		t.Errorf("the connection is open: %v", err)
	}
}

func TestCloseMayBeCalledAgainAndByMany(t *testing.T) {
	leakCheck(t)
	closes := 0
	stack := stackOf(t, secretstack.Options{}, plugin("watch", func(s *secretstack.Setup) error {
		s.OnClose(func() { closes++ })
		return nil
	}))
	app := start(t, stack, quiet(t, "alice"))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := app.Close(context.Background()); err != nil {
				t.Error(err)
			}
			select {
			case <-app.Done():
			default:
				t.Error("Close has returned and the app is not done")
			}
		})
	}
	all.Wait()
	if closes != 1 {
		t.Errorf("OnClose was called %d times", closes)
	}
	if _, err := app.Connect(t.Context(), secretstack.AddressOf("127.0.0.1", 1, app.ID())); !errors.Is(err, secretstack.ErrClosed) {
		t.Errorf("Connect after Close: %v", err)
	}
}

func TestBackgroundWorkEndsWithTheApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var setup *secretstack.Setup
		var ran, ended, late bool
		stack := memStack(t, plugin("worker", func(s *secretstack.Setup) error {
			setup = s
			s.Go(func(ctx context.Context) {
				ran = s.App().Address("device") != "" // the app listens by then
				<-ctx.Done()
				time.Sleep(time.Second) // tidying up
				ended = true
			})
			return nil
		}))
		app := start(t, stack, memConfig(t, "alice"))
		if err := app.Close(t.Context()); err != nil {
			t.Error(err)
		}
		setup.Go(func(context.Context) { late = true })
		synctest.Wait()
		if !ran || !ended || late {
			t.Errorf("ran %v, ended %v, ran after Close %v", ran, ended, late)
		}
		if _, err := setup.Dir(); !errors.Is(err, secretstack.ErrClosed) {
			t.Errorf("Dir after Close: %v", err)
		}
	})
}

// TestCloseNamesWhatDoesNotEnd: a plugin that does not heed its context cannot hold Close up.
func TestCloseNamesWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stack := memStack(t, plugin("deaf", func(s *secretstack.Setup) error {
			s.Go(func(context.Context) { <-release })
			s.OnClose(func() { <-release })
			return nil
		}))
		app, err := stack.Start(t.Context(), memConfig(t, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = app.Close(context.Background())
		wantErr(t, err, `did not end: a function for OnClose, background work of plugin "deaf"`)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("closing took %v", took)
		}
		if again := app.Close(context.Background()); !errors.Is(again, err) {
			t.Errorf("the second Close returns %v", again)
		}
		close(release)
	})
}

// TestCloseWaitsForHandlers: those that heed their context have returned when Close does; others are reported.
func TestCloseWaitsForHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var returned bool
		handlers := secretstack.NewPlugin(secretstack.Info{Name: "foo", Permissions: secretstack.Anonymous("good", "deaf")},
			func(_ context.Context, s *secretstack.Setup) error {
				return errors.Join(
					muxrpc.HandleAsync(s, "good", func(ctx context.Context, _ muxrpc.None) (muxrpc.None, error) {
						<-ctx.Done()
						time.Sleep(time.Millisecond) // tidying up
						returned = true
						return muxrpc.None{}, ctx.Err()
					}),
					muxrpc.HandleAsync(s, "deaf", func(context.Context, muxrpc.None) (muxrpc.None, error) {
						<-release
						return muxrpc.None{}, nil
					}))
			})
		stack := memStack(t, handlers)
		alice := start(t, stack, memConfig(t, "alice"))
		call := func(c muxrpc.Caller, method string) {
			go func() { _, _ = muxrpc.Call[any](context.Background(), c, method) }()
			synctest.Wait()
		}
		for _, method := range []string{"foo.good", "foo.deaf"} {
			for _, self := range []bool{false, true} {
				returned = false
				bob, err := stack.Start(t.Context(), memConfig(t, "bob"))
				if err != nil {
					t.Fatal(err)
				}
				if self {
					call(bob.Self(), method)
				} else {
					call(connect(t, alice, bob), method)
				}
				err = bob.Close(expired())
				if method == "foo.good" && (err != nil || !returned) {
					t.Errorf("self %v: %v, returned %v", self, err, returned)
				}
				if method == "foo.deaf" && err == nil {
					t.Errorf("self %v: no error", self)
				}
			}
		}
		close(release)
	})
}

// TestCloseIsHurriedByAnyContext: whoever will not wait ends the grace for all.
func TestCloseIsHurriedByAnyContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stack := memStack(t, testPlugin())
		alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
		p := connect(t, alice, bob)
		go func() { _, _ = muxrpc.Call[any](context.Background(), p, "test.never") }()
		synctest.Wait()
		began := time.Now()
		patient, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		go func() {
			time.Sleep(time.Second)
			_ = bob.Close(expired())
		}()
		if err := bob.Close(patient); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < time.Second || took > 4*time.Second {
			t.Errorf("closing took %v", took)
		}
	})
}

// TestWartPeersMayBeClosedWhileTheyAreIterated: the original spliced its list of peers while it went through it.
func TestWartPeersMayBeClosedWhileTheyAreIterated(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{})
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	for range 5 {
		connect(t, alice, bob)
	}
	peers := alice.Peers()
	for _, p := range peers {
		p.Abort(nil)
		<-p.Done()
	}
	if len(peers) != 5 {
		t.Errorf("%d peers", len(peers))
	}
	eventually(t, "none left", func() bool { return len(alice.Peers())+len(bob.Peers()) == 0 })
}

// TestWartGonePeersLeaveNoEntry: in the original the entry of a peer that had gone stayed.
func TestWartGonePeersLeaveNoEntry(t *testing.T) {
	stack := memStack(t)
	alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
	p := connect(t, alice, bob)
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "none left", func() bool {
		return alice.Peers() == nil && alice.PeersOf(bob.ID()) == nil
	})
}

// TestGoodbyesAreSaid: both ends of an orderly close end without an error.
func TestGoodbyesAreSaid(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{})
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	p := connect(t, alice, bob)
	eventually(t, "connected", func() bool { return len(bob.Peers()) == 1 })
	other := bob.Peers()[0]
	if err := alice.Close(t.Context()); err != nil {
		t.Error(err)
	}
	<-other.Done()
	if p.Err() != nil || other.Err() != nil {
		t.Errorf("ended with %v and %v", p.Err(), other.Err())
	}
}

// TestVanishedPeersAreNoticed: a connection that is cut without a goodbye ends with an error that says so.
func TestVanishedPeersAreNoticed(t *testing.T) {
	bob := start(t, memStack(t), memConfig(t, "bob"))
	conn := dialRaw(t, bob, "mallory")
	eventually(t, "connected", func() bool { return len(bob.Peers()) == 1 })
	p := bob.Peers()[0]
	conn.Close()
	<-p.Done()
	if !errors.Is(p.Err(), io.ErrUnexpectedEOF) {
		t.Errorf("ended with %v", p.Err())
	}
}

// TestConnectionsThatComeWhileTheAppCloses are closed, whoever made them.
func TestConnectionsThatComeWhileTheAppCloses(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{})
	bob := start(t, stack, quiet(t, "bob"))
	address := bob.Address("device")
	var dialling sync.WaitGroup
	for range 4 {
		alice := start(t, stack, secretstack.Config{Host: "127.0.0.1", Logger: quiet(t, "x").Logger, Identity: newIdentity(t)})
		for range 4 {
			dialling.Go(func() {
				for range 10 {
					if _, err := alice.Connect(t.Context(), address); err != nil {
						return
					}
				}
			})
		}
		dialling.Go(func() {
			time.Sleep(10 * time.Millisecond)
			_ = alice.Close(expired())
		})
	}
	time.Sleep(15 * time.Millisecond)
	if err := bob.Close(expired()); err != nil {
		t.Error(err)
	}
	dialling.Wait()
	if n := len(bob.Peers()); n != 0 {
		t.Errorf("%d peers are left", n)
	}
}

func newIdentity(t *testing.T) *keys.Identity {
	t.Helper()
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A Connect that Close interrupts says that the app is closed, not that somebody has cancelled it.
func TestConnectSaysThatTheAppWasClosedMeanwhile(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	app := start(t, stackOf(t, secretstack.Options{}), quiet(t, "alice"))
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	failed := make(chan error, 1)
	go func() {
		_, err := app.Connect(context.Background(), secretstack.AddressOf("127.0.0.1", port, keysOf(t, "bob")))
		failed <- err
	}()
	silent, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, secretstack.ErrClosed) {
		t.Errorf("Connect returned %v", err)
	}
}
