package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// maxItem is how many bytes go into one item. JavaScript peers send what one write of their socket holds.
const maxItem = 64 << 10

// duplex is the stream of a tunnel.
type duplex interface {
	Recv(ctx context.Context) ([]byte, error)
	Send(ctx context.Context, b []byte) error
	Close(ctx context.Context) error
	Abort(err error)
}

// conn is one end of a tunnel as a net.Conn. The borders between items mean nothing.
type conn struct {
	stream  duplex
	peer    multiserver.Part
	reading *deadline
	writing *deadline
	cancel  context.CancelFunc
	once    sync.Once
	closed  chan struct{}

	mu   sync.Mutex // one Read at a time
	rest []byte     // guarded by mu: of the last item
}

// newConn makes a connection of a stream. life is the stream's context; cancel ends it.
func newConn(life context.Context, cancel context.CancelFunc, stream duplex, peer multiserver.Part) *conn {
	return &conn{
		stream:  stream,
		peer:    peer,
		reading: newDeadline(life),
		writing: newDeadline(life),
		cancel:  cancel,
		closed:  make(chan struct{}),
	}
}

func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.rest) == 0 {
		ctx := c.reading.context()
		item, err := c.stream.Recv(ctx)
		if err != nil {
			return 0, c.reason(ctx, err)
		}
		c.rest = item
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *conn) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		item := p[n:min(n+maxItem, len(p))]
		ctx := c.writing.context()
		if err := c.stream.Send(ctx, item); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrClosedPipe // the peer has ended the tunnel
			}
			return n, c.reason(ctx, err)
		}
		n += len(item)
	}
	return n, nil
}

// reason says why a read or write failed.
func (c *conn) reason(ctx context.Context, err error) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Close ends the tunnel after what was written. It does not wait for the other side, which need not answer.
func (c *conn) Close() error {
	c.end(func() {
		expired, cancel := context.WithCancel(context.Background())
		cancel()
		_ = c.stream.Close(expired)
	})
	return nil
}

// Abort ends the tunnel with an error.
func (c *conn) Abort() error {
	c.end(func() { c.stream.Abort(errAborted) })
	return nil
}

var errAborted = muxrpc.Errorf("the tunnel was cut")

func (c *conn) end(how func()) {
	c.once.Do(func() {
		close(c.closed)
		how()
		c.reading.stop()
		c.writing.stop()
		c.cancel()
	})
}

// PeerPart names the portal and who is behind it.
func (c *conn) PeerPart() multiserver.Part { return c.peer }

func (c *conn) LocalAddr() net.Addr  { return address("") }
func (c *conn) RemoteAddr() net.Addr { return address(c.peer.Rest()) }

type address string

func (address) Network() string  { return name }
func (a address) String() string { return string(a) }

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.reading.set(t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writing.set(t)
	return nil
}

// deadline is a context that ends at a time which can be changed while somebody waits for it.
type deadline struct {
	life context.Context

	mu     sync.Mutex
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer // nil: no deadline
}

func newDeadline(life context.Context) *deadline {
	d := &deadline{life: life}
	d.ctx, d.cancel = context.WithCancelCause(life)
	return d
}

func (d *deadline) context() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ctx
}

// set moves the deadline; the zero time is none.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	late := d.timer != nil && !d.timer.Stop() // it has ended, or is about to end, the context
	d.timer = nil
	if late || d.ctx.Err() != nil {
		d.ctx, d.cancel = context.WithCancelCause(d.life)
	}
	if t.IsZero() {
		return
	}
	cancel := d.cancel
	expire := func() { cancel(os.ErrDeadlineExceeded) }
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, expire)
	} else {
		expire()
	}
}

func (d *deadline) stop() {
	d.set(time.Time{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cancel(net.ErrClosed)
}
