package port_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/hub/port"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/ws"
)

const (
	request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
	noise   = "\x01\x02 the first bytes of a secret handshake are as good as random"
)

func TestTheFirstBytesDecideWithAndWithoutTLS(t *testing.T) {
	server, client := certificate(t)
	ln := local(t)
	p := open(t, port.Options{TLS: server, Circuit: matchMagic}, ln)
	kinds := map[string]net.Listener{
		request:        p.HTTP(),
		magic + "more": p.Circuits(),
		noise:          p.Secret(),
		"PRINCIPAL":    p.Secret(),
	}
	for text, want := range kinds {
		plain := dial(t, ln.Addr())
		sendSlowly(plain, text)
		c := accept(t, want)
		wantBytes(t, c, text)
		if c.RemoteAddr().String() != plain.LocalAddr().String() {
			t.Error(c.RemoteAddr())
		}
		inside := secure(t, dial(t, ln.Addr()), client)
		sendSlowly(inside, text)
		c = accept(t, want)
		wantBytes(t, c, text)
		if c.RemoteAddr().String() != inside.LocalAddr().String() {
			t.Error(c.RemoteAddr())
		}
	}
}

func TestALPNDecidesWithoutAByte(t *testing.T) {
	server, client := certificate(t)
	ln := local(t)
	p := open(t, port.Options{TLS: server}, ln)
	for _, protocol := range []string{"h2", "http/1.1"} {
		inside := secure(t, dial(t, ln.Addr()), client, protocol)
		c, ok := accept(t, p.HTTP()).(*tls.Conn)
		if !ok || c.ConnectionState().NegotiatedProtocol != protocol {
			t.Errorf("%s: not the connection of TLS itself", protocol)
		}
		_ = inside.Close()
	}
}

func TestTheCheckOfACertificateAuthorityEndsWithTheHandshake(t *testing.T) {
	server, client := certificate(t)
	server.NextProtos = []string{"h2", "http/1.1", "acme-tls/1"}
	ln := local(t)
	open(t, port.Options{TLS: server}, ln)
	inside := secure(t, dial(t, ln.Addr()), client, "acme-tls/1")
	if inside.ConnectionState().NegotiatedProtocol != "acme-tls/1" {
		t.Error("not negotiated")
	}
	wantClosed(t, inside)
}

func TestTLSIsRefusedCleanlyWhenThereIsNoCertificate(t *testing.T) {
	_, client := certificate(t)
	ln := local(t)
	open(t, port.Options{}, ln)
	err := tls.Client(dial(t, ln.Addr()), client).HandshakeContext(t.Context())
	if alert, ok := errors.AsType[*net.OpError](err); !ok || !strings.Contains(alert.Error(), "handshake failure") {
		t.Errorf("the client sees %v", err)
	}
}

func TestTLSInsideTLSIsRefused(t *testing.T) {
	server, client := certificate(t)
	ln := local(t)
	open(t, port.Options{TLS: server}, ln)
	outer := secure(t, dial(t, ln.Addr()), client)
	if err := tls.Client(outer, client).HandshakeContext(t.Context()); err == nil {
		t.Error("accepted")
	}
}

