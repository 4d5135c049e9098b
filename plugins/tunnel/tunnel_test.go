package tunnel_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/room"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

var (
	identity   = testkit.Identity
	leakCheck  = testkit.LeakCheck
	eventually = testkit.Eventually
)

func key(t testing.TB, name string) keys.PublicKey { return identity(t, name).Public() }
func ref(t testing.TB, name string) string         { return key(t, name).Ref() }

// greeter has a method for everybody, and tells what connects.
func greeter(met chan<- *secretstack.Peer) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "test", Permissions: secretstack.Anonymous("hi")},
		func(_ context.Context, s *secretstack.Setup) error {
			s.OnConnect(func(p *secretstack.Peer) {
				if met != nil && strings.HasPrefix(p.Address(), "tunnel:") {
					met <- p
				}
			})
			return muxrpc.HandleAsync(s, "hi", func(ctx context.Context, name string) (string, error) {
				return "hi " + name + " I am " + s.App().ID().Short() + " you are " + secretstack.PeerFrom(ctx).Key().Short(), nil
			})
		})
}

func start(t testing.TB, stack *secretstack.Stack, cfg secretstack.Config) *secretstack.App {
	t.Helper()
	app, err := stack.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return app
}

// world is a network in memory. Inside tunnels its apps use the secret handshake.
type world struct{ *memnet.Network }

func newWorld() world { return world{memnet.New()} }

func (w world) app(t testing.TB, name string, plugins ...secretstack.Plugin) *secretstack.App {
	t.Helper()
	stack := secretstack.New(secretstack.Options{Bare: true})
	if err := stack.Use(append(plugins, memnet.Plugin(w.Network, memnet.RealHandshakes), secretstack.SHSPlugin())...); err != nil {
		t.Fatal(err)
	}
	return start(t, stack, secretstack.Config{
		Identity: identity(t, name),
		Logger:   slog.New(slog.DiscardHandler),
		Settings: secretstack.Settings{"memory": map[string]any{"name": name}},
	})
}

func attendant(app *secretstack.App) *tunnel.Attendant {
	a, _ := secretstack.Find[*tunnel.Attendant](app)
	return a
}

