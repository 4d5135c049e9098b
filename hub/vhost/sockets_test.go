package vhost

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"github.com/secretstack/secretstack/internal/testkit"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

var waitFor = testkit.Eventually

// tunnelHub is a hub on real sockets with one courier.
type tunnelHub struct {
	url  string
	http *http.Client
	pool *Pool
}

func newTunnelHub(t *testing.T, cfg Config, pc PoolConfig) *tunnelHub {
	t.Helper()
	testkit.LeakCheckOf(t, "hub/vhost.")
	pool := openPool(t, pc)
	cfg.Domain, cfg.Directory = "hub.test", one{id: testID(t), courier: pool}
	h, err := NewHandler(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveHub(t, l, h)
	client := visitorClient(l.Addr().String(), nil)
	t.Cleanup(client.CloseIdleConnections)
	return &tunnelHub{url: "http://" + testHost, http: client, pool: pool}
}

// visitorClient is an HTTP client that finds every host at addr.
func visitorClient(addr string, tlsConfig *tls.Config) *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", addr)
			},
			TLSClientConfig: tlsConfig, ForceAttemptHTTP2: tlsConfig != nil, MaxIdleConnsPerHost: 100,
		},
	}
}

func (h *tunnelHub) get(t *testing.T, path string) told {
	t.Helper()
	res, err := h.http.Get(h.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return told{res, string(body), err}
}

func (h *tunnelHub) post(t *testing.T, path, body string) told {
	t.Helper()
	res, err := h.http.Post(h.url+path, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(res.Body)
	return told{res, string(got), err}
}

func (h *tunnelHub) waitOpen(t *testing.T, n int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d sockets", n), func() bool { return h.pool.Stats().Open == n })
}

// echo answers with the method, the path and the body.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
}

func localServer(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func TestATunnelClientServesMoreVisitorsThanItHasSockets(t *testing.T) {
	for _, sockets := range []int{1, 4} {
		t.Run(fmt.Sprint(sockets), func(t *testing.T) {
			hub := newTunnelHub(t, Config{}, PoolConfig{MaxSockets: sockets})
			origin := localServer(t, http.HandlerFunc(echo))
			client := startTunnelClient(t, hub.pool.Port(), sockets, origin.Listener.Addr().String())
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					for j := range 10 {
						want := fmt.Sprintf("POST /%d %d", i, j)
						res, err := hub.http.Post(fmt.Sprintf("%s/%d", hub.url, i), "text/plain", strings.NewReader(fmt.Sprint(j)))
						if err != nil {
							t.Error(err)
							return
						}
						got, err := io.ReadAll(res.Body)
						_ = res.Body.Close()
						if err != nil || string(got) != want {
							t.Errorf("got %q, want %q (%v)", got, want, err)
						}
					}
				})
			}
			wg.Wait()
			if opened, lost, dead := client.counts(); opened != sockets || lost != 0 || dead {
				t.Errorf("%d sockets were opened, %d lost: they are used again", opened, lost)
			}
		})
	}
}

func TestATunnelClientWhoseServerEndsIdleConnections(t *testing.T) {
	hub := newTunnelHub(t, Config{}, PoolConfig{})
	origin := httptest.NewUnstartedServer(http.HandlerFunc(echo))
	origin.Config.IdleTimeout = 20 * time.Millisecond // node: 5 s
	origin.Start()
	t.Cleanup(origin.Close)
	client := startTunnelClient(t, hub.pool.Port(), 4, origin.Listener.Addr().String())
	for i := range 30 {
		if res := hub.get(t, "/"); res.StatusCode != 200 {
			t.Fatalf("visitor %d got %d %s", i, res.StatusCode, res.body)
		}
		time.Sleep(time.Duration(i%5) * 10 * time.Millisecond)
	}
	hub.waitOpen(t, 4)
	if _, lost, dead := client.counts(); lost != 0 || dead {
		t.Errorf("%d sockets lost", lost)
	}
}

