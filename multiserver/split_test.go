package multiserver_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/ws"
)

// pipeListener is a listener within the process.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial() net.Conn {
	a, b := net.Pipe()
	l.conns <- b
	return a
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (*pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8433} }

// send writes and leaves the connection open.
func send(c net.Conn, text string) { go func() { _, _ = io.WriteString(c, text) }() }

func TestFirstBytesDecideTheListener(t *testing.T) {
	for text, want := range map[string]int{
		"GET / HTTP/1.1\r\n":               0,
		"OPTIONS * HTTP/1.1":               0,
		"PRI * HTTP/2.0":                   0,
		"\x16\x03\x01\x02\x00\x01\x00\x01": 1,
		"\x16\x03\x01\x02\x00\x02":         2,
		"\x16\x03\x01\xff":                 2,
		"\x16\x04":                         2,
		"GETTER":                           2,
		"OPTION!":                          2,
		"\x00":                             2,
		"get / HTTP/1.1":                   2,
		"P\x00":                            2,
	} {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newPipeListener()
				s := multiserver.Split(ln, multiserver.SplitOptions{}, multiserver.MatchHTTP, multiserver.MatchTLS)
				client := ln.dial()
				go func() { // a byte at a time
					for i := range len(text) {
						_, _ = client.Write([]byte(text[i : i+1]))
					}
				}()
				sides := []net.Listener{s.Listener(0), s.Listener(1), s.Rest()}
				c, err := sides[want].Accept()
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(text))
				if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
					t.Errorf("%q %v", got, err)
				}
				send(client, "more")
				if _, err := io.ReadFull(c, got[:1]); err != nil || got[0] != 'm' {
					t.Errorf("after the first bytes: %q %v", got[0], err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				_ = client.Close()
			})
		})
	}
}

func TestConnectionsThatSayNothingAreClosedAndDoNotBlockOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		http, raw := multiserver.SplitHTTP(ln, multiserver.SplitOptions{})
		silent, slow := ln.dial(), ln.dial()
		send(slow, "GE")
		honest := ln.dial()
		send(honest, "\x01")
		start := time.Now()
		if _, err := raw.Accept(); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) != 0 {
			t.Error("it waited for the silent one")
		}
		time.Sleep(5*time.Second - time.Millisecond)
		if isClosed(silent) || isClosed(slow) {
			t.Error("closed too early")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if !isClosed(silent) || !isClosed(slow) {
			t.Error("not closed")
		}
		_ = honest.Close()
		_, _ = raw.Close(), http.Close()
	})
}

func TestConnectionsAboutToTellTheirKindAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		s := multiserver.Split(ln, multiserver.SplitOptions{MaxPending: 2, Timeout: time.Minute}, multiserver.MatchHTTP)
		first, second, third := ln.dial(), ln.dial(), ln.dial()
		synctest.Wait()
		if !isClosed(first) || isClosed(second) || isClosed(third) {
			t.Error("the first and only the first should be closed")
		}
		start := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if time.Since(start) != 0 || !isClosed(third) {
			t.Error("Close waited, or left a connection")
		}
	})
}

func TestSplitEndsWithItsLastListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		http, raw := multiserver.SplitHTTP(ln, multiserver.SplitOptions{})
		if http.Addr().String() != "127.0.0.1:8433" {
			t.Error(http.Addr())
		}
		_ = http.Close()
		_ = http.Close()
		if _, err := http.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		unwanted, wanted := ln.dial(), ln.dial()
		send(unwanted, "GET / HTTP/1.1\r\n\r\n")
		send(wanted, "\x01")
		if _, err := raw.Accept(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !isClosed(unwanted) {
			t.Error("a connection for the closed listener is open")
		}
		if err := raw.Close(); err != nil {
			t.Error(err)
		}
		select {
		case <-ln.done:
		default:
			t.Error("the listener underneath is open")
		}
	})
}

// One port for net, ws and the application's own HTTP.
func TestNetAndWebSocketShareOnePort(t *testing.T) {
	testkit.LeakCheckOf(t, "secretstack/multiserver")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	httpSide, rawSide := multiserver.SplitHTTP(ln, multiserver.SplitOptions{})
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "application") })
	in := []multiserver.Incoming{{Scope: multiserver.Scopes{"device"}, Transform: "shs", Host: "127.0.0.1"}}
	server := listening(t, multiserver.Options{
		Transports: []multiserver.Transport{
			msnet.New(msnet.Options{Listener: rawSide}), ws.New(ws.Options{Listener: httpSide, Handler: app}),
		},
		Transforms: []multiserver.Transform{shsFor(t, "alice")},
		Config:     multiserver.Config{Incoming: map[string][]multiserver.Incoming{"net": in, "ws": in}},
		OnConn:     echo,
	})
	addrs := loose(t, server.Address(multiserver.Device))
	if len(addrs) != 2 || !strings.HasPrefix(addrs[1].String(), "ws://"+ln.Addr().String()+"~") {
		t.Fatal(addrs)
	}
	out := []multiserver.Outgoing{{Transform: "shs"}}
	client := must(t, multiserver.Options{
		Transports: []multiserver.Transport{msnet.New(msnet.Options{}), ws.New(ws.Options{})},
		Transforms: []multiserver.Transform{shsFor(t, "bob")},
		Config:     multiserver.Config{Outgoing: map[string][]multiserver.Outgoing{"net": out, "ws": out}},
	})
	for _, a := range addrs {
		c, err := client.Dial(t.Context(), []multiserver.Address{a})
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, c)
		_ = c.Close()
	}
	response, err := http.Get("http://" + ln.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if string(body) != "application" {
		t.Errorf("%q", body)
	}
}

func TestSplitConnectionsDoWhatTheOnesUnderneathCan(t *testing.T) {
	testkit.LeakCheckOf(t, "secretstack/multiserver")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := multiserver.Split(ln, multiserver.SplitOptions{}, multiserver.MatchHTTP)
	defer func() { _ = s.Close() }()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	send(client, "\x01")
	c, err := s.Rest().Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := multiserver.PeerPart(c).Text(), "net:"+client.LocalAddr().String(); got != want {
		t.Errorf("the peer is %s, want %s", got, want)
	}
	if _, ok := c.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
		t.Error("the connection underneath cannot be had")
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after half-closing: %v", err)
	}
	if err := c.(interface{ Abort() error }).Abort(); err != nil {
		t.Error(err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after aborting: %v", err)
	}
}

// What crypto/tls really sends is taken for TLS.
func TestRealClientHelloIsTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		s := multiserver.Split(ln, multiserver.SplitOptions{}, multiserver.MatchTLS)
		client := ln.dial()
		shaken := make(chan error, 1)
		go func() { shaken <- tls.Client(client, &tls.Config{InsecureSkipVerify: true}).Handshake() }()
		c, err := s.Listener(0).Accept()
		if err != nil {
			t.Fatal(err)
		}
		server := tls.Server(c, selfSigned(t))
		if err := server.Handshake(); err != nil {
			t.Error(err)
		}
		if err := <-shaken; err != nil {
			t.Error(err)
		}
		_, _ = client.Close(), s.Close()
	})
}
