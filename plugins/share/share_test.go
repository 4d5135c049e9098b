package share_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/share"
)

func TestASharedServiceIsReached(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	web := newService(t)
	var meter, far share.Meter
	events := make(chan share.Event, 8)
	mustShare(t, alice, share.Service{Name: "web", Dial: web.dial(), Allow: only(bob), Watch: func(e share.Event) { events <- e }, Meter: &far})
	program, over := forwarded(t, bob, share.Forward{Address: alice.ID().Ref(), Service: "web", Meter: &meter})
	server := web.accept(t)

	question, reply := bytes.Repeat([]byte("question "), 300_000), bytes.Repeat([]byte("answer "), 300_000)
	go func() {
		_, _ = program.Write(question)
		_ = program.CloseWrite()
	}()
	if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, question) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	go func() { // the other half is open
		_, _ = server.Write(reply)
		server.Close()
	}()
	if got, err := io.ReadAll(program); err != nil || !bytes.Equal(got, reply) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	if sent, received := meter.Read(); sent != uint64(len(question)) || received != uint64(len(reply)) {
		t.Errorf("counted %d, %d", sent, received)
	}
	opened, closed := <-events, <-events
	if opened.Type != share.Opened || !opened.Peer.Equal(bob.ID()) || closed.Type != share.Closed || closed.Conn != opened.Conn ||
		closed.Received != uint64(len(question)) || closed.Sent != uint64(len(reply)) || closed.Error != "" {
		t.Errorf("%+v, %+v", opened, closed)
	}
	if sent, received := far.Read(); sent != closed.Sent || received != closed.Received {
		t.Errorf("counted %d, %d", sent, received)
	}
}

func TestSeveralServicesHaveNames(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	services := map[string]*service{"one": newService(t), "two": newService(t), "three": newService(t)}
	for name, s := range services {
		allow := only(bob)
		if name == "three" {
			allow = nil
		}
		mustShare(t, alice, share.Service{Name: name, Dial: s.dial(), Allow: allow})
	}
	for _, name := range []string{"one", "two"} {
		conn, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), name)
		if err != nil {
			t.Fatal(err)
		}
		wantPassed(t, conn, services[name].accept(t), name)
		conn.Close()
	}
	names, err := bob.Services(t.Context(), alice.ID().Ref())
	if err != nil || !slices.Equal(names, []string{"one", "two"}) {
		t.Errorf("got %v, %v", names, err)
	}
	for name, want := range map[string]share.Status{"": share.Which, "three": share.Unknown, "four": share.Unknown} {
		_, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), name)
		got, ok := errors.AsType[*share.Error](err)
		if !ok || got.Status != want || !slices.Equal(got.Services, []string{"one", "two"}) || !strings.Contains(err.Error(), "one, two") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestTheOnlyServiceNeedsNoName(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	web := newService(t)
	mustShare(t, alice, share.Service{Name: "web", Dial: web.dial(), Allow: only(bob)})
	mustShare(t, alice, share.Service{Name: "other", Dial: web.dial(), Allow: only(alice)})
	conn, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), "")
	if err != nil {
		t.Fatal(err)
	}
	wantPassed(t, conn, web.accept(t), "hello")
	conn.Close()
}

func TestWhoIsNotAllowedLearnsNothing(t *testing.T) {
	x := newExchange()
	alice, bob, mallory := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{}), x.person(t, "mallory", share.Config{})
	web := newService(t)
	events := make(chan share.Event, 8)
	mustShare(t, alice, share.Service{Name: "web", Dial: web.dial(), Allow: only(bob), Watch: func(e share.Event) { events <- e }})
	for _, name := range []string{"web", "", "nothing"} {
		_, err := mallory.Shares.Connect(t.Context(), alice.ID().Ref(), name)
		if got, ok := errors.AsType[*share.Error](err); !ok || got.Status != share.Denied || got.Services != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if names, err := mallory.Services(t.Context(), alice.ID().Ref()); err == nil {
		t.Errorf("she sees %v", names)
	}
	for range 2 { // "web" and any
		if e := <-events; e.Type != share.Refused || !e.Peer.Equal(mallory.ID()) {
			t.Errorf("%+v", e)
		}
	}
	if len(web.conns) > 0 {
		t.Error("the service was connected to")
	}
}

func TestAServiceThatIsDownSaysSo(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	events := make(chan share.Event, 8)
	gone := newService(t)
	gone.Close()
	mustShare(t, alice, share.Service{Name: "web", Dial: gone.dial(), Allow: only(bob), Watch: func(e share.Event) { events <- e }})
	_, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), "web")
	if got, ok := errors.AsType[*share.Error](err); !ok || got.Status != share.Down {
		t.Errorf("got %v", err)
	}
	if e := <-events; e.Type != share.Failed || e.Error == "" {
		t.Errorf("%+v", e)
	}
}

