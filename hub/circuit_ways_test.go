package hub_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// ring is spoken on streams of bytes: what comes goes back.
const ring = "ring"

func rings(t testing.TB, c *courier) {
	t.Helper()
	err := c.HandleStream(ring, func(_ context.Context, conn *multiserver.Conn) {
		_, _ = io.Copy(conn, conn)
		_ = conn.CloseWrite()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// to is the address of a peer at the hub, by the way in which the hub has the address.
func (r *running) to(t testing.TB, at, peer string) string {
	t.Helper()
	a, err := hubclient.CircuitAddress(multiserver.ParseLoose(at)[0], identity(t, peer).Public())
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

// wsAddress is where peers find the hub by WebSocket.
func (r *running) wsAddress() string {
	return "ws://" + r.addr + "/~shs:" + r.About().Key.Base64()
}

// newVisitor is somebody who can dial through hubs and is at none.
func newVisitor(t testing.TB, name string) *courier {
	t.Helper()
	app := peer(t, name, hubclient.Plugin(hubclient.Config{}))
	client, _ := secretstack.Find[*hubclient.Client](app)
	return &courier{client, app}
}

// talk sends through a stream and takes what comes back.
func talk(t testing.TB, conn *multiserver.Conn) {
	t.Helper()
	say := bytes.Repeat([]byte("around "), 100_000)
	go func() {
		_, _ = conn.Write(say)
		_ = conn.CloseWrite()
	}()
	if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, say) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(say), err)
	}
}

func TestPeersAreJoinedByCircuitsOverTCPAndWebSocket(t *testing.T) {
	h := start(t, hub.Config{})
	for _, way := range []struct {
		name, courier, visitor string
		inKernel               uint64
	}{
		{"both by TCP", h.address(), h.address(), 1},
		{"the courier by WebSocket", h.wsAddress(), h.address(), 0},
		{"the visitor by WebSocket", h.address(), h.wsAddress(), 0},
		{"both by WebSocket", h.wsAddress(), h.wsAddress(), 0},
	} {
		t.Run(way.name, func(t *testing.T) {
			alice := newCourier(t, "alice", h, hubclient.Config{Hubs: []hubclient.Hub{{Address: way.courier}}})
			alice.online(t)
			rings(t, alice)
			bob := newVisitor(t, "bob")
			before := h.Circuits().Stats()
			conn, err := bob.DialStream(t.Context(), h.to(t, way.visitor, "alice"), ring)
			if err != nil {
				t.Fatal(err)
			}
			talk(t, conn)
			conn.Close()
			p := connect(t, bob.app, h.to(t, way.visitor, "alice"))
			if !p.Key().Equal(alice.app.ID()) || !strings.HasPrefix(p.Address(), "circuit:") {
				t.Errorf("connected with %s at %s", p.Key(), p.Address())
			}
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			s := h.Circuits().Stats()
			if s.Joined-before.Joined != 2 || s.InKernel-before.InKernel != 2*way.inKernel {
				t.Errorf("%+v, before: %+v", s, before)
			}
			if err := alice.app.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// certificate is for 127.0.0.1.
func certificate(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}, &tls.Config{RootCAs: roots}
}

// TestEndsComeInsideTLSToo presents tokens inside TLS on the hub's port.
func TestEndsComeInsideTLSToo(t *testing.T) {
	server, client := certificate(t)
	h := start(t, hub.Config{TLS: server})
	visitor, target := peer(t, "visitor"), peer(t, "target")
	offer, err := h.Circuits().Offer(visitor.ID(), target.ID())
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*tls.Conn
	entered := make(chan error, 2)
	for i, token := range []circuit.Token{offer.Visitor, offer.Target} {
		conn, err := tls.Dial("tcp", h.addr, client)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ends[i] = conn
		go func() { entered <- circuit.Enter(t.Context(), conn, token) }()
	}
	if err := errors.Join(<-entered, <-entered); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(ends[0], "inside"); err != nil {
		t.Fatal(err)
	}
	_ = ends[0].CloseWrite()
	if got, err := io.ReadAll(ends[1]); string(got) != "inside" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if s := h.Circuits().Stats(); s.Joined != 1 || s.InKernel != 0 {
		t.Errorf("%+v", s)
	}
}

func TestACourierCannotConnectToItself(t *testing.T) {
	h := start(t, hub.Config{})
	alice := newCourier(t, "alice", h, hubclient.Config{})
	alice.online(t)
	_, err := alice.app.Connect(t.Context(), h.to(t, h.address(), "alice"))
	wantCode(t, err, native.BadRequest)
}

func TestClosingCutsCircuits(t *testing.T) {
	h := start(t, hub.Config{})
	alice := newCourier(t, "alice", h, hubclient.Config{})
	alice.online(t)
	rings(t, alice)
	conn, err := newVisitor(t, "bob").DialStream(t.Context(), h.to(t, h.address(), "alice"), ring)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h.end()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the end of the hub is %v", err)
	}
}

func TestTheOperatorSeesCircuits(t *testing.T) {
	h := start(t, hub.Config{})
	alice := newCourier(t, "alice", h, hubclient.Config{})
	alice.online(t)
	rings(t, alice)
	bob := newVisitor(t, "bob")
	conn, err := bob.DialStream(t.Context(), h.to(t, h.address(), "alice"), ring)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n := h.Status().Circuits.Open; n != 1 {
		t.Errorf("the status tells of %d circuits", n)
	}
	talk(t, conn)
	eventually(t, "the bytes are counted", func() bool {
		s := h.Circuits().Stats()
		return s.Joined == 1 && s.Bytes > 1_400_000
	})
}

// TestNotAByteOfTheHubsOwnIsInACircuit holds what both ends see against what the other has sent.
func TestNotAByteOfTheHubsOwnIsInACircuit(t *testing.T) {
	h := start(t, hub.Config{})
	visitor, target := peer(t, "visitor"), peer(t, "target")
	offer, err := h.Circuits().Offer(visitor.ID(), target.ID())
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, token := range []circuit.Token{offer.Visitor, offer.Target} {
		if ends[i], err = net.Dial("tcp", h.addr); err != nil {
			t.Fatal(err)
		}
		defer ends[i].Close()
		if _, err := ends[i].Write(circuit.AppendPreamble(nil, token)); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range []string{"from the target", "from the visitor"} {
		if _, err := io.WriteString(ends[1-i], text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1+len(text))
		if _, err := io.ReadFull(ends[i], got); err != nil || got[0] != byte(circuit.Joined) || string(got[1:]) != text {
			t.Errorf("end %d sees %q, %v", i, got, err)
		}
	}
	for _, end := range ends {
		_ = end.(*net.TCPConn).CloseWrite()
	}
	for i, end := range ends {
		if rest, err := io.ReadAll(end); len(rest) > 0 || err != nil {
			t.Errorf("end %d sees %q, %v, at the end", i, rest, err)
		}
	}
}

// TestACourierAtTwoHubsIsReachedWhileOneIsDown, and comes back to it with the id that it had.
func TestACourierAtTwoHubsIsReachedWhileOneIsDown(t *testing.T) {
	dir := t.TempDir()
	one, two := start(t, hub.Config{Dir: dir}), start(t, hub.Config{Identity: identity(t, "another hub")})
	alice := newCourier(t, "alice", one, hubclient.Config{Hubs: []hubclient.Hub{{Address: one.address()}, {Address: two.address()}}})
	both := func(s []hubclient.Status) bool { return s[0].Online && s[1].Online }
	eventually(t, "alice is at both", func() bool { return both(alice.Hubs()) })
	before := alice.Hubs()[0].ID
	rings(t, alice)
	bob := newVisitor(t, "bob")
	address, at := one.to(t, one.address(), "alice"), one.addr
	reached := func(through *running) {
		t.Helper()
		was := through.Circuits().Stats().Joined
		conn, err := bob.DialStream(t.Context(), address, ring)
		if err != nil {
			t.Fatal(err)
		}
		talk(t, conn)
		conn.Close()
		if through.Circuits().Stats().Joined != was+1 {
			t.Error("it went through the other hub")
		}
	}
	reached(one)
	one.end()
	reached(two) // alice has signed where else she is, and bob has kept it
	again := start(t, hub.Config{Dir: dir, Listen: []string{at}})
	eventually(t, "alice is at both again", func() bool { return both(alice.Hubs()) })
	if id := alice.Hubs()[0].ID; id != before {
		t.Errorf("she was %s, and is %s", before, id)
	}
	reached(again)
}
