package net_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
)

type (
	in     = multiserver.Incoming
	scopes = multiserver.Scopes
)

func listen(t *testing.T, entry in) multiserver.Listener {
	t.Helper()
	l, err := msnet.New(msnet.Options{}).Listen(t.Context(), entry)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dial(t *testing.T, part multiserver.Part) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := msnet.New(msnet.Options{}).Dial(ctx, part)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func TestDialReachesWhatIsAdvertised(t *testing.T) {
	l := listen(t, in{})
	parts := l.Addresses(multiserver.Device)
	if len(parts) != 1 || parts[0].Data[0] != "localhost" {
		t.Fatal(parts)
	}
	c, err := dial(t, parts[0])
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Close() }()
	if got, want := multiserver.PeerPart(accepted).Text(), "net:"+c.LocalAddr().String(); got != want {
		t.Errorf("the client is %s, want %s", got, want)
	}
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("a %T, so that the system cannot copy for us", c)
	}
}

// In JavaScript a peer over IPv4 shows as net:::ffff:127.0.0.1 here.
func TestSeveralScopesListenOnBothVersionsOfIP(t *testing.T) {
	l := listen(t, in{Scope: scopes{multiserver.Device, multiserver.Local}})
	port := l.Addresses(multiserver.Device)[0].Data[1]
	for _, host := range []string{"127.0.0.1", "::1"} {
		if host == "::1" && !haveIPv6() {
			t.Log("not over IPv6: this machine has no IPv6 loopback")
			continue
		}
		if _, err := dial(t, multiserver.NewPart("net", host+":"+port)); err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := multiserver.PeerPart(c).Text(); !strings.HasPrefix(got, "net:"+host+":") {
			t.Errorf("the client is %s", got)
		}
		_ = c.Close()
	}
}

func haveIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		_ = l.Close()
	}
	return err == nil
}

// The row "do not listen on all addresses".
func TestLocalhostIsNotReachableFromElsewhere(t *testing.T) {
	host := ""
	all, err := multiserver.SystemInterfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		for _, a := range i.Addrs {
			if a.Is4() && !a.IsLoopback() {
				host = a.String()
			}
		}
	}
	if host == "" {
		t.Log("this machine has only loopback: 127.0.0.2 stands for elsewhere")
		host = "127.0.0.2"
	}
	for _, entry := range []in{{Scope: scopes{multiserver.Device}}, {Host: "localhost"}, {Scope: scopes{multiserver.Public}, Host: "127.0.0.1"}} {
		port := listen(t, entry).(interface {
			Addr() net.Addr
		}).Addr().(*net.TCPAddr).AddrPort().Port()
		if _, err := dial(t, multiserver.HostPortPart("net", host, port)); err == nil {
			t.Errorf("%+v is reachable at %s", entry, host)
		}
	}
}

// The row "net: listens on private IP".
func TestOneScopeListensOnItsAddressOnly(t *testing.T) {
	here := func() ([]multiserver.Interface, error) {
		// 127.0.0.1 is neither private nor public: stand in for a private one.
		return []multiserver.Interface{{Name: "eth0", Addrs: []netip.Addr{netip.MustParseAddr("10.255.255.254")}}}, nil
	}
	_, err := msnet.New(msnet.Options{}).Listen(t.Context(), in{Scope: scopes{multiserver.Private}, Interfaces: here})
	if err == nil || !strings.Contains(err.Error(), "10.255.255.254") {
		t.Errorf("it did not try the private address: %v", err)
	}
	nothing := func() ([]multiserver.Interface, error) { return nil, nil }
	_, err = msnet.New(msnet.Options{}).Listen(t.Context(), in{Scope: scopes{multiserver.Public}, Interfaces: nothing})
	if err == nil || !strings.Contains(err.Error(), `no address of scope "public": set "host"`) {
		t.Error(err)
	}
}

func TestListenFailsForAHostThatDoesNotExist(t *testing.T) {
	_, err := msnet.New(msnet.Options{}).Listen(t.Context(), in{Host: "host.invalid"})
	if err == nil {
		t.Fatal("it listens")
	}
}