func TestTooManyConnectionsAreRefused(t *testing.T) {
	for _, cfg := range []share.Config{{MaxConns: 2}, {MaxPerPeer: 2}} {
		x := newExchange()
		alice, bob := x.person(t, "alice", cfg), x.person(t, "bob", share.Config{})
		web := newService(t)
		mustShare(t, alice, share.Service{Name: "web", Dial: web.dial(), Allow: everybody})
		try := func() error {
			conn, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), "web")
			if err == nil {
				t.Cleanup(func() { conn.Close() })
			}
			return err
		}
		if err := errors.Join(try(), try()); err != nil {
			t.Fatal(err)
		}
		if got, ok := errors.AsType[*share.Error](try()); !ok || got.Status != share.Busy {
			t.Errorf("%+v: got %v", cfg, got)
		}
	}
}

func TestAServiceIsSharedUntilItsContextEnds(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	web := newService(t)
	ctx, cancel := context.WithCancel(t.Context())
	sv := share.Service{Name: "web", Dial: web.dial(), Allow: everybody}
	if err := alice.Share(ctx, sv); err != nil {
		t.Fatal(err)
	}
	if err := alice.Share(t.Context(), sv); !errors.Is(err, share.ErrTaken) {
		t.Errorf("shared twice: %v", err)
	}
	program, over := forwarded(t, bob, share.Forward{Address: alice.ID().Ref()})
	server := web.accept(t)
	wantPassed(t, program, server, "hello")
	cancel()
	if _, err := io.ReadAll(program); err == nil {
		t.Error("a cut was taken for the end")
	}
	if err := <-over; err == nil {
		t.Error("nobody was told")
	}
	if _, err := io.ReadAll(server); err == nil {
		t.Error("the service was told that all has arrived")
	}
	if _, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), "web"); err == nil {
		t.Error("it is still shared")
	}
	if err := alice.Share(t.Context(), sv); err != nil {
		t.Errorf("it cannot be shared again: %v", err)
	}
}

func TestACutIsNoEnd(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	web := newService(t)
	mustShare(t, alice, share.Service{Name: "web", Dial: web.dial(), Allow: everybody})
	program, over := forwarded(t, bob, share.Forward{Address: alice.ID().Ref()})
	server := web.accept(t)
	wantPassed(t, program, server, "hello")
	wantPassed(t, server, program, "hello")
	x.cut()
	if _, err := io.ReadAll(program); err == nil {
		t.Error("the program took a cut for the end")
	}
	if _, err := io.ReadAll(server); err == nil {
		t.Error("the service took a cut for the end")
	}
	if err := <-over; err == nil {
		t.Error("nobody was told")
	}
}

func TestAResetIsPassedOn(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	web := newService(t)
	mustShare(t, alice, share.Service{Name: "web", Dial: web.dial(), Allow: everybody})
	program, over := forwarded(t, bob, share.Forward{Address: alice.ID().Ref()})
	server := web.accept(t)
	wantPassed(t, program, server, "hello")
	_ = server.SetLinger(0)
	server.Close()
	if _, err := io.ReadAll(program); err == nil {
		t.Error("a reset was taken for the end")
	}
	<-over
}

func TestAPortIsForwarded(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	web := newService(t)
	mustShare(t, alice, share.Service{Name: "web", Dial: web.dial(), Allow: everybody})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan share.Event, 64)
	ctx, cancel := context.WithCancelCause(t.Context())
	over := make(chan error, 1)
	f := share.Forward{Address: alice.ID().Ref(), Service: "web", Watch: func(e share.Event) { events <- e }}
	go func() { over <- bob.Forward(ctx, ln, f) }()
	for range 3 {
		program, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer program.Close()
		wantPassed(t, program, web.accept(t), "hello")
		if e := <-events; e.Type != share.Opened || !e.Peer.Equal(alice.ID()) {
			t.Errorf("%+v", e)
		}
	}
	done := errors.New("done")
	cancel(done)
	if err := <-over; !errors.Is(err, done) {
		t.Errorf("got %v", err)
	}
	for range 3 {
		if e := <-events; e.Type != share.Closed || e.Error == "" || e.Sent != 5 {
			t.Errorf("%+v", e)
		}
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
}