func connect(t testing.TB, from, to *secretstack.App) *secretstack.Peer {
	t.Helper()
	p, err := from.Connect(t.Context(), to.Address("device"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// inRoom waits until the app has found its room, and the room knows it.
func inRoom(t testing.TB, portal *secretstack.App, apps ...*secretstack.App) {
	t.Helper()
	r, _ := secretstack.Find[*room.Room](portal)
	for _, app := range apps {
		eventually(t, "in the room", func() bool {
			return slices.Contains(r.Attendants(), app.ID().Ref()) && len(attendant(app).Rooms()) > 0
		})
	}
}

func wantErr(t testing.TB, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error is %v, want one with %q", err, text)
	}
}

// TestPeersTalkThroughAPortal is carol calling alice through bob, who is a room, over real connections.
func TestPeersTalkThroughAPortal(t *testing.T) {
	leakCheck(t)
	config := func(name string) secretstack.Config {
		return secretstack.Config{Identity: identity(t, name), Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)}
	}
	portal, guest := secretstack.New(secretstack.Options{}), secretstack.New(secretstack.Options{})
	met := make(chan *secretstack.Peer, 2)
	if err := errors.Join(portal.Use(room.Plugin(room.Config{})), guest.Use(tunnel.Plugin(tunnel.Config{}), greeter(met))); err != nil {
		t.Fatal(err)
	}
	bob := start(t, portal, config("bob"))
	alice, carol := start(t, guest, config("alice")), start(t, guest, config("carol"))
	connect(t, alice, bob)
	connect(t, carol, bob)
	inRoom(t, bob, alice, carol)

	address := tunnel.Address(bob.ID(), alice.ID())
	p, err := carol.Connect(t.Context(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := muxrpc.Call[string](t.Context(), p, "test.hi", "carol")
	if want := "hi carol I am " + alice.ID().Short() + " you are " + carol.ID().Short(); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	prefix := "tunnel:" + bob.ID().Ref() + ":"
	want := map[*secretstack.App]string{
		carol: prefix + alice.ID().Ref() + "~shs:" + alice.ID().Base64(),
		alice: prefix + carol.ID().Ref() + "~shs:" + carol.ID().Base64(),
	}
	if address.String() != want[carol] {
		t.Errorf("the address is %s, want %s", address, want[carol])
	}
	for range 2 {
		other := <-met
		if other.Address() != want[other.App()] || other.IsClient() != (other.App() == carol) {
			t.Errorf("%s has a peer at %s, client %v", other.App().ID().Short(), other.Address(), other.IsClient())
		}
		if got, err := muxrpc.Call[string](t.Context(), other, "test.hi", "x"); err != nil || !strings.HasPrefix(got, "hi x I am ") {
			t.Errorf("%q, %v", got, err)
		}
	}
	// The end of the inner connection ends the tunnel, and leaves those to the portal.
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	r, _ := secretstack.Find[*room.Room](bob)
	eventually(t, "no tunnel", func() bool { return r.Tunnels() == 0 })
	eventually(t, "one peer each", func() bool { return len(alice.Peers()) == 1 && len(carol.Peers()) == 1 })
}

// TestManyTunnelsCarryMuch sends more than fits any window, through several tunnels at once.
func TestManyTunnelsCarryMuch(t *testing.T) {
	leakCheck(t)
	w := newWorld()
	const size = 1 << 20
	source := secretstack.NewPlugin(secretstack.Info{Name: "bulk", Permissions: secretstack.Anonymous("bytes")},
		func(_ context.Context, s *secretstack.Setup) error {
			return muxrpc.HandleSource(s, "bytes", func(context.Context, muxrpc.None) iter.Seq2[[]byte, error] {
				return func(yield func([]byte, error) bool) {
					for range size / (32 << 10) {
						if !yield(make([]byte, 32<<10), nil) {
							return
						}
					}
				}
			})
		})
	portal := w.app(t, "portal", room.Plugin(room.Config{}))
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}), source)
	connect(t, alice, portal)
	inRoom(t, portal, alice)
	got := make(chan error, 4)
	for i := range cap(got) {
		guest := w.app(t, fmt.Sprint("guest ", i), tunnel.Plugin(tunnel.Config{}))
		connect(t, guest, portal)
		go func() {
			p, err := guest.Connect(context.Background(), tunnel.Address(portal.ID(), alice.ID()).String())
			if err != nil {
				got <- err
				return
			}
			n := 0
			for b, err := range muxrpc.Source[[]byte](context.Background(), p, "bulk.bytes") {
				if err != nil {
					got <- err
					return
				}
				n += len(b)
			}
			if n != size {
				err = fmt.Errorf("%d bytes of %d", n, size)
			}
			got <- err
		}()
	}
	for range cap(got) {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
}

// TestTunnelsEndWithTheConnectionToThePortal: what runs inside ends as well, at both ends.
func TestTunnelsEndWithTheConnectionToThePortal(t *testing.T) {
	leakCheck(t)
	w := newWorld()
	portal := w.app(t, "portal", room.Plugin(room.Config{}))
	alice, carol := w.app(t, "alice", tunnel.Plugin(tunnel.Config{})), w.app(t, "carol", tunnel.Plugin(tunnel.Config{}))
	connect(t, alice, portal)
	connect(t, carol, portal)
	inRoom(t, portal, alice, carol)
	p, err := carol.Connect(t.Context(), tunnel.Address(portal.ID(), alice.ID()).String())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "connected", func() bool { return len(alice.PeersOf(carol.ID())) == 1 })
	portal.PeersOf(alice.ID())[0].Abort(nil)
	<-p.Done()
	if p.Err() == nil {
		t.Error("the connection has ended as if that were in order")
	}
	eventually(t, "alice is alone", func() bool { return len(alice.Peers()) == 0 && len(attendant(alice).Rooms()) == 0 })
}

// TestClosingWithTunnelsOpenIsQuick, whoever of the three does.
func TestClosingWithTunnelsOpenIsQuick(t *testing.T) {
	for _, who := range []string{"alice", "carol", "portal"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				portal := w.app(t, "portal", room.Plugin(room.Config{}))
				alice, carol := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}), greeter(nil)), w.app(t, "carol", tunnel.Plugin(tunnel.Config{}))
				connect(t, alice, portal)
				connect(t, carol, portal)
				inRoom(t, portal, alice, carol)
				p, err := carol.Connect(t.Context(), tunnel.Address(portal.ID(), alice.ID()).String())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := muxrpc.Call[string](t.Context(), p, "test.hi", "x"); err != nil {
					t.Error(err)
				}
				began := time.Now()
				apps := map[string]*secretstack.App{"alice": alice, "carol": carol, "portal": portal}
				if err := apps[who].Close(t.Context()); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 4*time.Second {
					t.Errorf("closing took %v", took)
				}
				<-p.Done()
			})
		})
	}
}

