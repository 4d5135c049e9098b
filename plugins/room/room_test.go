package room_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/room"
)

var (
	identity   = testkit.Identity
	leakCheck  = testkit.LeakCheck
	eventually = testkit.Eventually
)

func ref(t testing.TB, name string) string { return identity(t, name).Public().Ref() }

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

// world is a network in memory with a portal.
type world struct {
	*memnet.Network
	portal *secretstack.App
	room   *room.Room
}

func newWorld(t testing.TB, cfg room.Config, plugins ...secretstack.Plugin) *world {
	t.Helper()
	w := &world{Network: memnet.New()}
	w.portal = w.app(t, "portal", append(plugins, room.Plugin(cfg))...)
	w.room, _ = secretstack.Find[*room.Room](w.portal)
	return w
}

// app starts an app in the world.
func (w *world) app(t testing.TB, name string, plugins ...secretstack.Plugin) *secretstack.App {
	t.Helper()
	stack := secretstack.New(secretstack.Options{Bare: true})
	if err := stack.Use(append(plugins, memnet.Plugin(w.Network))...); err != nil {
		t.Fatal(err)
	}
	return start(t, stack, secretstack.Config{
		Identity: identity(t, name),
		Logger:   slog.New(slog.DiscardHandler),
		Settings: secretstack.Settings{"memory": map[string]any{"name": name}},
	})
}

// guest starts an app and connects it to the portal.
func (w *world) guest(t testing.TB, name string, plugins ...secretstack.Plugin) *secretstack.Peer {
	t.Helper()
	return w.visit(t, w.app(t, name, plugins...))
}

