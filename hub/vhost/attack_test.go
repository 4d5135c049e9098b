package vhost

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
)

// The attacks on the original that concern visitors, each tried on ours. Its review numbers them; the others of the review
// concern other packages. TestAttackStrangerAtTheCouriersPort is with the real sockets.

// Review 8: every failure leaves a request hanging, and with it a socket and memory. TestEveryFailureOfACourierIsAnswered
// has the failures one by one; here they all happen at once.
func TestAttackRequestsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{Grace: time.Minute, Queue: 30})
		for range 4 {
			w.socket() // silent
		}
		const visitors = 100
		var wg sync.WaitGroup
		var mu sync.Mutex
		statuses := map[int]int{}
		for range visitors {
			v := w.visitor()
			wg.Go(func() {
				v.flood("GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n")
				if res, err := v.tryResponse(http.MethodGet); err == nil {
					mu.Lock()
					statuses[res.StatusCode]++
					mu.Unlock()
				}
				_ = v.c.Close()
			})
		}
		within(t, defaultResponseTimeout+defaultWait, wg.Wait)
		if statuses[503] != visitors-4 || statuses[504] != 4 {
			t.Errorf("statuses %v", statuses)
		}
		synctest.Wait()
		if got := w.handler.Active(); got != 0 {
			t.Errorf("%d exchanges left", got)
		}
	})
}

// Review 9: a slow visitor, or a few, block a courier for ever.
func TestAttackSlowVisitorsBlockACourier(t *testing.T) {
	for name, slow := range map[string]string{
		"who send slowly": chunkedPost + "1\r\nx\r\n",
		"who never read":  "GET / HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{DialTimeout: time.Hour}, PoolConfig{Wait: time.Hour, Grace: time.Hour})
				big := strings.Repeat("x", 1<<20)
				serve := func(s *wire) {
					for {
						r, err := http.ReadRequest(s.br)
						if err != nil {
							break
						}
						if _, err := io.Copy(io.Discard, r.Body); err != nil {
							break
						}
						if r.URL.Path != "/good" {
							s.flood("HTTP/1.1 200 OK\r\nContent-Length: " + fmt.Sprint(len(big)) + "\r\n\r\n" + big)
							continue
						}
						s.flood("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					}
				}
				var wg sync.WaitGroup
				client := func() { // replaces its sockets
					for {
						c, err := w.gate.dialFrom(newTestAddr(courierAddr))
						if err != nil {
							return
						}
						serve(&wire{t: t, c: c, br: bufio.NewReader(c)})
						_ = c.Close()
					}
				}
				for range 4 {
					wg.Go(client)
				}
				synctest.Wait()
				for range 20 {
					w.visitor().send(slow)
				}
				synctest.Wait()
				v := w.visitor()
				v.get("/good")
				// Five rounds of four before it, of which each ends when its time is up.
				within(t, 15*time.Minute, func() {
					if res := v.response(); res.body != "ok" {
						t.Errorf("got %d %q", res.StatusCode, res.body)
					}
				})
				w.pool.mustEnd(t)
				wg.Wait()
			})
		})
	}
}

// Review 14: any label of the host may be an id.
func TestAttackAnIdAnywhereInTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		w.socket()
		for _, host := range []string{
			"x.7y-6ro-3z.hub.test", "7y-6ro-3z.evil.test", "evil.7y-6ro-3z", "7y-6ro-3z.hub.test.evil", "7y-6ro-3zhub.test",
			"7y-6ro-3z-.hub.test", "7y-6ro-3z-abc.hub.test", "7y-6ro-3z.hub.test:x", "7y-6ro-3z.hub.test:99999999", "7y-6ro-3z..hub.test",
		} {
			v := w.visitor()
			v.send("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
			v.answer(404)
		}
		// The target's host counts, as RFC 9112 says, and is no address to connect to.
		v := w.visitor()
		v.send("GET http://evil.test/ HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n")
		v.answer(404)
	})
}

func TestAttackTheTargetNamesAnotherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, PoolConfig{})
		s := w.socket()
		for _, c := range []struct{ request, target string }{
			{"GET http://" + testHost + "/a HTTP/1.1\r\nHost: other.test", "/a"},
			{"GET http://" + testHost + " HTTP/1.1\r\nHost: other.test", "/"},
			{"GET https://" + testHost + "/b?u=http://10.0.0.1/ HTTP/1.1\r\nHost: x", "/b?u=http://10.0.0.1/"},
			{"GET //10.0.0.1/c HTTP/1.1\r\nHost: " + testHost, "//10.0.0.1/c"},
			{"GET /http://10.0.0.1/d HTTP/1.1\r\nHost: " + testHost, "/http://10.0.0.1/d"},
			{"GET /@10.0.0.1/e HTTP/1.1\r\nHost: " + testHost, "/@10.0.0.1/e"},
		} {
			v := w.visitor()
			v.send(c.request + "\r\n\r\n")
			if r := s.request(); r.RequestURI != c.target || r.Host != testHost {
				t.Errorf("%q: the courier got %s of %s", c.request, r.RequestURI, r.Host)
			}
			s.reply("ok")
			v.response()
		}
		for _, request := range []string{"GET 10.0.0.1:80 HTTP/1.1", "CONNECT 10.0.0.1:80 HTTP/1.1", "GET ftp://10.0.0.1/ HTTP/1.1", "GET @10.0.0.1/ HTTP/1.1"} {
			v := w.visitor()
			v.send(request + "\r\nHost: " + testHost + "\r\n\r\n")
			if res := v.response(); res.StatusCode < 400 {
				t.Errorf("%q: %d", request, res.StatusCode)
			}
		}
	})
}