// TestAnAppMayBeRoomAndAttendant: tunnels to itself it takes, others it passes on.
func TestAnAppMayBeRoomAndAttendant(t *testing.T) {
	for name, plugins := range map[string][]secretstack.Plugin{
		"room first":   {room.Plugin(room.Config{}), tunnel.Plugin(tunnel.Config{})},
		"tunnel first": {tunnel.Plugin(tunnel.Config{}), room.Plugin(room.Config{})},
	} {
		t.Run(name, func(t *testing.T) {
			leakCheck(t)
			w := newWorld()
			portal := w.app(t, "portal", room.Plugin(room.Config{}))
			both := w.app(t, "both", append(plugins, greeter(nil))...)
			alice, carol := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}), greeter(nil)), w.app(t, "carol", tunnel.Plugin(tunnel.Config{}))
			connect(t, both, portal)
			connect(t, carol, portal)
			connect(t, alice, both)
			connect(t, carol, both)
			inRoom(t, portal, both, carol)
			inRoom(t, both, alice, carol)
			for through, to := range map[*secretstack.App]*secretstack.App{portal: both, both: alice} {
				p, err := carol.Connect(t.Context(), tunnel.Address(through.ID(), to.ID()).String())
				if err != nil {
					t.Fatal(err)
				}
				if got, err := muxrpc.Call[string](t.Context(), p, "test.hi", "x"); err != nil || !strings.Contains(got, to.ID().Short()) {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

// answers is a plugin that stands for a room: what its methods answer is in a map, errors included.
func answers(methods map[string]any) secretstack.Plugin {
	var list secretstack.Plugins
	for _, prefix := range []string{"room", "tunnel"} {
		var allowed []string
		for name := range methods {
			if after, ok := strings.CutPrefix(name, prefix+"."); ok {
				allowed = append(allowed, after)
			}
		}
		list = append(list, secretstack.NewPlugin(secretstack.Info{Name: prefix, Permissions: secretstack.Anonymous(allowed...)},
			func(_ context.Context, s *secretstack.Setup) error {
				for _, name := range allowed {
					if err := mountAnswer(s, name, methods[prefix+"."+name]); err != nil {
						return err
					}
				}
				return nil
			}))
	}
	return list
}

func mountAnswer(s *secretstack.Setup, name string, value any) error {
	switch value := value.(type) {
	case func(context.Context, muxrpc.None) iter.Seq2[any, error]:
		return muxrpc.HandleSource(s, name, value)
	case func(context.Context, muxrpc.None) (any, error):
		return muxrpc.HandleAsync(s, name, value)
	case error:
		return muxrpc.HandleAsync(s, name, func(context.Context, muxrpc.None) (any, error) { return nil, value })
	}
	return muxrpc.HandleAsync(s, name, func(context.Context, muxrpc.None) (any, error) { return value, nil })
}

// items is a source of some items that goes on for ever.
func items(values ...any) func(context.Context, muxrpc.None) iter.Seq2[any, error] {
	return func(ctx context.Context, _ muxrpc.None) iter.Seq2[any, error] {
		return func(yield func(any, error) bool) {
			for _, v := range values {
				if !yield(v, nil) {
					return
				}
			}
			<-ctx.Done()
		}
	}
}

func TestRoomsAreRecognised(t *testing.T) {
	denied := muxrpc.Errorf("method:room,metadata is not in list of allowed methods")
	for name, test := range map[string]struct {
		methods map[string]any
		isRoom  bool
		called  string
	}{
		"by room.metadata":              {map[string]any{"room.metadata": map[string]any{"name": "R"}}, true, "R"},
		"by anything truthy":            {map[string]any{"room.metadata": 1}, true, ""},
		"by tunnel.isRoom":              {map[string]any{"tunnel.isRoom": map[string]any{"name": "T"}}, true, "T"},
		"by tunnel.isRoom without name": {map[string]any{"tunnel.isRoom": true}, true, ""},
		"after a denial in words":       {map[string]any{"room.metadata": denied, "tunnel.isRoom": true}, true, ""},
		"not when metadata fails":       {map[string]any{"room.metadata": muxrpc.Errorf("broken"), "tunnel.isRoom": true}, false, ""},
		"not by false":                  {map[string]any{"tunnel.isRoom": false}, false, ""},
		"not by null":                   {map[string]any{"room.metadata": json.RawMessage("null")}, false, ""},
		"not by zero":                   {map[string]any{"room.metadata": 0}, false, ""},
		"not by an empty string":        {map[string]any{"room.metadata": ""}, false, ""},
		"not by nothing":                {nil, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				portal := w.app(t, "portal", answers(test.methods))
				alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
				connect(t, alice, portal)
				synctest.Wait()
				rooms := attendant(alice).Rooms()
				if !test.isRoom && len(rooms) != 0 {
					t.Errorf("rooms %v", rooms)
				}
				if test.isRoom && (len(rooms) != 1 || rooms[0].Name != test.called || !rooms[0].Key.Equal(portal.ID())) {
					t.Errorf("rooms %v", rooms)
				}
			})
		})
	}
}