// nodeServer answers like a node server: who connects and says nothing is told so, with a 408, and left.
func nodeServer(t *testing.T, patience time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				br := bufio.NewReader(c)
				_ = c.SetReadDeadline(time.Now().Add(patience))
				for {
					r, err := http.ReadRequest(br)
					if isTimeout(err) {
						_, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
					}
					if err != nil {
						return
					}
					body, _ := io.ReadAll(r.Body)
					_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				}
			})
		}
	})
	return l.Addr().String()
}

// With the JavaScript hub a courier that nobody contacts for 90 s cannot be reached any more, for ever.
func TestACourierThatNobodyContactsStaysReachable(t *testing.T) {
	hub := newTunnelHub(t, Config{}, PoolConfig{})
	client := startTunnelClient(t, hub.pool.Port(), 4, nodeServer(t, 30*time.Millisecond))
	for i := range 20 {
		time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		if res := hub.post(t, "/", "hello"); res.StatusCode != 200 || res.body != "hello" {
			t.Fatalf("visitor %d got %d %s", i, res.StatusCode, res.body)
		}
	}
	waitFor(t, "new sockets", func() bool { opened, _, _ := client.counts(); return opened > 8 })
	if _, lost, dead := client.counts(); lost != 0 || dead {
		t.Errorf("%d sockets lost", lost)
	}
}

func TestATunnelClientWithoutItsServer(t *testing.T) {
	hub := newTunnelHub(t, Config{ResponseTimeout: 300 * time.Millisecond}, PoolConfig{})
	down := freeRange(t, 1)
	client := startTunnelClient(t, hub.pool.Port(), 4, fmt.Sprintf("127.0.0.1:%d", down.First))
	hub.waitOpen(t, 4)
	checkAnswer(t, hub.get(t, "/"), 504)
	l, err := net.Listen("tcp", client.local)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, http.HandlerFunc(echo))
	waitFor(t, "the server", func() bool { return hub.get(t, "/back").body == "GET /back " })
	hub.waitOpen(t, 4)
}

func TestATunnelClientThatDiesAndComesBack(t *testing.T) {
	hub := newTunnelHub(t, Config{}, PoolConfig{Grace: time.Minute})
	started := make(chan struct{}, 10)
	origin := localServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/during":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/before":
			started <- struct{}{}
			<-r.Context().Done()
		default:
			echo(w, r)
		}
	}))
	for _, path := range []string{"/before", "/during", "/after"} {
		client := startTunnelClient(t, hub.pool.Port(), 4, origin.Listener.Addr().String())
		hub.waitOpen(t, 4)
		var wg sync.WaitGroup
		if path == "/after" {
			hub.get(t, path)
		} else {
			wg.Go(func() {
				res, err := hub.http.Post(hub.url+path, "", nil)
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				defer func() { _ = res.Body.Close() }()
				if path == "/during" {
					_, _ = io.ReadFull(res.Body, make([]byte, 4))
					started <- struct{}{}
				}
				body, err := io.ReadAll(res.Body)
				if path == "/before" {
					checkAnswer(t, told{res, string(body), err}, 502)
				} else if err == nil || res.StatusCode != 200 {
					t.Errorf("%s: %d, and a whole body %q", path, res.StatusCode, body)
				}
			})
			<-started
		}
		client.close()
		wg.Wait()
		hub.waitOpen(t, 0)
	}
	startTunnelClient(t, hub.pool.Port(), 4, origin.Listener.Addr().String())
	if res := hub.get(t, "/again"); res.body != "GET /again " {
		t.Errorf("got %d %s", res.StatusCode, res.body)
	}
}

