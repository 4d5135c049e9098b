// Package muxrpctest helps to test what is built on muxrpc: it connects two sessions in memory, without sockets, so that
// they work inside testing/synctest.
package muxrpctest

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
)

// Pipe returns two sessions that are connected to each other, made with the options of a and b. The end of the test
// closes them and waits for their handlers.
func Pipe(t testing.TB, a, b muxrpc.Options) (*muxrpc.Session, *muxrpc.Session) {
	t.Helper()
	connA, connB := Conns()
	sessionA := muxrpc.New(context.Background(), connA, a)
	sessionB := muxrpc.New(context.Background(), connB, b)
	t.Cleanup(func() {
		for _, s := range []*muxrpc.Session{sessionA, sessionB} {
			s.Abort(nil)
			_ = s.Close(context.Background()) // waits for handlers; what it says is not the test's business
		}
	})
	return sessionA, sessionB
}

// socketBuffer is how many bytes a direction of Conns holds, about as many as a socket does.
const socketBuffer = 256 << 10

// Conns returns the two ends of a connection in memory. Like a socket it buffers what is written, up to 256 KiB in each
// direction, and knows deadlines.
func Conns() (net.Conn, net.Conn) {
	ab, ba := newHalf(), newHalf()
	return &conn{r: ba, w: ab}, &conn{r: ab, w: ba}
}

type conn struct {
	r, w *half
	once sync.Once
}

func (c *conn) Read(p []byte) (int, error)  { return c.r.read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.w.write(p) }

func (c *conn) Close() error {
	c.once.Do(func() {
		c.w.finish()
		c.r.finish()
	})
	return nil
}

// ReadResumes is true as it is of sockets.
func (c *conn) ReadResumes() bool { return true }

func (c *conn) LocalAddr() net.Addr  { return addr{} }
func (c *conn) RemoteAddr() net.Addr { return addr{} }

func (c *conn) SetDeadline(t time.Time) error {
	c.r.readDeadline.set(c.r, t)
	c.w.writeDeadline.set(c.w, t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.r.readDeadline.set(c.r, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.w.writeDeadline.set(c.w, t)
	return nil
}

type addr struct{}

func (addr) Network() string { return "memory" }
func (addr) String() string  { return "memory" }

// half is one direction of a connection.
type half struct {
	mu            sync.Mutex
	changed       *sync.Cond
	buf           []byte
	closed        bool
	readDeadline  deadline
	writeDeadline deadline
}

func newHalf() *half {
	h := new(half)
	h.changed = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 {
		switch {
		case h.closed:
			return 0, io.EOF
		case h.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		}
		h.changed.Wait()
	}
	n := copy(p, h.buf)
	h.buf = h.buf[n:]
	h.changed.Broadcast()
	return n, nil
}

func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n < len(p) {
		switch room := socketBuffer - len(h.buf); {
		case h.closed:
			return n, io.ErrClosedPipe
		case h.writeDeadline.passed():
			return n, os.ErrDeadlineExceeded
		case room == 0:
			h.changed.Wait()
		default:
			m := min(room, len(p)-n)
			h.buf = append(h.buf, p[n:n+m]...)
			n += m
			h.changed.Broadcast()
		}
	}
	return n, nil
}

func (h *half) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.readDeadline.stop()
	h.writeDeadline.stop()
	h.changed.Broadcast()
}

// deadline is guarded by its half's lock.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(h *half, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.stop()
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.changed.Broadcast()
		})
	}
	h.changed.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
