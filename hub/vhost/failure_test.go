package vhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	postHead    = "POST / HTTP/1.1\r\nHost: " + testHost + "\r\n"
	smallPost   = postHead + "Content-Length: 4\r\n\r\nbody"
	chunkedPost = postHead + "Transfer-Encoding: chunked\r\n\r\n"
)

// failures are the ways in which a courier fails that has got a request: what it does, and what the visitor gets within
// which time. The courier does it again when it is asked again.
var failures = []struct {
	name    string
	request string
	courier func(*wire) // gets a socket on which a request has begun
	status  int         // 0: the response breaks off
	within  time.Duration
	asked   int // how often the courier is asked
}{
	{"dies before the response to a GET", "", func(s *wire) { _ = s.c.Close() }, 502, time.Second, 2},
	{"dies before the response to a small POST", smallPost, func(s *wire) { _ = s.c.Close() }, 502, time.Second, 1},
	{"dies while a POST is still arriving", chunkedPost + "4\r\nbody\r\n", func(s *wire) { _ = s.c.Close() }, 502, time.Second, 1},
	{"dies while a long POST is still arriving", postHead + "Content-Length: 100000\r\n\r\nbody", func(s *wire) { _ = s.c.Close() }, 502, time.Second, 1},
	{"half-closes before the response", "", func(s *wire) { _ = s.c.(*memConn).CloseWrite() }, 502, time.Second, 2},
	{"dies in the header", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nContent-Le"); _ = s.c.Close() }, 502, time.Second, 1},
	{"dies in the status line", "", func(s *wire) { s.send("HTTP/1.1 2"); _ = s.c.Close() }, 502, time.Second, 1},
	{"dies in the body", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"); _ = s.c.Close() }, 0, time.Second, 1},
	{"dies in a chunked body", "", func(s *wire) {
		s.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
		_ = s.c.Close()
	}, 0, time.Second, 1},
	{"dies before the body", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"); _ = s.c.Close() }, 0, time.Second, 1},
	{"sends a broken chunk", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n") }, 0, time.Second, 1},
	{"answers garbage", "", func(s *wire) { s.send("SSH-2.0-OpenSSH_9.2\r\n") }, 502, time.Second, 1},
	{"answers bytes", "", func(s *wire) { s.send("\x00\x01\x02\xff\r\n\r\n") }, 502, time.Second, 1},
	{"answers with an impossible status", "", func(s *wire) { s.send("HTTP/1.1 099 No\r\n\r\n") }, 502, time.Second, 1},
	{"answers with a broken header", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nno colon\r\n\r\n") }, 502, time.Second, 1},
	{"answers with two lengths", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab") }, 502, time.Second, 1},
	{"answers with a length that is none", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n") }, 502, time.Second, 1},
	{"switches protocols without being asked", "", func(s *wire) {
		s.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	}, 502, time.Second, 1},
	{"sends a header of 70 KiB", "", func(s *wire) {
		s.send("HTTP/1.1 200 OK\r\n")
		s.flood("X: " + strings.Repeat("x", 70<<10) + "\r\n\r\n")
	}, 502, time.Second, 1},
	{"sends a status line without an end", "", func(s *wire) { s.flood("HTTP/1.1 200 " + strings.Repeat("x", 70<<10)) }, 502, time.Second, 1},
	{"sends interim responses without an end", "", func(s *wire) { s.flood(strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 4000)) }, 502, time.Second, 1},
	{"never answers", "", func(*wire) {}, 504, defaultResponseTimeout, 1},
	{"never answers a POST", smallPost, func(*wire) {}, 504, defaultResponseTimeout, 1},
	{"never answers a chunked POST", chunkedPost + "0\r\n\r\n", func(*wire) {}, 504, defaultResponseTimeout, 1},
	{"answers byte by byte", "", func(s *wire) {
		for _, c := range []byte("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1000)) {
			if _, err := s.c.Write([]byte{c}); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}, 504, defaultResponseTimeout, 1},
	{"stops in the body", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") }, 0, defaultBodyTimeout, 1},
	{"stops before the body", "", func(s *wire) { s.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n") }, 0, defaultBodyTimeout, 1},
}

// flood sends what may not all be taken.
func (w *wire) flood(s string) { _, _ = w.c.Write([]byte(s)) }

func TestEveryFailureOfACourierIsAnswered(t *testing.T) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, PoolConfig{})
				asked := make(chan struct{}, 10)
				for range 4 {
					s := w.socket()
					go func() {
						if _, err := http.ReadRequest(s.br); err == nil {
							asked <- struct{}{}
							f.courier(s)
						}
					}()
				}
				synctest.Wait()
				v := w.visitor()
				request := f.request
				if request == "" {
					request = "GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
				}
				v.send(request)
				within(t, f.within, func() {
					if f.status != 0 {
						v.answer(f.status)
						return
					}
					if res, err := v.tryResponse(http.MethodGet); err == nil {
						if body, err := io.ReadAll(res.Body); err == nil {
							t.Errorf("a whole body: %q", body)
						}
					}
				})
				synctest.Wait()
				if len(asked) != f.asked {
					t.Errorf("the courier was asked %d times, want %d", len(asked), f.asked)
				}
				if seen := w.exchanges(); len(seen) != 1 || !seen[0].Failed {
					t.Errorf("observed %+v", seen)
				}
				// Nothing stays behind: the next visitor is served, by a socket that did not fail.
				if got := w.pool.Stats().Open; got != 4-f.asked {
					t.Errorf("%d sockets left, want %d", got, 4-f.asked)
				}
				if got := w.handler.Active(); got != 0 {
					t.Errorf("%d exchanges left", got)
				}
			})
		})
	}
}

func TestACourierThatDoesNotReadIsTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.send(postHead + "Content-Length: 10000000\r\n\r\n")
		go func() { // as much as anybody takes
			part := []byte(strings.Repeat("x", 10000))
			for {
				if _, err := v.c.Write(part); err != nil {
					return
				}
			}
		}()
		s.block()
		within(t, defaultSendTimeout+lastWords, func() { v.answer(504) })
		_ = v.c.Close()
	})
}

