package vhost

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
)

func TestWhereARequestComesFrom(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("192.0.2.50/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, c := range []struct {
		name, header string
		trusted      []netip.Prefix
		forwardedFor string
		proto        string
	}{
		{"nobody said anything", "", nil, "192.0.2.50", "http"},
		{"a visitor that lies", "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n", nil, "192.0.2.50", "http"},
		{"a proxy", "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n", proxies, "1.2.3.4, 192.0.2.50", "https"},
		{"a proxy that heard a lie", "X-Forwarded-For: 6.6.6.6, 1.2.3.4\r\n", proxies, "1.2.3.4, 192.0.2.50", "http"},
		{"proxies behind proxies", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.2.3.4,10.1.1.1\r\nX-Forwarded-For: 2001:db8::1\r\n", proxies, "1.2.3.4, 10.1.1.1, 2001:db8::1, 192.0.2.50", "http"},
		{"nothing but proxies", "X-Forwarded-For: 10.1.1.1\r\n", proxies, "10.1.1.1, 192.0.2.50", "http"},
		{"IPv4 in the form of IPv6", "X-Forwarded-For: 6.6.6.6, ::ffff:1.2.3.4, ::ffff:10.0.0.1\r\n", proxies, "1.2.3.4, 10.0.0.1, 192.0.2.50", "http"},
		{"nonsense", "X-Forwarded-For: 1.2.3.4, unknown, 10.1.1.1\r\n", proxies, "10.1.1.1, 192.0.2.50", "http"},
		{"nothing but nonsense", "X-Forwarded-For: <script>\r\n", proxies, "192.0.2.50", "http"},
		{"the nearest proxy counts", "X-Forwarded-Proto: https, http\r\n", proxies, "192.0.2.50", "http"},
		{"a protocol that is none", "X-Forwarded-Proto: gopher\r\n", proxies, "192.0.2.50", "http"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{TrustedProxies: c.trusted}, PoolConfig{})
				v, s := w.visitor(), w.socket()
				v.send("GET / HTTP/1.1\r\nHost: " + testHost + "\r\n" + c.header +
					"X-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /evil\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\r\n")
				r := s.request()
				s.reply("")
				want := http.Header{"X-Forwarded-For": {c.forwardedFor}, "X-Forwarded-Host": {testHost}, "X-Forwarded-Proto": {c.proto}}
				for name, values := range r.Header {
					if forwarding(name) && strings.Join(values, "|") != strings.Join(want[name], "|") {
						t.Errorf("%s is %q, want %q", name, values, want[name])
					}
				}
				for name := range want {
					if r.Header[name] == nil {
						t.Errorf("no %s", name)
					}
				}
			})
		})
	}
}

func TestARequestOverTLSIsHTTPS(t *testing.T) {
	x := &exchange{h: &Handler{}, in: &http.Request{TLS: &tls.ConnectionState{}, Host: testHost, RemoteAddr: "[2001:db8::1%eth0]:1"}}
	h := http.Header{}
	x.forward(h)
	if h.Get("X-Forwarded-Proto") != "https" || h.Get("X-Forwarded-For") != "2001:db8::1" {
		t.Errorf("got %v", h)
	}
	x.in.RemoteAddr = "@" // a unix socket
	h = http.Header{}
	if x.forward(h); h["X-Forwarded-For"] != nil {
		t.Errorf("got %v", h)
	}
}

func TestTargetsCannotEndTheRequestLine(t *testing.T) {
	for _, c := range []struct {
		u    url.URL
		want string
	}{
		{url.URL{Path: "/"}, "/"},
		{url.URL{}, "/"},
		{url.URL{Path: "*"}, "*"},
		{url.URL{Path: "//evil.test/x"}, "//evil.test/x"},
		{url.URL{Path: "/a b", RawQuery: "q=1 HTTP/1.1"}, "/a%20b?q=1%20HTTP/1.1"},
		{url.URL{Path: "/a", RawQuery: "x\r\nEvil: 1\x00\xff"}, "/a?x%0D%0AEvil:%201%00%FF"},
		{url.URL{Path: "/a/b", RawPath: "/a%2Fb"}, "/a%2Fb"},
		{url.URL{Path: "a"}, "/a"},
		{url.URL{Path: "/a", ForceQuery: true}, "/a?"},
		{url.URL{Path: "/a", RawQuery: "x;y=%zz&z"}, "/a?x;y=%zz&z"},
		{url.URL{Scheme: "http", Host: "evil.test", Path: "/a"}, "/a"},
	} {
		var b bytes.Buffer
		if writeTarget(&b, &c.u); b.String() != c.want {
			t.Errorf("%+v is written %q, want %q", c.u, b.String(), c.want)
		}
	}
}

func TestFieldsCannotBeginALine(t *testing.T) {
	var b bytes.Buffer
	writeField(&b, "X-A", "1\r\nEvil: 2\x003\n4")
	if got, want := b.String(), "X-A: 1  Evil: 2 3 4\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestVisitorIsWhoTrustedProxiesSayItIs(t *testing.T) {
	h := &Handler{cfg: Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	for _, c := range []struct{ remote, said, want string }{
		{"192.0.2.1:5", "", "192.0.2.1"},
		{"192.0.2.1:5", "6.6.6.6", "192.0.2.1"},
		{"[::ffff:10.0.0.1]:5", "6.6.6.6, 192.0.2.7, 10.0.0.2", "192.0.2.7"},
		{"10.0.0.1:5", "", "10.0.0.1"},
		{"10.0.0.1:5", "nonsense", "10.0.0.1"},
		{"@", "6.6.6.6", "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": {c.said}}}
		if got := h.Visitor(r).String(); got != c.want {
			t.Errorf("from %s, which says %q: %s, want %s", c.remote, c.said, got, c.want)
		}
	}
}