// TestAppsThatDialledUsMayBeRooms: a room that connects to its attendant is one too.
func TestAppsThatDialledUsMayBeRooms(t *testing.T) {
	w := newWorld()
	portal := w.app(t, "portal", room.Plugin(room.Config{}))
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
	connect(t, portal, alice)
	inRoom(t, portal, alice)
}

func TestWhoOnlyDialsIsInNoRoomAndReachesThoseWhoAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		portal := w.app(t, "portal", room.Plugin(room.Config{}))
		alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{DialOnly: true}))
		bob := w.app(t, "bob", tunnel.Plugin(tunnel.Config{}))
		connect(t, alice, portal)
		connect(t, bob, portal)
		synctest.Wait()
		if rooms := attendant(bob).Rooms(); len(rooms) != 1 || len(rooms[0].Attendants) != 0 {
			t.Errorf("bob sees %v", rooms)
		}
		if _, err := alice.Connect(t.Context(), tunnel.Address(portal.ID(), bob.ID()).String()); err != nil {
			t.Error(err)
		}
	})
}

func TestAttendantsAreFollowed(t *testing.T) {
	bob, carol := ref(t, "bob"), ref(t, "carol")
	state := map[string]any{"type": "state", "ids": []string{ref(t, "alice"), bob, "rubbish"}}
	joined, left := map[string]any{"type": "joined", "id": carol}, map[string]any{"type": "left", "id": bob}
	odd := map[string]any{"type": "odd", "id": bob}
	list := func(ids ...string) any { return ids }
	for name, test := range map[string]struct {
		methods map[string]any
		want    []string
	}{
		"with room.attendants":          {map[string]any{"room.metadata": true, "room.attendants": items(state)}, []string{bob}},
		"as they come and go":           {map[string]any{"room.metadata": true, "room.attendants": items(state, odd, joined, left)}, []string{carol}},
		"with tunnel.endpoints":         {map[string]any{"room.metadata": true, "tunnel.endpoints": items(list(bob), list(bob, carol, "rubbish"))}, []string{bob, carol}},
		"a state replaces the last one": {map[string]any{"room.metadata": true, "room.attendants": items(joined, state)}, []string{bob}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				portal := w.app(t, "portal", answers(test.methods))
				alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
				connect(t, alice, portal)
				synctest.Wait()
				rooms := attendant(alice).Rooms()
				if len(rooms) != 1 {
					t.Fatalf("rooms %v", rooms)
				}
				var got []string
				for _, key := range rooms[0].Attendants {
					got = append(got, key.Ref())
				}
				slices.Sort(got)
				slices.Sort(test.want)
				if !slices.Equal(got, test.want) {
					t.Errorf("attendants %v, want %v", got, test.want)
				}
			})
		})
	}
}

// TestRoomsWithoutListsAreToldThatWeAreHere: portals older than rooms have announce only.
func TestRoomsWithoutListsAreToldThatWeAreHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var announced atomic.Int32
		w := newWorld()
		portal := w.app(t, "portal", answers(map[string]any{
			"tunnel.isRoom": true,
			"tunnel.announce": func(context.Context, muxrpc.None) (any, error) {
				announced.Add(1)
				return nil, nil
			},
		}))
		connect(t, w.app(t, "alice", tunnel.Plugin(tunnel.Config{})), portal)
		synctest.Wait()
		if n := announced.Load(); n != 1 {
			t.Errorf("announced %d times", n)
		}
	})
}

