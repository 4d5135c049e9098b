package hub_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

// These tests break something while a visitor waits. Each visitor gets an answer, or the end of its connection, in bounded
// time: the client's own patience is a minute.

// answered returns the status of an answer, 0 for a connection that ended without one, and whether the body was whole.
func answered(t *testing.T, client *http.Client, url string) (status int, body string, whole bool) {
	t.Helper()
	res, err := client.Get(url)
	if err != nil {
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			t.Errorf("%s: nobody answers", url)
		}
		return 0, "", false
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Errorf("%s: the answer does not end", url)
	}
	return res.StatusCode, string(text), err == nil
}

func TestACourierThatDiesBeforeItsAnswerIs502Or503(t *testing.T) {
	h := start(t, hub.Config{})
	var die func()
	c := newCourier(t, "alice", h, hubclient.Config{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { die() })})
	s := c.online(t)
	die = func() {
		for _, p := range c.app.Peers() {
			p.Abort(nil)
		}
	}
	for range 3 {
		c.online(t)
		if status, body, _ := answered(t, h.visitor(), s.URL); status != 502 && status != 503 || !strings.Contains(body, "status_code") {
			t.Errorf("%d %q", status, body)
		}
	}
}

func TestACourierThatDiesDuringItsAnswerCutsItOff(t *testing.T) {
	h := start(t, hub.Config{})
	var die func()
	c := newCourier(t, "alice", h, hubclient.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 1<<20))
		_ = http.NewResponseController(w).Flush()
		die()
		<-r.Context().Done()
	})})
	s := c.online(t)
	die = func() {
		for _, p := range c.app.Peers() {
			p.Abort(nil)
		}
	}
	if status, _, whole := answered(t, h.visitor(), s.URL); status == 200 && whole {
		t.Error("half an answer is taken for a whole one")
	}
}

func TestACourierThatDiesAfterItsAnswerIsAway(t *testing.T) {
	h := start(t, hub.Config{})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
	s := c.online(t)
	visitor := h.visitor()
	if status, _ := get(t, visitor, s.URL); status != 200 {
		t.Fatalf("%d", status)
	}
	if err := c.app.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if status, body, _ := answered(t, visitor, s.URL); status != 503 && status != 502 {
		t.Errorf("%d %q", status, body)
	}
	eventually(t, "it is away", func() bool {
		status, _, _ := answered(t, visitor, s.URL)
		return status == 503
	})
}

// badCourier publishes itself and serves hubclient.http in its own way; nil: not at all.
func badCourier(t *testing.T, h *running, serve func(ctx context.Context, s *muxrpc.Stream[[]byte, []byte]) error) native.Published {
	t.Helper()
	info := secretstack.Info{Name: "hubclient"}
	if serve != nil {
		info.Permissions = secretstack.Anonymous("http")
	}
	plugin := secretstack.NewPlugin(info, func(_ context.Context, s *secretstack.Setup) error {
		if serve == nil {
			return nil
		}
		return muxrpc.HandleDuplex(s, "http", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[[]byte, []byte]) error {
			return serve(ctx, s)
		})
	})
	p := connect(t, peer(t, "mallory", plugin), h.address())
	answer, err := call[native.Published](t, p, native.MethodPublish, native.PublishRequest{
		Signed: signed(t, identity(t, "mallory"), claim.Statement{Hub: h.About().Key, Action: claim.Register}),
		Serves: []string{native.ServesHTTP},
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// silent takes what the hub sends, and says nothing more.
func silent(ctx context.Context, s *muxrpc.Stream[[]byte, []byte]) error {
	for {
		if _, err := s.Recv(ctx); err != nil {
			return nil
		}
	}
}

func TestCouriersThatMisbehaveAreAnsweredFor(t *testing.T) {
	const soon = 200 * time.Millisecond
	for name, c := range map[string]struct {
		serve  func(ctx context.Context, s *muxrpc.Stream[[]byte, []byte]) error
		status []int
		limits hub.Limits
	}{
		"silent":             {silent, []int{504}, hub.Limits{ResponseTimeout: soon}},
		"refuses":            {func(context.Context, *muxrpc.Stream[[]byte, []byte]) error { return muxrpc.Errorf("no") }, []int{502}, hub.Limits{}},
		"without the method": {nil, []int{502}, hub.Limits{}},
		"garbage": {func(ctx context.Context, s *muxrpc.Stream[[]byte, []byte]) error {
			_ = s.Send(ctx, []byte("I am no HTTP server\r\n\r\n"))
			return silent(ctx, s)
		}, []int{502}, hub.Limits{}},
		"half a header": {func(ctx context.Context, s *muxrpc.Stream[[]byte, []byte]) error {
			_ = s.Send(ctx, []byte("HTTP/1.1 200 OK\r\nX: y"))
			return silent(ctx, s)
		}, []int{502, 504}, hub.Limits{ResponseTimeout: soon}},
		"half a body": {func(ctx context.Context, s *muxrpc.Stream[[]byte, []byte]) error {
			_ = s.Send(ctx, []byte("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"))
			return silent(ctx, s)
		}, []int{0, 200}, hub.Limits{BodyTimeout: soon}},
		"talks unasked": {func(ctx context.Context, s *muxrpc.Stream[[]byte, []byte]) error {
			for range 1000 {
				_ = s.Send(ctx, []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			}
			return silent(ctx, s)
		}, []int{200, 502}, hub.Limits{SendTimeout: soon}},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, hub.Config{Limits: c.limits})
			answer := badCourier(t, h, c.serve)
			for range 3 {
				status, body, whole := answered(t, h.visitor(), answer.URL)
				ok := false
				for _, want := range c.status {
					ok = ok || status == want
				}
				if !ok || name == "half a body" && whole {
					t.Errorf("%d %q", status, body)
				}
			}
		})
	}
}

