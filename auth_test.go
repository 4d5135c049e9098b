package secretstack_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// deciding is a plugin that decides about callers.
func deciding(decide secretstack.AuthFunc) secretstack.Plugin {
	return plugin("deciding", func(s *secretstack.Setup) error {
		return s.AuthHook(func(secretstack.AuthFunc) secretstack.AuthFunc { return decide })
	})
}

// answering is a plugin whose untyped hook of auth answers a value.
func answering(value any) secretstack.Plugin {
	return plugin("answering", func(s *secretstack.Setup) error {
		return s.Hook("auth", func(muxrpc.Handler) muxrpc.Handler {
			return func(context.Context, *muxrpc.CallInfo) (any, error) { return value, nil }
		})
	})
}

// aliceOnly is the plugin of the original's tests "auth" and "app-key": a method for everybody and one for alice.
func aliceOnly() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:        "test",
		Permissions: secretstack.Anonymous("hello"),
	}, func(_ context.Context, s *secretstack.Setup) error { return noop(s, "hello", "aliceOnly") })
}

func aliceMay(t *testing.T, methods ...string) secretstack.Plugin {
	alice := keysOf(t, "alice")
	return plugin("friends", func(s *secretstack.Setup) error {
		return s.AuthHook(func(next secretstack.AuthFunc) secretstack.AuthFunc {
			return func(ctx context.Context, caller secretstack.Caller) (secretstack.Access, error) {
				if caller.Key.Equal(alice) {
					return secretstack.Grant(muxrpc.Permissions{Allow: methods}), nil
				}
				return next(ctx, caller)
			}
		})
	})
}

// TestAuthHooksGivePermissions is the original's tests "auth" and "auth2".
func TestAuthHooksGivePermissions(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{}, aliceOnly(), aliceMay(t, "test.hello", "test.aliceOnly"))
	bob := start(t, stack, quiet(t, "bob"))
	plain := stackOf(t, secretstack.Options{}, aliceOnly())
	alice, carol := start(t, plain, quiet(t, "alice")), start(t, plain, quiet(t, "carol"))

	a, c := connect(t, alice, bob), connect(t, carol, bob)
	for p, want := range map[*secretstack.Peer]bool{a: true, c: false} {
		if _, err := muxrpc.Call[string](t.Context(), p, "test.hello"); err != nil {
			t.Error(err)
		}
		_, err := muxrpc.Call[string](t.Context(), p, "test.aliceOnly")
		if want && err != nil {
			t.Error(err)
		}
		if !want {
			wantDenied(t, err)
		}
	}
	// Alice has given bob nothing: her own methods are those of everybody.
	eventually(t, "bob has two peers", func() bool { return len(bob.Peers()) == 2 })
	back := bob.PeersOf(alice.ID())[0]
	if _, err := muxrpc.Call[string](t.Context(), back, "test.hello"); err != nil {
		t.Error(err)
	}
	_, err := muxrpc.Call[string](t.Context(), back, "test.aliceOnly")
	wantDenied(t, err)
}

// TestWhoWeDialHasTheAccessOfEverybody: auth is not asked about it.
func TestWhoWeDialHasTheAccessOfEverybody(t *testing.T) {
	asked := 0
	network := memnet.New()
	generous := stackOf(t, secretstack.Options{Bare: true}, memnet.Plugin(network), aliceOnly(),
		deciding(func(context.Context, secretstack.Caller) (secretstack.Access, error) {
			asked++
			return secretstack.FullAccess(), nil
		}))
	plain := stackOf(t, secretstack.Options{Bare: true}, memnet.Plugin(network), aliceOnly())
	alice, bob := start(t, generous, memConfig(t, "alice")), start(t, plain, memConfig(t, "bob"))
	connect(t, alice, bob)
	eventually(t, "connected", func() bool { return len(bob.Peers()) == 1 })
	_, err := muxrpc.Call[string](t.Context(), bob.Peers()[0], "test.aliceOnly")
	wantDenied(t, err)
	if asked != 0 {
		t.Errorf("auth was asked %d times", asked)
	}
}

