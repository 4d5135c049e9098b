package hub_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

// guest is a courier of Secrez.
type guest struct {
	ID    secrez.ID `json:"id"`
	Port  int       `json:"port"`
	Count int       `json:"max_conn_count"`
	URL   string    `json:"url"`
}

// register registers an identity with the v1 API.
func register(t *testing.T, r *running, name string, extra map[string]any) (int, guest) {
	t.Helper()
	account, err := secrez.FromIdentity(identity(t, name))
	if err != nil {
		t.Fatal(err)
	}
	body := map[string]any{"id": 0}
	for key, value := range extra {
		body[key] = value
	}
	payload, err := account.SignPayload(body, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return registerAs(t, r, payload)
}

// registerAs asks for an id with what somebody has signed.
func registerAs(t *testing.T, r *running, signed secrez.Signed) (int, guest) {
	t.Helper()
	query := url.Values{"payload": {signed.Payload}, "signature": {signed.Signature}}
	status, text := get(t, r.visitor(), "http://"+domain+"/api/v1/tunnel/new?"+query.Encode())
	var g guest
	if status == http.StatusOK {
		if err := json.Unmarshal([]byte(text), &g); err != nil {
			t.Fatal(err)
		}
	}
	return status, g
}

// serveSocket opens one raw tunnel socket, on which a server answers.
func serveSocket(t *testing.T, g guest, handler http.Handler) {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.Port))
	if err != nil {
		t.Fatal(err)
	}
	one := &oneConn{conn: make(chan net.Conn, 1), addr: c.LocalAddr()}
	one.conn <- c
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(one) }()
	t.Cleanup(func() { _ = server.Close() })
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn chan net.Conn
	addr net.Addr
	once sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conn
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.conn) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.addr }

// TestTheIDIsTheSameWhicheverWayTheKeyRegisters, and so is who answers: the native connection first.
func TestTheIDIsTheSameWhicheverWayTheKeyRegisters(t *testing.T) {
	h := start(t, hub.Config{})
	status, g := register(t, h, "alice", nil)
	if status != 200 || g.Count != 4 || g.Port == 0 {
		t.Fatalf("%d %+v", status, g)
	}
	serveSocket(t, g, says("guest"))
	_, body := get(t, h.visitor(), g.URL)
	contains(t, body, "guest")

	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("native")})
	s := c.online(t)
	if s.ID != g.ID || s.URL != g.URL {
		t.Errorf("by v1 it is %s at %s, natively %s at %s", g.ID, g.URL, s.ID, s.URL)
	}
	_, body = get(t, h.visitor(), s.URL)
	contains(t, body, "native")
	kinds := map[admin.Kind]int{}
	for _, c := range h.Couriers() {
		if c.ID == g.ID {
			kinds[c.Kind]++
		}
	}
	if kinds[admin.KindNative] != 1 || kinds[admin.KindSecrez] != 1 {
		t.Errorf("connected are %v", kinds)
	}
	if s := h.Status(); s.Pools != 1 || s.Sockets != 1 {
		t.Errorf("%+v", s)
	}
	// A reset, natively, takes the old id from both.
	if _, err := c.Reset(t.Context(), s.Hub); err != nil {
		t.Fatal(err)
	}
	if status, _ := get(t, h.visitor(), g.URL); status != 404 {
		t.Errorf("the old id gives %d", status)
	}
	eventually(t, "the port is closed", func() bool { return h.Status().Pools == 0 })
}

func TestTheHubAnswersForItself(t *testing.T) {
	h := start(t, hub.Config{Landing: "https://example.org/", Code: "secret", Version: "1.2.3"})
	visitor := h.visitor()
	visitor.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if status, _ := get(t, visitor, "http://"+domain+"/"); status != http.StatusFound {
		t.Errorf("the landing page: %d", status)
	}
	newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")}).online(t)
	if status, body := get(t, visitor, "http://"+domain+"/api/v1/status?code=secret"); status != 200 || !strings.Contains(body, `"tunnels":1`) {
		t.Errorf("the counts: %d %s", status, body)
	}
	if status, _ := get(t, visitor, "http://"+domain+"/nowhere"); status != 404 {
		t.Errorf("nowhere: %d", status)
	}
}

func TestCouriersOfSecrezAreAskedForInvitationsAndPutOut(t *testing.T) {
	h := start(t, hub.Config{Mode: admission.ModeInvite})
	if status, _ := register(t, h, "bob", nil); status != http.StatusForbidden {
		t.Errorf("without an invitation: %d", status)
	}
	code, _, err := h.Admission().CreateInvite(t.Context(), admission.Invite{})
	if err != nil {
		t.Fatal(err)
	}
	status, g := register(t, h, "alice", map[string]any{"invite": code})
	if status != 200 {
		t.Fatalf("with one: %d", status)
	}
	there := make(chan struct{})
	serveSocket(t, g, waits(there))
	answered := make(chan int, 1)
	go func() {
		status, _ := get(t, h.visitor(), g.URL)
		answered <- status
	}()
	<-there
	if err := h.Admission().SetRule(t.Context(), admission.Rule{Effect: admission.Deny, Subject: admission.IDSubject(g.ID)}); err != nil {
		t.Fatal(err)
	}
	if status := <-answered; status < 404 {
		t.Errorf("the visitor of that moment gets %d", status)
	}
	eventually(t, "the port is closed", func() bool { return h.Status().Pools == 0 && len(h.Couriers()) == 0 })
	if status, _ := register(t, h, "alice", nil); status != http.StatusForbidden {
		t.Errorf("then: %d", status)
	}
	if status, _ := get(t, h.visitor(), g.URL); status != 404 {
		t.Errorf("a visitor gets %d", status)
	}
}

func TestAGuestThatIsGoneIsAway(t *testing.T) {
	h := start(t, hub.Config{Limits: hub.Limits{SocketGrace: time.Millisecond}})
	_, g := register(t, h, "alice", nil)
	eventually(t, "it is gone", func() bool { return len(h.Couriers()) == 0 })
	res, err := h.visitor().Get(g.URL)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), `"status_code":503`) {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	bob := connect(t, peer(t, "bob"), h.address())
	if who, err := call[native.Who](t, bob, native.MethodWhois, native.WhoisRequest{ID: g.ID}); err != nil || who.Online {
		t.Errorf("%+v, %v", who, err)
	}
}
