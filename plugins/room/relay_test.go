package room_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/packetstream"
	"github.com/secretstack/secretstack/plugins/room"
)

type (
	stream   = muxrpc.Stream[[]byte, []byte]
	argument = map[string]any
)

// target is a plugin that serves tunnel.connect.
func target(serve func(ctx context.Context, arg argument, s *stream) error) secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: "tunnel", Permissions: secretstack.Anonymous("connect")},
		func(_ context.Context, s *secretstack.Setup) error { return muxrpc.HandleDuplex(s, "connect", serve) })
}

// echo sends back what it gets.
func echo(ctx context.Context, _ argument, s *stream) error {
	for {
		b, err := s.Recv(ctx)
		if err != nil {
			return err
		}
		if err := s.Send(ctx, b); err != nil {
			return err
		}
	}
}

func open(t testing.TB, p *secretstack.Peer, target string) *stream {
	t.Helper()
	s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), p, "tunnel.connect", argument{"target": target})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantRecv(t testing.TB, s *stream, want string) {
	t.Helper()
	got, err := s.Recv(t.Context())
	if err != nil || string(got) != want {
		t.Errorf("received %q, %v; want %q", got, err, want)
	}
}

// refused returns the message of the error with which a stream ends.
func refused(t testing.TB, s *stream) string {
	t.Helper()
	b, err := s.Recv(t.Context())
	remote, ok := errors.AsType[*muxrpc.RemoteError](err)
	if !ok {
		t.Fatalf("the tunnel gave %q, %v", b, err)
	}
	return remote.Message
}

