package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/multiserver/ws"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/shs"
)

const network = "test_key"

// goPeer is an app of ours with the plugin "test".
type goPeer struct {
	*secretstack.App
	seen *notes
	// joined gets the peers in the order in which they connect.
	joined chan *secretstack.Peer
}

// goOptions are what differs between the apps of the tests.
type goOptions struct {
	incoming   map[string]any // of connections, as in JavaScript; nil: listens nowhere
	appKey     string         // name of the network; empty: network
	inactivity time.Duration
	auth       func(next secretstack.AuthFunc) secretstack.AuthFunc
	plugins    []secretstack.Plugin
	shs        shsTransform // instead of the genuine secret handshake
}

// outgoing lets both sides dial over everything.
var outgoing = map[string]any{
	"net":  []any{map[string]any{"transform": "shs"}, map[string]any{"transform": "noauth"}},
	"ws":   []any{map[string]any{"transform": "shs"}},
	"unix": []any{map[string]any{"transform": "noauth"}},
}

// startGo starts an app with the fixed identity of name, until the test ends.
func startGo(t testing.TB, name string, o goOptions) goPeer {
	t.Helper()
	if o.appKey == "" {
		o.appKey = network
	}
	p := goPeer{seen: newNotes(), joined: make(chan *secretstack.Peer, 64)}
	info := secretstack.Info{
		Name: "test", Permissions: map[string]muxrpc.Permissions{"anonymous": anonymousPermissions("")},
	}
	plugin := secretstack.NewPlugin(info, func(_ context.Context, s *secretstack.Setup) error {
		register(t, s, p.seen, func(ctx context.Context) string { return secretstack.PeerFrom(ctx).Key().Ref() })
		s.OnConnect(func(peer *secretstack.Peer) {
			if o.auth == nil && (peer.IsClient() || !peer.Key().Equal(s.App().ID())) {
				permissions := s.App().Permissions("anonymous")
				permissions.Allow = append(permissions.Allow, ghosts...)
				peer.SetPermissions(permissions)
			}
			p.joined <- peer
		})
		if o.auth != nil {
			return s.AuthHook(o.auth)
		}
		return nil
	})
	stack := secretstack.New(secretstack.Options{Bare: true})
	err := stack.Use(secretstack.NetPlugin(), shsPlugin(identity(t, name), appKey(t, o.appKey), o.shs), secretstack.TransportPlugin(ws.New(ws.Options{})), secretstack.TransportPlugin(unix.New(unix.Options{})),
		secretstack.NoAuthPlugin(), plugin, secretstack.Plugins(o.plugins))
	if err != nil {
		t.Fatal(err)
	}
	p.App, err = stack.Start(t.Context(), secretstack.Config{
		Identity: identity(t, name), AppKey: appKey(t, o.appKey), Dir: t.TempDir(),
		Connections: connections(t, o.incoming), Inactivity: o.inactivity,
		Logger: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	return p
}

// shsPlugin is the genuine plugin, unless the transform is to be changed.
func shsPlugin(id *keys.Identity, app keys.AppKey, change shsTransform) secretstack.Plugin {
	if change == nil {
		return secretstack.SHSPlugin()
	}
	return secretstack.NewPlugin(secretstack.Info{Name: "multiserver-shs"}, func(_ context.Context, s *secretstack.Setup) error {
		genuine := multiserver.SHS(multiserver.SHSConfig{Identity: id, AppKey: app, Authorize: s.Authorize})
		return s.Transform(change(genuine, s))
	})
}

// testLog shows our log with the tests that fail.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

func connections(t testing.TB, incoming map[string]any) *multiserver.Config {
	t.Helper()
	b, err := json.Marshal(map[string]any{"incoming": incoming, "outgoing": outgoing})
	if err != nil {
		t.Fatal(err)
	}
	var c multiserver.Config
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

// nextPeer waits for the next peer that connects.
func (p goPeer) nextPeer(t testing.TB) *secretstack.Peer {
	t.Helper()
	select {
	case peer := <-p.joined:
		return peer
	case <-time.After(patience):
		t.Fatal("nobody connected to us")
		return nil
	}
}

func (p goPeer) connect(t testing.TB, address string) *secretstack.Peer {
	t.Helper()
	peer, err := p.tryConnect(address)
	if err != nil {
		t.Fatalf("connect %s: %v", address, err)
	}
	<-p.joined
	return peer
}

func (p goPeer) tryConnect(address string) (*secretstack.Peer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.Connect(ctx, address)
}

// jsPeer is a secret-stack of JavaScript with the plugin "test".
type jsPeer struct {
	*node
	id string
}

// jsOptions are what differs between the JavaScript peers of the tests.
type jsOptions struct {
	version  int            // of secret-stack: 8 (default) or 6
	incoming map[string]any // nil: listens nowhere
	appKey   string         // name of the network; empty: network
	timers   map[string]any
	auth     map[string]any // answers of auth, by id
	room     bool           // with ssb-room-client
	env      string         // more environment of the process
}

func startJS(t testing.TB, name string, o jsOptions) jsPeer {
	t.Helper()
	if o.appKey == "" {
		o.appKey = network
	}
	if o.incoming == nil {
		o.incoming = map[string]any{}
	}
	if o.timers == nil { // the default without any is 5 s, less than a busy machine may need
		o.timers = map[string]any{"inactivity": 600_000}
	}
	out := map[string]any{}
	for k, v := range outgoing {
		out[k] = v
	}
	if o.room {
		out["tunnel"] = []any{map[string]any{"transform": "shs"}}
	}
	p := jsPeer{node: startNode(t, "peer.js", o.env)}
	var started struct {
		ID string `json:"id"`
	}
	p.do(t, "start", map[string]any{
		"name": name, "version": o.version, "cap": encode64(appKey(t, o.appKey).Bytes()),
		"connections": map[string]any{"incoming": o.incoming, "outgoing": out},
		"timers":      o.timers, "auth": o.auth, "room": o.room,
	}, &started)
	p.id = started.ID
	return p
}

// jsSession is a connection as a JavaScript peer tells of it.
type jsSession struct {
	Session  int    `json:"session"`
	ID       string `json:"id"`
	Address  string `json:"address"`
	IsClient bool   `json:"isClient"`
	SHS      string `json:"shs"`
}

func accepted(s jsSession) bool { return !s.IsClient }

func (p jsPeer) connect(t testing.TB, address string) jsSession {
	t.Helper()
	var s jsSession
	p.do(t, "connect", map[string]any{"address": address}, &s)
	return s
}

func (p jsPeer) address(t testing.TB) string {
	t.Helper()
	var a string
	p.do(t, "address", map[string]any{"scope": "device"}, &a)
	return a
}

// ports counts the ports given out, so that tests at the same time get different ones.
var ports atomic.Int64

// freePort is a port that nobody listens on, outside the range that systems
// take for outgoing connections.
func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 20000 + (os.Getpid()*64+int(ports.Add(1)))%10000
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// link is one way to connect two peers.
type link struct {
	name string
	// incoming is for the peer that listens; %s of dir is a folder of its own.
	incoming func(t testing.TB) map[string]any
	noauth   bool
}

func entry(transform string, more ...any) map[string]any {
	e := map[string]any{"scope": "device", "transform": transform, "host": "127.0.0.1"}
	for i := 0; i+1 < len(more); i += 2 {
		e[more[i].(string)] = more[i+1]
	}
	return e
}

func on(transport string, e map[string]any) map[string]any {
	return map[string]any{transport: []any{e}}
}

var links = []link{
	{name: "net", incoming: func(t testing.TB) map[string]any { return on("net", entry("shs", "port", freePort(t))) }},
	{name: "ws", incoming: func(t testing.TB) map[string]any { return on("ws", entry("shs", "port", freePort(t))) }},
	{name: "net without authentication", noauth: true, incoming: func(t testing.TB) map[string]any {
		return on("net", entry("noauth", "port", freePort(t)))
	}},
	{name: "unix", noauth: true, incoming: func(t testing.TB) map[string]any {
		return on("unix", map[string]any{"scope": "device", "transform": "noauth", "path": shortDir(t)})
	}},
}

// shortDir is a new folder with a path short enough for sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ss")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func goCasesFor(full bool) []goCase {
	if full {
		return without(goCases, "denied", "forbidden", "unknown")
	}
	return goCases
}

func jsCasesFor(full bool) []jsCallCase {
	if full {
		return without(jsCallCases, "denied", "forbidden")
	}
	return slices.Concat(jsCallCases, missingCases)
}

// The main matrix: each transport, each dialler, both versions, every call type
// in both directions.
func TestEveryCallTypeBetweenGoAndSecretStack(t *testing.T) {
	for _, version := range []int{8, 6} {
		for _, l := range links {
			t.Run(fmt.Sprintf("Go dials secret-stack %d over %s", version, l.name), func(t *testing.T) {
				t.Parallel()
				bob := startJS(t, "bob", jsOptions{version: version, incoming: l.incoming(t)})
				alice := startGo(t, "alice", goOptions{})
				peer := alice.connect(t, bob.address(t))
				s := waitEvent(t, bob.node, "session", accepted)
				if !l.noauth {
					checkKnowEachOther(t, peer, s, bob.id, alice.ID().Ref())
				}
				// On links without authentication, who listens trusts who dials.
				callFromGo(t, peer, goCasesFor(l.noauth))
				callFromJS(t, bob.node, s.Session, jsCasesFor(false))
			})
			t.Run(fmt.Sprintf("secret-stack %d dials Go over %s", version, l.name), func(t *testing.T) {
				t.Parallel()
				bob := startGo(t, "bob", goOptions{incoming: l.incoming(t)})
				alice := startJS(t, "alice", jsOptions{version: version})
				s := alice.connect(t, bob.Address(multiserver.Device))
				peer := bob.nextPeer(t)
				if !l.noauth {
					checkKnowEachOther(t, peer, s, alice.id, bob.ID().Ref())
				}
				callFromJS(t, alice.node, s.Session, jsCasesFor(l.noauth))
				callFromGo(t, peer, goCasesFor(false))
			})
		}
	}
}

func checkKnowEachOther(t *testing.T, peer *secretstack.Peer, s jsSession, jsID, goID string) {
	t.Helper()
	if peer.Key().Ref() != jsID {
		t.Errorf("we speak with %v, JavaScript is %s", peer.Key(), jsID)
	}
	if s.ID != goID {
		t.Errorf("JavaScript speaks with %s, we are %s", s.ID, goID)
	}
	who, err := muxrpc.Call[string](t.Context(), peer, "test.whoami")
	if err != nil || who != goID {
		t.Errorf("to JavaScript we are %q, %v", who, err)
	}
	if !strings.Contains(peer.Address(), "~shs:"+peer.Key().Base64()) {
		t.Errorf("the peer's address is %s", peer.Address())
	}
}

func TestWithoutAuthenticationWhoListensTrustsWhoDials(t *testing.T) {
	l := links[3]
	t.Run("Go dials", func(t *testing.T) {
		bob := startJS(t, "bob", jsOptions{incoming: l.incoming(t)})
		peer := startGo(t, "alice", goOptions{}).connect(t, bob.address(t))
		callFromGo(t, peer, []goCase{{name: "secret", call: async("test.secret"), items: []string{`string "the secret"`}}})
	})
	t.Run("JavaScript dials", func(t *testing.T) {
		bob := startGo(t, "bob", goOptions{incoming: l.incoming(t)})
		alice := startJS(t, "alice", jsOptions{})
		s := alice.connect(t, bob.Address(multiserver.Device))
		callFromJS(t, alice.node, s.Session, []jsCallCase{{name: "secret", call: jsCall{Path: "test.secret"}, items: []string{`string "the secret"`}}})
	})
}

func netIn(t testing.TB) map[string]any { return links[0].incoming(t) }

func TestAnotherAppKeyCannotConnect(t *testing.T) {
	for _, version := range []int{8, 6} {
		t.Run(fmt.Sprintf("Go dials secret-stack %d", version), func(t *testing.T) {
			bob := startJS(t, "bob", jsOptions{version: version, incoming: netIn(t)})
			_, err := startGo(t, "alice", goOptions{appKey: "another"}).tryConnect(bob.address(t))
			if !errors.Is(err, shs.ErrAppKey) {
				t.Errorf("got %v", err)
			}
			bob.mustLive(t)
			startGo(t, "carol", goOptions{}).connect(t, bob.address(t))
		})
		t.Run(fmt.Sprintf("secret-stack %d dials Go", version), func(t *testing.T) {
			bob := startGo(t, "bob", goOptions{incoming: netIn(t)})
			alice := startJS(t, "alice", jsOptions{version: version, appKey: "another"})
			err := alice.try(t.Context(), "connect", map[string]any{"address": bob.Address(multiserver.Device)}, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "shs.client: error when expecting server to accept challenge (phase 1)") {
				t.Errorf("JavaScript says %v", err)
			}
			carol := startJS(t, "carol", jsOptions{version: version})
			carol.connect(t, bob.Address(multiserver.Device))
		})
	}
}

func TestAWrongKeyInTheAddressCannotConnect(t *testing.T) {
	carol := identity(t, "carol").Public().Base64()
	wrong := func(address string) string {
		before, _, _ := strings.Cut(address, "~shs:")
		return before + "~shs:" + carol
	}
	t.Run("Go dials", func(t *testing.T) {
		bob := startJS(t, "bob", jsOptions{incoming: netIn(t)})
		_, err := startGo(t, "alice", goOptions{}).tryConnect(wrong(bob.address(t)))
		if !errors.Is(err, shs.ErrRefused) {
			t.Errorf("got %v", err)
		}
		bob.mustLive(t)
	})
	t.Run("JavaScript dials", func(t *testing.T) {
		bob := startGo(t, "bob", goOptions{incoming: netIn(t)})
		alice := startJS(t, "alice", jsOptions{})
		err := alice.try(t.Context(), "connect", map[string]any{"address": wrong(bob.Address(multiserver.Device))}, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "shs.client: server hung up when we sent hello (phase 3)") {
			t.Errorf("JavaScript says %v", err)
		}
	})
}

// What auth answers decides about who dials, on either side.
func TestAuthDecidesWhoMayCallWhat(t *testing.T) {
	alice := identity(t, "alice").Public()
	onlySecret := []goCase{
		{name: "granted", call: async("test.secret"), items: []string{`string "the secret"`}},
		{name: "not granted", call: async("test.hello", "x"), end: "method:test,hello is not in list of allowed methods"},
	}
	everything := []goCase{
		{name: "secret", call: async("test.secret"), items: []string{`string "the secret"`}},
		{name: "hello", call: async("test.hello", "x"), items: []string{`string "Hello, x"`}},
	}
	for _, tt := range []struct {
		name    string
		version int
		answer  any
		cases   []goCase // nil: refused
	}{
		{"secret-stack 8 grants", 8, map[string]any{"allow": []string{"test.secret"}, "deny": nil}, onlySecret},
		{"secret-stack 6 grants", 6, map[string]any{"allow": []string{"test.secret"}, "deny": nil}, onlySecret},
		{"secret-stack 8 trusts", 8, map[string]any{"allow": nil, "deny": nil}, everything},
		{"secret-stack 8 answers true", 8, true, goCases},
		{"secret-stack 8 answers false", 8, false, nil},
		{"secret-stack 6 answers false", 6, false, goCases}, // and means everybody
		{"secret-stack 8 fails", 8, "the database is down", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bob := startJS(t, "bob", jsOptions{version: tt.version, incoming: netIn(t), auth: map[string]any{alice.Ref(): tt.answer}})
			peer, err := startGo(t, "alice", goOptions{}).tryConnect(bob.address(t))
			if tt.cases == nil {
				if !errors.Is(err, shs.ErrRefused) {
					t.Errorf("got %v", err)
				}
				bob.mustLive(t)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			callFromGo(t, peer, tt.cases)
		})
	}
}

func TestOurAuthHookDecidesWhatJavaScriptMayCall(t *testing.T) {
	answer := func(a secretstack.Access, err error) func(secretstack.AuthFunc) secretstack.AuthFunc {
		return func(secretstack.AuthFunc) secretstack.AuthFunc {
			return func(context.Context, secretstack.Caller) (secretstack.Access, error) { return a, err }
		}
	}
	secret := jsCallCase{name: "secret", call: jsCall{Path: "test.secret"}, items: []string{`string "the secret"`}}
	hello := jsCallCase{name: "hello", call: jsCall{Path: "test.hello", Args: args("x")}, items: []string{`string "Hello, x"`}}
	noHello := jsCallCase{name: "no hello", call: hello.call, end: "method:test,hello is not in list of allowed methods"}
	for _, tt := range []struct {
		name  string
		hook  func(secretstack.AuthFunc) secretstack.AuthFunc
		cases []jsCallCase // nil: refused
	}{
		{"everybody", answer(secretstack.Access{}, nil), jsCallCases},
		{"grant", answer(secretstack.Grant(muxrpc.Permissions{Allow: []string{"test.secret"}}), nil), []jsCallCase{secret, noHello}},
		{"full", answer(secretstack.FullAccess(), nil), []jsCallCase{secret, hello}},
		{"refused", answer(secretstack.Access{}, errors.New("we do not know you")), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bob := startGo(t, "bob", goOptions{incoming: netIn(t), auth: tt.hook})
			alice := startJS(t, "alice", jsOptions{})
			var s jsSession
			err := alice.try(t.Context(), "connect", map[string]any{"address": bob.Address(multiserver.Device)}, &s)
			if tt.cases == nil {
				if err == nil || !strings.HasPrefix(err.Error(), "shs.client: server hung up when we sent hello (phase 3)") {
					t.Errorf("JavaScript says %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			callFromJS(t, alice.node, s.Session, tt.cases)
			// Whom we have let in has not let us in: we may do what everybody may.
			callFromGo(t, bob.nextPeer(t), []goCase{
				{name: "the other way", call: async("test.secret"), end: "method:test,secret is not in list of allowed methods"}})
		})
	}
}

func TestInactivityEndsAConnectionWell(t *testing.T) {
	for _, version := range []int{8, 6} {
		t.Run(fmt.Sprintf("of secret-stack %d", version), func(t *testing.T) {
			t.Parallel()
			bob := startJS(t, "bob", jsOptions{version: version, incoming: netIn(t), timers: map[string]any{"inactivity": 300}})
			peer := startGo(t, "alice", goOptions{}).connect(t, bob.address(t))
			waitDone(t, peer.Session)
			waitEvent(t, bob.node, "closed", func(sessionEvent) bool { return true })
			bob.mustLive(t)
		})
		t.Run(fmt.Sprintf("of Go, with secret-stack %d", version), func(t *testing.T) {
			t.Parallel()
			bob := startGo(t, "bob", goOptions{incoming: netIn(t), inactivity: 300 * time.Millisecond})
			alice := startJS(t, "alice", jsOptions{version: version})
			s := alice.connect(t, bob.Address(multiserver.Device))
			peer := bob.nextPeer(t)
			waitEvent(t, alice.node, "closed", closedEvent(s.Session))
			waitDone(t, peer.Session)
			if !errors.Is(peer.Err(), secretstack.ErrInactive) {
				t.Errorf("the session ended with %v", peer.Err())
			}
			alice.mustLive(t)
		})
	}
}

func TestClosingAnAppEndsItsConnectionsWithJavaScript(t *testing.T) {
	for _, l := range links {
		t.Run("Go closes, over "+l.name, func(t *testing.T) {
			t.Parallel()
			bob := startJS(t, "bob", jsOptions{incoming: l.incoming(t)})
			alice := startGo(t, "alice", goOptions{})
			peer := alice.connect(t, bob.address(t))
			callFromGo(t, peer, goCases[:1])
			if err := within(t, patience, "App.Close", func() error { return alice.Close(context.Background()) }); err != nil {
				t.Error(err)
			}
			if err := peer.Err(); err != nil {
				t.Errorf("the session ended with %v", err)
			}
			waitEvent(t, bob.node, "closed", func(sessionEvent) bool { return true })
			bob.mustLive(t)
		})
		t.Run("JavaScript closes its session, over "+l.name, func(t *testing.T) {
			t.Parallel()
			bob := startGo(t, "bob", goOptions{incoming: l.incoming(t)})
			alice := startJS(t, "alice", jsOptions{})
			s := alice.connect(t, bob.Address(multiserver.Device))
			peer := bob.nextPeer(t)
			callFromJS(t, alice.node, s.Session, jsCallCases[:1])
			alice.do(t, "closeSession", map[string]any{"session": s.Session}, nil)
			waitDone(t, peer.Session)
			if err := peer.Err(); err != nil {
				t.Errorf("the session ended with %v", err)
			}
		})
		t.Run("JavaScript closes its app, over "+l.name, func(t *testing.T) {
			t.Parallel()
			bob := startJS(t, "bob", jsOptions{incoming: l.incoming(t)})
			peer := startGo(t, "alice", goOptions{}).connect(t, bob.address(t))
			waitEvent(t, bob.node, "session", accepted)
			bob.do(t, "stop", map[string]any{"hard": true}, nil)
			waitDone(t, peer.Session)
		})
		t.Run("JavaScript is killed, over "+l.name, func(t *testing.T) {
			t.Parallel()
			bob := startGo(t, "bob", goOptions{incoming: l.incoming(t)})
			alice := startJS(t, "alice", jsOptions{})
			alice.connect(t, bob.Address(multiserver.Device))
			peer := bob.nextPeer(t)
			alice.stdin.Close()
			waitDone(t, peer.Session)
			if peer.Err() == nil {
				t.Error("a connection that was cut counts as ended well")
			}
			eventually(t, "the peer is forgotten", func() bool { return len(bob.Peers()) == 0 })
		})
	}
}

func TestLargeValuesPassBetweenGoAndSecretStack(t *testing.T) {
	for _, l := range links[:2] {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			bob := startGo(t, "bob", goOptions{incoming: l.incoming(t)})
			alice := startJS(t, "alice", jsOptions{})
			s := alice.connect(t, bob.Address(multiserver.Device))
			peer := bob.nextPeer(t)
			got := alice.call(t, jsCall{Session: s.Session, Path: "test.big", Args: args(mebibyte), Summary: true})
			if got.Bytes != mebibyte || got.SHA256 != sum256(1, mebibyte) {
				t.Errorf("JavaScript got %d bytes, %v", got.Bytes, got.End)
			}
			b, err := muxrpc.Call[[]byte](t.Context(), peer, "test.big", mebibyte)
			if err != nil || len(b) != mebibyte {
				t.Errorf("we got %d bytes, %v", len(b), err)
			}
			got = alice.call(t, jsCall{Session: s.Session, Path: "test.chunks", Type: "source", Args: args(64, 16<<10), Summary: true})
			if got.SHA256 != sum256(64, 16<<10) || got.End.String() != "well" {
				t.Errorf("JavaScript got %d bytes, %v", got.Bytes, got.End)
			}
			n := 0
			for v, err := range muxrpc.Source[int](t.Context(), peer, "test.count", 10_000) {
				if err != nil || v != n {
					t.Fatalf("item %d is %d, %v", n, v, err)
				}
				n++
			}
			if n != 10_000 {
				t.Errorf("the source of JavaScript ended after %d items", n)
			}
		})
	}
}

func TestASocketFileIsOnlyForItsOwner(t *testing.T) {
	dir := shortDir(t)
	startGo(t, "bob", goOptions{incoming: on("unix", map[string]any{"scope": "device", "transform": "noauth", "path": dir})})
	info, err := os.Stat(filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %o", info.Mode().Perm())
	}
}

// ssb-client knows nothing of the peer but its address: it asks for the manifest.
func TestSSBClientLearnsOurManifest(t *testing.T) {
	for _, l := range links {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			bob := startGo(t, "bob", goOptions{incoming: l.incoming(t)})
			n := startNode(t, "client.js")
			var s struct {
				Session int      `json:"session"`
				Methods []string `json:"methods"`
				HasTest bool     `json:"hasTest"`
			}
			n.do(t, "connect", map[string]any{
				"name": "alice", "cap": encode64(appKey(t, network).Bytes()), "remote": bob.Address(multiserver.Device),
			}, &s)
			if !s.HasTest {
				t.Fatalf("no test among %v", s.Methods)
			}
			cases := without(jsCasesFor(l.noauth), "missing")
			callFromJS(t, n, s.Session, cases)
			n.do(t, "closeSession", map[string]any{"session": s.Session, "hard": true}, nil)
			waitDone(t, bob.nextPeer(t).Session)
		})
	}
}