func TestFullAccessIsEverythingButWhatIsDenied(t *testing.T) {
	stack := memStack(t, testPlugin(), deciding(func(context.Context, secretstack.Caller) (secretstack.Access, error) {
		return secretstack.FullAccess("test.secret"), nil
	}))
	p := connect(t, start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob")))
	if _, err := muxrpc.Call[string](t.Context(), p, "address"); err != nil {
		t.Error(err)
	}
	_, err := muxrpc.Call[int](t.Context(), p, "test.secret")
	wantErr(t, err, "method:test,secret is on list of disallowed methods")
}

// TestWartEmptyPermissionsAreNotFullAccess: in the original, an auth that answered {} gave full access.
func TestWartEmptyPermissionsAreNotFullAccess(t *testing.T) {
	for name, answer := range map[string]any{
		"Permissions":   muxrpc.Permissions{},
		"a pointer":     &muxrpc.Permissions{},
		"only denied":   muxrpc.Permissions{Deny: []string{"x"}},
		"an object":     map[string]any{},
		"Grant":         secretstack.Grant(muxrpc.Permissions{}),
		"denied object": map[string]any{"deny": []string{"x"}},
	} {
		t.Run(name, func(t *testing.T) {
			stack := memStack(t, testPlugin(), answering(answer))
			p := connect(t, start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob")))
			for _, method := range []string{"test.secret", "auth", "manifest"} {
				_, err := muxrpc.Call[any](t.Context(), p, method)
				wantDenied(t, err)
			}
		})
	}
}

func TestUntypedAuthHooksAnswerAsInJavaScript(t *testing.T) {
	for name, test := range map[string]struct {
		answer        any
		hello, secret bool
	}{
		"nothing":          {nil, true, false},
		"true":             {true, true, false},
		"something else":   {"yes", true, false},
		"null everything":  {map[string]any{"allow": nil, "deny": nil}, true, true},
		"a list":           {map[string]any{"allow": []string{"test.secret"}}, false, true},
		"permissions":      {muxrpc.Permissions{Allow: []string{"test"}}, true, true},
		"access":           {secretstack.FullAccess(), true, true},
		"no permissions":   {map[string]any{"allow": 3}, true, false},
		"nil *Permissions": {(*muxrpc.Permissions)(nil), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			stack := memStack(t, testPlugin(), answering(test.answer))
			p := connect(t, start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob")))
			_, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x")
			if (err == nil) != test.hello {
				t.Errorf("hello: %v", err)
			}
			_, err = muxrpc.Call[int](t.Context(), p, "test.secret")
			if (err == nil) != test.secret {
				t.Errorf("secret: %v", err)
			}
		})
	}
}

func TestAuthThatFailsRefusesTheCaller(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{}, testPlugin())
	closed := stackOf(t, secretstack.Options{}, testPlugin(), deciding(func(context.Context, secretstack.Caller) (secretstack.Access, error) {
		return secretstack.Access{}, errors.New("client rejected")
	}))
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, closed, quiet(t, "bob"))
	_, err := alice.Connect(t.Context(), bob.Address("device"))
	wantErr(t, err, "server hung up when we sent hello (phase 3)")
	if strings.Contains(err.Error(), "client rejected") {
		t.Error("the caller learns why")
	}
	if len(bob.Peers()) != 0 {
		t.Error("bob has a peer")
	}
}

// TestWartAuthThatAnswersFalse: 8.x refuses the caller, 6.x takes it for anybody. Either may be had.
func TestWartAuthThatAnswersFalse(t *testing.T) {
	for _, admit := range []bool{false, true} {
		stack := stackOf(t, secretstack.Options{AdmitFalse: admit}, testPlugin(), answering(false))
		alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
		p, err := alice.Connect(t.Context(), bob.Address("device"))
		if !admit {
			wantErr(t, err, "server hung up when we sent hello (phase 3)")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x"); err != nil {
			t.Error(err)
		}
		_, err = muxrpc.Call[int](t.Context(), p, "test.secret")
		wantDenied(t, err)
	}
}

