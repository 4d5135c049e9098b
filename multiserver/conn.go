package multiserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// DefaultCloseTimeout is how long [Conn.Close] tries to say goodbye.
const DefaultCloseTimeout = time.Second

// Conn is a connection to a peer that has proved its key, unless the transform
// is [NoAuth]. It is a net.Conn: Read may be called by one goroutine while
// another calls Write, and Close by any number at any time. Read returns io.EOF
// only for an end that the transform has authenticated; NoAuth, which
// authenticates nothing, passes the socket's own end on.
type Conn struct {
	raw          net.Conn
	r            io.Reader
	w            io.WriteCloser // Close says goodbye and leaves raw open
	remote       keys.PublicKey
	auth         any
	transform    string // the peer's transform part; "" for shs and its key
	closeTimeout time.Duration

	writing     turn        // one Write, CloseWrite or goodbye at a time
	saidBye     bool        // guarded by writing
	closing     atomic.Bool // Close or Abort was called
	closeCalled atomic.Bool
	closed      sync.WaitGroup // until Close is done
	closeErr    error          // set before closed is
}

// turn is a lock. Unlike a sync.Mutex it lets the clock of synctest go on while
// somebody waits for it, and unlike a channel it takes hardly any memory.
type turn struct {
	mu    sync.Mutex
	taken bool
	free  chan struct{} // closed by give; nil while nobody waits
}

func (t *turn) take() {
	for {
		free := t.try()
		if free == nil {
			return
		}
		<-free
	}
}

// try takes the turn, or returns what to wait for before trying again.
func (t *turn) try() (free <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.taken {
		t.taken = true
		return nil
	}
	if t.free == nil {
		t.free = make(chan struct{})
	}
	return t.free
}

func (t *turn) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = false
	if t.free != nil {
		close(t.free)
		t.free = nil
	}
}

// ConnConfig describes a connection to [NewConn].
type ConnConfig struct {
	// Raw is the connection underneath. The Conn owns it.
	Raw net.Conn
	// Reader gives what the peer sent; nil means Raw.
	Reader io.Reader
	// Writer takes what is to be sent. Its Close sends whatever ends the
	// stream and leaves Raw open. Nil means Raw, with nothing to end it.
	Writer io.WriteCloser
	// Remote is the proven key of the peer.
	Remote keys.PublicKey
	// Auth is what the application decided about the peer.
	Auth any
	// Transform is the peer's transform part; empty means shs with the peer's
	// key, "shs:KEY".
	Transform string
	// CloseTimeout bounds the goodbye; 0 means DefaultCloseTimeout.
	CloseTimeout time.Duration
}

// NewConn makes a connection, for transforms.
func NewConn(cfg ConnConfig) *Conn {
	c := &Conn{
		raw: cfg.Raw, r: cfg.Reader, w: cfg.Writer,
		remote: cfg.Remote, auth: cfg.Auth, transform: cfg.Transform,
		closeTimeout: cfg.CloseTimeout,
	}
	c.closed.Add(1)
	if c.r == nil {
		c.r = cfg.Raw
	}
	if c.w == nil {
		c.w = plainWriter{cfg.Raw}
	}
	if c.closeTimeout == 0 {
		c.closeTimeout = DefaultCloseTimeout
	}
	return c
}

// plainWriter is the Writer of a connection without a goodbye.
type plainWriter struct{ net.Conn }

