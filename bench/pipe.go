package main

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memoryPair returns two ends of a connection in memory, with room for size bytes on the way in each direction: a
// socket without a kernel, so that what is measured over it is the protocol alone. Deadlines that have passed end
// reads and writes; those in the future are not kept.
func memoryPair(size int) (net.Conn, net.Conn) {
	ab, ba := newRing(size), newRing(size)
	return &memoryConn{in: ba, out: ab}, &memoryConn{in: ab, out: ba}
}

type memoryConn struct{ in, out *ring }

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close ends both directions at once; what was written can still be read.
func (c *memoryConn) Close() error {
	c.in.close()
	c.out.close()
	return nil
}

func (c *memoryConn) LocalAddr() net.Addr  { return memoryAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr { return memoryAddr{} }

func (c *memoryConn) SetDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		c.in.expire()
		c.out.expire()
	}
	return nil
}
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// ring is one direction: bytes start..start+n, wrapping, are on the way.
type ring struct {
	mu       sync.Mutex
	moved    sync.Cond
	buf      []byte
	start, n int
	end      error // io.EOF once closed
}

func newRing(size int) *ring {
	r := &ring{buf: make([]byte, size)}
	r.moved.L = &r.mu
	return r
}

func (r *ring) read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.n == 0 && r.end == nil && len(p) > 0 {
		r.moved.Wait()
	}
	if r.n == 0 {
		return 0, r.end
	}
	total := 0
	for r.n > 0 && total < len(p) {
		n := copy(p[total:], r.buf[r.start:min(r.start+r.n, len(r.buf))])
		r.start = (r.start + n) % len(r.buf)
		r.n -= n
		total += n
	}
	r.moved.Broadcast()
	return total, nil
}

func (r *ring) write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	total := 0
	for total < len(p) {
		for r.n == len(r.buf) && r.end == nil {
			r.moved.Wait()
		}
		if r.end != nil {
			return total, io.ErrClosedPipe
		}
		free := (r.start + r.n) % len(r.buf)
		n := copy(r.buf[free:min(free+len(r.buf)-r.n, len(r.buf))], p[total:])
		r.n += n
		total += n
		r.moved.Broadcast()
	}
	return total, nil
}

func (r *ring) close() { r.finish(io.EOF) }

func (r *ring) expire() { r.finish(os.ErrDeadlineExceeded) }

func (r *ring) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end == nil {
		r.end = err
	}
	r.moved.Broadcast()
}
