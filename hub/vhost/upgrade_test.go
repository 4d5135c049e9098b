package vhost

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	wsRequest  = "GET /chat?x HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n"
	wsResponse = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)

// upgraded brings a visitor and a courier's socket to the point at which HTTP ends.
func upgraded(t *testing.T, w *world) (v, s *wire) {
	t.Helper()
	v, s = w.visitor(), w.socket()
	v.send(wsRequest)
	s.block()
	s.send(wsResponse)
	v.block()
	return v, s
}

func TestAnUpgradePassesWithTheBytesThatFollowTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.send(wsRequest + "EARLY")
		block := s.block()
		for _, line := range []string{"GET /chat?x HTTP/1.1\r\n", "Host: " + testHost + "\r\n", "Connection: Upgrade\r\n", "Upgrade: websocket\r\n", "Sec-Websocket-Version: 13\r\n"} {
			if !strings.Contains(block, line) {
				t.Errorf("the courier got %q, without %q", block, line)
			}
		}
		s.send(wsResponse + "EARLIER")
		block = v.block()
		if !strings.HasPrefix(block, "HTTP/1.1 101 Switching Protocols\r\n") || !strings.Contains(block, "Upgrade: websocket\r\n") {
			t.Errorf("the visitor got %q", block)
		}
		if got := s.bytes(5); got != "EARLY" {
			t.Errorf("the courier got %q", got)
		}
		if got := v.bytes(7); got != "EARLIER" {
			t.Errorf("the visitor got %q", got)
		}
		for range 3 {
			v.send("PING")
			if got := s.bytes(4); got != "PING" {
				t.Errorf("the courier got %q", got)
			}
			s.send("PONG")
			if got := v.bytes(4); got != "PONG" {
				t.Errorf("the visitor got %q", got)
			}
			time.Sleep(defaultUpgradeTimeout - time.Second)
		}
		if got := w.pool.Stats(); got != (Stats{Open: 1}) {
			t.Errorf("stats %+v", got)
		}
		_ = v.c.Close()
		s.gone()
		_ = s.c.Close()
		synctest.Wait()
		if seen := w.exchanges(); len(seen) != 1 || !seen[0].Upgraded || seen[0].Status != 101 || seen[0].Failed || seen[0].Received != 17 || seen[0].Sent != 19 {
			t.Errorf("observed %+v", seen)
		}
		if got := w.pool.Stats(); got != (Stats{}) {
			t.Errorf("stats %+v", got)
		}
	})
}

func TestAnUpgradedConnectionEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(v, s *wire)
		within time.Duration
	}{
		{"with its visitor", func(v, _ *wire) { _ = v.c.Close() }, time.Second},
		{"with its courier", func(_, s *wire) { _ = s.c.Close() }, time.Second},
		{"when it is idle", func(_, _ *wire) {}, defaultUpgradeTimeout},
		{"when one half is closed and the other one idle", func(_, s *wire) { _ = s.c.(*memConn).CloseWrite() }, defaultVisitorTimeout},
		{"when the courier does not read", func(v, _ *wire) { v.flood(strings.Repeat("x", 1000000)) }, defaultSendTimeout},
		{"when the visitor does not read", func(_, s *wire) { s.flood(strings.Repeat("x", 1000000)) }, defaultSendTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, PoolConfig{})
				v, s := upgraded(t, w)
				within(t, c.within+time.Second, func() {
					c.end(v, s)
					for {
						if _, err := v.br.ReadByte(); err != nil {
							break
						}
					}
					for {
						if _, err := s.br.ReadByte(); err != nil {
							break
						}
					}
					_, _ = v.c.Close(), s.c.Close()
				})
				time.Sleep(c.within)
				if got := w.pool.Stats(); got != (Stats{}) || w.handler.Active() != 0 {
					t.Errorf("stats %+v, %d exchanges", got, w.handler.Active())
				}
			})
		})
	}
}

func TestAnUpgradedConnectionIsClosedByHalves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := upgraded(t, w)
		v.send("last words")
		_ = v.c.(*memConn).CloseWrite()
		if got := s.bytes(10); got != "last words" {
			t.Errorf("the courier got %q", got)
		}
		s.gone()
		s.send("answer")
		_ = s.c.Close()
		if got := v.bytes(6); got != "answer" {
			t.Errorf("the visitor got %q", got)
		}
		v.gone()
	})
}

func TestAnUpgradeThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.send(wsRequest)
		s.block()
		s.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
		if res := v.response(); res.StatusCode != 403 || res.body != "no" {
			t.Errorf("got %d %q", res.StatusCode, res.body)
		}
		v.get("/") // both connections go on
		s.request()
		s.reply("ok")
		v.response()
	})
}

func TestAnUpgradeToSomethingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.send(wsRequest)
		s.block()
		s.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: chess\r\nConnection: Upgrade\r\n\r\n")
		v.answer(502)
		s.gone()
	})
}

// The JavaScript hub closes the connection without a byte.
func TestAnUpgradeWithoutACourierIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{Grace: time.Second})
		v := w.visitor()
		v.send(wsRequest)
		within(t, time.Second, func() { v.answer(503) })
		v = w.visitor()
		v.send(strings.Replace(wsRequest, "7y-6ro-3z", "yb-ndr-fg", 1))
		within(t, 0, func() { v.answer(404) })
	})
}

// Inside h2c nobody would look at headers any more, and an upgrade with a body hides a second request.
func TestUpgradesThatHideRequestsAreNotPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, request := range []string{
			"GET / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: Upgrade\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\nbody",
		} {
			w := newWorld(t, Config{}, PoolConfig{})
			v, s := w.visitor(), w.socket()
			v.send(request)
			r := s.request()
			if r.Header["Upgrade"] != nil || r.Header["Connection"] != nil || r.Header["Http2-Settings"] != nil {
				t.Errorf("the courier got %v", r.Header)
			}
			s.reply("ok")
			v.response()
			w.pool.mustEnd(t)
		}
	})
}