// Every stage has the same deadline, and nothing that a client sends within a stage moves it.
func TestSlowClientsAreClosedAtEveryStage(t *testing.T) {
	server, client := certificate(t)
	hello := clientHello(t, client)
	line, fields := "PROXY TCP4 192.0.2.1 198.51.100.1 ", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00"
	const proxy, visitor = "10.0.0.1:1", "192.0.2.1:1"
	for name, c := range map[string]struct{ from, sends string }{
		"nothing":                 {visitor, ""},
		"nothing, a proxy":        {proxy, ""},
		"a method":                {visitor, "OPTION"},
		"half a hello":            {visitor, hello[:6]},
		"a hello cut off":         {visitor, hello[:40]},
		"a hello, then nothing":   {visitor, hello},
		"a circuit's magic":       {visitor, magic[:15]},
		"a signature":             {proxy, line[:4]},
		"a line":                  {proxy, line},
		"fields":                  {proxy, fields},
		"a header, then nothing":  {proxy, line + "1 2\r\n"},
		"a header, then a method": {proxy, line + "1 2\r\nGE"},
		"a header, then a hello":  {proxy, line + "1 2\r\n" + hello[:99]},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newNetwork()
				p := open(t, port.Options{TrustedProxies: prefixes("10.0.0.0/8"), TLS: server, Circuit: matchMagic}, ln)
				client := ln.dial(t, c.from)
				ended := make(chan time.Duration, 1)
				begun := time.Now()
				go func() {
					_, _ = io.Copy(io.Discard, client)
					ended <- time.Since(begun)
				}()
				for i := range len(c.sends) { // the whole takes nine seconds
					_, _ = io.WriteString(client, c.sends[i:i+1])
					time.Sleep(9 * time.Second / time.Duration(len(c.sends)))
				}
				if after := <-ended; after != 10*time.Second {
					t.Errorf("closed after %s", after)
				}
				synctest.Wait()
				if n := p.Stats().Unproved; n != 0 {
					t.Errorf("%d connections are left", n)
				}
			})
		})
	}
}

// clientHello returns what a client of TLS sends first.
func clientHello(t *testing.T, client *tls.Config) string {
	t.Helper()
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	go func() { _ = tls.Client(near, client).Handshake() }()
	hello := make([]byte, 16<<10)
	n, err := far.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	return string(hello[:n])
}

func TestGarbageAndHalfOpenConnectionsEndWithAReason(t *testing.T) {
	server, _ := certificate(t)
	for name, c := range map[string]struct{ from, sends, reason string }{
		"half-open":          {"192.0.2.1:1", "", "ended before it told its kind"},
		"after a few bytes":  {"192.0.2.1:1", "PO", "ended before it told its kind"},
		"broken TLS":         {"192.0.2.1:1", "\x16\x03\x01\x00\x05\x01\x00garbage", "TLS handshake"},
		"a stranger's line":  {"192.0.2.1:1", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "no trusted proxy"},
		"a stranger's bytes": {"192.0.2.1:1", "\r\n\r\n\x00\r\nQUIT\n\x21\x11", "no trusted proxy"},
		"a proxy's garbage":  {"10.0.0.1:1", "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n", "not a PROXY header"},
		"no header":          {"10.0.0.1:1", "GET / HTTP/1.1\r\n", "no PROXY header"},
		"denied":             {"203.0.113.9:1", "GET / HTTP/1.1\r\n", "not this one"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out log
				deny := func(visitor netip.Addr) error {
					if visitor.String() == "203.0.113.9" {
						return errors.New("not this one")
					}
					return nil
				}
				ln := newNetwork()
				open(t, port.Options{
					TrustedProxies: prefixes("10.0.0.0/8"), RequireHeader: true, Connect: deny, TLS: server, Logger: out.logger(),
				}, ln)
				client := ln.dial(t, c.from)
				send(client, c.sends)
				synctest.Wait()
				_ = client.Close()
				synctest.Wait()
				got := out.String()
				if !strings.Contains(got, "level=DEBUG") || !strings.Contains(got, c.reason) || !strings.Contains(got, c.from) {
					t.Errorf("logged %q, want %q about %s", got, c.reason, c.from)
				}
			})
		})
	}
}

func TestErrorsOfTheListenerAreWaitedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &exhausted{network: newNetwork(), errors: 20}
		p := open(t, port.Options{}, ln)
		begun := time.Now()
		send(ln.dial(t, "192.0.2.1:1"), noise)
		accept(t, p.Secret())
		if waited := time.Since(begun); waited < 5*time.Second || waited > time.Minute {
			t.Errorf("waited %s", waited)
		}
	})
}

// exhausted has no files for the first connections.
type exhausted struct {
	*network
	errors int
}