func TestACourierThatAnswersBeforeItHasReadIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		v, s := w.visitor(), w.socket()
		v.send(postHead + "Content-Length: 10000000\r\n\r\nbody")
		s.block()
		s.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
		_ = s.c.Close()
		res := v.response()
		if res.StatusCode != 413 || res.body != "no" || !res.Close {
			t.Errorf("got %d %q, close %v", res.StatusCode, res.body, res.Close)
		}
		// The rest of the body is no request.
		v.flood("GET /smuggled HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n")
		within(t, 3*time.Second, v.gone)
		if seen := w.exchanges(); len(seen) != 1 {
			t.Errorf("observed %+v", seen)
		}
	})
}

// The failures of a JavaScript hub: a socket that is freed serves nobody, and who waits hangs when the grace is over.
func TestVisitorsThatWait(t *testing.T) {
	t.Run("get the first socket that comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v := w.visitor()
			v.get("/")
			time.Sleep(300 * time.Millisecond)
			s := w.socket()
			s.request()
			s.reply("ok")
			if res := v.response(); res.body != "ok" {
				t.Errorf("got %q", res.body)
			}
		})
	})
	t.Run("get the first socket that is freed, in their order", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			s := w.socket()
			var visitors []*wire
			for i := range 10 {
				v := w.visitor()
				v.get(fmt.Sprintf("/%d", i))
				visitors = append(visitors, v)
				synctest.Wait()
			}
			if got := w.pool.Stats(); got != (Stats{Open: 1, Waiting: 9}) {
				t.Errorf("stats %+v", got)
			}
			for i, v := range visitors {
				if r := s.request(); r.RequestURI != fmt.Sprintf("/%d", i) {
					t.Errorf("request %d is %s", i, r.RequestURI)
				}
				s.reply(fmt.Sprint(i))
				if res := v.response(); res.body != fmt.Sprint(i) {
					t.Errorf("visitor %d got %q", i, res.body)
				}
			}
		})
	})
	t.Run("hear that the courier is away when the grace ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{Grace: 4 * time.Second})
			v := w.visitor()
			v.get("/")
			within(t, 4*time.Second, func() { v.answer(503) })
			within(t, 0, func() { v.get("/"); v.answer(503) })
		})
	})
	t.Run("hear that the courier is away when the wait ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{Grace: time.Minute, Wait: 4 * time.Second})
			v := w.visitor()
			v.get("/")
			within(t, 4*time.Second, func() {
				res := v.response()
				checkAnswer(t, res, 503)
				if !strings.Contains(res.body, "away") {
					t.Errorf("got %s", res.body)
				}
			})
		})
	})
	t.Run("hear that the courier is busy", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{Queue: 1, Wait: 4 * time.Second})
			s := w.socket()
			a, b, c := w.visitor(), w.visitor(), w.visitor()
			a.get("/")
			s.request()
			b.get("/")
			synctest.Wait()
			c.get("/")
			within(t, 0, func() { c.answer(503) }) // the line is full
			within(t, 4*time.Second, func() {
				res := b.response()
				checkAnswer(t, res, 503)
				if !strings.Contains(res.body, "busy") {
					t.Errorf("got %s", res.body)
				}
			})
			s.reply("ok")
			a.response()
		})
	})
	t.Run("leave the line when they leave", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			s := w.socket()
			a, b, c := w.visitor(), w.visitor(), w.visitor()
			for i, v := range []*wire{a, b, c} {
				v.get(fmt.Sprintf("/%d", i))
				synctest.Wait()
			}
			_ = b.c.Close()
			synctest.Wait()
			if got := w.pool.Stats().Waiting; got != 1 {
				t.Errorf("%d wait", got)
			}
			s.request()
			s.reply("")
			if r := s.request(); r.RequestURI != "/2" {
				t.Errorf("%s was served", r.RequestURI)
			}
		})
	})
}

