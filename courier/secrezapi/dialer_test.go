package secrezapi

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/secretstack/secretstack/secrez"
)

// resolverTo gives a resolver that asks a name server for which all names are at one address.
func resolverTo(t *testing.T, addr netip.Addr) *net.Resolver {
	t.Helper()
	var lc net.ListenConfig
	server, err := lc.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 1500); ; {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(answerDNS(buf[:n], addr), from)
		}
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

// answerDNS answers a question for the addresses of a name.
func answerDNS(query []byte, addr netip.Addr) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
	m.Response, m.Additionals = true, nil
	switch {
	case q.Type == dnsmessage.TypeA && addr.Is4():
		m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}}}
	case q.Type == dnsmessage.TypeAAAA && addr.Is6():
		m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}}}
	}
	out, _ := m.Pack()
	return out
}

// privateAddresses are one of each kind that an address of a contact must not lead to.
var privateAddresses = []string{
	"127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", // this machine
	"10.0.0.1", "172.16.0.1", "192.168.1.1", "fc00::1", "fd12::1", "::ffff:10.0.0.1", "64:ff9b::192.168.1.1", // private networks
	"100.64.0.1", "100.127.255.254", "::ffff:100.64.0.1", // a provider's
	"198.18.0.1", "192.0.0.8", // tests, protocols
	"169.254.169.254", "fe80::1", "fec0::1", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "64:ff9b:1::1", // the link
	"0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", // none, which means this machine
	"224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1", // many
	"2002:7f00:1::1", "2002:c0a8:101::1", "2001:0:7f00:1::", "::127.0.0.1", "::ffff:0:127.0.0.1", // IPv4 within IPv6
}

func TestNamesThatLeadIntoPrivateNetworksAreNotConnectedTo(t *testing.T) {
	for _, address := range privateAddresses {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			addr := netip.MustParseAddr(address)
			d := dialer{hubs: []string{"our-hub.example:80"}, resolver: resolverTo(t, addr)}
			for _, to := range []string{"7y-6ro-3z.evil.example:80", netip.AddrPortFrom(addr, 80).String()} {
				conn, err := d.dial(t.Context(), "tcp", to)
				if addr.Is6() && errors.Is(err, syscall.EAFNOSUPPORT) {
					continue // a machine without IPv6 gets no further
				}
				if !errors.Is(err, ErrPrivate) {
					t.Errorf("%s: %v, %v", to, conn, err)
				}
			}
		})
	}
}

func TestAddressesAreCheckedWhenTheyAreDialled(t *testing.T) {
	for at, want := range map[string]struct{ anybody, own bool }{
		"93.184.216.34:80": {true, true}, "[2606:4700::1]:443": {true, true}, "[64:ff9b::5db8:d822]:80": {true, true},
		"127.0.0.1:80": {false, true}, "10.1.2.3:80": {false, true}, "[fd00::1]:80": {false, true}, "100.64.0.1:80": {false, true},
		"[::ffff:192.168.0.1]:80": {false, true},
		"169.254.169.254:80":      {}, "[fe80::1%eth0]:80": {}, "0.0.0.0:80": {}, "[ff02::1]:80": {}, "": {}, "localhost:80": {},
	} {
		if anybody, own := mayConnect(at, false), mayConnect(at, true); anybody != want.anybody || own != want.own {
			t.Errorf("%s: %v for anybody, %v for a hub of the owner's", at, anybody, own)
		}
	}
}

func TestOnlyHubsThatTheOwnerHasChosenMayBeAnywhere(t *testing.T) {
	for _, c := range []struct {
		hub, host, port string
		want            bool
	}{
		{"hub.lan:8433", "hub.lan", "8433", true},
		{"hub.lan:8433", "7y-6ro-3z.HUB.lan.", "8433", true},
		{"hub.lan:8433", "7y-6ro-3z.hub.lan", "6379", false}, // another service on the same machine
		{"hub.lan:8433", "7y-6ro-3z.nothub.lan", "8433", false},
		{"hub.lan:8433", "hub.lan.evil.example", "8433", false},
		{"localhost:8433", "7y-6ro-3z.localhost", "8433", true},
		{"127.0.0.1:8433", "7y-6ro-3z.localhost", "8433", true},
		{"[::1]:8433", "7y-6ro-3z.localhost", "8433", true},
		{"127.0.0.1:8433", "127.0.0.1", "8433", true},
		{"localhost:8433", "7y-6ro-3z.localhost", "22", false},
		{"hub.lan:8433", "7y-6ro-3z.localhost", "8433", false},
		{"10.0.0.1:8433", "10.0.0.1", "8433", true},
		{"10.0.0.1:8433", "10.0.0.2", "8433", false},
	} {
		if got := belongsTo(c.host, c.port, c.hub); got != c.want {
			t.Errorf("%s:%s with the hub %s: %v", c.host, c.port, c.hub, got)
		}
	}
}

// A service on this machine that a contact's address must not reach, and a courier at a hub of the owner's that it may.
func TestContactsDoNotLeadToThisMachine(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, `{"success":true}`)
	}))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	id, _ := secrez.ParseID("7y-6ro-3z")
	stranger := NewClient(ClientOptions{Resolver: resolverTo(t, netip.MustParseAddr("127.0.0.1")), Hubs: []string{"localhost:1"}})
	for _, hub := range []string{"localhost", "127.0.0.1", "0.0.0.0", "evil.example"} {
		if _, err := stranger.PublicKey(t.Context(), "http://"+hub+":"+port, id); !errors.Is(err, ErrPrivate) {
			t.Errorf("asked the hub %s for a key: %v", hub, err)
		}
	}
	for _, contact := range []string{"7y-6ro-3z.localhost", "7y-6ro-3z.evil.example"} {
		if err := stranger.Deliver(t.Context(), "http://"+contact+":"+port, secrez.Signed{}); !errors.Is(err, ErrPrivate) || !errors.Is(err, ErrOffline) {
			t.Errorf("delivered to %s: %v", contact, err)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests have come", n)
	}
	own := NewClient(ClientOptions{Hubs: []string{net.JoinHostPort("localhost", port)}, Timeout: time.Minute})
	if err := own.Deliver(t.Context(), "http://7y-6ro-3z.localhost:"+port, secrez.Signed{}); err != nil || asked.Load() != 1 {
		t.Errorf("at the owner's own hub: %v", err)
	}
}

// A hub says where the port of a tunnel is, and might name what only this machine reaches.
func TestAHubDoesNotLeadTunnelsElsewhere(t *testing.T) {
	var lc net.ListenConfig
	secret, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = secret.Close() }()
	_, port, _ := net.SplitHostPort(secret.Addr().String())
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"id":"7y-6ro-3z","port":`+port+`,"ip":"127.0.0.1","url":"http://7y-6ro-3z.hub.example"}`)
	}))
	defer hub.Close()
	client := ClientTo(ClientOptions{}, hub.Listener.Addr().String())
	tunnel := NewTunnel(TunnelOptions{Client: client, Hub: "http://hub.example", Handler: http.NotFoundHandler(), Retry: time.Millisecond})
	defer func() { _ = tunnel.Close() }()
	if at, err := tunnel.Publish(t.Context(), secrez.Signed{}); !errors.Is(err, ErrOffline) {
		t.Errorf("%v, %v", at, err)
	}
	_ = secret.(*net.TCPListener).SetDeadline(time.Now())
	if conn, err := secret.Accept(); err == nil {
		_ = conn.Close()
		t.Error("the tunnel has come to another port than the hub's")
	}
}