// Close half-closes the connection where that is possible, so that the peer
// reads the end.
func (w plainWriter) Close() error {
	if half, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Remote returns the key that the peer has proved. With NoAuth it is our own,
// as in JavaScript: whoever reaches the socket is taken for us.
func (c *Conn) Remote() keys.PublicKey { return c.remote }

// Address returns the peer's address as multiserver shows it, such as
// net:192.0.2.7:40112~shs:KEY. For a connection that was accepted it says where
// the peer dialled from, which cannot be dialled as a rule. It is meant for
// people and logs here, not for other peers.
func (c *Conn) Address() string {
	transform := c.transform
	if transform == "" {
		transform = keyPart(c.remote)
	}
	return PeerPart(c.raw).String() + "~" + transform
}

// Auth returns what the application's Authorize hook decided about the peer;
// nil on connections that we dialled.
func (c *Conn) Auth() any { return c.auth }

// NetConn returns the connection underneath, whose bytes are the transform's
// own. Only what measures or closes connections has a use for it.
func (c *Conn) NetConn() net.Conn { return c.raw }

// Read reads what the peer sent.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF && c.closing.Load() { //nolint:errorlint // io.EOF is never wrapped
		return n, net.ErrClosed
	}
	return n, err
}

// Write sends p. It is not done until all of p has been handed to the system.
func (c *Conn) Write(p []byte) (int, error) {
	c.writing.take()
	defer c.writing.give()
	if c.saidBye || c.closing.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.w.Write(p)
	if err != nil && c.closing.Load() {
		return n, net.ErrClosed
	}
	return n, err
}

// CloseWrite says goodbye: the peer reads io.EOF after what was written so far.
// Reading goes on. Writing after it fails with net.ErrClosed.
func (c *Conn) CloseWrite() error {
	c.writing.take()
	defer c.writing.give()
	if c.closing.Load() {
		return net.ErrClosed
	}
	return c.goodbye()
}

// goodbye ends the stream once. The caller holds writing.
func (c *Conn) goodbye() error {
	if c.saidBye {
		return nil
	}
	c.saidBye = true
	return c.w.Close()
}

// Close says goodbye, for at most the close timeout, and closes the connection
// underneath whether or not the peer could be told. Reads and writes that are
// under way end with net.ErrClosed. Every call waits until it is done and
// returns the same error, which is nil unless the connection underneath could
// not be closed: that a peer has vanished is no error of Close.
func (c *Conn) Close() error {
	if c.closeCalled.Swap(true) {
		c.closed.Wait()
		return c.closeErr
	}
	c.closing.Store(true)
	// A Write that hangs keeps us from writing: closing the socket ends it, and
	// the goodbye that hangs too.
	hard := time.AfterFunc(c.closeTimeout, func() { Abort(c.raw) })
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.closeTimeout))
	c.writing.take()
	_ = c.goodbye()
	c.writing.give()
	hard.Stop()
	if err := c.raw.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.closeErr = fmt.Errorf("multiserver: closing: %w", err)
	}
	c.closed.Done()
	return c.closeErr
}

// Abort closes the connection at once, without a goodbye.
func (c *Conn) Abort() error {
	c.closing.Store(true)
	Abort(c.raw)
	return nil
}

// LocalAddr returns the local address of the connection underneath.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr returns the remote address of the connection underneath. See
// [Conn.Address] for the peer's multiserver address.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// SetDeadline sets the deadlines of reading and writing. A write that runs into
// its deadline leaves the stream unfit for more.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the deadline of reading. A read that runs into it loses
// nothing if ReadResumes says so.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.raw.SetReadDeadline(t) }

// ReadResumes reports whether reading can go on after a deadline of reading as
// if nothing had happened. That depends on the connection underneath, which may
// have a method ReadResumes of its own: sockets allow it, WebSockets do not.
func (c *Conn) ReadResumes() bool { return readResumes(c.raw) }

func readResumes(raw net.Conn) bool {
	switch raw := raw.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	case interface{ ReadResumes() bool }:
		return raw.ReadResumes()
	case interface {
		NetConn() net.Conn
		Buffered() int
	}: // as in TCPConn
		return readResumes(raw.NetConn())
	}
	return false
}

// SetWriteDeadline sets the deadline of writing. It has no effect on Close.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.closing.Load() {
		return net.ErrClosed
	}
	return c.raw.SetWriteDeadline(t)
}
