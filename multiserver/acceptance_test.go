package multiserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/multiserver/ws"
)

// suite is a transport to test everything over.
type suite struct {
	transport multiserver.Transport
	in        multiserver.Incoming
	prefix    string // of the address of a peer that was dialled
	accepted  string // of the address of a peer that dialled
}

// suites are the transports that listen, over real sockets.
func suites(t *testing.T) map[string]suite {
	t.Helper()
	all := map[string]suite{
		"net": {msnet.New(msnet.Options{}), multiserver.Incoming{Host: "127.0.0.1"}, "net:127.0.0.1:", "net:127.0.0.1:"},
		"ws":  {ws.New(ws.Options{}), multiserver.Incoming{Host: "127.0.0.1"}, "ws://127.0.0.1:", "ws:127.0.0.1"},
	}
	server := selfSigned(t)
	certificate, err := x509.ParseCertificate(server.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	all["wss"] = suite{ws.New(ws.Options{TLS: server, ClientTLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}),
		multiserver.Incoming{Host: "127.0.0.1"}, "wss://127.0.0.1:", "ws:127.0.0.1"}
	if dir := shortDir(t); dir != "" {
		all["unix"] = suite{unix.New(unix.Options{Dir: dir}), multiserver.Incoming{}, "unix:" + dir + "/socket", "unix:" + dir + "/socket"}
	}
	if ln, err := net.Listen("tcp", "[::1]:0"); err == nil {
		_ = ln.Close()
		all["net over IPv6"] = suite{msnet.New(msnet.Options{}), multiserver.Incoming{Host: "::1"}, "net:::1:", "net:::1:"}
		all["ws over IPv6"] = suite{ws.New(ws.Options{}), multiserver.Incoming{Host: "::1"}, "ws://[::1]:", "ws:::1"}
	} else {
		t.Log("not over IPv6: this machine has no IPv6 loopback")
	}
	return all
}

// shortDir is a folder whose path leaves room for a socket's name, or "" on
// systems whose paths do not fit an address.
func shortDir(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		return ""
	}
	dir, err := os.MkdirTemp("", "ms") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s suite) options(transform multiserver.Transform) multiserver.Options {
	name := s.transport.Name()
	s.in.Transform = transform.Name()
	return multiserver.Options{
		Transports: []multiserver.Transport{s.transport},
		Transforms: []multiserver.Transform{transform},
		Config: multiserver.Config{
			Incoming: map[string][]multiserver.Incoming{name: {s.in}},
			Outgoing: map[string][]multiserver.Outgoing{name: {{Transform: transform.Name()}}},
		},
	}
}

// clientOf is the options of a peer that only dials.
func (s suite) clientOf(transform multiserver.Transform) multiserver.Options {
	opts := s.options(transform)
	opts.Config.Incoming = nil
	return opts
}

func overEach(t *testing.T, test func(t *testing.T, s suite)) {
	t.Helper()
	for name, s := range suites(t) {
		t.Run(name, func(t *testing.T) {
			testkit.LeakCheckOf(t, "secretstack/multiserver")
			test(t, s)
		})
	}
}