func TestATunnelClientCarriesAnUpgrade(t *testing.T) {
	hub := newTunnelHub(t, Config{}, PoolConfig{})
	origin := localServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, wsResponse)
		_, _ = io.Copy(c, brw)
	}))
	startTunnelClient(t, hub.pool.Port(), 4, origin.Listener.Addr().String())
	c, err := hub.http.Transport.(*http.Transport).DialContext(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	v := newWire(t, c)
	v.send(wsRequest + "EARLY")
	if block := v.block(); !strings.HasPrefix(block, "HTTP/1.1 101 ") {
		t.Fatalf("got %q", block)
	}
	big := strings.Repeat("0123456789abcdef", 64<<10)
	go v.flood(big)
	if got := v.bytes(5 + len(big)); got != "EARLY"+big {
		t.Error("the echo differs")
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	v.gone()
}

func TestLargeBodiesPassUnchanged(t *testing.T) {
	hub := newTunnelHub(t, Config{}, PoolConfig{})
	origin := localServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // both ways at once
		_ = http.NewResponseController(w).EnableFullDuplex()
		if r.ContentLength >= 0 {
			w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
		}
		_, _ = io.Copy(w, r.Body)
	}))
	startTunnelClient(t, hub.pool.Port(), 4, origin.Listener.Addr().String())
	big := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
	for range 2 {
		for _, body := range []io.Reader{bytes.NewReader(big), struct{ io.Reader }{bytes.NewReader(big)}} {
			res, err := hub.http.Post(hub.url, "application/octet-stream", body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || !bytes.Equal(got, big) {
				t.Errorf("%d bytes of %d came back (%v)", len(got), len(big), err)
			}
		}
	}
}

// h2Hub is a hub that speaks HTTP/2 over TLS.
func h2Hub(t *testing.T, cfg Config, courier http.Handler) *http.Client {
	t.Helper()
	testkit.LeakCheckOf(t, "hub/vhost.")
	l := newMemListener()
	serveOn(t, l, courier)
	cfg.Domain, cfg.Directory = "hub.test", one{id: testID(t), courier: openStreams(t, StreamsConfig{Open: l.dial})}
	h, err := NewHandler(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	config := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "example.com" // the test certificate's
	client := visitorClient(srv.Listener.Addr().String(), config)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func TestVisitorsMaySpeakHTTP2(t *testing.T) {
	client := h2Hub(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/die":
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to break off
		case "/half":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to break off
		case "/stream":
			_ = http.NewResponseController(w).EnableFullDuplex()
			buf := make([]byte, 100)
			for {
				n, err := r.Body.Read(buf)
				_, _ = w.Write(buf[:n])
				_ = http.NewResponseController(w).Flush()
				if err != nil {
					return
				}
			}
		}
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.Host, r.Header.Get("X-Forwarded-Proto"), body, r.Trailer.Get("X-Their"))
		w.Header().Set("X-Sum", "7")
	}))
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+testHost+"/", struct{ io.Reader }{strings.NewReader("body")})
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"X-Their": {"9"}}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.ProtoMajor != 2 || string(body) != "POST "+testHost+" https body 9" || res.Trailer.Get("X-Sum") != "7" || res.Header["X-Hop"] != nil {
			t.Errorf("got %s %q %v %v", res.Proto, body, res.Trailer, err)
		}
	}
	res, err := client.Get("https://" + testHost + "/die")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	checkAnswer(t, told{res, string(body), err}, 502)

	if res, err = client.Get("https://" + testHost + "/half"); err != nil {
		t.Fatal(err)
	}
	body, err = io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err == nil {
		t.Errorf("a whole body %q", body)
	}

	if res, err = client.Get("https://yb-ndr-fg.hub.test/"); err != nil {
		t.Fatal(err)
	}
	body, err = io.ReadAll(res.Body)
	_ = res.Body.Close()
	checkAnswer(t, told{res, string(body), err}, 404)

	streamBothWays(t, client)
}

// streamBothWays sends a part of a body, hears it, and sends the next.
func streamBothWays(t *testing.T, client *http.Client) {
	t.Helper()
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+testHost+"/stream", pr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.WriteString(pw, "0") })
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	wg.Wait()
	b := make([]byte, 1)
	for i := range 10 {
		if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != fmt.Sprint(i) {
			t.Fatalf("part %d: %q, %v", i, b, err)
		}
		_, _ = io.WriteString(pw, fmt.Sprint(i+1))
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "10" {
		t.Errorf("the rest: %q %v", rest, err)
	}
}

func TestAnHTTP2VisitorThatLeavesFreesTheCourier(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	client := h2Hub(t, Config{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		close(ended)
	}))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+testHost+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-started
		cancel()
	}()
	if _, err := client.Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended
}