func TestAuthHooksSeeWhoCallsAndFromWhere(t *testing.T) {
	callers := make(chan secretstack.Caller, 1)
	stack := stackOf(t, secretstack.Options{}, deciding(func(_ context.Context, c secretstack.Caller) (secretstack.Access, error) {
		callers <- c
		return secretstack.Access{}, nil
	}))
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	connect(t, alice, bob)
	c := <-callers
	if !c.Key.Equal(alice.ID()) || !strings.HasPrefix(c.Remote, "net:127.0.0.1:") {
		t.Errorf("caller %s from %q", c.Key, c.Remote)
	}
	if _, err := muxrpc.Call[any](t.Context(), bob.Self(), "auth", alice.ID().Ref()); err != nil {
		t.Error(err)
	}
	if c := <-callers; !c.Key.Equal(alice.ID()) || c.Remote != "" {
		t.Errorf("caller %s from %q", c.Key, c.Remote)
	}
}

// TestAuthThatHangsIsCutOff: the handshake's deadline holds for hooks too.
func TestAuthThatHangsIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stack := memStack(t, deciding(func(ctx context.Context, _ secretstack.Caller) (secretstack.Access, error) {
			<-ctx.Done()
			return secretstack.Access{}, ctx.Err()
		}))
		bob := memConfig(t, "bob")
		bob.HandshakeTimeout = 3 * time.Second
		alice := start(t, stack, memConfig(t, "alice"))
		began := time.Now()
		_, err := alice.Connect(t.Context(), start(t, stack, bob).Address("device"))
		if took := time.Since(began); err == nil || took != 3*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// TestLaterHooksAreOutermost holds for every method, auth included.