func TestEchoOverEachTransport(t *testing.T) {
	overEach(t, func(t *testing.T, s suite) {
		conns := make(chan *multiserver.Conn, 1)
		opts := s.options(shsFor(t, "alice"))
		opts.OnConn = func(c *multiserver.Conn) {
			conns <- c
			echo(c)
		}
		server := listening(t, opts)
		client := must(t, s.clientOf(shsFor(t, "bob")))
		addrs, err := client.Parse(server.Address(multiserver.Device)) // by the rules for people
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.Dial(t.Context(), addrs)
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, c)
		checkLarge(t, c)
		accepted := <-conns
		checkPeerAddress(t, c, s.prefix, "alice")
		checkPeerAddress(t, accepted, s.accepted, "bob")
		if addrs[0].String() != c.Address() {
			t.Errorf("dialled %s, connected to %s", addrs[0], c.Address())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// checkPeerAddress wants an address that says what it should and can be parsed.
func checkPeerAddress(t *testing.T, c *multiserver.Conn, prefix, name string) {
	t.Helper()
	address := c.Address()
	if !strings.HasPrefix(address, prefix) {
		t.Errorf("address %s, want %s…", address, prefix)
	}
	parsed := loose(t, address)
	k, ok := parsed[0].Key()
	if len(parsed) != 1 || !ok || !k.Equal(identity(t, name).Public()) || !c.Remote().Equal(k) {
		t.Errorf("address %s has not the key of %s", address, name)
	}
}

// checkLarge sends more than fits any buffer through an echo.
func checkLarge(t *testing.T, c net.Conn) {
	t.Helper()
	const size = 1 << 20
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, size))
		failed <- err
	}()
	buf := make([]byte, 32<<10)
	for got := 0; got < size; {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
		got += n
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

func TestDialIsAbortedOverEachTransport(t *testing.T) {
	overEach(t, func(t *testing.T, s suite) {
		conns := make(chan *multiserver.Conn, 1)
		opts := s.options(shsFor(t, "alice"))
		opts.OnConn = collect(conns)
		server := listening(t, opts)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := must(t, s.clientOf(shsFor(t, "bob"))).Dial(ctx, loose(t, server.Address(multiserver.Device)))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		_ = server.Close()
		if len(conns) != 0 {
			t.Error("the server has a connection")
		}
	})
}

// The wart of multiserver's issue 6: errors do not say which peer it was.
func TestErrorsHaveThePeersAddressOverEachTransport(t *testing.T) {
	overEach(t, func(t *testing.T, s suite) {
		config := shsConfig(t, "alice")
		config.Authorize = func(context.Context, keys.PublicKey, string) (any, error) { return nil, errors.New("not you") }
		var logged testkit.Buffer
		opts := s.options(multiserver.SHS(config))
		opts.Logger = logTo(&logged)
		server := listening(t, opts)
		address := server.Address(multiserver.Device)
		_, err := must(t, s.clientOf(shsFor(t, "bob"))).Dial(t.Context(), loose(t, address))
		peer, ok := errors.AsType[*multiserver.PeerError](err)
		if !ok || !strings.HasPrefix(peer.Address, s.prefix) || !strings.Contains(peer.Address, "~shs:") {
			t.Errorf("the dialler has %v", err)
		}
		_ = server.Close() // waits for the handshake
		if got := logged.String(); !strings.Contains(got, s.accepted) || !strings.Contains(got, "~shs:: not you") {
			t.Errorf("the server has %s", got)
		}
	})
}

func TestConnectionsOutliveTheContextTheyWereDialledWith(t *testing.T) {
	overEach(t, func(t *testing.T, s suite) {
		handedOver := make(chan struct{})
		opts := s.options(shsFor(t, "alice"))
		opts.OnConn = func(c *multiserver.Conn) {
			echo(c)
			close(handedOver)
		}
		server := listening(t, opts)
		ctx, cancel := context.WithCancel(t.Context())
		c, err := must(t, s.clientOf(shsFor(t, "bob"))).Dial(ctx, loose(t, server.Address(multiserver.Device)))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		<-handedOver
		_ = server.Close()
		time.Sleep(20 * time.Millisecond) // for what a context's end would do
		checkEcho(t, c)
		_ = c.Close()
	})
}

func TestWhoeverSpeaksSomethingElseIsCutOffOverEachTransport(t *testing.T) {
	overEach(t, func(t *testing.T, s suite) {
		server := listening(t, s.options(shsFor(t, "alice")))
		part := loose(t, server.Address(multiserver.Device))[0].Transport()
		c, err := s.transport.Dial(t.Context(), part)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

func TestMultiListensAndConnectsOverNetAndWebSocket(t *testing.T) {
	testkit.LeakCheckOf(t, "secretstack/multiserver")
	in := []multiserver.Incoming{{Transform: "shs", Host: "127.0.0.1"}}
	out := []multiserver.Outgoing{{Transform: "shs"}}
	transports := []multiserver.Transport{msnet.New(msnet.Options{}), ws.New(ws.Options{})}
	server := listening(t, multiserver.Options{
		Transports: transports, Transforms: []multiserver.Transform{shsFor(t, "alice")},
		Config: multiserver.Config{Incoming: map[string][]multiserver.Incoming{"net": in, "ws": in}},
		OnConn: echo,
	})
	address := server.Address(multiserver.Device)
	for capability, prefix := range map[string]string{"net": "net:", "ws": "ws:"} {
		client := must(t, multiserver.Options{
			Transports: transports, Transforms: []multiserver.Transform{shsFor(t, "bob")},
			Config: multiserver.Config{Outgoing: map[string][]multiserver.Outgoing{capability: out}},
		})
		c, err := client.Dial(t.Context(), loose(t, "fake:foo:bar~shs:"+key+";"+address))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(c.Address(), prefix) {
			t.Errorf("%s went by %s", capability, c.Address())
		}
		checkEcho(t, c)
		_ = c.Close()
	}
}

func TestPluginsAddTransports(t *testing.T) {
	m := newMemory()
	opts := memoryOptions(t, m, "alice")
	opts.Transports = append(opts.Transports, msnet.New(msnet.Options{}))
	opts.OnConn = echo
	s := listening(t, opts)
	addrs, err := s.Parse(s.Address(multiserver.Device))
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Dial(t.Context(), addrs) // to itself, which is allowed
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, c)
	_ = c.Close()
}

// Scopes and external hosts, as in the tests "multiple public different hosts"
// and the like of the JavaScript package.
func TestExternalHostsAreAdvertisedInThePublicScope(t *testing.T) {
	type in = multiserver.Incoming
	type hosts = multiserver.Hosts
	scopes := multiserver.Scopes{multiserver.Device, multiserver.Public}
	k := identity(t, "alice").Public().Base64()
	for _, test := range []struct {
		transport string
		in        in
		want      string
	}{
		{"net", in{Scope: scopes, Port: 8848, External: hosts{"domain.de"}}, "net:domain.de:8848~shs:" + k},
		{"net", in{Scope: scopes, Port: 8848, External: hosts{"domain.de", "funtime.net"}},
			"net:domain.de:8848~shs:" + k + ";net:funtime.net:8848~shs:" + k},
		{"net", in{Scope: scopes, Port: 8848, External: hosts{"net:domain.de:443"}}, "net:domain.de:443~shs:" + k},
		{"ws", in{Scope: scopes, Port: 8849, External: hosts{"domain.de"}}, "ws://domain.de:8849~shs:" + k},
		{"ws", in{Scope: scopes, Port: 8849, External: hosts{"domain.de", "funtime.net"}},
			"ws://domain.de:8849~shs:" + k + ";ws://funtime.net:8849~shs:" + k},
		{"ws", in{Scope: scopes, Port: 8849, External: hosts{"wss://domain.de/path?x=y"}}, "wss://domain.de/path?x=y~shs:" + k},
		{"ws", in{Scope: scopes, Port: 80, External: hosts{"domain.de"}}, "ws://domain.de~shs:" + k},
		{"ws", in{Scope: scopes, Port: 8849, External: hosts{"domain.de"}, Options: map[string]json.RawMessage{"path": json.RawMessage(`"/a b"`)}},
			"ws://domain.de:8849/a%20b~shs:" + k},
		{"net", in{Scope: scopes, Port: 8848}, ""},
	} {
		e := func() entry {
			if test.transport == "ws" {
				return wsEntry(int(test.in.Port), test.in)
			}
			return netEntry(int(test.in.Port), test.in)
		}
		if got := stringify(t, shsFor(t, "alice"), multiserver.Public, e()); got != test.want {
			t.Errorf("%+v: %s, want %s", test.in, got, test.want)
		}
		if got := stringify(t, shsFor(t, "alice"), multiserver.Device, e()); !strings.HasPrefix(got, test.transport+":") || !strings.Contains(got, "localhost") {
			t.Errorf("%+v on the device: %s", test.in, got)
		}
	}
}

func TestDifferentHostsForDifferentScopes(t *testing.T) {
	testkit.LeakCheckOf(t, "secretstack/multiserver")
	s := listening(t, multiserver.Options{
		Transports: []multiserver.Transport{msnet.New(msnet.Options{})},
		Transforms: []multiserver.Transform{shsFor(t, "alice")},
		Config: multiserver.Config{Incoming: map[string][]multiserver.Incoming{"net": {
			{Scope: multiserver.Scopes{"device"}, Transform: "shs", Host: "127.0.0.1"},
			{Scope: multiserver.Scopes{"local"}, Transform: "shs", Host: "localhost"},
			{Scope: multiserver.Scopes{"local"}, Transform: "shs", Host: "127.0.0.1"},
		}}},
	})
	if got := s.Address(multiserver.Device); strings.Count(got, ";") != 0 || !strings.HasPrefix(got, "net:127.0.0.1:") {
		t.Error(got)
	}
	if got := s.Address(multiserver.Local); strings.Count(got, ";") != 1 || !strings.HasPrefix(got, "net:localhost:") {
		t.Error(got)
	}
	for _, scope := range []multiserver.Scope{multiserver.Private, multiserver.Public, "bogus"} {
		if got := s.Address(scope); got != "" {
			t.Errorf("%s: %s", scope, got)
		}
	}
}

// An idle connection holds little: no buffers of its own, no goroutine.
func TestIdleConnectionHoldsLittleMemory(t *testing.T) {
	const n = 50
	s := suites(t)["net"]
	conns := make(chan *multiserver.Conn, n)
	opts := s.options(shsFor(t, "alice"))
	opts.OnConn = collect(conns)
	server := listening(t, opts)
	client := must(t, s.clientOf(shsFor(t, "bob")))
	addrs := loose(t, server.Address(multiserver.Device))
	dial := func() *multiserver.Conn {
		c, err := client.Dial(t.Context(), addrs)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Abort() })
		return c
	}
	held := []*multiserver.Conn{dial(), <-conns} // what is made once
	before := heap()
	for range n {
		held = append(held, dial(), <-conns)
	}
	perConn := (heap() - before) / (2 * n)
	runtime.KeepAlive(held)
	if perConn > 4<<10 {
		t.Errorf("%d bytes a connection", perConn)
	}
	t.Logf("%d bytes a connection", perConn)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What is in the temporary folder of a test is short enough for a socket.
func TestUnixAddressIsThePathOfTheSocket(t *testing.T) {
	dir := shortDir(t)
	if dir == "" {
		t.Skip("needs a system whose socket paths fit an address")
	}
	s := suite{unix.New(unix.Options{Dir: dir}), multiserver.Incoming{}, "", ""}
	server := listening(t, s.options(multiserver.NoAuth(multiserver.NoAuthConfig{})))
	if got, want := server.Address(multiserver.Device), "unix:"+filepath.Join(dir, "socket")+"~noauth"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := server.Address(multiserver.Public); got != "" {
		t.Error(got)
	}
}

func TestEveryEntryOfASharedListenerButTheFirstIsRefused(t *testing.T) {
	for name, transport := range map[string]multiserver.Transport{
		"net": msnet.New(msnet.Options{Listener: fakeListener{1}}), "ws": ws.New(ws.Options{Listener: fakeListener{1}}),
	} {
		s := must(t, multiserver.Options{
			Transports: []multiserver.Transport{transport}, Transforms: []multiserver.Transform{shsFor(t, "alice")},
			Config: multiserver.Config{Incoming: map[string][]multiserver.Incoming{name: {{Transform: "shs"}, {Transform: "shs"}}}},
		})
		if err := s.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "serves one entry") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	part := loose(t, address)[0].Transport()
	port, err := strconv.Atoi(part.Data[len(part.Data)-1])
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestRandomPortIsAdvertised(t *testing.T) {
	s := suites(t)["net"]
	server := listening(t, s.options(shsFor(t, "alice")))
	if port := portOf(t, server.Address(multiserver.Device)); port < 49152 {
		t.Errorf("port %d", port)
	}
}