func (w *world) visit(t testing.TB, app *secretstack.App) *secretstack.Peer {
	t.Helper()
	p, err := app.Connect(t.Context(), w.portal.Address("device"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// announced is a guest who can be reached through the room.
func (w *world) announced(t testing.TB, name string, plugins ...secretstack.Plugin) *secretstack.Peer {
	t.Helper()
	p := w.guest(t, name, plugins...)
	if ok, err := muxrpc.Call[bool](t.Context(), p, "tunnel.announce", nil); !ok || err != nil {
		t.Fatalf("announce: %v, %v", ok, err)
	}
	return p
}

func wantErr(t testing.TB, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error is %v, want one with %q", err, text)
	}
}

// collect sends the items of a source to a channel, which is closed when it ends.
func collect[T any](ctx context.Context, p *secretstack.Peer, method string) <-chan T {
	items := make(chan T, 64)
	go func() {
		defer close(items)
		for item, err := range muxrpc.Source[T](ctx, p, method) {
			if err != nil {
				return
			}
			items <- item
		}
	}()
	return items
}

func TestRoomSaysWhatItIs(t *testing.T) {
	for _, test := range []struct {
		name           string
		cfg            room.Config
		isRoom, answer string
	}{
		{"named", room.Config{Name: "My Room", Description: "desc"},
			`{"name":"My Room","description":"desc"}`, `{"name":"My Room","membership":false,"features":["tunnel","room1"]}`},
		{"without a name", room.Config{}, `true`, `{"name":"","membership":false,"features":["tunnel","room1"]}`},
		{"of members", room.Config{Member: func(key keys.PublicKey) bool { return key.Ref() == ref(t, "alice") }},
			`true`, `{"name":"","membership":true,"features":["tunnel","room1"]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			alice := newWorld(t, test.cfg).guest(t, "alice")
			for method, want := range map[string]string{"tunnel.isRoom": test.isRoom, "room.metadata": test.answer} {
				got, err := muxrpc.Call[json.RawMessage](t.Context(), alice, method)
				if err != nil || string(got) != want {
					t.Errorf("%s: %s, %v; want %s", method, got, err, want)
				}
			}
		})
	}
}

func TestSettingsGoOverTheConfig(t *testing.T) {
	stack := secretstack.New(secretstack.Options{Bare: true, Settings: secretstack.Settings{
		"room":   map[string]any{"name": "Other"},
		"memory": map[string]any{"name": "portal"},
	}})
	if err := stack.Use(room.Plugin(room.Config{Name: "My Room", Description: "desc"}), memnet.Plugin(memnet.New())); err != nil {
		t.Fatal(err)
	}
	app := start(t, stack, secretstack.Config{Identity: identity(t, "portal")})
	got, err := muxrpc.Call[json.RawMessage](t.Context(), app.Self(), "tunnel.isRoom")
	if err != nil || string(got) != `{"name":"Other","description":"desc"}` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestPingAnswersMilliseconds(t *testing.T) {
	alice := newWorld(t, room.Config{}).guest(t, "alice")
	got, err := muxrpc.Call[int64](t.Context(), alice, "tunnel.ping")
	if off := time.Since(time.UnixMilli(got)); err != nil || off < 0 || off > time.Minute {
		t.Errorf("%d, %v", got, err)
	}
}

func TestManifestHasWhatRoomsHave(t *testing.T) {
	m := newWorld(t, room.Config{}).portal.Manifest()
	for method, want := range map[string]muxrpc.CallType{
		"tunnel.isRoom": muxrpc.TypeAsync, "tunnel.announce": muxrpc.TypeSync, "tunnel.leave": muxrpc.TypeSync,
		"tunnel.endpoints": muxrpc.TypeSource, "tunnel.connect": muxrpc.TypeDuplex, "tunnel.ping": muxrpc.TypeSync,
		"room.metadata": muxrpc.TypeAsync, "room.attendants": muxrpc.TypeSource,
	} {
		if got := m.Lookup(strings.Split(method, ".")...); got != want {
			t.Errorf("%s is %q, want %q", method, got, want)
		}
	}
}

func TestAnnounceAndLeave(t *testing.T) {
	w := newWorld(t, room.Config{})
	alice := w.announced(t, "alice")
	if got := w.room.Attendants(); !slices.Equal(got, []string{ref(t, "alice")}) {
		t.Errorf("attendants %v", got)
	}
	if ok, err := muxrpc.Call[bool](t.Context(), alice, "tunnel.leave"); !ok || err != nil {
		t.Errorf("leave: %v, %v", ok, err)
	}
	if got := w.room.Attendants(); len(got) != 0 {
		t.Errorf("attendants %v", got)
	}
	if _, err := muxrpc.Call[bool](t.Context(), alice, "tunnel.leave"); err != nil {
		t.Error("leaving again:", err)
	}
}

func TestEndpointsComeAtOnceOnChangeAndNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, room.Config{})
		alice, bob := w.guest(t, "alice"), w.guest(t, "bob")
		began := time.Now()
		next := func(lists <-chan []string, want ...string) time.Duration {
			t.Helper()
			if got := <-lists; !slices.Equal(got, want) {
				t.Errorf("endpoints %v, want %v", got, want)
			}
			return time.Since(began).Round(time.Millisecond)
		}
		lists := collect[[]string](t.Context(), alice, "tunnel.endpoints")
		if at := next(lists, ref(t, "alice")); at != 0 {
			t.Errorf("the first list came after %v", at)
		}
		if at := next(lists, ref(t, "alice")); at != 10*time.Second {
			t.Errorf("the list was repeated after %v", at)
		}
		time.Sleep(5 * time.Second)
		collect[[]string](t.Context(), bob, "tunnel.endpoints") // announces bob
		if at := next(lists, ref(t, "alice"), ref(t, "bob")); at != 15*time.Second {
			t.Errorf("bob was in the list after %v", at)
		}
		time.Sleep(time.Second)
		bob.Abort(nil)
		if at := next(lists, ref(t, "alice")); at < 16*time.Second || at > 18*time.Second {
			t.Errorf("bob was out of the list after %v", at)
		}
	})
}

// TestEndpointsOfManyChangesAreOneList: when many come at once, nobody gets as many lists.
func TestEndpointsOfManyChangesAreOneList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, room.Config{})
		lists := collect[[]string](t.Context(), w.guest(t, "alice"), "tunnel.endpoints")
		<-lists
		for i := range 50 {
			w.announced(t, fmt.Sprint("guest ", i))
		}
		if got := <-lists; len(got) != 51 {
			t.Errorf("the next list has %d", len(got))
		}
	})
}

type attendantsEvent struct {
	Type string
	IDs  []string
	ID   string
}

func TestAttendantsGivesTheStateThenWhoComesAndGoes(t *testing.T) {
	w := newWorld(t, room.Config{})
	alice := w.guest(t, "alice")
	events := collect[json.RawMessage](t.Context(), alice, "room.attendants")
	want := func(want string) {
		t.Helper()
		if got := <-events; string(got) != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
	want(`{"type":"state","ids":["` + ref(t, "alice") + `"]}`)
	bob := w.announced(t, "bob")
	want(`{"type":"joined","id":"` + ref(t, "bob") + `"}`)
	bob.Abort(nil)
	want(`{"type":"left","id":"` + ref(t, "bob") + `"}`)
	if _, err := muxrpc.Call[bool](t.Context(), alice, "tunnel.leave"); err != nil {
		t.Error(err)
	}
	want(`{"type":"left","id":"` + ref(t, "alice") + `"}`)
}

// TestDefectC5PresenceEndsOncePerSession: state was removed for each method that was called, and "left" came as often.
func TestDefectC5PresenceEndsOncePerSession(t *testing.T) {
	w := newWorld(t, room.Config{})
	events := collect[attendantsEvent](t.Context(), w.guest(t, "alice"), "room.attendants")
	<-events
	app := w.app(t, "bob")
	first, second := w.visit(t, app), w.visit(t, app)
	for _, p := range []*secretstack.Peer{first, second} {
		<-collect[[]string](t.Context(), p, "tunnel.endpoints")
		<-collect[attendantsEvent](t.Context(), p, "room.attendants")
		if _, err := muxrpc.Call[bool](t.Context(), p, "tunnel.announce"); err != nil {
			t.Error(err)
		}
	}
	first.Abort(nil)
	eventually(t, "bob is connected once", func() bool { return len(w.portal.PeersOf(app.ID())) == 1 })
	if got := w.room.Attendants(); !slices.Contains(got, app.ID().Ref()) {
		t.Error("bob has left with one of two sessions")
	}
	second.Abort(nil)
	var got []string
	until := func(last string) {
		t.Helper()
		for e := range events {
			got = append(got, e.Type+" "+e.ID[:3])
			if got[len(got)-1] == last {
				return
			}
		}
	}
	bob, other := ref(t, "bob")[:3], ref(t, "carol")[:3]
	until("left " + bob)
	carol := w.announced(t, "carol")
	until("joined " + other)
	carol.Abort(nil)
	until("left " + other)
	want := []string{"joined " + bob, "left " + bob, "joined " + other, "left " + other}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// TestDefectC5PeersThatAreGoneAreNotListed: they stayed on the list, and could not be connected to.
func TestDefectC5PeersThatAreGoneAreNotListed(t *testing.T) {
	w := newWorld(t, room.Config{})
	for i := range 20 {
		p := w.guest(t, fmt.Sprint("guest ", i))
		go func() { _, _ = muxrpc.Call[bool](context.Background(), p, "tunnel.announce") }()
		p.Abort(nil) // while it announces itself
	}
	eventually(t, "nobody is here", func() bool { return len(w.portal.Peers()) == 0 && len(w.room.Attendants()) == 0 })
}

// TestDefectC3StalledSubscriberHoldsNobodyUp: whoever did not read its events stopped those of all others.
func TestDefectC3StalledSubscriberHoldsNobodyUp(t *testing.T) {
	w := newWorld(t, room.Config{})
	stalled := dialRaw(t, w, "mallory")
	defer stalled.Close()
	request := `{"name":["room","attendants"],"args":[],"type":"source"}`
	stalled.Write(append([]byte{0x0a, 0, 0, 0, byte(len(request)), 0, 0, 0, 1}, request...)) // and never reads
	eventually(t, "mallory is here", func() bool { return len(w.room.Attendants()) == 1 })
	events := collect[attendantsEvent](t.Context(), w.guest(t, "alice"), "room.attendants")
	<-events
	for i := range 5 {
		name := fmt.Sprint("guest ", i)
		p := w.announced(t, name)
		joined := <-events
		p.Abort(nil)
		left := <-events
		if joined.ID != ref(t, name) || left.ID != ref(t, name) {
			t.Fatalf("events %+v and %+v", joined, left)
		}
	}
}

// dialRaw connects to the portal with the key of name, and gives the bytes.
func dialRaw(t testing.TB, w *world, name string) io.ReadWriteCloser {
	t.Helper()
	conn, err := w.Dial(t.Context(), address(w.portal))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	conn.Write(identity(t, name).Public().Bytes())
	if _, err := io.ReadFull(conn, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestComingAndGoingAllTheTimeCostsLittle: each change is told to everybody, so that they must not be many.
func TestComingAndGoingAllTheTimeCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, room.Config{})
		var items atomic.Int32
		alice := w.guest(t, "alice")
		go func() {
			for range muxrpc.Source[json.RawMessage](context.Background(), alice, "room.attendants") {
				items.Add(1)
			}
		}()
		mallory := w.guest(t, "mallory")
		began := time.Now()
		for range 100 {
			for _, method := range []string{"tunnel.announce", "tunnel.leave"} {
				if _, err := muxrpc.Call[bool](t.Context(), mallory, method); err != nil {
					t.Fatal(err)
				}
			}
		}
		if took := time.Since(began); took < 99*time.Second {
			t.Errorf("mallory came a hundred times in %v", took)
		}
		// Connections that come and go are told together.
		before := items.Load()
		for i := range 200 {
			w.announced(t, fmt.Sprint("guest ", i)).Abort(nil)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := items.Load() - before; n > 100 {
			t.Errorf("alice got %d items about 400 changes within 0.2 s", n)
		}
	})
}

// TestPresenceEndsWithTheApp: sources that would go on for ever do not hold up Close.
func TestPresenceEndsWithTheApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, room.Config{})
		alice := w.guest(t, "alice")
		endpoints := collect[[]string](t.Context(), alice, "tunnel.endpoints")
		attendants := collect[attendantsEvent](t.Context(), alice, "room.attendants")
		<-endpoints
		<-attendants
		began := time.Now()
		if err := w.portal.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("closing took %v", took)
		}
		for range endpoints {
		}
		for range attendants {
		}
		if err := alice.Err(); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("alice's connection ended with %v", err)
		}
	})
}

// address is the transport part of an app's address.
func address(app *secretstack.App) multiserver.Part {
	return multiserver.ParseLoose(app.Address("device"))[0].Transport()
}