func TestAForwardedConnectionThatLeadsNowhereIsReset(t *testing.T) {
	x := newExchange()
	bob := x.person(t, "bob", share.Config{})
	events := make(chan share.Event, 1)
	program, over := forwarded(t, bob, share.Forward{Address: "nowhere", Watch: func(e share.Event) { events <- e }})
	if _, err := io.ReadAll(program); err == nil {
		t.Error("the program was told that there is nothing to read")
	}
	if err := <-over; !errors.Is(err, errNobody) {
		t.Errorf("got %v", err)
	}
	if e := <-events; e.Type != share.Failed || e.Error == "" {
		t.Errorf("%+v", e)
	}
}

func TestUnixSocketsAreServicesToo(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	dir, err := os.MkdirTemp("", "share") //nolint:usetesting // the path of t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	mustShare(t, alice, share.Service{Name: "sock", Dial: share.Unix(path), Allow: everybody})
	conn, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), "sock")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	wantPassed(t, conn, server, "hello")
	_ = conn.CloseWrite()
	if rest, err := io.ReadAll(server); len(rest) > 0 || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
	server.Close()
}

func TestNamesAreChecked(t *testing.T) {
	alice := newExchange().person(t, "alice", share.Config{})
	for _, bad := range []string{"", " ", "a b", "a/b", "é", "a\n", strings.Repeat("x", 65)} {
		err := alice.Share(t.Context(), share.Service{Name: bad, Dial: share.TCP("127.0.0.1:1")})
		if !errors.Is(err, share.ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, good := range []string{"a", "3000", "localhost:3000", "My_web-1.0", strings.Repeat("x", 64)} {
		mustShare(t, alice, share.Service{Name: good, Dial: share.TCP("127.0.0.1:1")})
	}
	if err := alice.Share(t.Context(), share.Service{Name: "nothing"}); err == nil {
		t.Error("a service without Dial is shared")
	}
}

func TestAVisitorMustSayWhatItWants(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{RequestTimeout: time.Second}), x.person(t, "bob", share.Config{})
	web := newService(t)
	mustShare(t, alice, share.Service{Name: "web", Dial: web.dial(), Allow: everybody})
	way, _ := secretstack.Find[share.Streams](bob.App)
	say := func(text string) *multiserver.Conn {
		conn, err := way.DialStream(t.Context(), alice.ID().Ref(), "share")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for _, nothing := range []string{"", "\x00", "\x00\x00", "\x00\x05hello", "\xff\xff{}"} {
		if answered, _ := io.ReadAll(say(nothing)); len(answered) > 0 {
			t.Errorf("%q was answered %q", nothing, answered)
		}
	}
	conn := say("\x00\x02{}and more") // behind the request
	wantPassed(t, io.Discard, io.LimitReader(conn, 17), "\x00\x0f{\"status\":\"ok\"}")
	wantPassed(t, io.Discard, web.accept(t), "and more")
}

func TestTheOwnersProgramsShare(t *testing.T) {
	x := newExchange()
	alice, bob := x.person(t, "alice", share.Config{}), x.person(t, "bob", share.Config{})
	web := newService(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := make(chan share.Event, 64)
	ended := make(chan error, 1)
	go func() {
		for e, err := range muxrpc.Source[share.Event](ctx, alice.Self(), share.MethodPublish,
			share.Publish{Name: "web", Target: "tcp:" + web.Addr().String(), Allow: []keys.PublicKey{bob.ID()}}) {
			if err != nil {
				ended <- err
				return
			}
			events <- e
		}
		ended <- nil
	}()
	if e := <-events; e.Type != share.Shared {
		t.Fatalf("%+v", e)
	}
	conn, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), "")
	if err != nil {
		t.Fatal(err)
	}
	wantPassed(t, conn, web.accept(t), "hello")
	if e := <-events; e.Type != share.Opened || !e.Peer.Equal(bob.ID()) {
		t.Errorf("%+v", e)
	}
	if e := <-events; e.Type != share.Traffic || e.Received != 5 {
		t.Errorf("%+v", e)
	}
	cancel()
	if _, err := io.ReadAll(conn); err == nil {
		t.Error("a cut was taken for the end")
	}
	<-ended
	eventually(t, "nothing is shared", func() bool {
		_, err := bob.Shares.Connect(t.Context(), alice.ID().Ref(), "")
		return err != nil
	})
	for _, bad := range []share.Publish{
		{Name: "web", Target: "3000"}, {Name: "web", Target: "tcp:3000"}, {Name: "a b", Target: "tcp:127.0.0.1:1"},
	} {
		for _, err := range muxrpc.Source[share.Event](t.Context(), alice.Self(), share.MethodPublish, bad) {
			if _, ok := errors.AsType[*muxrpc.RemoteError](err); !ok {
				t.Errorf("%+v: %v", bad, err)
			}
			break
		}
	}
}
