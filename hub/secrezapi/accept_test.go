package secrezapi

import (
	"net/netip"
	"strings"
	"testing"
)

func TestAcceptHeadersAreWeighed(t *testing.T) {
	for _, c := range []struct {
		header     []string
		html, json float64
	}{
		{nil, 1, 1},
		{[]string{"*/*"}, 1, 1},
		{[]string{""}, 0, 0},
		{[]string{"text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"}, 1, 0.8},
		{[]string{"application/json"}, 0, 1},
		{[]string{"application/json, text/plain, */*"}, 1, 1},
		{[]string{"text/*;q=0.5", "application/json;q=0.25"}, 0.5, 0.25},
		{[]string{"TEXT/HTML ; level=1; Q=0.5 , */* ;q=0"}, 0.5, 0},
		{[]string{"text/html;q=2, application/json;q=-1"}, 0, 0},
		{[]string{"text/html;q=NaN, application/json;q=x"}, 0, 0},
		{[]string{"text/html;q=0, */*"}, 0, 1},
		{[]string{",;,text,/,text/,*"}, 0, 0},
	} {
		html, json := accepts(c.header, "text", "html"), accepts(c.header, "application", "json")
		if html != c.html || json != c.json {
			t.Errorf("%q: html %v, json %v; want %v, %v", c.header, html, json, c.html, c.json)
		}
	}
}

func FuzzAccepts(f *testing.F) {
	f.Add("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	f.Add("*/*;q=0.1,text/*;q=0.5,text/html;level=1;q=0")
	f.Add(";q==,,")
	f.Fuzz(func(t *testing.T, header string) {
		q := accepts([]string{header}, "text", "html")
		if !(q >= 0 && q <= 1) {
			t.Errorf("%q weighs %v", header, q)
		}
		if q > 0 && !strings.Contains(header, "/") {
			t.Errorf("%q weighs %v and names nothing", header, q)
		}
	})
}

func TestThisMachineIsNamedByItsOwnNamesOnly(t *testing.T) {
	here := netip.MustParseAddr("::ffff:127.0.0.1")
	for host, want := range map[string]string{
		"localhost": "", "localhost:1": "1", "LocalHost.:8433": "8433", "a.b.localhost:65535": "65535",
		"127.0.0.1:8433": "8433", "127.9.8.7": "", "[::1]": "", "[::1]:8433": "8433", "::1": "",
	} {
		if port, ok := LocalPort(host, here); !ok || port != want {
			t.Errorf("%q: %q, %v; want %q", host, port, ok, want)
		}
	}
	for _, host := range []string{
		"", ":", ":8433", "localhost:0", "localhost:65536", "localhost:08433", "localhost:x", "localhost:+1", "localhost:80:80", "evil.localhost.example",
		"evil\r\nlocalhost", "a b.localhost", "\"<x>.localhost", ".localhost", "127.0.0.1.example", "128.0.0.1", "[::2]:1", "[::1", "localhost%00",
	} {
		if port, ok := LocalPort(host, here); ok {
			t.Errorf("%q: taken for this machine, port %q", host, port)
		}
	}
	for _, addr := range []netip.Addr{{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")} {
		if _, ok := LocalPort("localhost", addr); ok {
			t.Errorf("%v is on this machine", addr)
		}
	}
}

func FuzzLocalPort(f *testing.F) {
	f.Add("localhost:8433")
	f.Add("[::1]:1")
	f.Add("x.localhost.")
	f.Fuzz(func(t *testing.T, host string) {
		port, ok := LocalPort(host, netip.MustParseAddr("127.0.0.1"))
		if !ok && port != "" || strings.Trim(port, "0123456789") != "" || len(port) > 5 {
			t.Errorf("%q: %q, %v", host, port, ok)
		}
	})
}
