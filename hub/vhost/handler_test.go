package vhost

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/secrez"
)

func TestARequestReachesItsCourierAndTheSocketIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		for i := range 3 {
			v.send(fmt.Sprintf("POST /p%d?a=1;b=%%zz HTTP/1.1\r\nHost: 7Y-6RO-3Z.Hub.test:8433\r\nX-Own: 1\r\nContent-Length: 4\r\n\r\nbody", i))
			r := s.request()
			if r.Method != "POST" || r.RequestURI != fmt.Sprintf("/p%d?a=1;b=%%zz", i) || r.body != "body" || r.ContentLength != 4 {
				t.Errorf("the courier got %s %s with %q", r.Method, r.RequestURI, r.body)
			}
			if r.Host != "7Y-6RO-3Z.Hub.test:8433" {
				t.Errorf("Host %q: the visitor's is not to be changed", r.Host)
			}
			if r.Header.Get("X-Own") != "1" || r.Header["User-Agent"] != nil {
				t.Errorf("header %v", r.Header)
			}
			s.send("HTTP/1.1 201 Odd Reason\r\nX-Theirs: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok")
			res := v.response()
			if res.StatusCode != 201 || res.body != "ok" || res.Header.Get("X-Theirs") != "2" || len(res.Header["Set-Cookie"]) != 2 {
				t.Errorf("the visitor got %d %q %v", res.StatusCode, res.body, res.Header)
			}
			if res.Header["Content-Type"] != nil {
				t.Errorf("Content-Type %q: nobody said so", res.Header["Content-Type"])
			}
		}
		synctest.Wait()
		if got := w.pool.Stats(); got != (Stats{Open: 1, Idle: 1}) {
			t.Errorf("stats %+v", got)
		}
		seen := w.exchanges()
		if len(seen) != 3 || seen[0].Status != 201 || seen[0].Failed || seen[0].Received != 4 || seen[0].Sent != 2 || seen[0].ID != testID(t) {
			t.Errorf("observed %+v", seen)
		}
	})
}

func TestTheHostDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
		for _, c := range []struct {
			name, host string
			next       http.Handler
			status     int
		}{
			{"a courier", testHost, nil, 200},
			{"in capitals, with a port and a final dot", "7Y-6RO-3Z.HUB.TEST.:80", nil, 200},
			{"somebody else's id", "yb-ndr-fg.hub.test", nil, 404},
			{"the hub itself", "hub.test", nil, 404},
			{"the hub itself, with another handler", "hub.test", next, 418},
			{"a deeper name", "www.7y-6ro-3z.hub.test", next, 418},
			{"an id below an id", "7y-6ro-3z.yb-ndr-fg.hub.test", next, 418},
			{"an id of another domain", "7y-6ro-3z.evil.test", next, 418},
			{"the domain inside another one", "7y-6ro-3z.hub.test.evil.test", next, 418},
			{"a domain that ends like ours", "7y-6ro-3z.myhub.test", next, 418},
			{"an id alone", "7y-6ro-3z", next, 418},
			{"no host", "", nil, 400},
		} {
			w := newWorld(t, Config{Next: c.next}, PoolConfig{})
			s := w.socket()
			v := w.visitor()
			v.send("GET / HTTP/1.1\r\nHost: " + c.host + "\r\n\r\n")
			if c.status == 200 {
				s.request()
				s.reply("")
			}
			res := v.response()
			switch {
			case c.status >= 400 && c.status != http.StatusTeapot:
				checkAnswer(t, res, c.status)
			case res.StatusCode != c.status:
				t.Errorf("%s: %d, want %d", c.name, res.StatusCode, c.status)
			}
		}
	})
}

func TestAHubWithoutADomainFindsIdsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := func(r *http.Request) (secrez.ID, bool) { return secrez.IDFromHost(r.Host, "localhost") }
		w := newWorld(t, Config{IDFrom: local}, PoolConfig{})
		s, v := w.socket(), w.visitor()
		v.send("GET / HTTP/1.1\r\nHost: 7y-6ro-3z.localhost:8433\r\n\r\n")
		s.request()
		s.reply("ok")
		v.response()
		v.get("/")
		v.answer(404)
	})
}

func TestHeadersForOneHopStayThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.send("GET / HTTP/1.1\r\nHost: " + testHost + "\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authorization: secret\r\nTE: trailers, gzip\r\nX-End: 1\r\n\r\n")
		r := s.request()
		for _, name := range []string{"Connection", "X-Hop", "Keep-Alive", "Proxy-Authorization"} {
			if r.Header[name] != nil {
				t.Errorf("%s reached the courier: %q", name, r.Header[name])
			}
		}
		if r.Header.Get("Te") != "trailers" || r.Header.Get("X-End") != "1" {
			t.Errorf("header %v", r.Header)
		}
		s.send("HTTP/1.1 200 OK\r\nConnection: X-Back\r\nX-Back: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nX-End: 2\r\nContent-Length: 0\r\n\r\n")
		res := v.response()
		for _, name := range []string{"X-Back", "Keep-Alive", "Proxy-Authenticate"} {
			if res.Header[name] != nil {
				t.Errorf("%s reached the visitor: %q", name, res.Header[name])
			}
		}
		if res.Header.Get("X-End") != "2" {
			t.Errorf("header %v", res.Header)
		}
	})
}

func TestTrailersPassBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		for range 2 { // the second time over the same socket
			v.send("POST / HTTP/1.1\r\nHost: " + testHost + "\r\nTrailer: X-Sum, Cookie\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\nCookie: smuggled=1\r\nX-Unannounced: 1\r\n\r\n")
			r := s.request()
			if r.body != "abc" || r.Trailer.Get("X-Sum") != "6" || r.Trailer["Cookie"] != nil {
				t.Errorf("the courier got %q and %v", r.body, r.Trailer)
			}
			s.send("HTTP/1.1 200 OK\r\nTrailer: X-Done\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Done: yes\r\n\r\n")
			res := v.response()
			if res.body != "ok" || res.Trailer.Get("X-Done") != "yes" {
				t.Errorf("the visitor got %q and %v", res.body, res.Trailer)
			}
		}
	})
}

func TestBodiesStreamBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.send("POST / HTTP/1.1\r\nHost: " + testHost + "\r\nTransfer-Encoding: chunked\r\n\r\n")
		s.block()
		v.send("4\r\nping\r\n")
		if got := s.line() + s.line(); got != "4\r\nping\r\n" {
			t.Errorf("the courier got %q", got)
		}
		s.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		v.block() // the header, before anything of the body
		s.send("4\r\npong\r\n")
		if got := v.line() + v.line(); got != "4\r\npong\r\n" {
			t.Errorf("the visitor got %q", got)
		}
		v.send("4\r\nmore\r\n0\r\n\r\n")
		if got := s.line() + s.line() + s.line(); got != "4\r\nmore\r\n0\r\n" {
			t.Errorf("the courier got %q", got)
		}
		s.send("0\r\n\r\n")
		if got := v.line(); got != "0\r\n" {
			t.Errorf("the visitor got %q", got)
		}
	})
}

func TestAResponseOfKnownLengthIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		s.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
		if block := v.block(); !strings.HasPrefix(block, "HTTP/1.1 200 OK\r\n") {
			t.Errorf("the visitor got %q", block)
		}
		for _, part := range []string{"ab", "cd", "ef"} {
			s.send(part)
			if got := v.bytes(2); got != part {
				t.Errorf("the visitor got %q, want %q", got, part)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestEventsAreNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		s.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n") // ends with the socket
		v.block()
		for range 3 {
			s.send("data: x\n\n")
			if got := v.line() + v.line() + v.line() + v.line(); got != "9\r\ndata: x\n\n\r\n" {
				t.Errorf("the visitor got %q", got)
			}
			time.Sleep(time.Minute)
		}
		_ = s.c.Close()
		if got := v.line(); got != "0\r\n" {
			t.Errorf("the visitor got %q", got)
		}
	})
}

func TestExpectWaitsForTheCourier(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: " + testHost + "\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
	t.Run("which wants the body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v, s := w.visitor(), w.socket()
			v.send(head)
			if block := s.block(); !strings.Contains(block, "Expect: 100-continue\r\n") {
				t.Errorf("the courier got %q", block)
			}
			v.quiet(500 * time.Millisecond)
			s.send("HTTP/1.1 100 Continue\r\n\r\n")
			if block := v.block(); block != "HTTP/1.1 100 Continue\r\n\r\n" {
				t.Errorf("the visitor got %q", block)
			}
			v.send("hi")
			if got := s.bytes(2); got != "hi" {
				t.Errorf("the courier got %q", got)
			}
			s.reply("ok")
			if res := v.response(); res.body != "ok" {
				t.Errorf("the visitor got %q", res.body)
			}
		})
	})
	t.Run("which does not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v, s := w.visitor(), w.socket()
			v.send(head)
			s.block()
			s.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
			res := v.response()
			if res.StatusCode != 413 || res.body != "no" || !res.Close {
				t.Errorf("the visitor got %d %q, close %v", res.StatusCode, res.body, res.Close)
			}
			s.gone() // half a request stands on it
			within(t, 2*time.Second, v.gone)
		})
	})
	t.Run("which says nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v, s := w.visitor(), w.socket()
			v.send(head)
			s.block()
			within(t, time.Second, func() {
				if block := v.block(); block != "HTTP/1.1 100 Continue\r\n\r\n" { // the hub's own
					t.Errorf("the visitor got %q", block)
				}
			})
			v.send("hi")
			if got := s.bytes(2); got != "hi" {
				t.Errorf("the courier got %q", got)
			}
			s.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			for {
				res := v.response()
				if res.StatusCode == 200 && res.body == "ok" {
					return
				}
				if res.StatusCode != 100 {
					t.Fatalf("the visitor got %d", res.StatusCode)
				}
			}
		})
	})
}

func TestInterimResponsesPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		s.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
		s.reply("ok")
		if block := v.block(); block != "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" {
			t.Errorf("the visitor got %q", block)
		}
		if res := v.response(); res.StatusCode != 200 || res.Header.Get("Link") != "" {
			t.Errorf("the visitor got %d %v", res.StatusCode, res.Header)
		}
	})
}