func TestVisitorsThatLeave(t *testing.T) {
	for _, c := range []struct {
		name, request string
		courier       func(s, v *wire) // brings the exchange to the point at which the visitor leaves
	}{
		{"before the response", "", func(*wire, *wire) {}},
		{"in the middle of the response", "", func(s, v *wire) {
			s.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			v.block()
		}},
		{"in the middle of their own request", chunkedPost + "4\r\nbody\r\n", func(*wire, *wire) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, PoolConfig{MaxSockets: 1})
				v, s := w.visitor(), w.socket()
				if c.request == "" {
					c.request = "GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
				}
				v.send(c.request)
				s.block()
				c.courier(s, v)
				_ = v.c.Close()
				within(t, time.Second, func() {
					for {
						if _, err := s.br.ReadByte(); err != nil {
							break // closed: the client opens another one
						}
					}
					synctest.Wait()
					if seen := w.exchanges(); len(seen) != 1 || seen[0].Failed && seen[0].Status != 400 {
						t.Errorf("observed %+v", seen)
					}
					next := w.socket()
					other := w.visitor()
					other.get("/")
					next.request()
					next.reply("ok")
					other.response()
				})
			})
		})
	}
}

func TestSlowVisitorsAreNotWaitedFor(t *testing.T) {
	t.Run("a small body that stalls takes no socket", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v := w.visitor()
			w.socket()
			v.send(postHead + "Content-Length: 100\r\n\r\nhalf")
			synctest.Wait()
			if got := w.pool.Stats(); got.Idle != 1 {
				t.Errorf("stats %+v", got)
			}
			within(t, defaultVisitorTimeout+defaultVisitorTimeout/8, func() { v.answer(408) })
			within(t, 2*time.Second, v.gone)
		})
	})
	t.Run("a body that stalls", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v, s := w.visitor(), w.socket()
			v.send(chunkedPost + "4\r\nbody\r\n")
			s.block()
			within(t, defaultVisitorTimeout+defaultVisitorTimeout/8, func() { v.answer(408) })
			within(t, 2*time.Second, v.gone)
		})
	})
	t.Run("a body that drips", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v := w.visitor()
			w.socket()
			go func() {
				v.flood(chunkedPost)
				for {
					if _, err := v.c.Write([]byte("1\r\nx\r\n")); err != nil {
						return
					}
					time.Sleep(5 * time.Second)
				}
			}()
			within(t, 2*defaultVisitorTimeout, func() { v.answer(408) })
			_ = v.c.Close()
		})
	})
	t.Run("a visitor that does not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v, s := w.visitor(), w.socket()
			v.get("/")
			s.request()
			s.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
			within(t, defaultVisitorTimeout+defaultVisitorTimeout/8, func() { s.flood(strings.Repeat("x", 1000000)) })
		})
	})
	t.Run("a visitor that reads in drops", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			v, s := w.visitor(), w.socket()
			v.get("/")
			s.request()
			go func() {
				b := make([]byte, 64)
				for {
					if _, err := v.c.Read(b); err != nil {
						return
					}
					time.Sleep(5 * time.Second)
				}
			}()
			s.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
			// What it took at once earns it some time; nothing like the month that it would need.
			within(t, 20*time.Minute, func() { s.flood(strings.Repeat("x", 1000000)) })
			_ = v.c.Close()
		})
	})
	t.Run("a visitor that never sends the body of a request that is refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			for _, head := range []string{"Content-Length: 100000\r\n\r\n", "Content-Length: 4\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
				v := w.visitor()
				v.send("POST / HTTP/1.1\r\nHost: yb-ndr-fg.hub.test\r\n" + head)
				within(t, 0, func() { v.answer(404) })
				within(t, 2*time.Second, v.gone)
			}
		})
	})
}

