package circuit

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// DefaultIdle is how long joined connections stay without a byte either way.
	DefaultIdle = 2 * time.Hour
	// DefaultVanished is after how long without a sign of life an end counts as gone.
	DefaultVanished = 15 * time.Second
)

var (
	// ErrIdle ends joined connections over which nothing has passed for too long.
	ErrIdle = errors.New("circuit: nothing has passed for too long")
	// ErrVanished ends joined connections of which one end does not answer any more, not even to its system's probes.
	ErrVanished = errors.New("circuit: an end has vanished")
	// ErrCut ends joined connections that were cut with [Link.Cut].
	ErrCut = errors.New("circuit: cut")
)

// JoinConfig configures [Join]. The zero value is fit for use.
type JoinConfig struct {
	// Idle is how long the connections stay without a byte either way. Zero: DefaultIdle. Negative: for ever.
	Idle time.Duration
	// Vanished is after how long without a sign of life an end counts as gone: see [Watch]. Zero: DefaultVanished.
	// Negative: the system's own times apply.
	Vanished time.Duration
	// Pool lends buffers. Nil: the link has a pool of its own.
	Pool *Pool
}

// Link is two connections that are joined.
type Link struct {
	a, b     net.Conn
	idle     time.Duration
	pool     *Pool
	ownsPool bool   // nobody else has it: it ends with the link
	stopA    func() // ends the watch over a
	stopB    func() // ends the watch over b
	fromA    atomic.Uint64
	fromB    atomic.Uint64
	seen     uint64    // bytes when idling was looked at; owned by the timer
	since    time.Time // since when there are so many; owned by the timer
	finished chan struct{}

	mu    sync.Mutex
	cut   bool        // guarded by mu: both connections are closed, or about to be
	err   error       // guarded by mu: why
	timer *time.Timer // guarded by mu: looks whether the link idles; nil: nobody does
}

// Join joins two connections, which belong to the link from then on: what comes from one goes to the other, once
// [Link.Run] is called. TCP connections must be given as *net.TCPConn to be joined in the kernel.
func Join(a, b net.Conn, cfg JoinConfig) *Link {
	if cfg.Idle == 0 {
		cfg.Idle = DefaultIdle
	}
	if cfg.Vanished == 0 {
		cfg.Vanished = DefaultVanished
	}
	own := cfg.Pool == nil
	if own {
		cfg.Pool = new(Pool)
	}
	l := &Link{a: a, b: b, idle: cfg.Idle, pool: cfg.Pool, ownsPool: own, finished: make(chan struct{})}
	l.stopA = Watch(a, cfg.Vanished, func() { l.vanished(a) })
	l.stopB = Watch(b, cfg.Vanished, func() { l.vanished(b) })
	return l
}

// vanished ends the link whose end conn does not answer any more. The system forgets what was to be sent there.
func (l *Link) vanished(conn net.Conn) {
	if tcp := socket(conn); tcp != nil {
		_ = tcp.SetLinger(0)
	}
	l.end(ErrVanished)
}

