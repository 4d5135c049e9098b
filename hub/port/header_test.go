package port_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/secretstack/secretstack/hub/port"
	"github.com/secretstack/secretstack/multiserver"
)

// The headers of a visitor, as proxies write them.
var headers = map[string]struct{ header, visitor string }{
	"version 1":                 {"PROXY TCP4 192.0.2.7 198.51.100.1 40112 8433\r\n", "192.0.2.7:40112"},
	"the shortest of version 1": {"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "1.2.3.4:1"},
	"version 1, IPv6":           {"PROXY TCP6 2001:db8::7 2001:db8::1 40112 8433\r\n", "[2001:db8::7]:40112"},
	"the longest of version 1": {
		"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
	},
	"version 1, nginx between two families": {"PROXY TCP6 192.0.2.7 2001:db8::1 40112 8433\r\n", "192.0.2.7:40112"},
	"version 1, mapped":                     {"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 40112 8433\r\n", "192.0.2.7:40112"},
	"version 2": {
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20\xf1", "192.0.2.7:40112",
	},
	"version 2, with other fields": {
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x14\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20\xf1\x03\x00\x05crc32", "192.0.2.7:40112",
	},
	"version 2, IPv6": {
		"\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24 \x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
			" \x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x9c\xb0\x20\xf1", "[2001:db8::7]:40112",
	},
	// The proxy for itself, or it does not know.
	"version 1, unknown":       {"PROXY UNKNOWN\r\n", "10.0.0.1:1"},
	"version 1, unknown, more": {"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "10.0.0.1:1"},
	"version 2, local":         {"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "10.0.0.1:1"},
	"version 2, unspecified":   {"\r\n\r\n\x00\r\nQUIT\n\x21\x00\x00\x03abc", "10.0.0.1:1"},
}

func TestATrustedProxySaysWhoTheVisitorIs(t *testing.T) {
	for name, c := range headers {
		for way, write := range map[string]func(net.Conn, string){"at once": send, "byte by byte": sendSlowly} {
			t.Run(name+", "+way, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var asked []netip.Addr
					ln := newNetwork()
					p := open(t, port.Options{
						TrustedProxies: prefixes("10.0.0.0/8"), RequireHeader: true, Circuit: matchMagic,
						Connect: func(visitor netip.Addr) error { asked = append(asked, visitor); return nil },
					}, ln)
					client := ln.dial(t, "10.0.0.1:1")
					write(client, c.header+magic+"no byte is lost")
					got := accept(t, p.Circuits())
					if got.RemoteAddr().String() != c.visitor {
						t.Errorf("the visitor is %s, want %s", got.RemoteAddr(), c.visitor)
					}
					if told := c.visitor != "10.0.0.1:1"; told != (len(asked) == 1) ||
						told && asked[0] != netip.MustParseAddrPort(c.visitor).Addr() {
						t.Errorf("asked about %v", asked)
					}
					wantBytes(t, got, magic+"no byte is lost")
				})
			})
		}
	}
}