func TestDiscoveredGivesThoseWhoCome(t *testing.T) {
	w := newWorld()
	portal := w.app(t, "portal", room.Plugin(room.Config{Name: "My Room"}))
	alice, bob := w.app(t, "alice", tunnel.Plugin(tunnel.Config{})), w.app(t, "bob", tunnel.Plugin(tunnel.Config{}))
	connect(t, bob, portal)
	inRoom(t, portal, bob)
	connect(t, alice, portal)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var found []string
	for d := range attendant(alice).Discovered(ctx) {
		found = append(found, d.Key.Ref())
		want := tunnel.Discovery{Key: d.Key, Room: portal.ID(), RoomName: "My Room", Address: tunnel.Address(portal.ID(), d.Key)}
		if d.Address.String() != want.Address.String() || !d.Room.Equal(want.Room) || d.RoomName != want.RoomName {
			t.Errorf("discovered %v, want %v", d, want)
		}
		switch len(found) {
		case 1:
			connect(t, w.app(t, "carol", tunnel.Plugin(tunnel.Config{})), portal)
		case 2:
			for _, p := range bob.Peers() {
				p.Abort(nil)
			}
			eventually(t, "bob has left", func() bool { return len(attendant(alice).Rooms()[0].Attendants) == 1 })
			connect(t, bob, portal) // comes back
		case 3:
			cancel()
		}
	}
	if want := []string{ref(t, "bob"), ref(t, "carol"), ref(t, "bob")}; !slices.Equal(found, want) {
		t.Errorf("found %v, want %v", found, want)
	}
}

// TestTunnelsThatWeDidNotAskForAreRefused: only our rooms may bring somebody, and only to us.
func TestTunnelsThatWeDidNotAskForAreRefused(t *testing.T) {
	w := newWorld()
	portal := w.app(t, "portal", room.Plugin(room.Config{}))
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
	connect(t, alice, portal)
	inRoom(t, portal, alice)
	stranger := connect(t, w.app(t, "mallory"), alice)
	type argument = map[string]any
	for name, test := range map[string]struct {
		from *secretstack.Peer
		args []any
		want string
	}{
		"not a room":    {stranger, []any{argument{"target": ref(t, "alice"), "origin": ref(t, "bob")}}, "could not connect to " + ref(t, "alice")},
		"not for us":    {portal.PeersOf(alice.ID())[0], []any{argument{"target": ref(t, "bob"), "origin": ref(t, "bob")}}, "could not connect to " + ref(t, "bob")},
		"from nobody":   {portal.PeersOf(alice.ID())[0], []any{argument{"target": ref(t, "alice")}}, "could not connect to " + ref(t, "alice")},
		"from rubbish":  {portal.PeersOf(alice.ID())[0], []any{argument{"target": ref(t, "alice"), "origin": "bob"}}, "could not connect to " + ref(t, "alice")},
		"long rubbish":  {stranger, []any{argument{"target": strings.Repeat("x", 1000)}}, "could not connect to " + strings.Repeat("x", 100)},
		"too long":      {stranger, []any{argument{"instance": strings.Repeat("x", 4<<10)}}, "the request is too long"},
		"null":          {stranger, []any{nil}, "opts *must* be provided"},
		"nothing":       {stranger, nil, "opts *must* be provided"},
		"a wrong field": {stranger, []any{argument{"origin": 3}}, "argument 0 is invalid: unexpected number in origin"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), test.from, "tunnel.connect", test.args...)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.Recv(t.Context())
			remote, ok := errors.AsType[*muxrpc.RemoteError](err)
			if !ok || remote.Message != test.want {
				t.Errorf("refused with %v, want %q", err, test.want)
			}
		})
	}
}

// TestALieAboutTheOriginShows: who is at the other end is proved inside the tunnel, whatever the room says.
func TestALieAboutTheOriginShows(t *testing.T) {
	w := newWorld()
	portal := w.app(t, "portal", room.Plugin(room.Config{}))
	met := make(chan *secretstack.Peer, 1)
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}), greeter(met))
	connect(t, alice, portal)
	inRoom(t, portal, alice)
	// The portal opens a tunnel by itself and says that bob is behind it.
	s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), portal.PeersOf(alice.ID())[0], "tunnel.connect",
		map[string]any{"target": ref(t, "alice"), "origin": ref(t, "bob")})
	if err != nil {
		t.Fatal(err)
	}
	inner := handshake(t, s, identity(t, "mallory"), alice.ID())
	defer inner.Close()
	if p := <-met; !p.Key().Equal(key(t, "mallory")) {
		t.Errorf("alice takes the other side for %s", p.Key())
	}
}