// Run passes bytes both ways until it is over, and then closes both connections. The end of what one connection sends
// is passed on to the other as such, and the opposite direction goes on; where the other knows no half-close, it ends
// both. Run returns nil when both ends have ended; ErrIdle, ErrVanished and the reason given to Cut; or the error of
// either connection. It is called once.
func (l *Link) Run() error {
	defer close(l.finished)
	if l.ownsPool {
		defer func() { _ = l.pool.Close() }()
	}
	l.startIdling()
	back := make(chan struct{})
	go func() {
		defer close(back)
		l.pass(l.a, l.b, &l.fromB)
	}()
	l.pass(l.b, l.a, &l.fromA)
	<-back
	l.end(nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Cut ends the link at once. Run returns the reason, or [ErrCut] for nil. Cut does not wait for it; see [Link.Done].
func (l *Link) Cut(reason error) {
	if reason == nil {
		reason = ErrCut
	}
	l.end(reason)
}

// Done is closed when Run is about to return.
func (l *Link) Done() <-chan struct{} { return l.finished }

// Traffic returns how many bytes have come from either connection and gone to the other so far.
func (l *Link) Traffic() (fromA, fromB uint64) { return l.fromA.Load(), l.fromB.Load() }

// pass moves bytes from src to dst until src ends, and says so to dst.
func (l *Link) pass(dst, src net.Conn, moved *atomic.Uint64) {
	if err := l.pool.move(dst, src, moved); err != nil {
		l.end(err)
		return
	}
	half, ok := dst.(interface{ CloseWrite() error })
	if !ok {
		l.end(nil)
		return
	}
	if err := half.CloseWrite(); err != nil {
		l.end(err)
	}
}

// end closes both connections, for the reason that was the first. Nil is the end that both ends wanted: then there is
// time for the goodbyes of TLS and WebSocket.
func (l *Link) end(reason error) {
	if errors.Is(reason, syscall.ETIMEDOUT) { // what the system's keep-alive says
		reason = ErrVanished
	}
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		return
	}
	l.cut = true
	l.err = reason
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	l.stopA()
	l.stopB()
	// What an end has sent before it failed still reaches the other: the system sends it after the close.
	shut := abort
	if reason == nil {
		shut = net.Conn.Close
	}
	var closing sync.WaitGroup
	closing.Go(func() { _ = shut(l.a) })
	_ = shut(l.b)
	closing.Wait()
}

// abort closes a connection without waiting for anything.
func abort(conn net.Conn) error {
	switch c := conn.(type) {
	case interface{ Abort() error }:
		return c.Abort()
	case interface{ NetConn() net.Conn }: // TLS, whose goodbye waits
		return abort(c.NetConn())
	}
	return conn.Close()
}

// startIdling looks now and then whether anything passes.
func (l *Link) startIdling() {
	if l.idle < 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cut {
		l.since = time.Now()
		l.timer = time.AfterFunc(l.idle, l.lookIdle)
	}
}

func (l *Link) lookIdle() {
	fromA, fromB := l.Traffic()
	now := time.Now()
	if seen := fromA + fromB; seen != l.seen {
		l.seen, l.since = seen, now
	}
	left := l.idle - now.Sub(l.since)
	if left <= 0 {
		l.end(ErrIdle)
		return
	}
	// Bytes that passed since the last look may be almost as old as that, so look again soon.
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cut {
		l.timer.Reset(min(left, max(l.idle/idleLooks, time.Millisecond)))
	}
}

// idleLooks is how often, in the time that a link may idle, somebody looks: it may stay that much longer.
const idleLooks = 8

// Pool lends what joined connections need while bytes pass. The zero value is ready for use; Close gives back what the
// system has lent.
type Pool struct {
	buffers sync.Pool // of *[bufferSize]byte
	pipes   pipes
}

// Close frees what is not lent, and lets what is lent be freed afterwards. The pool can still be used.
func (p *Pool) Close() error {
	p.pipes.close()
	return nil
}

const (
	// bufferSize is what is moved at once when much comes.
	bufferSize = 64 << 10
	// smallSize is what an idle direction waits with.
	smallSize = 512
)

func (p *Pool) buffer() *[bufferSize]byte {
	if b, ok := p.buffers.Get().(*[bufferSize]byte); ok {
		return b
	}
	return new([bufferSize]byte)
}

// move moves bytes from src to dst until src ends, counting those that dst has taken.
func (p *Pool) move(dst, src net.Conn, moved *atomic.Uint64) error {
	to, toTCP := dst.(*net.TCPConn)
	from, fromTCP := src.(*net.TCPConn)
	if toTCP && fromTCP {
		if done, err := p.pipes.splice(to, from, moved); done {
			return err
		}
	}
	return p.copy(dst, src, moved)
}

// copy moves bytes in user space. While little comes it needs little memory.
func (p *Pool) copy(dst io.Writer, src io.Reader, moved *atomic.Uint64) error {
	var small [smallSize]byte
	var large *[bufferSize]byte
	giveBack := func() {
		if large != nil {
			p.buffers.Put(large)
			large = nil
		}
	}
	defer giveBack()
	for {
		b := small[:]
		if large != nil {
			b = large[:]
		}
		n, err := src.Read(b)
		if n > 0 {
			taken, err := dst.Write(b[:n])
			moved.Add(uint64(max(taken, 0)))
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case n == smallSize && large == nil:
			large = p.buffer()
		case n < smallSize:
			giveBack()
		}
	}
}