func TestABodyThatDoesNotEndOverHTTP2(t *testing.T) {
	client := h2Hub(t, Config{VisitorTimeout: 200 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/die":
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = c.Close()
			}
		case "/refuse":
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(http.StatusForbidden)
			_ = http.NewResponseController(w).Flush()
		default:
			_, _ = io.Copy(w, r.Body)
		}
	}))
	for _, c := range []struct {
		url    string
		length int64
		status int
	}{
		{"https://" + testHost + "/die", -1, 502},
		{"https://" + testHost + "/refuse", -1, 403},
		{"https://" + testHost + "/stall", 100, 408},
		{"https://" + testHost + "/stall", 1000000, 408},
		{"https://" + testHost + "/stall", -1, 408},
		{"https://yb-ndr-fg.hub.test/", -1, 404},
	} {
		pr, pw := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url, pr)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = c.length
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.WriteString(pw, "begun") })
		res, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", c.url, err)
		}
		if res.StatusCode != c.status {
			t.Errorf("%s, length %d: %d, want %d", c.url, c.length, res.StatusCode, c.status)
		}
		_ = res.Body.Close()
		_ = pw.Close()
		_ = pr.Close()
		wg.Wait()
	}
}

func TestAnAnswerArrivesThoughTheBodyIsLarge(t *testing.T) {
	hub := newTunnelHub(t, Config{MaxBody: 1 << 20}, PoolConfig{Grace: time.Minute})
	startTunnelClient(t, hub.pool.Port(), 4, localServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusForbidden)
	})).Listener.Addr().String())
	for range 3 {
		for _, c := range []struct {
			host   string
			size   int
			status int
		}{{"yb-ndr-fg.hub.test", 400 << 10, 404}, {testHost, 2 << 20, 413}, {testHost, 900 << 10, 403}} {
			res, err := hub.http.Post("http://"+c.host, "", bytes.NewReader(make([]byte, c.size)))
			if err != nil {
				t.Fatalf("%d bytes to %s: %v", c.size, c.host, err)
			}
			_ = res.Body.Close()
			if res.StatusCode != c.status {
				t.Errorf("%d bytes to %s: %d, want %d", c.size, c.host, res.StatusCode, c.status)
			}
		}
	}
}

func TestInterimResponsesReachHTTP2Visitors(t *testing.T) {
	client := h2Hub(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.WriteHeader(http.StatusOK)
	}))
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, "https://"+testHost+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if len(hints) != 1 || hints[0] != "103</a.css>" || res.Header["Link"] != nil {
		t.Errorf("hints %q, header %v", hints, res.Header)
	}
}

// TestManyVisitorsAndACourierThatKeepsFailing looks for answers that belong to somebody else.
func TestManyVisitorsAndACourierThatKeepsFailing(t *testing.T) {
	hub := newTunnelHub(t, Config{ResponseTimeout: time.Second}, PoolConfig{Grace: time.Minute})
	var mu sync.Mutex
	count := 0
	origin := localServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		count++
		n := count
		mu.Unlock()
		if n%7 == 0 {
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to break off
		}
		if n%5 == 0 {
			w.Header().Set("Connection", "close")
		}
		echo(w, r)
	}))
	startTunnelClient(t, hub.pool.Port(), 4, origin.Listener.Addr().String())
	statuses := make(chan int, 2000)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for j := range 25 {
				body := fmt.Sprintf("%d-%d", i, j)
				method := []string{http.MethodPost, http.MethodPut}[j%2]
				req, err := http.NewRequestWithContext(context.Background(), method, hub.url+"/x", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				res, err := hub.http.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				got, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if res.StatusCode == 200 && string(got) != method+" /x "+body {
					t.Errorf("%s got %q", body, got)
				}
				statuses <- res.StatusCode
			}
		})
	}
	wg.Wait()
	close(statuses)
	tally := map[int]int{}
	for s := range statuses {
		tally[s]++
	}
	if tally[200] < 400 || tally[200]+tally[502] != 500 {
		t.Errorf("statuses %v", tally)
	}
	hub.waitOpen(t, 4)
}

var _ Directory = (*Pools)(nil)

var _ = []Courier{(*Pool)(nil), (*Streams)(nil), dialer(nil)}