func TestThePortalMustBeKnown(t *testing.T) {
	w := newWorld()
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
	_, err := alice.Connect(t.Context(), tunnel.Address(key(t, "portal"), key(t, "bob")).String())
	wantErr(t, err, "can't connect to "+ref(t, "bob")+" because room "+ref(t, "portal")+" is offline or unknown")
}

func TestAPeerThatIsNoRoomCannotBeAPortal(t *testing.T) {
	w := newWorld()
	alice, bob := w.app(t, "alice", tunnel.Plugin(tunnel.Config{})), w.app(t, "bob")
	connect(t, alice, bob)
	_, err := alice.Connect(t.Context(), tunnel.Address(bob.ID(), key(t, "carol")).String())
	wantErr(t, err, "secretstack: method:tunnel,connect is not in list of allowed methods (")
}

func TestTheTargetMustBeThere(t *testing.T) {
	w := newWorld()
	portal := w.app(t, "portal", room.Plugin(room.Config{}))
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
	connect(t, alice, portal)
	_, err := alice.Connect(t.Context(), tunnel.Address(portal.ID(), key(t, "nobody")).String())
	wantErr(t, err, "secretstack: could not connect to: "+ref(t, "nobody")+" (")
}

func TestAddressesOfTunnelsAreChecked(t *testing.T) {
	w := newWorld()
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
	bob := key(t, "bob")
	for address, want := range map[string]string{
		"tunnel:" + bob.Ref() + "~shs:" + bob.Base64():                         "tunnel needs a portal and a target",
		"tunnel:x:y~shs:" + bob.Base64():                                       "the portal is not a key",
		"tunnel:" + bob.Ref() + ":x~shs:" + bob.Base64():                       "the target is not a key",
		"tunnel:" + bob.Ref() + ":" + bob.Ref():                                "add ~shs:",
		"tunnel~shs:" + bob.Base64():                                           "tunnel needs a portal and a target",
		"tunnels:" + bob.Ref() + ":" + bob.Ref() + "~shs:" + bob.Base64():      `nothing here knows the transport "tunnels"`,
		"tunnel:" + bob.Ref() + ":" + bob.Ref() + ":7~shs:" + bob.Base64():     "is offline or unknown",
		"tunnel:" + bob.Base64() + ":" + bob.Base64() + "~shs:" + bob.Base64(): "is offline or unknown",
	} {
		_, err := alice.Connect(t.Context(), address)
		wantErr(t, err, want)
	}
}

// secretAddress is where the app called name is, with its key proved by the secret handshake.
func secretAddress(t testing.TB, name string) string {
	return "mem:" + name + ".shs~shs:" + key(t, name).Base64()
}

// TestPortalsAreConnectedToAndStayConnected: the app comes back to a portal that was away.
func TestPortalsAreConnectedToAndStayConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{Portals: []string{secretAddress(t, "portal")}}))
		time.Sleep(5 * time.Minute) // nobody is there yet
		if n := len(alice.Peers()); n != 0 {
			t.Fatalf("%d peers", n)
		}
		for range 2 {
			portal := w.app(t, "portal", room.Plugin(room.Config{}))
			time.Sleep(2 * time.Minute) // longer than any pause between attempts
			r, _ := secretstack.Find[*room.Room](portal)
			if got := r.Attendants(); !slices.Equal(got, []string{ref(t, "alice")}) {
				t.Fatalf("attendants %v", got)
			}
			if n := len(alice.PeersOf(portal.ID())); n != 1 {
				t.Errorf("%d connections to the portal", n)
			}
			time.Sleep(3 * time.Hour) // the connection is kept in use
			if n := len(r.Attendants()); n != 1 {
				t.Error("alice is gone")
			}
			if err := portal.Close(t.Context()); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if n := len(alice.Peers()); n != 0 {
				t.Errorf("%d peers", n)
			}
		}
	})
}

// TestSilentPortalsAreLeft: a room that does not answer any more is gone, whatever the network says.
func TestSilentPortalsAreLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		portal := w.app(t, "portal", answers(map[string]any{
			"room.metadata":   true,
			"room.attendants": items(),
			"tunnel.ping": func(ctx context.Context, _ muxrpc.None) (any, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		}))
		alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
		p := connect(t, alice, portal)
		began := time.Now()
		<-p.Done()
		wantErr(t, p.Err(), "the room does not answer")
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("noticed after %v", took)
		}
		synctest.Wait()
		if n := len(attendant(alice).Rooms()); n != 0 {
			t.Errorf("%d rooms", n)
		}
	})
}