func TestResponsesWithoutABodyFreeTheSocket(t *testing.T) {
	for _, c := range []struct{ name, method, response string }{
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"},
		{"no length but zero", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, PoolConfig{})
				v, s := w.visitor(), w.socket()
				for range 2 {
					v.send(c.method + " / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n")
					s.request()
					s.send(c.response)
					v.responseTo(c.method)
				}
			})
		})
	}
}

func TestCookiesStayWithTheirCourier(t *testing.T) {
	for in, want := range map[string]string{
		"a=1":                                  "a=1",
		"a=1; Path=/; HttpOnly":                "a=1; Path=/; HttpOnly",
		"a=1; Domain=hub.test; Path=/":         "a=1; Path=/",
		"a=1;domain = .hub.test;Secure":        "a=1;Secure",
		"domain=1; DOMAIN=hub.test":            "domain=1",
		"a=1; Path=/domain; Domain=a;Domain=b": "a=1; Path=/domain",
	} {
		if got := hostOnly(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.get("/")
		s.request()
		s.send("HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Domain=hub.test\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n")
		if got := v.response().Header["Set-Cookie"]; len(got) != 2 || got[0] != "a=1" || got[1] != "b=2" {
			t.Errorf("cookies %q", got)
		}
	})
}

func TestLimitsOnWhatVisitorsSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name, request string
			status        int
		}{
			{"header too large", "GET / HTTP/1.1\r\nHost: " + testHost + "\r\nX: " + strings.Repeat("x", 3000) + "\r\n\r\n", 431},
			{"target too large", "GET /" + strings.Repeat("x", 3000) + " HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n", 431},
			{"body says that it is too large", "POST / HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Length: 101\r\n\r\n", 413},
			{"body is too large", "POST / HTTP/1.1\r\nHost: " + testHost + "\r\nTransfer-Encoding: chunked\r\n\r\n80\r\n" + strings.Repeat("x", 128) + "\r\n0\r\n\r\n", 413},
			{"CONNECT", "CONNECT " + testHost + ":80 HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n", 405},
		} {
			w := newWorld(t, Config{MaxRequestHeader: 2000, MaxBody: 100}, PoolConfig{})
			w.socket()
			v := w.visitor()
			v.send(c.request)
			within(t, time.Second, func() { v.answer(c.status) })
			w.pool.mustEnd(t)
		}
	})
}

func (p *Pool) mustEnd(t *testing.T) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestTooManyExchangesOfOneCourier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{MaxRequests: 2}, PoolConfig{MaxSockets: 8})
		a, b, c := w.visitor(), w.visitor(), w.visitor()
		sa, sb := w.socket(), w.socket()
		synctest.Wait()
		a.get("/")
		b.get("/")
		first, second := sa, sb
		synctest.Wait()
		if got := w.handler.Active(); got != 2 {
			t.Errorf("%d exchanges", got)
		}
		c.get("/")
		res := c.response()
		checkAnswer(t, res, 503)
		if res.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		for _, s := range []*wire{first, second} {
			s.request()
			s.reply("ok")
		}
		a.response()
		b.response()
		synctest.Wait()
		c.get("/")
		synctest.Wait()
		if got := w.handler.Active(); got != 1 {
			t.Errorf("%d exchanges", got)
		}
	})
}

func TestWhatTheDirectorySaysIsAnswered(t *testing.T) {
	slow := func(ctx context.Context, _ secrez.ID) (Courier, error) { <-ctx.Done(); return nil, ctx.Err() }
	say := func(err error) directory {
		return func(context.Context, secrez.ID) (Courier, error) { return nil, err }
	}
	for _, c := range []struct {
		name   string
		dir    directory
		status int
	}{
		{"unknown", say(ErrUnknown), 404},
		{"unknown, wrapped", say(fmt.Errorf("registry: %w", ErrUnknown)), 404},
		{"away", say(ErrAway), 503},
		{"busy", say(ErrBusy), 503},
		{"too slow", say(ErrTooSlow), 504},
		{"never answers", slow, 504},
		{"something else", say(errors.New("dial 10.0.0.1: secret")), 502},
		{"nothing at all", say(nil), 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{Directory: c.dir}, PoolConfig{})
				v := w.visitor()
				v.get("/")
				within(t, defaultDialTimeout, func() {
					res := v.response()
					checkAnswer(t, res, c.status)
					if strings.Contains(res.body, "10.0.0.1") || strings.Contains(res.body, "vhost") {
						t.Errorf("the answer says too much: %s", res.body)
					}
				})
			})
		})
	}
}

func TestAConfigurationThatIsNotUsable(t *testing.T) {
	if _, err := NewHandler(Config{Domain: "hub.test"}); !errors.Is(err, ErrConfig) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := NewHandler(Config{Directory: one{}}); !errors.Is(err, ErrConfig) {
		t.Errorf("no domain: %v", err)
	}
	if _, err := NewStreams(StreamsConfig{}); !errors.Is(err, ErrConfig) {
		t.Errorf("no way to open: %v", err)
	}
}