func (l *exhausted) Accept() (net.Conn, error) {
	if l.errors--; l.errors >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.network.Accept()
}

func TestOnePortOnSeveralAddresses(t *testing.T) {
	one, two := local(t), local(t)
	p := open(t, port.Options{}, one, two)
	if p.Addr() != one.Addr() {
		t.Error(p.Addr())
	}
	for _, ln := range []net.Listener{one, two, one} {
		client := dial(t, ln.Addr())
		send(client, noise)
		if c := accept(t, p.Secret()); c.LocalAddr().String() != ln.Addr().String() {
			t.Error(c.LocalAddr())
		}
	}
}

func TestCloseEndsWhatWasNotHandedOverAndNothingElse(t *testing.T) {
	one, two := local(t), local(t)
	p := port.Open(port.Options{}, one, two)
	client, silent := dial(t, one.Addr()), dial(t, two.Addr())
	send(client, noise)
	c := accept(t, p.Secret())
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
	wantClosed(t, silent)
	if _, err := p.Secret().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", two.Addr().String()); err == nil {
		t.Error("somebody listens still")
	}
	wantBytes(t, c, noise)
	send(c, "bye")
	wantBytes(t, client, "bye")
}

// The whole way: a proxy's header, TLS, the secret handshake.
func TestASecretHandshakeThroughTLSBehindAProxy(t *testing.T) {
	alice, bob := identity(t), identity(t)
	server, client := certificate(t)
	ln := local(t)
	p := port.Open(port.Options{TLS: server, TrustedProxies: prefixes("127.0.0.0/8"), RequireHeader: true}, ln)
	arrived := make(chan *multiserver.Conn, 1)
	hub := listening(t, alice, p.Secret(), func(c *multiserver.Conn) { arrived <- c })
	courier := dialling(t, bob, func(ctx context.Context, network, address string) (net.Conn, error) {
		raw := dial(t, ln.Addr())
		if _, err := io.WriteString(raw, "PROXY TCP4 203.0.113.7 198.51.100.1 4711 8433\r\n"); err != nil {
			return nil, err
		}
		return secure(t, raw, client), nil
	})
	addrs, err := hub.Parse(hub.Address(multiserver.Device))
	if err != nil {
		t.Fatal(err)
	}
	c, err := courier.Dial(t.Context(), addrs)
	if err != nil {
		t.Fatal(err)
	}
	got := <-arrived
	if !got.Remote().Equal(bob.Public()) {
		t.Error("another key")
	}
	if !strings.HasPrefix(got.Address(), "net:203.0.113.7:4711~shs:") {
		t.Error(got.Address())
	}
	if s := p.Stats(); s.Unproved != 0 || s.Addresses != 0 || s.Accepted != 1 {
		t.Errorf("it still counts: %+v", s)
	}
	send(c, "hello")
	wantBytes(t, got, "hello")
	_, _ = c.Close(), got.Close()
	_, _ = hub.Close(), p.Close()
}

func TestAPeerThatHasProvedItsKeyCountsNoLongerAndCostsNothingMore(t *testing.T) {
	alice, bob := identity(t), identity(t)
	ln := local(t)
	p := port.Open(port.Options{}, ln)
	arrived := make(chan *multiserver.Conn, 1)
	hub := listening(t, alice, p.Secret(), func(c *multiserver.Conn) { arrived <- c })
	courier := dialling(t, bob, new(net.Dialer).DialContext)
	addrs, err := hub.Parse(hub.Address(multiserver.Device))
	if err != nil {
		t.Fatal(err)
	}
	c, err := courier.Dial(t.Context(), addrs)
	if err != nil {
		t.Fatal(err)
	}
	got := <-arrived
	if s := p.Stats(); s.Unproved != 0 || s.Accepted != 1 {
		t.Errorf("%+v", s)
	}
	if _, ok := got.NetConn().(*net.TCPConn); !ok {
		t.Errorf("a %T is in between", got.NetConn())
	}
	send(c, "hello")
	wantBytes(t, got, "hello")
	_, _ = c.Close(), got.Close()
	_, _ = hub.Close(), p.Close()
}

