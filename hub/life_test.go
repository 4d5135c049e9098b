package hub_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

func TestConfigurationsThatCannotBeAreErrors(t *testing.T) {
	for says, cfg := range map[string]hub.Config{
		"Dir":     {Domain: "x.org"},
		"Domain":  {Dir: "x", Domain: "https://x.org"},
		"Landing": {Dir: "x", Landing: "x.org"},
		"Mode":    {Dir: "x", Mode: "ajar"},
		"Listen":  {Dir: "x", Listen: []string{"8433"}},
	} {
		if _, err := hub.New(t.Context(), cfg); !errors.Is(err, hub.ErrConfig) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %s", err, says)
		}
	}
}

func TestTwoHubsDoNotShareAFolderOrAPort(t *testing.T) {
	h := start(t, hub.Config{})
	_, err := hub.New(t.Context(), hub.Config{Dir: h.dir, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, registry.ErrLocked) {
		t.Errorf("the same folder: %v", err)
	}
	_, err = hub.New(t.Context(), hub.Config{Dir: t.TempDir(), Listen: []string{h.addr}, Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("the same port: %v", err)
	}
}

func TestServeIsCalledOnceAndNotAfterTheEnd(t *testing.T) {
	h := start(t, hub.Config{})
	if err := h.Serve(t.Context()); err == nil {
		t.Error("a second time")
	}
	h.end()
	if err := h.Serve(t.Context()); !errors.Is(err, hub.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	quiet, err := hub.New(t.Context(), hub.Config{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := quiet.Serve(t.Context()); err == nil {
		t.Error("without a listener")
	}
	if err := quiet.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestAHubMountedInAnotherServerDoesAllThere: no port of its own is needed.
func TestAHubMountedInAnotherServerDoesAllThere(t *testing.T) {
	h, err := hub.New(t.Context(), hub.Config{Dir: t.TempDir(), Domain: domain, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	server := httptest.NewServer(h)
	defer server.Close()
	place := strings.TrimPrefix(server.URL, "http://")
	r := &running{Hub: h, t: t, addr: place}
	c := newCourier(t, "alice", r, hubclient.Config{
		Handler: says("alice"), Hubs: []hubclient.Hub{{Address: "ws://" + place + "/~shs:" + h.About().Key.Base64()}},
	})
	s := c.online(t)
	if status, body := get(t, r.visitor(), s.URL); status != 200 || !strings.HasPrefix(body, "alice") {
		t.Errorf("%d %q", status, body)
	}
	if got := h.Couriers(); len(got) != 1 || !got[0].Addr.IsLoopback() || got[0].Received == 0 {
		t.Errorf("connected are %+v", got)
	}
	if got := strings.Join(h.Addresses(), " "); got != "ws://"+domain+"~shs:"+h.About().Key.Base64() {
		t.Errorf("it says that it is at %s", got)
	}
}

func TestAHubWithoutADomainServesItsOwnMachine(t *testing.T) {
	dir := t.TempDir()
	h, err := hub.New(t.Context(), hub.Config{Dir: dir, Listen: []string{"127.0.0.1:0"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Hub: h, t: t, dir: dir, addr: h.Addrs()[0].String(), done: make(chan error, 1)}
	r.serve()
	s := newCourier(t, "alice", r, hubclient.Config{Handler: says("alice")}).online(t)
	if want := "http://" + s.ID.String() + ".localhost:" + r.addr[len("127.0.0.1:"):]; s.URL != want {
		t.Errorf("it is at %s, want %s", s.URL, want)
	}
	if status, _ := get(t, r.visitor(), s.URL); status != 200 {
		t.Errorf("a visitor gets %d", status)
	}
	addresses := h.Addresses()
	if len(addresses) != 2 || !strings.HasPrefix(addresses[0], "net:127.0.0.1:") || !strings.HasPrefix(addresses[1], "ws://127.0.0.1:") {
		t.Errorf("it says that it is at %v", addresses)
	}
}

// TestDrainTellsCouriersAndFinishesWhatRuns: nobody loses anything.
func TestDrainTellsCouriersAndFinishesWhatRuns(t *testing.T) {
	dir := t.TempDir()
	old := start(t, hub.Config{Dir: dir, DrainPause: time.Millisecond})
	began, finish := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(began)
			<-finish
		}
		_, _ = io.WriteString(w, "done")
	})
	c := newCourier(t, "alice", old, hubclient.Config{Handler: handler})
	s := c.online(t)
	answered := make(chan string, 1)
	go func() {
		_, body := get(t, old.visitor(), s.URL+"/slow")
		answered <- body
	}()
	<-began
	drained := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() { drained <- old.Drain(ctx) }()
	c.await(t, "told", func(s hubclient.Status) bool { return !s.Online })
	if _, err := net.DialTimeout("tcp", old.addr, time.Second); err == nil {
		eventually(t, "the port is closed", func() bool {
			conn, err := net.DialTimeout("tcp", old.addr, time.Second)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		})
	}
	if !old.Status().Draining {
		t.Error("it does not say that it drains")
	}
	close(finish)
	if body := <-answered; body != "done" {
		t.Errorf("the visitor got %q", body)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	next := start(t, hub.Config{Dir: dir, Listen: []string{old.addr}})
	if again := c.online(t); again.ID != s.ID {
		t.Errorf("it comes back as %s", again.ID)
	}
	if status, _ := get(t, next.visitor(), s.URL); status != 200 {
		t.Errorf("then a visitor gets %d", status)
	}
}

func TestDrainLeadsCouriersElsewhere(t *testing.T) {
	elsewhere := start(t, hub.Config{}) // the same key, as a second process that takes over has
	h := start(t, hub.Config{DrainTo: elsewhere.address()})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice"), RetryMin: time.Hour, RetryMax: time.Hour})
	c.online(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.Drain(ctx); err != nil {
		t.Error(err)
	}
	eventually(t, "the courier is elsewhere", func() bool { return len(elsewhere.Couriers()) == 1 })
}

func TestDrainDoesNotWaitForEver(t *testing.T) {
	h := start(t, hub.Config{})
	there := make(chan struct{})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: waits(there)})
	s := c.online(t)
	ended := make(chan error, 1)
	go func() {
		res, err := h.visitor().Get(s.URL)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		ended <- err
	}()
	<-there
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	began := time.Now()
	if err := h.Drain(ctx); err != nil {
		t.Error(err)
	}
	<-ended // with whatever: it has ended
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

func TestNothingIsLeftOfAHub(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		h := start(t, hub.Config{})
		c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
		s := c.online(t)
		visitor := h.visitor()
		get(t, visitor, s.URL)
		visitor.CloseIdleConnections()
		if err := c.app.Close(context.Background()); err != nil {
			t.Error(err)
		}
		h.end()
	}()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+3 }) // of the test's own HTTP client
}

// controlled connects to the control socket of a hub.
func controlled(t *testing.T, h *running) *secretstack.Peer {
	t.Helper()
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(secretstack.TransportPlugin(unix.New(unix.Options{})), secretstack.NoAuthPlugin()); err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{Logger: slog.New(slog.DiscardHandler), Connections: &multiserver.Config{
		Outgoing: map[string][]multiserver.Outgoing{"unix": {{Transform: "noauth"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Close(context.Background()) })
	return connect(t, app, "unix:"+filepath.Join(h.dir, "control", "socket")+"~noauth")
}

// shortDir is a folder whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hub") //nolint:usetesting // its names are too long for that
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestTheOwnerOfTheFolderGetsABackupOfARunningHub(t *testing.T) {
	h := start(t, hub.Config{Dir: shortDir(t), Control: true})
	s := newCourier(t, "alice", h, hubclient.Config{}).online(t)
	p := controlled(t, h)
	status, err := muxrpc.Call[hub.ControlStatus](t.Context(), p, "hubControl.status")
	if err != nil || status.Records != 1 || status.Native != 1 || status.Peers != 1 || !status.Key.Equal(h.About().Key) ||
		len(status.Addresses) == 0 || status.Mode != admission.ModeOpen || status.Problem != "" {
		t.Errorf("%+v, %v", status, err)
	}
	r, w := io.Pipe()
	go func() {
		for chunk, err := range muxrpc.Source[[]byte](t.Context(), p, "hubControl.backup") {
			if err != nil {
				_ = w.CloseWithError(err)
				return
			}
			_, _ = w.Write(chunk)
		}
		_ = w.Close()
	}()
	restored := filepath.Join(t.TempDir(), "restored")
	archive, err := hub.Restore(t.Context(), r, restored)
	if err != nil || archive.Records != 1 || !archive.Hub.Equal(h.About().Key) {
		t.Fatalf("%+v, %v", archive, err)
	}
	again := start(t, hub.Config{Dir: restored})
	bob := connect(t, peer(t, "bob"), again.address())
	if who, err := call[native.Who](t, bob, native.MethodWhois, native.WhoisRequest{ID: s.ID}); err != nil || who.Online {
		t.Errorf("the restored hub says %+v, %v", who, err)
	}
	// Peers with a key, whichever, are not the owner.
	if _, err := muxrpc.Call[any](t.Context(), bob, "hubControl.status"); err == nil {
		t.Error("a peer may control the hub")
	}
}