func TestLaterHooksAreOutermost(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	hooks := func(name string) secretstack.Plugin {
		return plugin(name, func(s *secretstack.Setup) error {
			return errors.Join(
				s.AuthHook(func(next secretstack.AuthFunc) secretstack.AuthFunc {
					return func(ctx context.Context, c secretstack.Caller) (secretstack.Access, error) {
						note(name + " auth")
						return next(ctx, c)
					}
				}),
				s.Hook("test.hello", func(next muxrpc.Handler) muxrpc.Handler { // of a plugin that comes later
					return func(ctx context.Context, call *muxrpc.CallInfo) (any, error) {
						note(name + " hello")
						got, err := next(ctx, call)
						return "[" + got.(string) + " " + name + "]", err
					}
				}))
		})
	}
	stack := memStack(t, hooks("one"), hooks("two"), testPlugin())
	alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
	got, err := muxrpc.Call[string](t.Context(), connect(t, alice, bob), "test.hello", "x")
	if want := "[[Hello, x from @1b9KP one] two]"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if want := []string{"two auth", "one auth", "two hello", "one hello"}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
	// Plugins that call each other go through the hooks too.
	if got, err := muxrpc.Call[string](t.Context(), bob.Self(), "test.hello", "x"); err != nil || got != "[[Hello, x from @7MG1h one] two]" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHookChangesAppsStartedAfterwards: a plugin that is used later changes what later apps answer.
func TestHookChangesAppsStartedAfterwards(t *testing.T) {
	stack := memStack(t, testPlugin())
	before := start(t, stack, memConfig(t, "alice"))
	hook := plugin("louder", func(s *secretstack.Setup) error {
		return s.Hook("test.hello", func(next muxrpc.Handler) muxrpc.Handler {
			return func(ctx context.Context, call *muxrpc.CallInfo) (any, error) {
				args, err := muxrpc.NewArgs("WORLD")
				if err != nil {
					return nil, err
				}
				return next(ctx, &muxrpc.CallInfo{Path: call.Path, Type: call.Type, Args: args})
			}
		})
	})
	if err := stack.Use(hook); err != nil {
		t.Fatal(err)
	}
	after := start(t, stack, memConfig(t, "bob"))
	for app, want := range map[*secretstack.App]string{before: "Hello, x from @1b9KP", after: "Hello, WORLD from @7MG1h"} {
		got, err := muxrpc.Call[string](t.Context(), app.Self(), "test.hello", "x")
		if err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
}

func TestHooksOfTheAddressAreSeenEverywhere(t *testing.T) {
	stack := memStack(t, plugin("elsewhere", func(s *secretstack.Setup) error {
		return s.Hook("address", func(next muxrpc.Handler) muxrpc.Handler {
			return func(ctx context.Context, call *muxrpc.CallInfo) (any, error) {
				got, err := next(ctx, call)
				return got.(string) + ";more", err
			}
		})
	}))
	app := start(t, stack, memConfig(t, "alice"))
	if got := app.Address("device"); !strings.HasSuffix(got, ";more") {
		t.Errorf("address is %s", got)
	}
	got, err := muxrpc.Call[string](t.Context(), app.Self(), "address", "device")
	if err != nil || got != app.Address("device") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHookOfAMethodThatNobodyHasIsAnError(t *testing.T) {
	leakCheck(t)
	_, err := memStack(t, plugin("foo", func(s *secretstack.Setup) error {
		return s.Hook("bar.m", func(next muxrpc.Handler) muxrpc.Handler { return next })
	})).Start(t.Context(), memConfig(t, "alice"))
	wantErr(t, err, `plugin "foo" hooks the method "bar.m", which no plugin has`)
}

// TestDifferentAppKeysCannotConnect is the original's test "app-key", with the cap of the plugin shs.
func TestDifferentAppKeysCannotConnect(t *testing.T) {
	stack := stackOf(t, secretstack.Options{}, aliceOnly())
	withCap := func(name, appKey string) *secretstack.App {
		cfg := quiet(t, name)
		cfg.Settings = secretstack.Settings{"multiserverShs": map[string]any{"cap": appKey}}
		return start(t, stack, cfg)
	}
	const one, two = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
	alice, bob, carol := withCap("alice", one), withCap("bob", one), withCap("carol", two)
	if _, err := muxrpc.Call[string](t.Context(), connect(t, alice, bob), "test.hello"); err != nil {
		t.Error(err)
	}
	_, err := carol.Connect(t.Context(), bob.Address("device"))
	wantErr(t, err, "uses a different application cap")
}

// TestNoAuthIsTheOwnerOfTheApp: whoever reaches a socket without authentication is the app itself, with full access.
func TestNoAuthIsTheOwnerOfTheApp(t *testing.T) {
	leakCheck(t)
	cfg := quiet(t, "alice")
	entry := multiserver.Incoming{Host: "127.0.0.1", Transform: "noauth"}
	cfg.Connections = &multiserver.Config{
		Incoming: map[string][]multiserver.Incoming{"net": {entry}},
		Outgoing: map[string][]multiserver.Outgoing{"net": {{Transform: "noauth"}}},
	}
	stack := stackOf(t, secretstack.Options{}, testPlugin(), secretstack.NoAuthPlugin())
	app := start(t, stack, cfg)
	p := connect(t, app, app)
	if _, err := muxrpc.Call[int](t.Context(), p, "test.secret"); err != nil {
		t.Error(err)
	}
	if !p.Key().Equal(app.ID()) {
		t.Errorf("the peer is %s", p.Key())
	}
}

func TestTransportPluginAddsATransport(t *testing.T) {
	dialed := make(chan string, 1)
	cfg := quiet(t, "alice")
	app := start(t, stackOf(t, secretstack.Options{}, secretstack.TransportPlugin(dialOnly{dialed})), cfg)
	_, err := app.Connect(t.Context(), "pigeon:loft~shs:"+keysOf(t, "bob").Base64())
	wantErr(t, err, "no pigeon")
	if got := <-dialed; got != "loft" {
		t.Errorf("dialled %s", got)
	}
}

type dialOnly struct{ dialed chan string }

func (dialOnly) Name() string { return "pigeon" }
func (dialOnly) ParsePart(p multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if p.Name != "pigeon" {
		return p, multiserver.ErrOtherPart
	}
	return p, nil
}
func (dialOnly) Listen(context.Context, multiserver.Incoming) (multiserver.Listener, error) {
	return nil, errors.New("pigeons do not listen")
}
func (d dialOnly) Dial(_ context.Context, p multiserver.Part) (net.Conn, error) {
	d.dialed <- p.Rest()
	return nil, errors.New("no pigeon")
}