func TestAWebSocketWhosePeerHasProvedItsKeyCountsNoLonger(t *testing.T) {
	ln := local(t)
	p := port.Open(port.Options{}, ln)
	proved := make(chan port.Stats, 1)
	mounted := ws.New(ws.Options{Mounted: true})
	opts := options(identity(t), mounted)
	opts.Config.Incoming = map[string][]multiserver.Incoming{"ws": {{
		Scope: multiserver.Scopes{multiserver.Public}, Transform: "shs",
		External: multiserver.Hosts{"ws://" + ln.Addr().String() + "/"},
	}}}
	opts.OnConn = func(c *multiserver.Conn) {
		proved <- p.Stats()
		_ = c.Close()
	}
	hub, err := multiserver.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	serve(t, p, mounted.ServeHTTP)
	courier, err := multiserver.New(options(identity(t), ws.New(ws.Options{})))
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := hub.Parse(hub.Address(multiserver.Public))
	if err != nil {
		t.Fatal(err)
	}
	c, err := courier.Dial(t.Context(), addrs)
	if err != nil {
		t.Fatal(err)
	}
	if s := <-proved; s.Unproved != 0 || s.Accepted != 1 {
		t.Errorf("%+v", s)
	}
	_, _, _ = c.Close(), hub.Close(), p.Close()
}

func identity(t *testing.T) *keys.Identity {
	t.Helper()
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func options(id *keys.Identity, transport multiserver.Transport) multiserver.Options {
	return multiserver.Options{
		Transports: []multiserver.Transport{transport},
		Transforms: []multiserver.Transform{multiserver.SHS(multiserver.SHSConfig{Identity: id, AppKey: keys.MainNet()})},
		Config: multiserver.Config{
			Outgoing: map[string][]multiserver.Outgoing{transport.Name(): {{Transform: "shs"}}},
		},
	}
}

func listening(t *testing.T, id *keys.Identity, ln net.Listener, onConn func(*multiserver.Conn)) *multiserver.Server {
	t.Helper()
	opts := options(id, msnet.New(msnet.Options{Listener: ln}))
	opts.OnConn = onConn
	opts.Config.Incoming = map[string][]multiserver.Incoming{
		"net": {{Scope: multiserver.Scopes{multiserver.Device}, Transform: "shs", Host: "127.0.0.1"}},
	}
	s, err := multiserver.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func dialling(t *testing.T, id *keys.Identity, dial dialFunc) *multiserver.Server {
	t.Helper()
	s, err := multiserver.New(options(id, msnet.New(msnet.Options{DialContext: dial})))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Many at once, of all kinds, some of which vanish.
func TestManyConnectionsAtOnceAreSortedRightAndForgotten(t *testing.T) {
	ln := local(t)
	p := port.Open(port.Options{Circuit: matchMagic}, ln)
	kinds := map[string]net.Listener{"G": p.HTTP(), "c": p.Circuits(), "\x01": p.Secret()}
	var served sync.WaitGroup
	for first, side := range kinds {
		served.Go(func() {
			for {
				c, err := side.Accept()
				if err != nil {
					return
				}
				served.Go(func() {
					got := make([]byte, 16)
					if _, err := io.ReadFull(c, got); err != nil || string(got[:1]) != first {
						t.Errorf("%q %v", got, err)
					}
					_ = c.Close()
				})
			}
		})
	}
	var clients sync.WaitGroup
	for i := range 120 {
		clients.Go(func() {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, []string{request, magic, noise, "", "OPT"}[i%5])
			if i%5 < 3 {
				_, _ = io.Copy(io.Discard, c)
			}
			_ = c.Close()
		})
	}
	clients.Wait()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	served.Wait()
	if s := p.Stats(); s.Unproved != 0 || s.Accepted > 120 {
		t.Errorf("%+v", s)
	}
}
