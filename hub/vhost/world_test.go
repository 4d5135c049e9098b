package vhost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/secrez"
)

const testHost = "7y-6ro-3z.hub.test"

var (
	courierAddr  = netip.MustParseAddr("203.0.113.7")
	strangerAddr = netip.MustParseAddr("198.51.100.66")
	visitorAddr  = netip.MustParseAddr("192.0.2.50")
)

// world is a hub in memory, with one courier of raw sockets: everything in it keeps the time of a synctest bubble.
type world struct {
	t        *testing.T
	handler  *Handler
	pool     *Pool
	visitors *memListener
	gate     *memListener // the pool's port

	mu   sync.Mutex
	seen []Exchange // guarded by mu
}

// newWorld sets a hub up. Domain and Directory are set when they are not.
func newWorld(t *testing.T, cfg Config, pc PoolConfig) *world {
	t.Helper()
	t.Cleanup(func() { time.Sleep(10 * time.Second) }) // for what lingers in net/http, and sleeps in tests
	w := &world{t: t, visitors: newMemListener(), gate: newMemListener()}
	w.pool = newPool(w.gate, pc, courierAddr, nil)
	t.Cleanup(func() { _ = w.pool.Close() })
	w.serve(cfg, w.pool)
	return w
}

// newStreamWorld is a world whose courier is dialled.
func newStreamWorld(t *testing.T, cfg Config, sc StreamsConfig) *world {
	t.Helper()
	t.Cleanup(func() { time.Sleep(10 * time.Second) }) // for what lingers in net/http, and sleeps in tests
	w := &world{t: t, visitors: newMemListener(), gate: newMemListener()}
	if sc.Open == nil {
		sc.Open = w.gate.dial
	}
	w.serve(cfg, openStreams(t, sc))
	return w
}

func (w *world) serve(cfg Config, c Courier) {
	w.t.Helper()
	if cfg.Domain == "" {
		cfg.Domain = "hub.test"
	}
	if cfg.Directory == nil {
		cfg.Directory = one{id: testID(w.t), courier: c}
	}
	cfg.Observe = func(e Exchange) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seen = append(w.seen, e)
	}
	h, err := NewHandler(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.handler = h
	serveHub(w.t, w.visitors, h)
}

// serveHub serves h as a hub does, and fails the test when the server has something to complain about.
func serveHub(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	var complaints testkit.Buffer
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.NewTextHandler(&complaints, nil), slog.LevelError)}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
		if s := complaints.String(); s != "" {
			t.Errorf("the server complains: %s", s)
		}
	})
}

func (w *world) exchanges() []Exchange {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Exchange(nil), w.seen...)
}

// visitor connects to the hub.
func (w *world) visitor() *wire { return w.connect(w.visitors, visitorAddr) }

// socket connects to the courier's port, as the courier.
func (w *world) socket() *wire { return w.connect(w.gate, courierAddr) }

// stream takes the connection that the hub opens to a courier of streams.
func (w *world) stream() *wire {
	w.t.Helper()
	c, err := w.gate.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	return newWire(w.t, c)
}

func (w *world) connect(l *memListener, from netip.Addr) *wire {
	w.t.Helper()
	c, err := l.dialFrom(newTestAddr(from))
	if err != nil {
		w.t.Fatal(err)
	}
	return newWire(w.t, c)
}

// wire is a connection of which a test sees every byte.
type wire struct {
	t  *testing.T
	c  net.Conn
	br *bufio.Reader
}

func newWire(t *testing.T, c net.Conn) *wire {
	t.Helper()
	t.Cleanup(func() { _ = c.Close() })
	return &wire{t: t, c: c, br: bufio.NewReader(c)}
}

func (w *wire) send(s string) {
	w.t.Helper()
	if _, err := io.WriteString(w.c, s); err != nil {
		w.t.Fatalf("send %.40q: %v", s, err)
	}
}

// get sends a request for the courier.
func (w *wire) get(path string) {
	w.t.Helper()
	w.send("GET " + path + " HTTP/1.1\r\nHost: " + testHost + "\r\n\r\n")
}

// heard is a request as the courier got it.
type heard struct {
	*http.Request
	body string
}

// request reads a request and its body.
func (w *wire) request() heard {
	w.t.Helper()
	r := w.requestHead()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Fatalf("read a request's body: %v", err)
	}
	return heard{r, string(body)}
}