func TestListenFailsForATakenPort(t *testing.T) {
	l := listen(t, in{Host: "127.0.0.1"})
	_, port, _, err := multiserver.ParseHostPort("net", l.Addresses(multiserver.Device)[0], multiserver.Strict)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := msnet.New(msnet.Options{}).Listen(t.Context(), in{Host: "127.0.0.1", Port: port}); err == nil {
		t.Error("two listen on one port")
	}
}

func TestOptionsThatMeanNothingHereAreTold(t *testing.T) {
	raw := func(s string) map[string]json.RawMessage {
		return map[string]json.RawMessage{s: json.RawMessage("true")}
	}
	if _, err := msnet.New(msnet.Options{}).Listen(t.Context(), in{Options: raw("hots")}); err == nil || !strings.Contains(err.Error(), `"hots"`) {
		t.Error(err)
	}
	l, err := msnet.New(msnet.Options{}).Listen(t.Context(), in{Options: raw("pauseOnConnect")})
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := msnet.New(msnet.Options{}).Listen(t.Context(), in{External: multiserver.Hosts{"example.org:80"}}); err == nil {
		t.Error("a port in external was taken")
	}
}

func TestCloseEndsAccept(t *testing.T) {
	l := listen(t, in{})
	done := make(chan error)
	go func() {
		_, err := l.Accept()
		done <- err
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// The row "scopeid": the zone is for this machine alone.
func TestZoneIsDialledButNotAdvertised(t *testing.T) {
	const zoned = "fe80::1065:74a4:4016:6266%wlan-0"
	var asked string
	transport := msnet.New(msnet.Options{
		Listener: heldBack{},
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			asked = address
			return nil, errors.New("not now")
		},
	})
	part, err := transport.ParsePart(multiserver.NewPart("net", zoned+":8889"), multiserver.Strict)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Dial(t.Context(), part); err == nil || asked != "["+zoned+"]:8889" {
		t.Errorf("dialled %s", asked)
	}
	l, err := transport.Listen(t.Context(), in{Host: zoned, Port: 8889})
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Addresses(multiserver.Device)[0].String(); got != "net:fe80::1065:74a4:4016:6266:8889" {
		t.Error(got)
	}
}

type heldBack struct{ net.Listener }

func (heldBack) Addr() net.Addr { return &net.TCPAddr{} }

func TestDialWithADialerOfTheApplication(t *testing.T) {
	var asked string
	mine := errors.New("mine")
	transport := msnet.New(msnet.Options{DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
		asked = network + " " + address
		return nil, mine
	}})
	if _, err := transport.Dial(t.Context(), multiserver.NewPart("net", "::1:80")); !errors.Is(err, mine) || asked != "tcp [::1]:80" {
		t.Errorf("%v, asked for %s", err, asked)
	}
	if _, err := transport.Dial(t.Context(), multiserver.NewPart("onion", "h:80")); !errors.Is(err, multiserver.ErrOtherPart) {
		t.Error(err)
	}
}

// FuzzGarbage feeds bytes to a peer that listens, as a stranger would.
func FuzzGarbage(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(make([]byte, 64))
	seed := sha256.Sum256([]byte("alice"))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		f.Fatal(err)
	}
	s, err := multiserver.New(multiserver.Options{
		Transports: []multiserver.Transport{msnet.New(msnet.Options{})},
		Transforms: []multiserver.Transform{multiserver.SHS(multiserver.SHSConfig{Identity: id, AppKey: keys.MainNet()})},
		Config:     multiserver.DefaultConfig("127.0.0.1", 0),
		OnConn:     func(c *multiserver.Conn) { f.Error("a stranger got in as " + c.Remote().Ref()) },
	})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Listen(context.Background()); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	addrs := multiserver.ParseLoose(s.Address(multiserver.Device))
	transport := msnet.New(msnet.Options{})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := transport.Dial(t.Context(), addrs[0].Transport())
		if err != nil {
			return // under load the system runs out of ports
		}
		_, _ = c.Write(data)
		_ = c.Close()
	})
}