// frozenNet passes bytes until it is frozen; then its connections stay open, and nothing passes.
type frozenNet struct {
	ln     net.Listener
	frozen chan struct{}
	ends   sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func newFrozenNet(t *testing.T, to string) *frozenNet {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &frozenNet{ln: ln, frozen: make(chan struct{})}
	f.ends.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			f.mu.Lock()
			f.conns = append(f.conns, a, b)
			f.mu.Unlock()
			f.ends.Go(func() { f.pass(a, b) })
			f.ends.Go(func() { f.pass(b, a) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		f.mu.Lock()
		for _, c := range f.conns {
			_ = c.Close()
		}
		f.mu.Unlock()
		f.ends.Wait()
	})
	return f
}

func (f *frozenNet) pass(to, from net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		select {
		case <-f.frozen:
			return // open, and silent
		default:
		}
		if err != nil {
			_ = to.Close()
			return
		}
		_, _ = to.Write(buf[:n])
	}
}

// TestAConnectionThatIsHalfOpenIsLeftInTime: both ends believe in it, and nothing passes.
func TestAConnectionThatIsHalfOpenIsLeftInTime(t *testing.T) {
	h := start(t, hub.Config{Limits: hub.Limits{ResponseTimeout: 3 * time.Second}})
	between := newFrozenNet(t, h.addr)
	key := "~shs:" + h.About().Key.Base64()
	c := newCourier(t, "alice", h, hubclient.Config{
		Handler: says("alice"), DeadAfter: time.Second,
		Hubs: []hubclient.Hub{{Address: "net:" + between.ln.Addr().String() + key + ";net:" + h.addr + key}},
	})
	s := c.online(t)
	eventually(t, "a visitor is answered", func() bool {
		status, _, _ := answered(t, h.visitor(), s.URL)
		return status == 200
	})
	close(between.frozen)
	_ = between.ln.Close() // the way around is the second address
	if status, body, _ := answered(t, h.visitor(), s.URL); status != 200 && status < 500 {
		t.Errorf("the visitor of that moment gets %d %q", status, body)
	}
	eventually(t, "it has come another way", func() bool {
		status, body, _ := answered(t, h.visitor(), s.URL)
		return status == 200 && strings.HasPrefix(body, "alice")
	})
	if again := c.online(t); again.ID != s.ID {
		t.Errorf("the id is %s, and was %s", again.ID, s.ID)
	}
}

func TestGarbageEndsInTimeAndHurtsNobody(t *testing.T) {
	const soon = 300 * time.Millisecond
	h := start(t, hub.Config{Limits: hub.Limits{
		FirstBytes: soon, HandshakeTimeout: soon, HeaderTimeout: soon, Circuits: circuits.Limits{Preamble: soon},
	}})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
	s := c.online(t)
	random := rand.New(rand.NewPCG(1, 2))
	var ends sync.WaitGroup
	for _, begin := range []string{
		"", "G", "GET / HTTP/1.1\r\n", "\x16\x03\x01\x02\x00\x01\x00", "sstack-circuit/1", "PROXY TCP4 1.2.3.4 ", "SSH-2.0-x\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00", "GET / HTTP/1.1\r\nHost: hub.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
	} {
		noise := make([]byte, random.IntN(300))
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		ends.Go(func() {
			conn, err := net.Dial("tcp", h.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			_, _ = conn.Write(append([]byte(begin), noise...))
			if _, err := io.Copy(io.Discard, conn); err != nil {
				if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
					t.Errorf("%q stays open", begin)
				}
			}
		})
	}
	ends.Wait()
	eventually(t, "a visitor is answered", func() bool { // who is slow today may be cut off, and tries again
		status, _, _ := answered(t, h.visitor(), s.URL)
		return status == 200
	})
}

