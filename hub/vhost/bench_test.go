package vhost

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/secrez"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// testID is the id of the courier in most tests.
func testID(tb testing.TB) secrez.ID {
	tb.Helper()
	id, err := secrez.ParseID("7y-6ro-3z")
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// one is a directory of one courier.
type one struct {
	id      secrez.ID
	courier Courier
}

func (d one) Courier(_ context.Context, id secrez.ID) (Courier, error) {
	if id != d.id {
		return nil, ErrUnknown
	}
	return d.courier, nil
}

const twelve = "hello hello\n" // the body of the measurements in the specification

func twelveBytes(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	_, _ = io.WriteString(w, twelve)
}

// BenchmarkPlainProxy is what the others are compared with: the standard library's proxy, before an ordinary server; as it
// comes, and with copy buffers that are used again.
func BenchmarkPlainProxy(b *testing.B) {
	origin := httptest.NewServer(http.HandlerFunc(twelveBytes))
	b.Cleanup(origin.Close)
	target, err := url.Parse(origin.URL)
	if err != nil {
		b.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	b.Cleanup(transport.CloseIdleConnections)
	rewrite := func(r *httputil.ProxyRequest) { r.SetURL(target) }
	b.Run("plain", func(b *testing.B) {
		benchmarkVisitors(b, &httputil.ReverseProxy{Transport: transport, Rewrite: rewrite})
	})
	b.Run("buffers", func(b *testing.B) {
		benchmarkVisitors(b, &httputil.ReverseProxy{Transport: transport, Rewrite: rewrite, BufferPool: new(buffers)})
	})
}

// BenchmarkPool goes through raw sockets, served by a courier that speaks HTTP on them itself.
func BenchmarkPool(b *testing.B) {
	for _, sockets := range []int{4, 64} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			pool := openPool(b, PoolConfig{MaxSockets: sockets})
			serveSockets(b, pool.Port(), sockets, http.HandlerFunc(twelveBytes))
			benchmarkVisitors(b, handlerFor(b, pool))
		})
	}
}

// BenchmarkStreams goes through connections that the hub opens: pipes in memory, and TCP.
func BenchmarkStreams(b *testing.B) {
	b.Run("memory", func(b *testing.B) {
		l := newMemListener()
		serveOn(b, l, http.HandlerFunc(twelveBytes))
		benchmarkVisitors(b, handlerFor(b, openStreams(b, StreamsConfig{Open: l.dial})))
	})
	b.Run("tcp", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		serveOn(b, l, http.HandlerFunc(twelveBytes))
		open := func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}
		benchmarkVisitors(b, handlerFor(b, openStreams(b, StreamsConfig{Open: open})))
	})
}

func openPool(tb testing.TB, cfg PoolConfig) *Pool {
	tb.Helper()
	ports, err := NewPorts("127.0.0.1", PortRange{})
	if err != nil {
		tb.Fatal(err)
	}
	pool, err := NewPool(context.Background(), ports, cfg, loopback)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = pool.Close() })
	return pool
}

func openStreams(tb testing.TB, cfg StreamsConfig) *Streams {
	tb.Helper()
	st, err := NewStreams(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = st.Close() })
	return st
}

func handlerFor(tb testing.TB, c Courier) *Handler {
	tb.Helper()
	h, err := NewHandler(Config{Domain: "hub.test", Directory: one{id: testID(tb), courier: c}})
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// serveOn serves h on a listener until the test ends.
func serveOn(tb testing.TB, l net.Listener, h http.Handler) {
	tb.Helper()
	srv := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	tb.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
}

// serveSockets connects to a pool's port and serves HTTP on the sockets, opening a new one for each that ends.
func serveSockets(tb testing.TB, port, sockets int, h http.Handler) {
	tb.Helper()
	l := newMemListener()
	serveOn(tb, l, h)
	for range sockets {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			tb.Fatal(err)
		}
		l.conns <- c
	}
}

// benchmarkVisitors sends requests over 1 and over 50 connections.
func benchmarkVisitors(b *testing.B, h http.Handler) {
	hub := httptest.NewServer(h)
	b.Cleanup(hub.Close)
	for _, visitors := range []int{1, 50} {
		b.Run(fmt.Sprintf("visitors=%d", visitors), func(b *testing.B) {
			var wg sync.WaitGroup
			work := make(chan int)
			failures := make(chan error, visitors)
			for range visitors {
				v, err := newLoad(hub.Listener.Addr().String(), testID(b).String()+".hub.test")
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() {
					defer func() { _ = v.conn.Close() }()
					for n := range work {
						if err := v.requests(n); err != nil {
							failures <- err
							for range work { // let the others finish
							}
							return
						}
					}
				})
			}
			b.ReportAllocs()
			b.ResetTimer()
			for left := b.N; left > 0; left -= 16 {
				work <- min(16, left)
			}
			close(work)
			wg.Wait()
			b.StopTimer()
			select {
			case err := <-failures:
				b.Fatal(err)
			default:
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
		})
	}
}

// load is a visitor that costs as little as possible.
type load struct {
	conn    net.Conn
	br      *bufio.Reader
	request []byte
}

func newLoad(addr, host string) (*load, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &load{conn: c, br: bufio.NewReader(c), request: []byte("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")}, nil
}

func (v *load) requests(n int) error {
	for range n {
		if _, err := v.conn.Write(v.request); err != nil {
			return err
		}
		if err := v.response(); err != nil {
			return err
		}
	}
	return nil
}

// response reads a header with a Content-Length of twelve, and as many bytes.
func (v *load) response() error {
	for first := true; ; first = false {
		line, err := v.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && string(line) != "HTTP/1.1 200 OK\r\n" {
			return fmt.Errorf("got %q", line)
		}
		if len(line) == 2 {
			_, err := v.br.Discard(len(twelve))
			return err
		}
	}
}