// TestDiallingConnectsToAKnownPortalFirst: its address is in the configuration.
func TestDiallingConnectsToAKnownPortalFirst(t *testing.T) {
	w := newWorld()
	portal := w.app(t, "portal", room.Plugin(room.Config{}))
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}), greeter(nil))
	connect(t, alice, portal)
	inRoom(t, portal, alice)
	carol := w.app(t, "carol", tunnel.Plugin(tunnel.Config{Portals: []string{secretAddress(t, "portal")}}))
	p, err := carol.Connect(t.Context(), tunnel.Address(portal.ID(), alice.ID()).String()) // maybe before there is a connection
	if err != nil {
		t.Fatal(err)
	}
	if _, err := muxrpc.Call[string](t.Context(), p, "test.hi", "x"); err != nil {
		t.Error(err)
	}
	nowhere := w.app(t, "dave", tunnel.Plugin(tunnel.Config{Portals: []string{secretAddress(t, "nowhere")}}))
	_, err = nowhere.Connect(t.Context(), tunnel.Address(key(t, "nowhere"), alice.ID()).String())
	wantErr(t, err, "because room "+ref(t, "nowhere")+" is offline or unknown: ")
}

func TestPortalsThatCannotBeAreErrors(t *testing.T) {
	for portal, want := range map[string]string{
		"":                               "the address is empty",
		"net:example.org:8008":           "add ~shs:",
		"net:example.org:8008~noauth":    "does not say which key the room has",
		"mem:x~claim:" + ref(t, "alice"): "does not say which key the room has",
	} {
		stack := secretstack.New(secretstack.Options{})
		if err := stack.Use(tunnel.Plugin(tunnel.Config{Portals: []string{portal}})); err != nil {
			t.Fatal(err)
		}
		_, err := stack.Start(t.Context(), secretstack.Config{Host: "127.0.0.1"})
		wantErr(t, err, want)
	}
}

// mostAttendants is how many attendants of a room are kept track of.
const mostAttendants = 16384

// madeUp returns n ids that nobody has.
func madeUp(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		seed := sha256.Sum256(fmt.Append(nil, i))
		ids[i] = "@" + base64.StdEncoding.EncodeToString(seed[:]) + ".ed25519"
	}
	return ids
}

// TestRoomsCannotFillTheMemoryOfAttendants: any peer may say that it is a room, and that somebody joins without end.
func TestRoomsCannotFillTheMemoryOfAttendants(t *testing.T) {
	const limit = mostAttendants
	state := madeUp(limit + 1000)
	for name, source := range map[string]func(context.Context, muxrpc.None) iter.Seq2[any, error]{
		"one by one": func(ctx context.Context, _ muxrpc.None) iter.Seq2[any, error] {
			return func(yield func(any, error) bool) {
				for _, id := range state {
					if !yield(map[string]any{"type": "joined", "id": id}, nil) {
						return
					}
				}
				<-ctx.Done()
			}
		},
		"at once": items(map[string]any{"type": "state", "ids": state}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
			long := strings.Repeat("ü", 1<<20)
			connect(t, w.app(t, "mallory", answers(map[string]any{"room.metadata": map[string]any{"name": long}, "room.attendants": source})), alice)
			eventually(t, "the room is full", func() bool {
				rooms := attendant(alice).Rooms()
				return len(rooms) == 1 && len(rooms[0].Attendants) == limit
			})
			time.Sleep(20 * time.Millisecond)
			if r := attendant(alice).Rooms()[0]; len(r.Attendants) != limit || len(r.Name) > 256 {
				t.Errorf("%d attendants and %d bytes of name are kept", len(r.Attendants), len(r.Name))
			}
		})
	}
}

// TestRoomsTogetherCannotFillTheMemoryOfAttendants: there may be many of them, whoever dials.
func TestRoomsTogetherCannotFillTheMemoryOfAttendants(t *testing.T) {
	const rooms, limit = 5, 4 * mostAttendants
	w := newWorld()
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}))
	source := items(map[string]any{"type": "state", "ids": madeUp(mostAttendants)})
	for i := range rooms {
		connect(t, w.app(t, fmt.Sprint("mallory ", i), answers(map[string]any{"room.metadata": true, "room.attendants": source})), alice)
	}
	eventually(t, "each room has said who is there", func() bool {
		kept, known := 0, attendant(alice).Rooms()
		for _, r := range known {
			kept += len(r.Attendants)
		}
		if kept > limit {
			t.Fatalf("%d attendants are kept", kept)
		}
		return len(known) == rooms && kept == limit
	})
}