func TestHeadersThatAreNoneAreRefused(t *testing.T) {
	v2 := "\r\n\r\n\x00\r\nQUIT\n"
	for name, header := range map[string]string{
		"another family":         "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
		"a family of its own":    "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
		"a zone":                 "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
		"a port too high":        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
		"a negative port":        "PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n",
		"no address":             "PROXY TCP4 localhost 198.51.100.1 1 2\r\n",
		"no destination":         "PROXY TCP4 192.0.2.7 x 1 2\r\n",
		"a word too many":        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
		"two blanks":             "PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
		"only a newline":         "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\nGET / HTTP/1.1\r\n",
		"a line without end":     "PROXY UNKNOWN " + string(make([]byte, 200)),
		"version 3":              v2 + "\x31\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20\xf1",
		"an unknown command":     v2 + "\x22\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20\xf1",
		"UDP":                    v2 + "\x21\x12\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20\xf1",
		"a socket in the system": v2 + "\x21\x31\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20\xf1",
		"too short":              v2 + "\x21\x11\x00\x0b\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20",
		"too short for IPv6":     v2 + "\x21\x21\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\xb0\x20\xf1",
		"far too long":           v2 + "\x21\x11\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newNetwork()
				p := open(t, port.Options{TrustedProxies: prefixes("10.0.0.0/8")}, ln)
				client := ln.dial(t, "10.0.0.1:1")
				send(client, header)
				wantClosed(t, client)
				if s := p.Stats(); s.Malformed != 1 || s.Accepted != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestAHeaderFromAStrangerIsNeverBelieved(t *testing.T) {
	for name, c := range headers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := newNetwork()
				p := open(t, port.Options{
					TrustedProxies: prefixes("10.0.0.0/8"),
					Connect: func(visitor netip.Addr) error {
						if visitor.String() != "192.0.2.66" {
							t.Errorf("asked about %s", visitor)
						}
						return nil
					},
				}, ln)
				client := ln.dial(t, "192.0.2.66:1")
				send(client, c.header+request)
				wantClosed(t, client)
				if s := p.Stats(); s.Malformed != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestASecondHeaderIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newNetwork()
		p := open(t, port.Options{TrustedProxies: prefixes("10.0.0.0/8")}, ln)
		client := ln.dial(t, "10.0.0.1:1")
		send(client, headers["version 1"].header+"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n"+request)
		wantClosed(t, client)
		synctest.Wait()
		if s := p.Stats(); s.Malformed != 1 || s.Unproved != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestATrustedProxyNeedNotSendAHeaderUnlessItMust(t *testing.T) {
	for _, text := range []string{request, magic, noise, "P", "\r", "\r\n\r\n\x00\r\nQUIX\n", "PROXZ"} {
		for _, required := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				ln := newNetwork()
				p := open(t, port.Options{
					TrustedProxies: prefixes("10.0.0.0/8"), RequireHeader: required, Circuit: matchMagic,
					Connect: func(netip.Addr) error { return errors.New("a proxy stands for many") },
				}, ln)
				client := ln.dial(t, "10.0.0.1:1")
				sendSlowly(client, text+"                ")
				if required {
					wantClosed(t, client)
					return
				}
				side := p.Secret()
				switch text {
				case request:
					side = p.HTTP()
				case magic:
					side = p.Circuits()
				}
				c := accept(t, side)
				if c.RemoteAddr().String() != "10.0.0.1:1" {
					t.Error(c.RemoteAddr())
				}
				wantBytes(t, c, text)
			})
		}
	}
}

// The kernel can copy a circuit's bytes, with and without a header before them.
func TestTheTCPConnectionBelowACircuitCanBeHad(t *testing.T) {
	for _, header := range []string{"", headers["version 1"].header, headers["version 2"].header} {
		ln := local(t)
		p := open(t, port.Options{TrustedProxies: prefixes("127.0.0.0/8"), Circuit: matchMagic}, ln)
		client := dial(t, ln.Addr())
		send(client, header+magic+"token, ")
		c := accept(t, p.Circuits())
		if _, ok := multiserver.TCPConn(c); ok {
			t.Error("the magic would be lost")
		}
		wantBytes(t, c, magic+"token, ")
		tcp, ok := multiserver.TCPConn(c)
		if !ok {
			t.Fatal("no TCP connection")
		}
		send(client, "payload")
		wantBytes(t, tcp, "payload")
		if err := tcp.CloseWrite(); err != nil {
			t.Error(err)
		}
		wantClosed(t, client)
	}
}

func TestNoTCPConnectionIsHadBelowTLS(t *testing.T) {
	server, client := certificate(t)
	ln := local(t)
	p := open(t, port.Options{TLS: server, Circuit: matchMagic}, ln)
	inside := secure(t, dial(t, ln.Addr()), client)
	send(inside, magic)
	c := accept(t, p.Circuits())
	wantBytes(t, c, magic)
	if _, ok := multiserver.TCPConn(c); ok {
		t.Error("what is inside TLS would be copied without it")
	}
}