func (w *wire) requestHead() *http.Request {
	w.t.Helper()
	r, err := http.ReadRequest(w.br)
	if err != nil {
		w.t.Fatalf("read a request: %v", err)
	}
	return r
}

// block reads up to the end of a header, as it is.
func (w *wire) block() string {
	w.t.Helper()
	var b strings.Builder
	for {
		line, err := w.br.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			w.t.Fatalf("read a header: %v after %q", err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

// told is a response as the visitor got it.
type told struct {
	*http.Response
	body string
	err  error // of the body
}

// response reads a response to a GET and its body.
func (w *wire) response() told { w.t.Helper(); return w.responseTo(http.MethodGet) }

func (w *wire) responseTo(method string) told {
	w.t.Helper()
	res, err := w.tryResponse(method)
	if err != nil {
		w.t.Fatalf("read a response: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	return told{res, string(body), err}
}

// tryResponse reads a header, after those of interim responses.
func (w *wire) tryResponse(method string) (*http.Response, error) {
	for {
		res, err := http.ReadResponse(w.br, &http.Request{Method: method})
		if err != nil || res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return res, err
		}
	}
}

// answer reads the hub's own answer.
func (w *wire) answer(status int) {
	w.t.Helper()
	checkAnswer(w.t, w.response(), status)
}

func checkAnswer(t *testing.T, res told, status int) {
	t.Helper()
	if res.StatusCode != status {
		t.Fatalf("status %d, want %d: %s", res.StatusCode, status, res.body)
	}
	var doc struct {
		Status  int    `json:"status_code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(res.body), &doc); err != nil || doc.Status != status || doc.Message == "" {
		t.Fatalf("body %q, want the hub's document for %d (%v)", res.body, status, err)
	}
	if got := res.Header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
}

// reply answers a request on the courier's side.
func (w *wire) reply(body string) {
	w.t.Helper()
	w.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + itoa(len(body)) + "\r\n\r\n" + body)
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// gone waits for the end of the connection, and fails when anything comes before.
func (w *wire) gone() {
	w.t.Helper()
	if b, err := w.br.ReadByte(); err == nil {
		w.t.Fatalf("got a byte %q, want the end", b)
	}
}

// quiet fails when anything comes, or the connection ends, within d.
func (w *wire) quiet(d time.Duration) {
	w.t.Helper()
	_ = w.c.SetReadDeadline(time.Now().Add(d))
	b, err := w.br.ReadByte()
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("got %q, %v, want silence", b, err)
	}
	_ = w.c.SetReadDeadline(time.Time{})
}

// within fails when f takes longer than d.
func within(t *testing.T, d time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > d {
		t.Errorf("took %v, want at most %v", took, d)
	}
}

// directory answers for couriers by id.
type directory func(context.Context, secrez.ID) (Courier, error)

func (d directory) Courier(ctx context.Context, id secrez.ID) (Courier, error) { return d(ctx, id) }

// dialer is a courier made of a function.
type dialer func(context.Context) (net.Conn, error)

func (d dialer) Dial(ctx context.Context) (net.Conn, error) { return d(ctx) }

// line reads one line, with its end.
func (w *wire) line() string {
	w.t.Helper()
	line, err := w.br.ReadString('\n')
	if err != nil {
		w.t.Fatalf("read a line: %v after %q", err, line)
	}
	return line
}

// bytes reads n bytes.
func (w *wire) bytes(n int) string {
	w.t.Helper()
	b := make([]byte, n)
	if m, err := io.ReadFull(w.br, b); err != nil {
		w.t.Fatalf("read %d bytes: %v after %q", n, err, b[:m])
	}
	return string(b)
}

func mustID(t *testing.T, s string) secrez.ID {
	t.Helper()
	id, err := secrez.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// freeRange finds n ports in a row that nobody uses.
func freeRange(t *testing.T, n int) PortRange {
	t.Helper()
	for first := 21000; first < 32000; first += n {
		free := true
		for port := first; port < first+n && free; port++ {
			l, err := net.Listen("tcp", "127.0.0.1:"+itoa(port))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			return PortRange{uint16(first), uint16(first + n - 1)}
		}
	}
	t.Fatal("no ports are free")
	return PortRange{}
}

func newTestAddr(a netip.Addr) net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 50000)) }