// TestRoomsMayHaveSoManyTunnelsOpen: each is a connection with budgets of its own, over one that somebody else has made.
func TestRoomsMayHaveSoManyTunnelsOpen(t *testing.T) {
	for name, test := range map[string]struct {
		cfg       tunnel.Config
		weDialled bool
		want      int
	}{
		"that we have chosen": {tunnel.Config{MaxTunnels: 20}, true, 20},
		"that has chosen us":  {tunnel.Config{}, false, 16},
		"that may have few":   {tunnel.Config{MaxTunnels: 2}, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			portal := w.app(t, "portal", room.Plugin(room.Config{}))
			alice := w.app(t, "alice", tunnel.Plugin(test.cfg))
			if test.weDialled {
				connect(t, alice, portal)
			} else {
				connect(t, portal, alice)
			}
			inRoom(t, portal, alice)
			link := portal.PeersOf(alice.ID())[0]
			var streams []*muxrpc.Stream[[]byte, []byte]
			for range test.want + 1 {
				s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), link, "tunnel.connect", map[string]any{"target": ref(t, "alice"), "origin": ref(t, "bob")})
				if err != nil {
					t.Fatal(err)
				}
				streams = append(streams, s)
			}
			var refused atomic.Int32
			for _, s := range streams {
				go func() {
					_, err := s.Recv(t.Context())
					if remote, ok := errors.AsType[*muxrpc.RemoteError](err); ok && remote.Message == "too many tunnels are open" {
						refused.Add(1)
					}
				}()
			}
			eventually(t, "one is refused", func() bool { return refused.Load() > 0 })
			time.Sleep(50 * time.Millisecond) // for others, which there must not be
			if n := refused.Load(); n != 1 {
				t.Errorf("%d of %d are refused", n, len(streams))
			}
		})
	}
}

// TestTunnelsDoNotComeThroughTunnels: a room is known by its connection; its key at the end of a tunnel is not enough.
func TestTunnelsDoNotComeThroughTunnels(t *testing.T) {
	w := newWorld()
	portal := w.app(t, "portal", room.Plugin(room.Config{}))
	met := make(chan *secretstack.Peer, 1)
	alice := w.app(t, "alice", tunnel.Plugin(tunnel.Config{}), greeter(met))
	connect(t, alice, portal)
	inRoom(t, portal, alice)
	s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), portal.PeersOf(alice.ID())[0], "tunnel.connect",
		map[string]any{"target": ref(t, "alice"), "origin": ref(t, "portal")})
	if err != nil {
		t.Fatal(err)
	}
	inner := muxrpc.New(t.Context(), handshake(t, s, identity(t, "portal"), alice.ID()), muxrpc.Options{})
	defer inner.Abort(nil)
	if p := <-met; !p.Key().Equal(portal.ID()) {
		t.Fatalf("alice takes the other side for %s", p.Key())
	}
	nested, err := muxrpc.Duplex[[]byte, []byte](t.Context(), inner, "tunnel.connect", map[string]any{"target": ref(t, "alice"), "origin": ref(t, "bob")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = nested.Recv(t.Context())
	wantErr(t, err, "could not connect to "+ref(t, "alice"))
}

// TestRoomsThatSayTooMuchAreNotFollowed: what is short on the wire may be long in memory.
func TestRoomsThatSayTooMuchAreNotFollowed(t *testing.T) {
	w := newWorld()
	left := make(chan bool, 1)
	flood := func(context.Context, muxrpc.None) iter.Seq2[any, error] {
		return func(yield func(any, error) bool) {
			for range 20 {
				if !yield(map[string]any{"type": "state", "ids": make([]string, 1<<20)}, nil) {
					left <- true
					return
				}
			}
			left <- false
		}
	}
	portal := w.app(t, "portal", answers(map[string]any{"room.metadata": true, "room.attendants": flood}))
	connect(t, w.app(t, "alice", tunnel.Plugin(tunnel.Config{})), portal)
	if !<-left {
		t.Error("all of it was taken")
	}
}
