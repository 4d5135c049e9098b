package secretstack_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

func TestHelloOverARealConnection(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{}, testPlugin())
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	p := connect(t, alice, bob)
	if !p.Key().Equal(bob.ID()) || !p.IsClient() || p.App() != alice || p.Address() != bob.Address("device") {
		t.Errorf("the peer is %s at %s, client %v", p.Key(), p.Address(), p.IsClient())
	}
	got, err := muxrpc.Call[string](t.Context(), p, "test.hello", "alice")
	if err != nil || got != "Hello, alice from @1b9KP" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestServerOfABareStackWithNetAndShs is the original's test "server".
func TestServerOfABareStackWithNetAndShs(t *testing.T) {
	leakCheck(t)
	type met struct {
		isClient bool
		address  string
	}
	seen := make(chan met, 2)
	stack := stackOf(t, secretstack.Options{Bare: true}, secretstack.NetPlugin(), secretstack.SHSPlugin(), testPlugin(),
		plugin("watch", func(s *secretstack.Setup) error {
			s.OnConnect(func(p *secretstack.Peer) { seen <- met{p.IsClient(), p.Address()} })
			return nil
		}))
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	p := connect(t, bob, alice)
	if got, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x"); err != nil || got != "Hello, x from @7MG1h" {
		t.Errorf("%q, %v", got, err)
	}
	clients := 0
	for range 2 {
		m := <-seen
		if m.isClient {
			clients++
		}
		if !strings.HasPrefix(m.address, "net:") || len(m.address) <= 40 {
			t.Errorf("peer at %s", m.address)
		}
	}
	if clients != 1 {
		t.Errorf("%d of two ends are clients", clients)
	}
}

func TestAnAppNeedsATransform(t *testing.T) {
	_, err := secretstack.New(secretstack.Options{Bare: true}).Start(t.Context(), quiet(t, "alice"))
	wantErr(t, err, "needs at least 1 transform protocol")
}

func TestStartFailsWithAnEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := secretstack.New(secretstack.Options{}).Start(ctx, quiet(t, "alice"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

// TestWartListenErrorsSurface: the original swallowed a port in use and said that it listened.
func TestWartListenErrorsSurface(t *testing.T) {
	leakCheck(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	listening := false
	cfg := quiet(t, "alice")
	cfg.Port = ln.Addr().(*net.TCPAddr).Port
	stack := stackOf(t, secretstack.Options{}, plugin("watch", func(s *secretstack.Setup) error {
		s.OnListening(func() { listening = true })
		return nil
	}))
	app, err := stack.Start(t.Context(), cfg)
	wantErr(t, err, "address already in use")
	if app != nil || listening {
		t.Error("the app listens")
	}
}

func TestAddressIsOfTheScope(t *testing.T) {
	app := start(t, stackOf(t, secretstack.Options{}), quiet(t, "alice"))
	address := app.Address("device")
	if !strings.HasPrefix(address, "net:127.0.0.1:") || !strings.HasSuffix(address, "~shs:1b9KP8znF7A4i8wnSevBSK2ZabI/Re4bYF/Vh3hXasQ=") {
		t.Errorf("address is %s", address)
	}
	if got := app.Address("public"); got != address {
		t.Errorf("public address is %s", got)
	}
	for _, scope := range []multiserver.Scope{"private", "bogus"} {
		if got := app.Address(scope); got != "" {
			t.Errorf("address in scope %s is %s", scope, got)
		}
	}
	if app.Address("") != address {
		t.Errorf("the default is %s", app.Address(""))
	}
}

// TestCoreMethodsOverTheWire calls what every app has, with full access.
func TestCoreMethodsOverTheWire(t *testing.T) {
	stack := stackOf(t, secretstack.Options{}, testPlugin(), plugin("auth", func(s *secretstack.Setup) error {
		return s.AuthHook(func(secretstack.AuthFunc) secretstack.AuthFunc {
			return func(context.Context, secretstack.Caller) (secretstack.Access, error) {
				return secretstack.FullAccess(), nil
			}
		})
	}))
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	p := connect(t, alice, bob)
	address := bob.Address("device")
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(strings.Split(address, "~")[0], "net:"))
	key, _ := json.Marshal(muxrpc.Buffer(bob.ID().Bytes()))
	for _, test := range []struct {
		method string
		args   []any
		want   string
	}{
		{"manifest", nil, `{"address":"sync","auth":"async","manifest":"sync","multiserver":{"address":"sync","parse":"sync"},"test":{"count":"source","die":"sync","eat":"sink","fail":"async","hello":"sync","never":"async","secret":"sync"}}`},
		{"address", nil, `"` + address + `"`},
		{"address", []any{"public"}, `"` + address + `"`},
		{"address", []any{"bogus"}, `""`},
		{"multiserver.address", []any{"device"}, `"` + address + `"`},
		{"multiserver.address", []any{"bogus"}, `null`},
		{"multiserver.parse", []any{address}, `[[{"name":"net","host":"127.0.0.1","port":` + port + `},{"key":` + string(key) + `}]]`},
		{"multiserver.parse", []any{"ws://x.org/p~shs:short;x"}, `[[{"name":"ws","data":["//x.org/p"]},{"name":"shs","data":["short"]}],[{"name":"x"}]]`},
		{"auth", []any{alice.ID().Ref()}, `{"allow":null,"deny":null}`},
	} {
		got, err := muxrpc.Call[json.RawMessage](t.Context(), p, test.method, test.args...)
		if err != nil || string(got) != test.want {
			t.Errorf("%s%v = %s, %v; want %s", test.method, test.args, got, err, test.want)
		}
	}
	_, err := muxrpc.Call[json.RawMessage](t.Context(), p, "auth", "somebody")
	wantErr(t, err, "auth needs the id of a peer")
}

// TestAuthAnswersNullForEverybody: over the wire, undefined of the original.
func TestAuthAnswersNullForEverybody(t *testing.T) {
	app := start(t, memStack(t), memConfig(t, "alice"))
	got, err := muxrpc.Call[json.RawMessage](t.Context(), app.Self(), "auth", app.ID().Ref())
	if err != nil || string(got) != "null" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestAnonymousPeersMayCallTheManifestOnly(t *testing.T) {
	stack := memStack(t, plugin("foo", func(s *secretstack.Setup) error { return noop(s, "m") }))
	alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
	p := connect(t, alice, bob)
	m, err := p.Manifest(t.Context())
	if err != nil || !reflect.DeepEqual(m, bob.Manifest()) {
		t.Errorf("manifest %v, %v", m, err)
	}
	for _, name := range []string{"foo.m", "auth", "address", "multiserver.parse", "multiserver.address"} {
		_, err := muxrpc.Call[any](t.Context(), p, name)
		wantDenied(t, err)
	}
}

func TestConnectTakesAHostAPortAndAKey(t *testing.T) {
	alice := keysOf(t, "alice")
	for host, want := range map[string]string{
		"example.org": "net:example.org:8008~shs:" + alice.Base64(),
		"::1":         "net:::1:8008~shs:" + alice.Base64(),
		"abc.onion":   "onion:abc.onion:8008~shs:" + alice.Base64(),
	} {
		if got := secretstack.AddressOf(host, 8008, alice); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	stack := stackOf(t, secretstack.Options{})
	a, b := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	port := b.Connections().Incoming["net"][0].Port
	if port == 0 {
		fmt.Sscanf(strings.Split(b.Address("device"), ":")[2], "%d", &port)
	}
	p, err := a.Connect(t.Context(), secretstack.AddressOf("127.0.0.1", port, b.ID()))
	if err != nil || !p.Key().Equal(b.ID()) {
		t.Error(err)
	}
}

func keysOf(t *testing.T, name string) keys.PublicKey { return identity(t, name).Public() }

func TestConnectSaysWhatIsWrong(t *testing.T) {
	app := start(t, stackOf(t, secretstack.Options{}), quiet(t, "alice"))
	bob := keysOf(t, "bob").Base64()
	for address, want := range map[string]string{
		"":                           "empty",
		"foo:bar~shs:" + bob:         `nothing here knows the transport "foo"`,
		"net:127.0.0.1:1":            "add ~shs:",
		"net:127.0.0.1:1~shs:" + bob: "connection refused",
		"net:127.0.0.1:1~shs:x":      "key",
	} {
		p, err := app.Connect(t.Context(), address)
		wantErr(t, err, want)
		if p != nil || err != nil && !strings.HasPrefix(err.Error(), "multiserver: ") {
			t.Errorf("%q: %v, %v", address, p, err)
		}
	}
}

func TestConnectGivesUpWithItsContext(t *testing.T) {
	leakCheck(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	app := start(t, stackOf(t, secretstack.Options{}), quiet(t, "alice"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = app.Connect(ctx, secretstack.AddressOf("127.0.0.1", uint16(silent.Addr().(*net.TCPAddr).Port), keysOf(t, "bob")))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

// TestConnectTriesEachAddress is the fallback that users of the original asked for.
func TestConnectTriesEachAddress(t *testing.T) {
	stack := stackOf(t, secretstack.Options{})
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	p, err := alice.Connect(t.Context(), "net:127.0.0.1:1~shs:"+bob.ID().Base64()+";"+bob.Address("device"))
	if err != nil || !p.Key().Equal(bob.ID()) {
		t.Error(err)
	}
}

func TestEitherSideMayCall(t *testing.T) {
	called := make(chan string, 1)
	stack := memStack(t, testPlugin(), plugin("caller", func(s *secretstack.Setup) error {
		s.OnConnect(func(p *secretstack.Peer) {
			if p.IsClient() {
				return
			}
			s.Go(func(ctx context.Context) {
				got, err := muxrpc.Call[string](ctx, p, "test.hello", "bob")
				called <- fmt.Sprint(got, err)
				_, err = muxrpc.Call[string](ctx, p, "test.secret")
				called <- fmt.Sprint(err)
			})
		})
		return nil
	}))
	alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
	connect(t, alice, bob)
	if got := <-called; got != "Hello, bob from @7MG1h<nil>" {
		t.Error(got)
	}
	if got := <-called; !strings.Contains(got, "is not in list of allowed methods") {
		t.Error(got)
	}
}

// TestSyncMethodsAnswerOrFail: what was a callback or a return value in the original is one thing here.
func TestSyncMethodsAnswerOrFail(t *testing.T) {
	app := start(t, memStack(t, testPlugin(), plugin("sync", func(s *secretstack.Setup) error {
		return muxrpc.HandleSync(s, "fail", func(context.Context, muxrpc.None) (int, error) { return 0, muxrpc.Errorf("thrown") })
	})), memConfig(t, "alice"))
	got, err := muxrpc.Call[int](t.Context(), app.Self(), "test.secret")
	if got != 1 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	_, err = muxrpc.Call[int](t.Context(), app.Self(), "sync.fail")
	wantErr(t, err, "thrown")
}

func TestSelfMayCallEverythingAndIsTheAppItself(t *testing.T) {
	leakCheck(t)
	app := start(t, memStack(t, testPlugin()), memConfig(t, "alice"))
	got, err := muxrpc.Call[string](t.Context(), app.Self(), "test.hello", "me")
	if err != nil || got != "Hello, me from @1b9KP" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := muxrpc.Call[int](t.Context(), app.Self(), "test.secret"); err != nil {
		t.Error(err)
	}
	if len(app.Peers()) != 0 {
		t.Error("the app is its own peer")
	}
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
	_, err = muxrpc.Call[string](t.Context(), app.Self(), "test.hello", "me")
	if !errors.Is(err, muxrpc.ErrSessionClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPeerFromIsNilWhereNobodyHasCalled(t *testing.T) {
	p := secretstack.PeerFrom(t.Context())
	if p != nil || !p.Key().IsZero() {
		t.Errorf("peer %v", p)
	}
}

// TestDuplicateConnectionsAreKept: both ends have each of them, as in the original.
func TestDuplicateConnectionsAreKept(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{})
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob"))
	first, second := connect(t, alice, bob), connect(t, alice, bob)
	eventually(t, "two connections", func() bool { return len(bob.PeersOf(alice.ID())) == 2 })
	if got := alice.PeersOf(bob.ID()); !slices.Equal(got, []*secretstack.Peer{first, second}) {
		t.Errorf("alice has %v", got)
	}
	if len(alice.PeersOf(alice.ID())) != 0 {
		t.Error("alice has herself")
	}
	if err := first.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "one connection", func() bool { return len(bob.Peers()) == 1 && len(alice.Peers()) == 1 })
	if got := alice.Peers(); !slices.Equal(got, []*secretstack.Peer{second}) {
		t.Errorf("alice has %v", got)
	}
}

// TestTooManyConnectionsAreTurnedAway: those that are open go on, and those that we make are our own affair.
func TestTooManyConnectionsAreTurnedAway(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{}, testPlugin())
	cfg := quiet(t, "bob")
	cfg.MaxPeers = 2
	bob, alice := start(t, stack, cfg), start(t, stack, quiet(t, "alice"))
	first, second := connect(t, alice, bob), connect(t, alice, bob)
	for _, p := range []*secretstack.Peer{first, second} {
		if _, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x"); err != nil {
			t.Fatal(err)
		}
	}
	third := connect(t, alice, bob) // alice has proved her key; then it ends
	<-third.Done()
	if _, err := muxrpc.Call[string](t.Context(), first, "test.hello", "x"); err != nil {
		t.Error(err)
	}
	connect(t, bob, alice)
	if n := len(bob.Peers()); n != 3 {
		t.Errorf("bob has %d connections", n)
	}
	second.Abort(nil)
	first.Abort(nil)
	eventually(t, "there is room", func() bool { return len(bob.Peers()) == 1 })
	if _, err := muxrpc.Call[string](t.Context(), connect(t, alice, bob), "test.hello", "x"); err != nil {
		t.Error(err)
	}
}

// TestTheOldestOfTooManyConnectionsOfAPeerEnds: one key cannot take all there are, and a peer that comes back can.
func TestTheOldestOfTooManyConnectionsOfAPeerEnds(t *testing.T) {
	leakCheck(t)
	stack := stackOf(t, secretstack.Options{}, testPlugin())
	cfg := quiet(t, "bob")
	cfg.MaxPeersPerKey = 3
	bob, alice := start(t, stack, cfg), start(t, stack, quiet(t, "alice"))
	carol := connect(t, start(t, stack, quiet(t, "carol")), bob)
	connect(t, bob, alice) // is not for alice to give up
	var peers []*secretstack.Peer
	for i := range 5 {
		p := connect(t, alice, bob)
		peers = append(peers, p)
		if _, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x"); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	for i, p := range peers {
		if i < 3 {
			<-p.Done()
		} else if _, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x"); err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if _, err := muxrpc.Call[string](t.Context(), carol, "test.hello", "x"); err != nil {
		t.Error(err)
	}
	eventually(t, "three are left", func() bool { return len(bob.PeersOf(alice.ID())) == 3 })
	clients := 0
	for _, p := range bob.PeersOf(alice.ID()) {
		if p.IsClient() {
			clients++
		}
	}
	if clients != 1 {
		t.Error("the connection that bob has made has ended")
	}
}

// TestConnectingToOneselfIsAllowed gives two entries under the own id, as in the original.
func TestConnectingToOneselfIsAllowed(t *testing.T) {
	app := start(t, stackOf(t, secretstack.Options{}, testPlugin()), quiet(t, "alice"))
	p := connect(t, app, app)
	if !p.Key().Equal(app.ID()) {
		t.Errorf("connected to %s", p.Key())
	}
	eventually(t, "both ends", func() bool { return len(app.PeersOf(app.ID())) == 2 })
	if _, err := muxrpc.Call[string](t.Context(), p, "test.hello", "me"); err != nil {
		t.Error(err)
	}
}

// TestOnConnectComesBeforeTheFirstCall: whoever connects may call at once, and the plugins know it by then.
func TestOnConnectComesBeforeTheFirstCall(t *testing.T) {
	var mu sync.Mutex
	known := map[*secretstack.Peer]bool{}
	stack := memStack(t, secretstack.NewPlugin(secretstack.Info{Name: "foo", Permissions: secretstack.Anonymous("known")},
		func(_ context.Context, s *secretstack.Setup) error {
			s.OnConnect(func(p *secretstack.Peer) {
				time.Sleep(10 * time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				known[p] = true
			})
			return muxrpc.HandleAsync(s, "known", func(ctx context.Context, _ muxrpc.None) (bool, error) {
				mu.Lock()
				defer mu.Unlock()
				return known[secretstack.PeerFrom(ctx)], nil
			})
		}))
	alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
	got, err := muxrpc.Call[bool](t.Context(), connect(t, alice, bob), "foo.known")
	if err != nil || !got {
		t.Errorf("%v, %v", got, err)
	}
}

func TestEventsComeOnceAndInOrder(t *testing.T) {
	var mu sync.Mutex
	var events []string
	note := func(event string) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, event)
	}
	watch := plugin("watch", func(s *secretstack.Setup) error {
		s.OnListening(func() { note("listening " + s.App().Address("device")[:4]) })
		s.OnConnect(func(p *secretstack.Peer) { note(fmt.Sprint("connect ", p.IsClient())) })
		s.OnDisconnect(func(p *secretstack.Peer) { note(fmt.Sprint("disconnect ", p.IsClient())) })
		s.OnClose(func() { note("close 1") })
		s.OnClose(func() { note("close 2") })
		return nil
	})
	network := memnet.New()
	watched := stackOf(t, secretstack.Options{Bare: true}, watch, memnet.Plugin(network))
	plain := stackOf(t, secretstack.Options{Bare: true}, memnet.Plugin(network))
	bob := start(t, plain, memConfig(t, "bob"))
	alice := start(t, watched, memConfig(t, "alice"))
	p, err := alice.Connect(t.Context(), bob.Address("device"))
	if err != nil {
		t.Fatal(err)
	}
	p.Close(t.Context())
	eventually(t, "disconnected", func() bool { return len(alice.Peers()) == 0 })
	connect(t, bob, alice)
	eventually(t, "connected", func() bool { return len(alice.Peers()) == 1 })
	if err := alice.Close(t.Context()); err != nil {
		t.Error(err)
	}
	want := []string{"listening mem:", "connect true", "disconnect true", "connect false", "close 2", "close 1", "disconnect false"}
	if !slices.Equal(events, want) {
		t.Errorf("events %q\nwant   %q", events, want)
	}
}

// TestFlood is the original's: sources run on every connection, and closing everything is quick and clean.
func TestFlood(t *testing.T) {
	leakCheck(t)
	const flooded = 1000 // numbers over a connection
	arrived := make(chan string, 6)
	flood := secretstack.NewPlugin(secretstack.Info{Name: "flood", Permissions: secretstack.Anonymous("numbers")},
		func(_ context.Context, s *secretstack.Setup) error {
			s.OnConnect(func(p *secretstack.Peer) {
				s.Go(func(ctx context.Context) {
					for i := range muxrpc.Source[int](ctx, p, "flood.numbers") {
						if i == flooded {
							arrived <- p.App().ID().Short()
						}
					}
				})
			})
			return muxrpc.HandleSource(s, "numbers", func(ctx context.Context, _ muxrpc.None) iter.Seq2[int, error] {
				return func(yield func(int, error) bool) {
					for i := 0; ctx.Err() == nil && yield(i, nil); i++ {
					}
				}
			})
		})
	stack := stackOf(t, secretstack.Options{}, flood)
	apps := []*secretstack.App{start(t, stack, quiet(t, "alice")), start(t, stack, quiet(t, "bob")), start(t, stack, quiet(t, "carol"))}
	for i, from := range apps {
		for _, to := range apps[i+1:] {
			connect(t, from, to)
		}
	}
	count := map[string]int{}
	for range 6 { // each app from the two others
		count[<-arrived]++
	}
	for _, app := range apps {
		if n := count[app.ID().Short()]; n != 2 {
			t.Errorf("%s was flooded by %d others", app.ID().Short(), n)
		}
	}
	var closing sync.WaitGroup
	for _, app := range apps {
		closing.Go(func() {
			if err := app.Close(expired()); err != nil {
				t.Error(err)
			}
		})
	}
	closing.Wait()
}

// expired is a context for closing at once.
func expired() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestIdleConnectionsEnd is the original's test "timeout": a connection without traffic ends after the configured time.
func TestIdleConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stack := memStack(t, testPlugin())
		cfg := memConfig(t, "alice")
		cfg.Settings["global"] = map[string]any{"timers": map[string]any{"inactivity": 1000}}
		alice, bob := start(t, stack, cfg), start(t, stack, memConfig(t, "bob"))
		p := connect(t, alice, bob)
		for range 5 {
			time.Sleep(900 * time.Millisecond)
			if _, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x"); err != nil {
				t.Fatal("ended while it was in use:", err)
			}
		}
		began := time.Now()
		<-p.Done()
		if idle := time.Since(began); idle < time.Second || idle > 3*time.Second {
			t.Errorf("ended after %v", idle)
		}
		if !errors.Is(p.Err(), secretstack.ErrInactive) {
			t.Errorf("ended by %v", p.Err())
		}
		synctest.Wait()
		if len(alice.Peers())+len(bob.Peers()) != 0 {
			t.Error("peers are left")
		}
	})
}

// TestIdleConnectionsEndWithCallsOpen: a call that waits for its answer is no traffic.
func TestIdleConnectionsEndWithCallsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stack := memStack(t, testPlugin())
		alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, memConfig(t, "bob"))
		_, err := muxrpc.Call[muxrpc.None](t.Context(), connect(t, alice, bob), "test.never")
		if !errors.Is(err, muxrpc.ErrUnexpectedEnd) {
			t.Errorf("the call ended with %v", err)
		}
	})
}

func TestInactivityMayBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stack := memStack(t, testPlugin())
		a, b := memConfig(t, "alice"), memConfig(t, "bob")
		a.Inactivity, b.Inactivity = -1, -1
		p := connect(t, start(t, stack, a), start(t, stack, b))
		time.Sleep(1000 * time.Hour)
		if _, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x"); err != nil {
			t.Error(err)
		}
	})
}

// TestConnectionsToOneselfAreNeverIdle is the original's test "local".
func TestConnectionsToOneselfAreNeverIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := memConfig(t, "alice")
		cfg.Inactivity = 100 * time.Millisecond
		app := start(t, memStack(t, testPlugin()), cfg)
		p := connect(t, app, app)
		time.Sleep(time.Hour)
		if _, err := muxrpc.Call[string](t.Context(), p, "test.hello", "x"); err != nil {
			t.Error(err)
		}
	})
}

func TestSessionsTogetherHoldNoMoreThanTheApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const buffered, packet, peers, streams = 1 << 20, 64 << 10, 10, 30
		hold := secretstack.NewPlugin(secretstack.Info{Name: "hold", Permissions: secretstack.Anonymous("all")},
			func(_ context.Context, s *secretstack.Setup) error {
				return muxrpc.HandleSink(s, "all", func(ctx context.Context, _ muxrpc.None, _ iter.Seq2[[]byte, error]) error {
					<-ctx.Done()
					return nil
				})
			})
		stack := memStack(t, hold)
		cfg := memConfig(t, "bob")
		cfg.MaxBuffered, cfg.Limits.MaxPacket, cfg.Limits.SlowReaderGrace = buffered, packet, time.Hour
		alice, bob := start(t, stack, memConfig(t, "alice")), start(t, stack, cfg)
		var sinks []*muxrpc.Writer[[]byte]
		for range peers {
			p := connect(t, alice, bob)
			for range streams {
				w, err := muxrpc.Sink[[]byte](t.Context(), p, "hold.all")
				if err != nil {
					t.Fatal(err)
				}
				sinks = append(sinks, w)
			}
		}
		for _, w := range sinks { // only now: from some moment on bob reads from nobody
			go func() {
				for w.Send(t.Context(), make([]byte, packet/2)) == nil {
				}
			}()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		held := 0
		for _, p := range bob.Peers() {
			held += p.Stats().Buffered
		}
		if held < buffered/2 || held > buffered+peers*2*packet {
			t.Errorf("%d bytes are held", held)
		}
	})
}