func TestABodyThatBreaksOffIsTheVisitorsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, request := range []string{postHead + "Content-Length: 100\r\n\r\nhalf", chunkedPost + "zz\r\n", chunkedPost + "4\r\nhalf"} {
			w := newWorld(t, Config{}, PoolConfig{})
			v := w.visitor()
			w.socket()
			v.send(request)
			synctest.Wait()
			_ = v.c.(*memConn).CloseWrite()
			within(t, 2*time.Second, func() { v.answer(400) })
			w.pool.mustEnd(t)
		}
	})
}

// brokenConn fails its writes, like a socket whose other end is known to be gone.
type brokenConn struct{ net.Conn }

func (brokenConn) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestARequestIsRepeatedOnceWhenThatIsSafe(t *testing.T) {
	get := "GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
	dies := func(s *wire) { s.block(); _ = s.c.Close() }
	says408 := func(s *wire) {
		s.block()
		s.send("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
		_ = s.c.Close()
	}
	serves := func(s *wire) { s.request(); s.reply("ok") }
	for _, c := range []struct {
		name, request string
		first, second func(*wire) // the courier's two connections; nil: it is never used
		status        int
	}{
		{"a GET", get, dies, serves, 200},
		{"a DELETE", strings.Replace(get, "GET", "DELETE", 1), dies, serves, 200},
		{"a small PUT", strings.Replace(smallPost, "POST", "PUT", 1), dies, serves, 200},
		{"a POST with a key that makes it idempotent", strings.Replace(smallPost, "\r\n\r\n", "\r\nIdempotency-Key: k\r\n\r\n", 1), dies, serves, 200},
		{"not a POST", smallPost, dies, nil, 502},
		{"not a PUT whose body has gone", strings.Replace(chunkedPost, "POST", "PUT", 1) + "0\r\n\r\n", func(s *wire) { s.request(); _ = s.c.Close() }, nil, 502},
		{"not twice", get, dies, dies, 502},
		{"a GET that was not heard", get, says408, serves, 200},
		{"a POST that was not heard", smallPost, says408, serves, 200},
		{"a PUT that waits for 100 Continue", strings.Replace(postHead, "POST", "PUT", 1) + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", dies,
			func(s *wire) { s.block(); s.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n") }, 201},
		{"not what was answered in part", get, func(s *wire) { s.block(); s.send("H"); _ = s.c.Close() }, nil, 502},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newStreamWorld(t, Config{}, StreamsConfig{})
				v := w.visitor()
				v.send(c.request)
				c.first(w.stream())
				if c.second != nil {
					c.second(w.stream())
				}
				if res := v.response(); res.StatusCode != c.status {
					t.Errorf("got %d %q, want %d", res.StatusCode, res.body, c.status)
				}
				synctest.Wait()
				if len(w.gate.conns) != 0 {
					t.Error("one more connection was opened")
				}
			})
		})
	}
	t.Run("or more often when it is not heard", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newStreamWorld(t, Config{}, StreamsConfig{})
			v := w.visitor()
			v.send(smallPost)
			for range mostUnheard {
				says408(w.stream())
			}
			s := w.stream()
			serves(s)
			if res := v.response(); res.StatusCode != 200 {
				t.Errorf("got %d", res.StatusCode)
			}
			v.send(smallPost)
			says408(s)
			for range mostUnheard {
				says408(w.stream())
			}
			if res := v.response(); res.StatusCode != 408 {
				t.Errorf("got %d: it insists", res.StatusCode)
			}
		})
	})
	t.Run("a POST of which nothing could be sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate, opened := newMemListener(), 0
			w := newStreamWorld(t, Config{}, StreamsConfig{Open: func(ctx context.Context) (net.Conn, error) {
				c, err := gate.dial(ctx)
				if opened++; opened == 1 {
					return brokenConn{c}, err
				}
				return c, err
			}})
			v := w.visitor()
			v.send(smallPost)
			if _, err := gate.Accept(); err != nil {
				t.Fatal(err)
			}
			c, err := gate.Accept()
			if err != nil {
				t.Fatal(err)
			}
			s := newWire(t, c)
			if r := s.request(); r.body != "body" {
				t.Errorf("the courier got %q", r.body)
			}
			s.reply("ok")
			v.response()
		})
	})
	t.Run("not when there is nobody to ask", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			gate, opened := newMemListener(), 0
			w := newStreamWorld(t, Config{}, StreamsConfig{Open: func(ctx context.Context) (net.Conn, error) {
				if opened++; opened > 1 {
					return nil, ErrAway
				}
				return gate.dial(ctx)
			}})
			v := w.visitor()
			v.get("/")
			c, err := gate.Accept()
			if err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
			v.answer(502) // what happened; not 503
		})
	})
}

