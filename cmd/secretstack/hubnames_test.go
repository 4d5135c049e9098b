package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

func TestWhatLooksLikeAWebAddressIsOne(t *testing.T) {
	for text, want := range map[string]string{
		"http://hub.example.org:8433":    "http://hub.example.org:8433",
		"https://hub.example.org/path":   "https://hub.example.org/path",
		"hub.example.org":                "http://hub.example.org:8433",
		"hub":                            "http://hub:8433",
		"192.0.2.7:80":                   "http://192.0.2.7:80",
		"hub.example.org:443":            "https://hub.example.org:443",
		"[2001:db8::1]:8433":             "http://[2001:db8::1]:8433",
		"2001:db8::1":                    "http://[2001:db8::1]:8433",
		"":                               "",
		"hub:0":                          "",
		"hub:65536":                      "",
		"hub:port":                       "",
		"net:hub.example.org:8433":       "",
		"net:hub.example.org:8433~shs:x": "",
		"secretstack://hub?address=x":    "",
		"wss://hub.example.org/~shs:x":   "",
		"ftp://hub.example.org":          "",
		"http://":                        "",
	} {
		got := ""
		if u, ok := webAddress(text); ok {
			got = u.String()
		}
		if got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestAHubThatHasToldItsKeyIsAddressed(t *testing.T) {
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	for web, want := range map[string]string{
		"http://hub.example.org":      "net:hub.example.org:80",
		"http://hub.example.org:8433": "net:hub.example.org:8433",
		"http://[2001:db8::1]:8433":   "net:2001:db8::1:8433",
		"https://hub.example.org":     "wss://hub.example.org",
	} {
		u, err := url.Parse(web)
		if err != nil {
			t.Fatal(err)
		}
		got, err := hubAddress(u, id.Public())
		if want += "~shs:" + id.Public().Base64(); got != want || err != nil {
			t.Errorf("%s is reached at %q, %v; want %q", web, got, err, want)
			continue
		}
		if _, err := parseHubs([]string{got}); err != nil {
			t.Error(err)
		}
	}
}

// TestEveryCommandTakesTheSameNamesOfHubs holds all that have --hub to the same forms, and to one way out.
func TestEveryCommandTakesTheSameNamesOfHubs(t *testing.T) {
	h := newTestHub(t)
	site := httptest.NewServer(http.NotFoundHandler())
	defer site.Close()
	peer := newKey(t)
	tunnel := fmt.Sprintf("tunnel:%s:@%s.ed25519~shs:%s", h.About().Key.Ref(), peer, peer)
	commands := [][]string{
		{"serve", "--host", "127.0.0.1"}, {"share", "1", "--allow", "anyone"}, {"connect", "@" + peer + ".ed25519/web", "0"}, {"call", tunnel, "manifest"},
	}
	with := func(args []string, hub string) []string {
		return append(append([]string{}, args...), "--hub", hub, "--root", t.TempDir())
	}
	for _, args := range commands {
		for hub, want := range map[string]struct {
			code int
			says string
		}{
			"127.0.0.1:1":            {exitFailed, "there is no answer from the hub 127.0.0.1:1"},
			"http://127.0.0.1:1":     {exitFailed, "there is no answer from the hub 127.0.0.1:1"},
			site.URL:                 {exitUsage, "tells no key"},
			"a b":                    {exitUsage, "--hub"},
			"net:127.0.0.1:1":        {exitUsage, "add ~shs: and the peer's key"},
			"secretstack:AQAB":       {exitUsage, "--hub: not a link to a hub"},
			"circuit:" + tunnel[7:]:  {exitUsage, "--hub"},
			strings.Clone(tunnel):    {exitUsage, "--hub: a tunnel: address is that of a peer behind a hub"},
			"http://127.0.0.1:1/?x=": {exitFailed, "there is no answer"},
		} {
			r := command(t, "", with(args, hub)...)
			if r.code != want.code || !strings.Contains(r.err, want.says) || !strings.Contains(r.err, hubForms) {
				t.Errorf("%s with --hub %s ended with %d: %s", args[0], hub, r.code, r.err)
			}
		}
	}
	_, port, _ := net.SplitHostPort(h.addr)
	for _, hub := range []string{"http://" + h.addr, h.addr, "localhost:" + port} {
		for _, args := range commands[:2] {
			newProcess(t, append(with(args, hub), "--json")...).object() // it says that it is there
		}
		for _, args := range commands[2:] { // which ask the hub for somebody whom it does not know
			r := command(t, "", with(args, hub)...)
			if r.code != exitFailed || strings.Contains(r.err, "--hub") {
				t.Errorf("%s with --hub %s ended with %d: %s", args[0], hub, r.code, r.err)
			}
		}
	}
}