func TestStartsContextEndsTheApp(t *testing.T) {
	leakCheck(t)
	ctx, cancel := context.WithCancel(t.Context())
	app, err := stackOf(t, secretstack.Options{}).Start(ctx, quiet(t, "alice"))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-app.Done()
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestBadBytesEndOneConnectionOnly sends what is no packet.
func TestBadBytesEndOneConnectionOnly(t *testing.T) {
	stack := memStack(t, testPlugin())
	bob := start(t, stack, memConfig(t, "bob"))
	alice := start(t, stack, memConfig(t, "alice"))
	good := connect(t, alice, bob)
	for _, bytes := range []string{"\x03\x00\x00\x00\x01\x00\x00\x00\x01x", "\x02\xff\xff\xff\xff\x00\x00\x00\x01", "\x02\x00\x00\x00\x01\x00\x00\x00\x01{", "\x0a\x00\x00\x00\x04\x00\x00\x00\x01null"} {
		conn := dialRaw(t, bob, "mallory")
		go conn.Write(append([]byte(bytes), make([]byte, 9)...)) // and goodbye, where that is still read
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%q: %v", bytes, err)
		}
		conn.Close()
	}
	eventually(t, "mallory is gone", func() bool { return len(bob.Peers()) == 1 })
	if _, err := muxrpc.Call[string](t.Context(), good, "test.hello", "x"); err != nil {
		t.Error(err)
	}
}

