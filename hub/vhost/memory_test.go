package vhost

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memConn is one end of a connection in memory: buffered, with deadlines and half-close, like a stream of a courier's own
// connection. It works inside synctest bubbles.
type memConn struct {
	in, out *memPipe
	addr    net.Addr // of the other end
}

// memPair connects two ends. remote is whom b seems to come from when asked at a.
func memPair(remote net.Addr) (a, b *memConn) {
	one, two := newMemPipe(), newMemPipe()
	return &memConn{in: one, out: two, addr: remote}, &memConn{in: two, out: one, addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}}
}

func (c *memConn) Read(p []byte) (int, error)         { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error)        { return c.out.write(p) }
func (c *memConn) LocalAddr() net.Addr                { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }
func (c *memConn) RemoteAddr() net.Addr               { return c.addr }
func (c *memConn) SetReadDeadline(t time.Time) error  { c.in.setReadDeadline(t); return nil }
func (c *memConn) SetWriteDeadline(t time.Time) error { c.out.setWriteDeadline(t); return nil }
func (c *memConn) CloseWrite() error                  { c.out.end(); return nil }

func (c *memConn) SetDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	c.out.setWriteDeadline(t)
	return nil
}

func (c *memConn) Close() error {
	c.in.close()
	c.out.end()
	return nil
}

const memBuffer = 64 << 10

// memPipe is one direction of a memConn.
type memPipe struct {
	mu                         sync.Mutex
	change                     sync.Cond
	buf                        []byte
	ended                      bool // by the writer
	closed                     bool // by the reader
	readDeadline, writeAllowed memDeadline
}

func newMemPipe() *memPipe {
	p := &memPipe{}
	p.change.L = &p.mu
	return p
}

// memDeadline is a deadline that wakes whoever waits.
type memDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *memDeadline) set(p *memPipe, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() && time.Until(t) > 0 {
		d.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.change.Broadcast()
		})
	}
	p.change.Broadcast()
}

func (d *memDeadline) passed() bool { return !d.at.IsZero() && time.Until(d.at) <= 0 }

func (p *memPipe) setReadDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.readDeadline.set(p, t)
}

func (p *memPipe) setWriteDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writeAllowed.set(p, t)
}

func (p *memPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, net.ErrClosed
		case p.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			if len(p.buf) == 0 {
				p.buf = nil
			}
			p.change.Broadcast()
			return n, nil
		case p.ended:
			return 0, io.EOF
		}
		p.change.Wait()
	}
}

func (p *memPipe) write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed || p.ended:
			return n, io.ErrClosedPipe
		case p.writeAllowed.passed():
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		case len(p.buf) < memBuffer:
			m := min(len(b), memBuffer-len(p.buf))
			p.buf = append(p.buf, b[:m]...)
			b, n = b[m:], n+m
			p.change.Broadcast()
			continue
		}
		p.change.Wait()
	}
}

func (p *memPipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.readDeadline.stop()
	p.writeAllowed.stop()
	p.change.Broadcast()
}

func (p *memPipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.readDeadline.stop()
	p.writeAllowed.stop()
	p.change.Broadcast()
}

func (d *memDeadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

// memListener accepts what is connected to it.
type memListener struct {
	conns chan net.Conn
	over  chan struct{}
	once  sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn, 64), over: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.over) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8433} }

// dialFrom connects to the listener from an address.
func (l *memListener) dialFrom(remote net.Addr) (*memConn, error) {
	theirs, ours := memPair(remote)
	select {
	case <-l.over:
		return nil, net.ErrClosed
	default:
	}
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

// dial is what a courier of streams is opened with.
func (l *memListener) dial(context.Context) (net.Conn, error) {
	return l.dialFrom(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2})
}
