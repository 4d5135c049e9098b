package multiserver_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/secretstack/secretstack/multiserver"
	msnet "github.com/secretstack/secretstack/multiserver/net"
)

func TestConfigurationLoadsInTheFormsOfJavaScript(t *testing.T) {
	const text = `{
		"incoming": {
			"net": [
				{"scope": "device", "transform": "noauth", "port": 8009, "host": "localhost"},
				{"scope": ["device", "local", "public"], "transform": "shs", "port": 8008, "external": "example.org"},
				{"scope": "public", "transform": "shs", "external": ["a.org", "b.org"], "host": null, "port": null}
			],
			"unix": [{"scope": "device", "transform": "noauth", "path": "/tmp/x"}]
		},
		"outgoing": {"net": [{"transform": "shs"}], "onion": [{"transform": "shs", "scope": "public"}]}
	}`
	var got multiserver.Config
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := multiserver.Config{
		Incoming: map[string][]multiserver.Incoming{
			"net": {
				{Scope: multiserver.Scopes{"device"}, Transform: "noauth", Port: 8009, Host: "localhost"},
				{Scope: multiserver.Scopes{"device", "local", "public"}, Transform: "shs", Port: 8008, External: multiserver.Hosts{"example.org"}},
				{Scope: multiserver.Scopes{"public"}, Transform: "shs", External: multiserver.Hosts{"a.org", "b.org"}},
			},
			"unix": {{Scope: multiserver.Scopes{"device"}, Transform: "noauth", Options: map[string]json.RawMessage{"path": json.RawMessage(`"/tmp/x"`)}}},
		},
		Outgoing: map[string][]multiserver.Outgoing{"net": {{Transform: "shs"}}, "onion": {{Transform: "shs"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var again multiserver.Config
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("does not come back from %s: %v", b, err)
	}
}

func TestConfigurationMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		`"x"`:                    "must be an object",
		`{"scope":"bogus"}`:      "invalid scope: bogus (the scopes are device, local, private and public)",
		`{"scope":["device",1]}`: `"scope" must be a string or an array of strings`,
		`{"external":7}`:         `"external" must be a string or an array of strings`,
		`{"port":"8008"}`:        `port "8008" is not a number from 0 to 65535`,
		`{"port":70000}`:         `port 70000 is not a number from 0 to 65535`,
		`{"port":1.5}`:           `port 1.5 is not a number`,
		`{"host":["a"]}`:         `"host" cannot be ["a"]`,
		`{"transform":{}}`:       `"transform" cannot be {}`,
	} {
		var in multiserver.Incoming
		err := json.Unmarshal([]byte(text), &in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// JavaScript ignores transports and transforms that it does not know.
func TestUnknownNamesInTheConfigurationAreErrors(t *testing.T) {
	type config = multiserver.Config
	in := func(transport, transform string) config {
		return config{Incoming: map[string][]multiserver.Incoming{transport: {{Transform: transform}}}}
	}
	out := func(transport, transform string) config {
		return config{Outgoing: map[string][]multiserver.Outgoing{transport: {{Transform: transform}}}}
	}
	for _, test := range []struct {
		config config
		want   string
	}{
		{in("tcp", "shs"), `connections.incoming names the transport "tcp", which is not known here; known: net`},
		{in("net", "tls"), `connections.incoming.net names the transform "tls", which is not known here; known: shs`},
		{in("net", ""), `an entry of connections.incoming.net has no transform; known: shs`},
		{out("ws", "shs"), `connections.outgoing names the transport "ws", which is not known here; known: net`},
		{out("net", "noauth"), `connections.outgoing.net names the transform "noauth"`},
	} {
		_, err := multiserver.New(multiserver.Options{
			Transports: []multiserver.Transport{msnet.New(msnet.Options{})},
			Transforms: []multiserver.Transform{shsFor(t, "alice")},
			Config:     test.config,
		})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
	_, err := multiserver.New(multiserver.Options{Transports: []multiserver.Transport{msnet.New(msnet.Options{}), msnet.New(msnet.Options{})}})
	if err == nil {
		t.Error("two transports of one name were taken")
	}
}

func TestOptionsOfAnEntryAreChecked(t *testing.T) {
	in := multiserver.Incoming{Options: map[string]json.RawMessage{"prot": json.RawMessage("8008"), "binaryType": json.RawMessage("1")}}
	var into struct {
		Path string `json:"path"`
	}
	if err := in.Decode(&into, "binaryType"); err == nil || !strings.Contains(err.Error(), `unknown field "prot"`) {
		t.Error(err)
	}
	delete(in.Options, "prot")
	if err := in.Decode(&into, "binaryType"); err != nil {
		t.Error(err)
	}
}

func iface(name string, addrs ...string) multiserver.Interface {
	i := multiserver.Interface{Name: name}
	for _, a := range addrs {
		i.Addrs = append(i.Addrs, netip.MustParseAddr(a))
	}
	return i
}

func TestScopesChooseTheHost(t *testing.T) {
	lo := iface("lo", "127.0.0.1", "::1")
	for name, test := range map[string]struct {
		ifaces          []multiserver.Interface
		private, public string
	}{
		"nothing but loopback":           {[]multiserver.Interface{lo}, "", ""},
		"IPv4 before IPv6":               {[]multiserver.Interface{lo, iface("eth0", "fd00::1", "192.168.1.2", "2001:db8::1")}, "192.168.1.2", "2001:db8::1"},
		"wireless before wired":          {[]multiserver.Interface{iface("eth0", "10.0.0.1"), iface("wlp3s0", "10.0.0.2")}, "10.0.0.2", ""},
		"en before eth before others":    {[]multiserver.Interface{iface("docker0", "172.17.0.1"), iface("eth0", "10.0.0.1"), iface("enp1s0", "10.0.0.2")}, "10.0.0.2", ""},
		"tunnels after others":           {[]multiserver.Interface{iface("tun0", "10.8.0.1"), iface("br0", "10.0.0.1")}, "10.0.0.1", ""},
		"link-local addresses last":      {[]multiserver.Interface{iface("wlan0", "fe80::1%wlan0"), iface("tun0", "10.8.0.1")}, "10.8.0.1", ""},
		"link-local is better than none": {[]multiserver.Interface{iface("wlan0", "fe80::1%wlan0")}, "fe80::1%wlan0", ""},
		"public and private":             {[]multiserver.Interface{iface("eth0", "203.0.113.7", "10.0.0.1")}, "10.0.0.1", "203.0.113.7"},
	} {
		t.Run(name, func(t *testing.T) {
			ifaces := func() ([]multiserver.Interface, error) { return test.ifaces, nil }
			for scope, want := range map[multiserver.Scope]string{
				multiserver.Device: "localhost", multiserver.Local: test.private, multiserver.Private: test.private, multiserver.Public: test.public,
			} {
				in := multiserver.Incoming{Scope: multiserver.Scopes{scope}, Interfaces: ifaces}
				host, err := in.BindHost()
				if host != want || (err != nil) != (want == "") {
					t.Errorf("%s listens on %q (%v), want %q", scope, host, err, want)
				}
				want, _, _ = strings.Cut(want, "%")
				if got := strings.Join(in.AdvertisedHosts(scope), " "); got != want {
					t.Errorf("%s advertises %q, want %q", scope, got, want)
				}
			}
		})
	}
}

func TestSeveralScopesListenOnEveryInterface(t *testing.T) {
	in := multiserver.Incoming{Scope: multiserver.Scopes{multiserver.Device, multiserver.Local}, Interfaces: noInterfaces}
	if host, err := in.BindHost(); host != "" || err != nil {
		t.Errorf("%q %v", host, err)
	}
	if got := in.AdvertisedHosts(multiserver.Private); got != nil {
		t.Errorf("local is advertised as private: %v", got)
	}
}

// The wart of multiserver's issue 22: the public scope gave localhost.
func TestWartPublicScopeIsNeverLocalhost(t *testing.T) {
	in := multiserver.Incoming{Scope: multiserver.Scopes{multiserver.Device, multiserver.Public}, Interfaces: noInterfaces}
	if got := in.AdvertisedHosts(multiserver.Public); got != nil {
		t.Errorf("got %v", got)
	}
}

// The warts of multiserver's issues 47 and 48: a given host was not advertised.
func TestWartGivenHostIsAdvertised(t *testing.T) {
	in := multiserver.Incoming{Scope: multiserver.Scopes{multiserver.Device, multiserver.Public}, Host: "example.org", Interfaces: noInterfaces}
	for _, scope := range in.Scope {
		if got := in.AdvertisedHosts(scope); !reflect.DeepEqual(got, []string{"example.org"}) {
			t.Errorf("%s: %v", scope, got)
		}
	}
}

func TestRandomPortsAreOfTheRangeForPrivateUse(t *testing.T) {
	var seen []string
	in := multiserver.Incoming{Host: "127.0.0.1"}
	_, err := in.ListenPort(func(address string) (net.Listener, error) {
		seen = append(seen, address)
		return nil, syscall.EADDRINUSE
	})
	if !errors.Is(err, syscall.EADDRINUSE) || len(seen) < 2 {
		t.Errorf("%v after %d tries", err, len(seen))
	}
	for _, address := range seen {
		if port := netip.MustParseAddrPort(address).Port(); port < 49152 {
			t.Errorf("port %d", port)
		}
	}
}

func TestExternalHostsAreChecked(t *testing.T) {
	transport := msnet.New(msnet.Options{})
	for host, ok := range map[string]bool{
		"example.org": true, "203.0.113.7": true, "2001:db8::1": true, "net:example.org:443": true,
		"example.org:443": false, "": false, "net:example.org": false, "http://example.org": false, "a b": false,
	} {
		if err := multiserver.CheckExternal(multiserver.Hosts{host}, transport); (err == nil) != ok {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestDefaultConfigurationIsThatOfSecretStack(t *testing.T) {
	b, err := json.Marshal(multiserver.DefaultConfig("", 0))
	want := `{"incoming":{"net":[{"scope":["device","local","public"],"transform":"shs"}]},"outgoing":{"net":[{"transform":"shs"}]}}`
	if err != nil || string(b) != want {
		t.Errorf("%s %v, want %s", b, err, want)
	}
}

func TestSystemInterfacesAreListed(t *testing.T) {
	all, err := multiserver.SystemInterfaces()
	if err != nil || len(all) == 0 {
		t.Fatalf("%v %v", all, err)
	}
}