// dialRaw connects to an app in memory, with the key of name, and gives the bytes.
func dialRaw(t testing.TB, to *secretstack.App, name string) net.Conn {
	t.Helper()
	network, ok := secretstack.Find[*memnet.Network](to)
	if !ok {
		t.Fatal("the app is in no memory")
	}
	host := strings.TrimPrefix(strings.Split(to.Address("device"), "~")[0], "mem:")
	conn, err := network.Dial(t.Context(), multiserver.NewPart("mem", host))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	conn.Write(identity(t, name).Public().Bytes())
	if _, err := io.ReadFull(conn, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestLoggerIsThePluginsOwn(t *testing.T) {
	var text strings.Builder
	cfg := memConfig(t, "alice")
	cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
	start(t, memStack(t, plugin("foo-bar", func(s *secretstack.Setup) error {
		s.Logger().Info("here")
		return nil
	})), cfg)
	if !strings.Contains(text.String(), "app=@1b9KP8 plugin=fooBar") {
		t.Errorf("logged: %s", text.String())
	}
}

// TestFailuresAreLoggedWithThePeer: what the peer is not told is in the log, with who it was.
func TestFailuresAreLoggedWithThePeer(t *testing.T) {
	var text lockedBuilder
	cfg := memConfig(t, "alice")
	cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
	stack := memStack(t, secretstack.NewPlugin(secretstack.Info{Name: "foo", Permissions: secretstack.Anonymous("m")},
		func(_ context.Context, s *secretstack.Setup) error {
			return muxrpc.HandleAsync(s, "m", func(context.Context, muxrpc.None) (muxrpc.None, error) {
				return muxrpc.None{}, errors.New("the disk is full")
			})
		}))
	alice, bob := start(t, stack, cfg), start(t, stack, memConfig(t, "bob"))
	_, err := muxrpc.Call[any](t.Context(), connect(t, bob, alice), "foo.m")
	wantErr(t, err, "internal error")
	if got := text.String(); !strings.Contains(got, "the disk is full") || !strings.Contains(got, "app=@1b9KP8") || !strings.Contains(got, "peer=@7MG1hy") {
		t.Errorf("logged: %s", got)
	}
}

// lockedBuilder is a strings.Builder for several goroutines.
type lockedBuilder struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}