// Review 21: half-open sockets are not noticed. Here one swallows a request, and is not asked again; TCP keep-alive is with
// the real sockets, and what idle ones say in TestWhatAnIdleSocketSaysIsThrownAwayWithIt.
func TestAttackAHalfOpenSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{ResponseTimeout: 5 * time.Second}, PoolConfig{})
		swallows := w.socket()
		v := w.visitor()
		v.get("/")
		within(t, 5*time.Second, func() { v.answer(504) })
		swallows.request()
		swallows.gone()
		s := w.socket()
		v.get("/")
		s.request()
		s.reply("ok")
		v.response()
	})
}

// Review 25: whatever is ambiguous about where a request ends is not passed on.
func TestAttackSmuggledRequests(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n"
	head := "POST /first HTTP/1.1\r\nHost: " + testHost + "\r\n"
	for _, c := range []struct{ name, request string }{
		{"length and chunks", head + "Content-Length: " + fmt.Sprint(len(smuggled)+5) + "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled},
		{"two lengths", head + "Content-Length: 0\r\nContent-Length: " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled},
		{"two lengths in one line", head + "Content-Length: 0, " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled},
		{"a length with a sign", head + "Content-Length: +" + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled},
		{"a length in hexadecimal", head + "Content-Length: 0x0\r\n\r\n" + smuggled},
		{"chunks spelled otherwise", head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled},
		{"chunks twice", head + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + smuggled},
		{"chunks and identity", head + "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled},
		{"a tab before chunks", head + "Transfer-Encoding:\vchunked\r\n\r\n0\r\n\r\n" + smuggled},
		{"a space before the colon", head + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled},
		{"a folded line", head + "X: 1\r\n Transfer-Encoding: chunked\r\nContent-Length: " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled},
		{"a length that is hop by hop", head + "Connection: Content-Length\r\nContent-Length: " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled},
		{"chunks that are hop by hop", head + "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled)},
		{"an extension with a line break", head + "Transfer-Encoding: chunked\r\n\r\n1;\n" + smuggled},
		{"a chunk without its end", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nxx" + smuggled},
		{"a chunk that is too long", head + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + smuggled},
		{"two hosts", "GET /first HTTP/1.1\r\nHost: " + testHost + "\r\nHost: evil.test\r\n\r\n"},
		{"HTTP/1.0 with chunks", strings.Replace(head, "1.1", "1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled},
		{"a GET with a body", strings.Replace(head, "POST", "GET", 1) + "Content-Length: " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled},
		{"a carriage return in a value", head + "X: a\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n"},
		{"a zero byte in a value", head + "X: a\x00b\r\nContent-Length: 0\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, PoolConfig{})
				var got testkit.Buffer // every byte that the courier gets
				s := w.socket()
				s.br = bufio.NewReader(io.TeeReader(s.c, &got))
				var wg sync.WaitGroup
				var targets []string
				wg.Go(func() {
					for {
						r, err := http.ReadRequest(s.br)
						if err != nil {
							return
						}
						targets = append(targets, r.RequestURI)
						if _, err := io.Copy(io.Discard, r.Body); err != nil {
							return
						}
						s.flood("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				v := w.visitor()
				v.flood(c.request)
				time.Sleep(time.Second)
				_ = v.c.Close()
				time.Sleep(time.Minute)
				w.pool.mustEnd(t)
				wg.Wait()
				checkUnambiguous(t, got.String(), targets)
			})
		})
	}
}

// checkUnambiguous fails unless every request in raw says in one way where it ends, and a smuggled one is either within a
// body, or was answered as a request of its own after a first one that nobody could read in another way.
func checkUnambiguous(t *testing.T, raw string, targets []string) {
	t.Helper()
	for _, target := range targets {
		if target != "/first" && target != "/smuggled" {
			t.Errorf("the courier got a request for %s", target)
		}
	}
	head, _, found := strings.Cut(raw, "\r\n\r\n")
	if !found {
		if raw != "" {
			t.Errorf("the courier got %q", raw)
		}
		return
	}
	lengths, chunks, hosts := 0, 0, 0
	for line := range strings.SplitSeq(head, "\r\n") {
		if strings.ContainsAny(line, "\r\n\x00") {
			t.Errorf("the courier got the line %q", line)
		}
		name, _, _ := strings.Cut(strings.ToLower(line), ":")
		switch strings.TrimSpace(name) {
		case "content-length":
			lengths++
		case "transfer-encoding":
			chunks++
			if !strings.EqualFold(line, "Transfer-Encoding: chunked") {
				t.Errorf("the courier got the line %q", line)
			}
		case "host":
			hosts++
		}
	}
	if lengths+chunks > 1 || hosts != 1 {
		t.Errorf("the courier got %d lengths, %d chunked codings, %d hosts", lengths, chunks, hosts)
	}
}

// Review 25, the other way: a courier's response must not hold a second one for the next visitor.
func TestAttackSplitResponses(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for name, response := range map[string]string{
		"behind a length":                      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + evil,
		"behind chunks":                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
		"behind a length that chunks override": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + evil,
		"behind an empty one":                  "HTTP/1.1 204 No Content\r\n\r\n" + evil,
		"behind a 304 that lies":               "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n" + evil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Config{}, PoolConfig{})
				s := w.socket()
				v := w.visitor()
				v.get("/")
				s.request()
				s.send(response)
				if res := v.response(); strings.Contains(res.body, "evil") {
					t.Errorf("got %q", res.body)
				}
				s.gone()
				next, other := w.socket(), w.visitor()
				other.get("/")
				next.request()
				next.reply("good")
				if res := other.response(); res.body != "good" {
					t.Errorf("the next visitor got %q", res.body)
				}
			})
		})
	}
}