func TestTunnelsPassBothWays(t *testing.T) {
	leakCheck(t)
	w := newWorld(t, room.Config{})
	w.announced(t, "alice", target(echo))
	s := open(t, w.guest(t, "bob"), ref(t, "alice"))
	for _, text := range []string{"one", "two", strings.Repeat("long ", 20000)} {
		if err := s.Send(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
		wantRecv(t, s, text)
	}
	if n := w.room.Tunnels(); n != 1 {
		t.Errorf("%d tunnels", n)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "no tunnel", func() bool { return w.room.Tunnels() == 0 })
}

// TestValuesPassAsTheyAre: what is no bytes goes through unchanged too.
func TestValuesPassAsTheyAre(t *testing.T) {
	w := newWorld(t, room.Config{})
	w.announced(t, "alice", secretstack.NewPlugin(secretstack.Info{Name: "tunnel", Permissions: secretstack.Anonymous("connect")},
		func(_ context.Context, s *secretstack.Setup) error {
			return muxrpc.HandleDuplex(s, "connect", func(ctx context.Context, _ argument, s *muxrpc.Stream[muxrpc.Value, muxrpc.Value]) error {
				for v, err := range s.All(ctx) {
					if err != nil {
						return err
					}
					if err := s.Send(ctx, v); err != nil {
						return err
					}
				}
				return nil
			})
		}))
	s, err := muxrpc.Duplex[muxrpc.Value, muxrpc.Value](t.Context(), w.guest(t, "bob"), "tunnel.connect", argument{"target": ref(t, "alice")})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []muxrpc.Value{{Kind: muxrpc.KindString, Bytes: []byte("text")}, {Kind: muxrpc.KindJSON, Bytes: []byte(`{"a":[1]}`)}, {Kind: muxrpc.KindBuffer, Bytes: []byte{0, 1}}} {
		if err := s.Send(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Recv(t.Context()); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%v, %v; want %v", got, err, v)
		}
	}
}

// TestPortalSaysWhoCalls: the origin is the proven key, whatever the caller wrote.
func TestPortalSaysWhoCalls(t *testing.T) {
	w := newWorld(t, room.Config{})
	seen := make(chan argument, 1)
	w.announced(t, "alice", target(func(_ context.Context, arg argument, _ *stream) error {
		seen <- arg
		return nil
	}))
	bob := w.guest(t, "bob")
	_, err := muxrpc.Duplex[[]byte, []byte](t.Context(), bob, "tunnel.connect", argument{
		"target": ref(t, "alice"), "portal": ref(t, "portal"), "origin": ref(t, "carol"), "instance": 7,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := argument{"target": ref(t, "alice"), "portal": ref(t, "portal"), "origin": ref(t, "bob"), "instance": 7.0}
	if got := <-seen; !reflect.DeepEqual(got, want) {
		t.Errorf("the target is told %v, want %v", got, want)
	}
}

func TestTunnelsThatCannotBeAreRefused(t *testing.T) {
	w := newWorld(t, room.Config{})
	w.announced(t, "alice", target(echo))
	w.guest(t, "carol", target(echo)) // is here and has not announced itself
	bob := w.announced(t, "bob", target(echo))
	for name, test := range map[string]struct {
		args []any
		want string
	}{
		"nobody":         {[]any{argument{"target": ref(t, "nobody")}}, "could not connect to: " + ref(t, "nobody")},
		"not announced":  {[]any{argument{"target": ref(t, "carol")}}, "could not connect to: " + ref(t, "carol")},
		"no key":         {[]any{argument{"target": "alice"}}, "could not connect to: alice"},
		"no target":      {[]any{argument{}}, "could not connect to: "},
		"long":           {[]any{argument{"target": strings.Repeat("x", 1000)}}, "could not connect to: " + strings.Repeat("x", 100)},
		"no argument":    {nil, "opts *must* be provided"},
		"null":           {[]any{nil}, "opts *must* be provided"},
		"another portal": {[]any{argument{"target": ref(t, "alice"), "portal": ref(t, "carol")}}, "talking to the wrong room"},
		"oneself":        {[]any{argument{"target": ref(t, "bob")}}, "can't connect to self"},
		"a number":       {[]any{3}, "argument 0 is invalid: unexpected number"},
		"a wrong field":  {[]any{argument{"target": []int{1}}}, "argument 0 is invalid: unexpected array in target"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), bob, "tunnel.connect", test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if got := refused(t, s); got != test.want {
				t.Errorf("refused with %q, want %q", got, test.want)
			}
		})
	}
}

// TestDefectC1CleanEndsEndTheOtherHalf: when one half ended without an error, the other stayed open.
func TestDefectC1CleanEndsEndTheOtherHalf(t *testing.T) {
	leakCheck(t)
	t.Run("of the caller", func(t *testing.T) {
		w := newWorld(t, room.Config{})
		ended := make(chan error, 1)
		w.announced(t, "alice", target(func(ctx context.Context, _ argument, s *stream) error {
			wantRecv(t, s, "last words")
			_, err := s.Recv(context.WithoutCancel(ctx))
			ended <- err
			return nil
		}))
		s := open(t, w.guest(t, "bob"), ref(t, "alice"))
		if err := s.Send(t.Context(), []byte("last words")); err != nil {
			t.Error(err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, io.EOF) {
			t.Errorf("the target's half ended with %v", err)
		}
	})
	t.Run("of the target", func(t *testing.T) {
		w := newWorld(t, room.Config{})
		w.announced(t, "alice", target(func(ctx context.Context, _ argument, s *stream) error {
			return s.Send(ctx, []byte("last words"))
		}))
		s := open(t, w.guest(t, "bob"), ref(t, "alice"))
		wantRecv(t, s, "last words")
		if _, err := s.Recv(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("the caller's half ended with %v", err)
		}
	})
}

func TestErrorsPassThroughTheTunnel(t *testing.T) {
	leakCheck(t)
	w := newWorld(t, room.Config{})
	ended := make(chan error, 1)
	w.announced(t, "alice", target(func(ctx context.Context, _ argument, s *stream) error {
		b, err := s.Recv(context.WithoutCancel(ctx))
		if string(b) == "fail" {
			return muxrpc.Errorf("alice failed")
		}
		ended <- err
		return nil
	}))
	bob := w.guest(t, "bob")
	s := open(t, bob, ref(t, "alice"))
	if err := s.Send(t.Context(), []byte("fail")); err != nil {
		t.Error(err)
	}
	if got := refused(t, s); got != "alice failed" {
		t.Errorf("the caller is told %q", got)
	}
	s = open(t, bob, ref(t, "alice"))
	s.Abort(muxrpc.Errorf("bob gave up"))
	wantErr(t, <-ended, "bob gave up")
	eventually(t, "no tunnel", func() bool { return w.room.Tunnels() == 0 })
}

// TestDefectC5NothingLocalIsTold: what happened at the portal went to the other side, with the addresses of peers.
func TestDefectC5NothingLocalIsTold(t *testing.T) {
	leakCheck(t)
	w := newWorld(t, room.Config{})
	ended := make(chan error, 1)
	alice := w.announced(t, "alice", target(func(ctx context.Context, _ argument, s *stream) error {
		if _, err := s.Recv(ctx); err != nil {
			return err
		}
		_, err := s.Recv(context.WithoutCancel(ctx))
		ended <- err
		return nil
	}))
	bob := w.guest(t, "bob")
	first, second := open(t, bob, ref(t, "alice")), open(t, w.guest(t, "carol"), ref(t, "alice"))
	if err := second.Send(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
	if err := first.Send(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
	eventually(t, "both tunnels", func() bool { return w.room.Tunnels() == 2 })
	bob.Abort(nil)
	wantErr(t, <-ended, "the peer answered: the other end of the tunnel has gone away")
	alice.Abort(nil)
	if got := refused(t, second); got != "the other end of the tunnel has gone away" {
		t.Errorf("carol is told %q", got)
	}
}

func TestTunnelsAreLimited(t *testing.T) {
	w := newWorld(t, room.Config{MaxTunnels: 3, MaxTunnelsPerPeer: 2})
	w.announced(t, "alice", target(echo))
	bob, carol := w.guest(t, "bob"), w.guest(t, "carol")
	use := func(p *secretstack.Peer) *stream {
		s := open(t, p, ref(t, "alice"))
		_ = s.Send(t.Context(), []byte("x")) // fails when the refusal is faster
		return s
	}
	first := use(bob)
	wantRecv(t, first, "x")
	wantRecv(t, use(bob), "x")
	if got := refused(t, use(bob)); got != "too many tunnels are open" {
		t.Errorf("bob's third is refused with %q", got)
	}
	wantRecv(t, use(carol), "x")
	if got := refused(t, use(carol)); got != "too many tunnels are open" { // bob has no more than she would
		t.Errorf("carol's second is refused with %q", got)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Error(err)
	}
	eventually(t, "room for one", func() bool { return w.room.Tunnels() == 2 })
	wantRecv(t, use(carol), "x")
}

// TestDefectC2FastCallersWaitForSlowTargets: what a caller sent to a target that did not read filled the portal's memory.
func TestDefectC2FastCallersWaitForSlowTargets(t *testing.T) {
	w := newWorld(t, room.Config{})
	w.announced(t, "alice", target(func(ctx context.Context, _ argument, _ *stream) error {
		<-ctx.Done() // reads nothing
		return nil
	}))
	bob := w.guest(t, "bob")
	s := open(t, bob, ref(t, "alice"))
	var mu sync.Mutex
	sent := 0
	go func() {
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		for s.Send(context.Background(), chunk) == nil {
			mu.Lock()
			sent += len(chunk)
			mu.Unlock()
		}
	}()
	highest := 0
	for range 50 {
		time.Sleep(10 * time.Millisecond)
		for _, p := range w.portal.Peers() {
			stats := p.Stats()
			highest = max(highest, stats.Buffered+stats.Pending)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if sent > 8<<20 || highest > 4<<20 {
		t.Errorf("bob has sent %d bytes, of which the portal held %d", sent, highest)
	}
}

// TestTunnelsEndWithTheRoom: they would go on for ever, and hold up Close.
func TestTunnelsEndWithTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, room.Config{})
		w.announced(t, "alice", target(echo))
		s := open(t, w.guest(t, "bob"), ref(t, "alice"))
		if err := s.Send(t.Context(), []byte("x")); err != nil {
			t.Error(err)
		}
		wantRecv(t, s, "x")
		began := time.Now()
		if err := w.portal.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("closing took %v", took)
		}
		if got := refused(t, s); got != "the room is closing" {
			t.Errorf("the caller is told %q", got)
		}
	})
}

// TestTunnelsGoToTheLatestSession: a peer that came back while its old connection hangs can be reached.
func TestTunnelsGoToTheLatestSession(t *testing.T) {
	w := newWorld(t, room.Config{})
	answer := func(text string) secretstack.Plugin {
		return target(func(ctx context.Context, _ argument, s *stream) error { return s.Send(ctx, []byte(text)) })
	}
	// Two apps with one key stand for a peer that has come back.
	w.announced(t, "alice", answer("old"))
	again := secretstack.New(secretstack.Options{Bare: true})
	if err := again.Use(answer("new"), memnet.Plugin(w.Network)); err != nil {
		t.Fatal(err)
	}
	app := start(t, again, secretstack.Config{
		Identity: identity(t, "alice"),
		Settings: secretstack.Settings{"memory": map[string]any{"name": "alice again"}},
	})
	if _, err := muxrpc.Call[bool](t.Context(), w.visit(t, app), "tunnel.announce"); err != nil {
		t.Fatal(err)
	}
	wantRecv(t, open(t, w.guest(t, "bob"), ref(t, "alice")), "new")
}

// TestRecordedRoomOfTheOriginal plays what the attendants of a recorded JavaScript room sent, and compares what this
// room sends with what that one did.
func TestRecordedRoomOfTheOriginal(t *testing.T) {
	var vector struct {
		Packets []struct{ Mark, Link, From, Head, Hex, Body string }
	}
	text, err := os.ReadFile("testdata/08_room1_tunnel.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &vector); err != nil {
		t.Fatal(err)
	}
	// A room of the first kind, which has no method room.*.
	first := secretstack.NewPlugin(secretstack.Info{Name: "room1"}, func(_ context.Context, s *secretstack.Setup) error {
		return s.AuthHook(func(secretstack.AuthFunc) secretstack.AuthFunc {
			return func(context.Context, secretstack.Caller) (secretstack.Access, error) {
				return secretstack.Grant(muxrpc.Permissions{Allow: []string{"tunnel", "manifest"}}), nil
			}
		})
	})
	w := &world{Network: memnet.New()}
	w.portal = w.app(t, "Xj7", room.Plugin(room.Config{Name: "My Room", Description: "desc"}), first)
	portal := w.portal.ID().Ref()
	links := map[string]*link{"alice": newLink(t, w, "alice"), "bob": newLink(t, w, "bob")}
	const recorded = "@Xj7t4lY9y50kRxIA6Y27RcM1R+qt6Hzs30denotcNfU=.ed25519"
	for i, p := range vector.Packets {
		if p.Mark != "" {
			continue
		}
		body := strings.ReplaceAll(p.Body, recorded, portal)
		if p.Hex != "" {
			b, err := hex.DecodeString(p.Hex)
			if err != nil {
				t.Fatal(err)
			}
			body = string(b)
		}
		raw, err := hex.DecodeString(p.Head)
		if err != nil {
			t.Fatal(err)
		}
		h := packetstream.ParseHeader([9]byte(raw))
		if p.From == p.Link {
			links[p.Link].send(h, body)
			continue
		}
		got, ok := links[p.Link].next(h)
		if !ok || got.header.End != h.End || got.header.Type != h.Type || !same(got, body) {
			t.Fatalf("packet %d to %s: got %+v %.200s\nwant %+v %.200s", i, p.Link, got.header, got.body, h, body)
		}
	}
}

type packet struct {
	header packetstream.Header
	body   string
}

// same compares bodies; JSON may be written in another order.
func same(got packet, want string) bool {
	if got.header.Type != packetstream.JSON {
		return got.body == want
	}
	var a, b any
	return json.Unmarshal([]byte(got.body), &a) == nil && json.Unmarshal([]byte(want), &b) == nil && reflect.DeepEqual(a, b)
}

// link is a connection to the portal on which packets are written and read by hand.
type link struct {
	t    *testing.T
	conn io.Writer

	mu       sync.Mutex
	received map[string][]packet // by stream, in order
}

func newLink(t *testing.T, w *world, name string) *link {
	conn := dialRaw(t, w, name)
	t.Cleanup(func() { conn.Close() })
	l := &link{t: t, conn: conn, received: map[string][]packet{}}
	go func() {
		packets := packetstream.NewReader(conn, 1<<20)
		for {
			h, body, err := packets.Next()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.received[key(h)] = append(l.received[key(h)], packet{h, string(body)})
			l.mu.Unlock()
		}
	}()
	return l
}

func key(h packetstream.Header) string { return fmt.Sprint(h.Stream, h.ID) }

func (l *link) send(h packetstream.Header, body string) {
	l.conn.Write(packetstream.AppendPacket(nil, h, []byte(body)))
}

// next returns the next packet of the stream that h belongs to.
func (l *link) next(h packetstream.Header) (packet, bool) {
	var got packet
	found := false
	for range 12_000 {
		l.mu.Lock()
		if q := l.received[key(h)]; len(q) > 0 {
			got, found = q[0], true
			l.received[key(h)] = q[1:]
		}
		l.mu.Unlock()
		if found {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return got, found
}

// TestLongEndErrorsAreCutShort: what one end says in the end neither cuts the other's session nor fills memory.
func TestLongEndErrorsAreCutShort(t *testing.T) {
	for name, body := range map[string]packet{
		"a message":      {packetstream.Header{Type: packetstream.JSON}, `{"message":"` + strings.Repeat("x", 4<<20-14) + `"}`},
		"no UTF-8":       {packetstream.Header{Type: packetstream.JSON}, `{"message":"` + strings.Repeat("\xff", 3<<20) + `"}`},
		"no JSON at all": {packetstream.Header{Type: packetstream.String}, strings.Repeat("\x01", 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, room.Config{})
			ended := make(chan error, 1)
			alice := w.announced(t, "alice", target(func(ctx context.Context, _ argument, s *stream) error {
				_, err := s.Recv(context.WithoutCancel(ctx))
				ended <- err
				return nil
			}))
			mallory := newLink(t, w, "mallory")
			mallory.send(packetstream.Header{Stream: true, Type: packetstream.JSON, ID: 1}, openRequest(ref(t, "alice"), ""))
			mallory.send(packetstream.Header{Stream: true, End: true, Type: body.header.Type, ID: 1}, body.body)
			remote, ok := errors.AsType[*muxrpc.RemoteError](<-ended)
			if !ok || len(remote.Message) > 4<<10 {
				t.Errorf("alice is told %d bytes", len(remote.Message))
			}
			if _, err := muxrpc.Call[int64](t.Context(), alice, "tunnel.ping"); err != nil {
				t.Error(err)
			}
		})
	}
}

func openRequest(target, instance string) string {
	return fmt.Sprintf(`{"name":["tunnel","connect"],"args":[{"target":%q,"instance":%q}],"type":"duplex"}`, target, instance)
}

// TestLongRequestsAreRefused: a target would have to keep them as long as the tunnels last.
func TestLongRequestsAreRefused(t *testing.T) {
	w := newWorld(t, room.Config{})
	w.announced(t, "alice", target(echo))
	mallory := newLink(t, w, "mallory")
	for id := range int32(4) {
		h := packetstream.Header{Stream: true, Type: packetstream.JSON, ID: id + 1}
		mallory.send(h, openRequest(ref(t, "alice"), strings.Repeat("x", 4<<20-300)))
		h.ID = -h.ID
		if got, _ := mallory.next(h); !got.header.End || !strings.Contains(got.body, "the request is too long") {
			t.Errorf("answered with %+v %.100s", got.header, got.body)
		}
	}
	s := open(t, w.guest(t, "bob"), ref(t, "alice"))
	if err := s.Send(t.Context(), []byte("x")); err != nil {
		t.Error(err)
	}
	wantRecv(t, s, "x")
}

// TestTunnelsEndWhenAnEndGoesAway, though the other takes nothing, so that nobody is told.
func TestTunnelsEndWhenAnEndGoesAway(t *testing.T) {
	chunk := bytes.Repeat([]byte("x"), 63<<10)
	fill := func(ctx context.Context, s *stream) {
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		for s.Send(ctx, chunk) == nil {
		}
	}
	t.Run("the caller", func(t *testing.T) {
		w := newWorld(t, room.Config{})
		w.announced(t, "alice", target(func(ctx context.Context, _ argument, _ *stream) error {
			<-ctx.Done() // takes nothing
			return nil
		}))
		bob := w.guest(t, "bob")
		fill(t.Context(), open(t, bob, ref(t, "alice")))
		bob.Abort(nil)
		eventually(t, "no tunnel", func() bool { return w.room.Tunnels() == 0 })
	})
	t.Run("the target", func(t *testing.T) {
		w := newWorld(t, room.Config{})
		filled := make(chan struct{})
		alice := w.announced(t, "alice", target(func(ctx context.Context, _ argument, s *stream) error {
			fill(ctx, s)
			close(filled)
			<-ctx.Done()
			return nil
		}))
		open(t, w.guest(t, "bob"), ref(t, "alice")) // takes nothing
		<-filled
		alice.Abort(nil)
		eventually(t, "no tunnel", func() bool { return w.room.Tunnels() == 0 })
	})
}

// TestTunnelsMakeRoomForOthers: peers with few tunnels are served though others have taken all there are.
func TestTunnelsMakeRoomForOthers(t *testing.T) {
	w := newWorld(t, room.Config{MaxTunnels: 3})
	w.announced(t, "alice", target(echo))
	bob := w.guest(t, "bob")
	var tunnels []*stream
	for range 3 {
		s := open(t, bob, ref(t, "alice"))
		if err := s.Send(t.Context(), []byte("x")); err != nil {
			t.Error(err)
		}
		wantRecv(t, s, "x")
		tunnels = append(tunnels, s)
	}
	carols := open(t, w.guest(t, "carol"), ref(t, "alice"))
	if err := carols.Send(t.Context(), []byte("y")); err != nil {
		t.Error(err)
	}
	wantRecv(t, carols, "y")
	if got := refused(t, tunnels[0]); got != "the tunnel had to make room for others" {
		t.Errorf("bob is told %q", got)
	}
	eventually(t, "three tunnels", func() bool { return w.room.Tunnels() == 3 })
}

func TestIdleTunnelsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, room.Config{TunnelIdle: 5 * time.Minute})
		w.announced(t, "alice", target(func(ctx context.Context, arg argument, s *stream) error {
			if arg["instance"] == "mute" {
				<-ctx.Done()
				return nil
			}
			return echo(ctx, arg, s)
		}))
		bob := w.guest(t, "bob")
		s := open(t, bob, ref(t, "alice"))
		for i := range 10 {
			if i > 0 {
				time.Sleep(4 * time.Minute)
			}
			if err := s.Send(t.Context(), []byte("x")); err != nil {
				t.Fatal(err)
			}
			wantRecv(t, s, "x")
			if t.Failed() {
				return
			}
		}
		began := time.Now()
		if got := refused(t, s); got != "nothing has gone through the tunnel for too long" {
			t.Errorf("bob is told %q", got)
		}
		if took := time.Since(began); took < 5*time.Minute || took > 6*time.Minute {
			t.Errorf("after %v", took)
		}
		mute, err := muxrpc.Duplex[[]byte, []byte](t.Context(), bob, "tunnel.connect", argument{"target": ref(t, "alice"), "instance": "mute"})
		if err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		_ = mute.Send(t.Context(), []byte("hello?"))
		if got := refused(t, mute); got != "nothing has gone through the tunnel for too long" || time.Since(began) > time.Minute {
			t.Errorf("bob is told %q after %v", got, time.Since(began))
		}
	})
}
