// Package streamconn makes a net.Conn of the stream of a duplex call, so that what is written for connections, such as the
// secret handshake or an HTTP server, runs inside a muxrpc session.
//
//	stream, err := muxrpc.Duplex[[]byte, []byte](ctx, peer, "tunnel.connect", request)
//	...
//	conn := streamconn.New(stream, streamconn.Options{})
//
// The bytes are those of the items, whose borders mean nothing. What a stream is not able to do, a Conn is not: there is no
// half-close, so that a peer that has ended its side takes no more. See docs/PROTOCOL.md §4.2.
package streamconn

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
)

// MaxItem is how many bytes go into one item. JavaScript peers send what one write of their socket holds.
const MaxItem = 64 << 10

// Stream is what a Conn is made of: a *muxrpc.Stream[[]byte, []byte], or something that behaves like one.
type Stream interface {
	// Recv returns the next item, and io.EOF after an orderly end. The bytes are the caller's, who gives them to
	// muxrpc.Recycle.
	Recv(ctx context.Context) ([]byte, error)
	// Send sends an item. It keeps nothing of b.
	Send(ctx context.Context, b []byte) error
	Close(ctx context.Context) error
	Abort(err error)
}

// Options say what a Conn tells about itself. The zero value is fit for use.
type Options struct {
	// Local and Remote are what LocalAddr and RemoteAddr return. Nil: an address of the network "muxrpc" without a text.
	Local, Remote net.Addr
	// OnClose is called once, when Close or Abort has ended the stream. Nil: nothing is.
	OnClose func()
}

// Conn is a stream as a connection. All its methods may be called by many goroutines.
type Conn struct {
	stream  Stream
	opts    Options
	reading deadline
	writing deadline
	once    sync.Once
	closed  chan struct{}

	mu   sync.Mutex // one Read at a time
	item []byte     // guarded by mu: the last one, as it was received
	rest []byte     // guarded by mu: what is left of it
}

// New makes a connection of a stream, which it owns from then on.
func New(stream Stream, opts Options) *Conn {
	c := &Conn{stream: stream, opts: opts, closed: make(chan struct{})}
	c.reading.init()
	c.writing.init()
	return c
}

// Read reads what the peer sent. It returns io.EOF after an orderly end of the stream, and the peer's error after another.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.fill(); err != nil {
		return 0, err
	}
	n := copy(p, c.rest)
	c.take(n)
	return n, nil
}

// take takes n bytes off the item, whose memory goes back when nothing is left of it. The caller holds mu.
func (c *Conn) take(n int) {
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		muxrpc.Recycle(c.item)
		c.item, c.rest = nil, nil
	}
}

// WriteTo writes what the peer sends to w until the end, without copying it.
func (c *Conn) WriteTo(w io.Writer) (written int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := c.fill(); err != nil {
			if isEnd(err) {
				err = nil
			}
			return written, err
		}
		n, err := w.Write(c.rest)
		c.take(n)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}

// fill waits until rest has bytes. The caller holds mu.
func (c *Conn) fill() error {
	for len(c.rest) == 0 {
		item, err := c.stream.Recv(c.reading.context())
		if err != nil {
			return c.reason(err)
		}
		c.item, c.rest = item, item
	}
	return nil
}

// Write sends p. When it returns, the bytes are in the session's hands, and p is the caller's again. After the peer has
// ended the stream it returns [io.ErrClosedPipe], or the peer's error.
func (c *Conn) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		item := p[n:min(n+MaxItem, len(p))]
		if err := c.stream.Send(c.writing.context(), item); err != nil {
			if isEnd(err) {
				err = io.ErrClosedPipe
			}
			return n, c.reason(err)
		}
		n += len(item)
	}
	return n, nil
}

// buffers are what ReadFrom reads into.
var buffers = sync.Pool{New: func() any { return new([MaxItem]byte) }}

// ReadFrom sends what r gives until its end, in items as large as its reads.
func (c *Conn) ReadFrom(r io.Reader) (read int64, err error) {
	buf := buffers.Get().(*[MaxItem]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.Read(buf[:])
		if n > 0 {
			sent, err := c.Write(buf[:n])
			read += int64(sent)
			if err != nil {
				return read, err
			}
		}
		if err != nil {
			if isEnd(err) {
				err = nil
			}
			return read, err
		}
	}
}

// isEnd reports whether err is an end itself; an error that wraps one is something else.
func isEnd(err error) bool { return err == io.EOF } //nolint:errorlint // see above

// reason says why a read or write failed.
func (c *Conn) reason(err error) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		return err
	}
}

// Close ends the stream after what was written. It does not wait for the other side, which need not answer, and drops what
// has arrived.
func (c *Conn) Close() error {
	c.end(func() {
		expired, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.stream.Close(expired)
	})
	return nil
}

// Abort ends the stream with an error, of which the peer is told what an error of a handler would tell it.
func (c *Conn) Abort(reason error) {
	c.end(func() { c.stream.Abort(reason) })
}

func (c *Conn) end(how func()) {
	c.once.Do(func() {
		close(c.closed)
		how()
		c.reading.stop()
		c.writing.stop()
		if c.opts.OnClose != nil {
			c.opts.OnClose()
		}
	})
}

// Done is closed when this side has closed the connection, before Close returns.
func (c *Conn) Done() <-chan struct{} { return c.closed }

// Linger waits until this side has closed the connection, for at most late after ctx has ended. It is for handlers that
// have handed their stream to somebody as a connection: when ctx ends, whoever reads from it finds out how, and closes it.
func (c *Conn) Linger(ctx context.Context, late time.Duration) {
	select {
	case <-c.closed:
		return
	case <-ctx.Done():
	}
	timer := time.NewTimer(late)
	defer timer.Stop()
	select {
	case <-c.closed:
	case <-timer.C:
	}
}

// ReadResumes is true: a Read that runs into a deadline loses nothing.
func (c *Conn) ReadResumes() bool { return true }

// LocalAddr returns what the options say.
func (c *Conn) LocalAddr() net.Addr { return addrOr(c.opts.Local) }

// RemoteAddr returns what the options say.
func (c *Conn) RemoteAddr() net.Addr { return addrOr(c.opts.Remote) }

// addr is the address of a stream: it has none.
type addr struct{}

func (addr) Network() string { return "muxrpc" }
func (addr) String() string  { return "" }

func addrOr(a net.Addr) net.Addr {
	if a == nil {
		return addr{}
	}
	return a
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.reading.set(t)
	c.writing.set(t)
	return nil
}

// SetReadDeadline sets when a Read, also one that waits, returns [os.ErrDeadlineExceeded]. A later deadline makes reading
// possible again.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.reading.set(t)
	return nil
}

// SetWriteDeadline does the same for Write. What was sent before is not taken back.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writing.set(t)
	return nil
}