// TestAFullDiskStopsNewcomersOnly: who is known comes and goes, and is visited.
func TestAFullDiskStopsNewcomersOnly(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	h := start(t, hub.Config{Dir: dir})
	c := courierIn(t, "alice", home, h, hubclient.Config{Handler: says("alice")})
	before := c.online(t)
	h.end()
	full := hub.Limits{}
	full.Registry.MinFree = 1 << 62 // more than any disk has
	h = start(t, hub.Config{Dir: dir, Listen: []string{h.addr}, Limits: full})
	if after := c.online(t); after.ID != before.ID {
		t.Errorf("who is known gets %s, and had %s", after.ID, before.ID)
	}
	if status, _ := get(t, h.visitor(), before.URL); status != 200 {
		t.Errorf("a visitor gets %d", status)
	}
	bob := newCourier(t, "bob", h, hubclient.Config{})
	s := bob.await(t, "refused", func(s hubclient.Status) bool { return s.Err != nil })
	wantCode(t, s.Err, native.Unavailable)
	if refusal, _ := errors.AsType[*native.Error](s.Err); refusal.RetryAfter == 0 || strings.Contains(refusal.Text, dir) {
		t.Errorf("he is told %+v", refusal)
	}
	if status, _ := register(t, h, "carol", nil); status != http.StatusServiceUnavailable {
		t.Errorf("a newcomer of Secrez gets %d", status)
	}
	if h.Status().Registry.Err == nil {
		t.Error("the operator is not told")
	}
}

// TestClocksThatAreWrongDecideNothing, of native couriers; those of Secrez must be right within a minute, and are told so.
func TestClocksThatAreWrongDecideNothing(t *testing.T) {
	h := start(t, hub.Config{})
	self := identity(t, "alice")
	p := connect(t, peer(t, "alice"), h.address())
	var id secrez.ID
	for _, at := range []time.Time{time.Now(), time.Unix(0, 0), time.Now().Add(100 * 365 * 24 * time.Hour), time.Now().Add(-time.Hour)} {
		s := claim.Statement{Hub: h.About().Key, Key: self.Public(), Action: claim.Register, Time: at}
		proof, err := s.Sign(self)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := call[native.Published](t, p, native.MethodPublish, native.PublishRequest{Signed: proof})
		if err != nil || !id.IsZero() && answer.ID != id {
			t.Errorf("at %v: %s, %v", at, answer.ID, err)
		}
		id = answer.ID
	}
}

// TestAHubThatIsStartedAgainUnderLoadLosesNobody: visitors get an answer or an error at once, and then answers again.
func TestAHubThatIsStartedAgainUnderLoadLosesNobody(t *testing.T) {
	dir := t.TempDir()
	h := start(t, hub.Config{Dir: dir})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
	s := c.online(t)
	_, g := register(t, h, "carol", nil)
	serveSocket(t, g, says("carol"))
	stop := make(chan struct{})
	var visitors sync.WaitGroup
	visitor := h.visitor()
	for range 8 {
		visitors.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				status, body, _ := answered(t, visitor, s.URL)
				if status != 0 && status != 200 && status < 500 {
					t.Errorf("%d %q", status, body)
				}
				_, _, _ = answered(t, visitor, g.URL)
			}
		})
	}
	for range 2 {
		h.end()
		h = start(t, hub.Config{Dir: dir, Listen: []string{h.addr}})
		if again := c.online(t); again.ID != s.ID {
			t.Errorf("the id is %s, and was %s", again.ID, s.ID)
		}
		eventually(t, "visitors are answered", func() bool {
			status, _, _ := answered(t, visitor, s.URL)
			return status == 200
		})
		// A courier of Secrez is there as soon as it asks again.
		status, again := register(t, h, "carol", nil)
		if status != 200 || again.ID != g.ID {
			t.Errorf("%d %+v", status, again)
		}
		serveSocket(t, again, says("carol"))
		if status, body := get(t, visitor, g.URL); status != 200 || !strings.HasPrefix(body, "carol") {
			t.Errorf("%d %q", status, body)
		}
	}
	close(stop)
	visitors.Wait()
}