// The trap of a node server behind the tunnel client: it answers the silence on a new socket with a 408 that nobody asked
// for, and ends.
func TestWhatAnIdleSocketSaysIsThrownAwayWithIt(t *testing.T) {
	for name, says := range map[string]string{
		"a 408":             "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n",
		"a whole response":  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
		"a byte":            "\x00",
		"nothing, and ends": "",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, PoolConfig{})
				for range 4 {
					s := w.socket()
					synctest.Wait()
					s.send(says)
					if says == "" {
						_ = s.c.(*memConn).CloseWrite()
					}
					within(t, 0, s.gone) // so that the client opens another one
				}
				if got := w.pool.Stats(); got != (Stats{}) {
					t.Errorf("stats %+v", got)
				}
				s, v := w.socket(), w.visitor()
				v.get("/")
				s.request()
				s.reply("ok")
				if res := v.response(); res.StatusCode != 200 || res.body != "ok" {
					t.Errorf("the visitor got %d %q", res.StatusCode, res.body)
				}
			})
		})
	}
	t.Run("between two exchanges", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{}, PoolConfig{})
			s, v := w.socket(), w.visitor()
			v.get("/1")
			s.request()
			s.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			v.response()
			s.gone()
			next := w.socket()
			v.get("/2")
			next.request()
			next.reply("good")
			if res := v.response(); res.body != "good" {
				t.Errorf("the visitor got %q", res.body)
			}
		})
	})
}

func TestASocketThatIsToBeClosedIsNotUsedAgain(t *testing.T) {
	for name, response := range map[string]string{
		"Connection: close": "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0":          "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"no length":         "HTTP/1.1 200 OK\r\n\r\nok",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, PoolConfig{})
				s, v := w.socket(), w.visitor()
				v.get("/")
				s.request()
				s.send(response)
				if name == "no length" {
					_ = s.c.(*memConn).CloseWrite()
				}
				if res := v.response(); res.body != "ok" || res.err != nil {
					t.Errorf("got %q %v", res.body, res.err)
				}
				s.gone()
			})
		})
	}
}

func TestTheCourierEndsWhileItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		s, v, waiting := w.socket(), w.visitor(), w.visitor()
		v.send(smallPost)
		s.request()
		waiting.get("/")
		synctest.Wait()
		w.pool.mustEnd(t)
		within(t, 0, func() {
			v.answer(502)
			waiting.answer(503)
		})
		s.gone()
	})
}
