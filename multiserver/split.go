package multiserver

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// splitPrefix is how many bytes of a connection a [Matcher] gets to see at
// most.
const splitPrefix = 16

// Match is what a [Matcher] makes of the first bytes of a connection.
type Match int

// The answers of a matcher.
const (
	MatchNo   Match = iota // the connection is not of this kind
	MatchYes               // it is
	MatchMore              // more bytes are needed to tell
)

// Matcher tells from the first bytes of a connection, of which there is at
// least one and at most 16, whether it is of some kind.
type Matcher func(prefix []byte) Match

// MatchHTTP matches connections that begin with the method of an HTTP request.
// The secret handshake begins with random bytes, so that one in a thousand
// million of its connections is taken for HTTP, and fails.
func MatchHTTP(prefix []byte) Match {
	methods := "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PRI "
	for method := range strings.SplitAfterSeq(methods, " ") {
		switch {
		case method == "":
		case bytes.HasPrefix(prefix, []byte(method)):
			return MatchYes
		case strings.HasPrefix(method, string(prefix)):
			return MatchMore
		}
	}
	return MatchNo
}

// MatchTLS matches connections that begin with the ClientHello of TLS. It looks
// at seven bytes, because the first two alone would be those of one in 65536
// secret handshakes.
func MatchTLS(prefix []byte) Match {
	hello := [...]func(b byte) bool{
		func(b byte) bool { return b == 0x16 },     // a record of the handshake,
		func(b byte) bool { return b == 3 },        // its version,
		func(b byte) bool { return b <= 4 },        //
		func(b byte) bool { return b <= 1<<14>>8 }, // its length, of at most 16 KiB;
		func(byte) bool { return true },            //
		func(b byte) bool { return b == 1 },        // in it a ClientHello,
		func(b byte) bool { return b == 0 },        // of less than 64 KiB
	}
	for i, fits := range hello {
		switch {
		case i == len(prefix):
			return MatchMore
		case !fits(prefix[i]):
			return MatchNo
		}
	}
	return MatchYes
}

// SplitOptions configures [Split]. The zero value is fit for use.
type SplitOptions struct {
	// Timeout is how long a connection may take to send the bytes that tell
	// its kind. 0 means 5 seconds.
	Timeout time.Duration
	// MaxPending is how many connections may be about to tell their kind.
	// Above it the oldest of them makes room. 0 means 256.
	MaxPending int
	// Open, when set, comes before anything else is done with a connection, such
	// as reading what a proxy says about it. It returns the connection to go on
	// with, or an error to refuse it. It runs beside other connections, and within
	// Timeout: then, and when the splitter closes, reading and writing fail and
	// ctx ends. Connections that are refused are closed, the one that Open
	// returned if it did.
	Open func(ctx context.Context, conn net.Conn) (net.Conn, error)
	// Inside, when set, gets each connection whose kind is known, as an index of
	// the kinds, or their number when it is of none. It returns the connection and
	// its kind as they are, or a connection that it found inside, as TLS has one,
	// with its kind or [Unsorted], or an error to refuse it. What holds for Open
	// holds for it, and Timeout for both together.
	Inside func(ctx context.Context, conn net.Conn, kind int) (inside net.Conn, insideKind int, err error)
	// Logger gets errors of the listener, and that MaxPending was reached; at the
	// level of debugging, why a connection was not handed over. Nil discards them.
	Logger *slog.Logger
}

// Unsorted is the kind of a connection whose first bytes are to be sorted.
const Unsorted = -1

var (
	errMadeRoom  = errors.New("made room for others")
	errKindLate  = errors.New("took too long to tell its kind")
	errUnwanted  = errors.New("nobody accepts its kind any more")
	errSplitDone = errors.New("the splitter is closing")
)

// Splitter serves several protocols on one port: the first bytes of a
// connection decide which listener hands it over. A connection that sends
// nothing is closed after a while, so each protocol must be one whose client
// speaks first, as HTTP, TLS and the secret handshake are.
type Splitter struct {
	ln     net.Listener
	opts   SplitOptions
	kinds  []Matcher
	sides  []*side // one for each kind, and one for the rest
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	open   atomic.Int32 // sides that are not closed
	lobby  lobby
	once   sync.Once
	err    error // set inside once
}

// Split starts to accept from ln, which it owns from then on, and to sort the
// connections by the first of the kinds that matches.
func Split(ln net.Listener, opts SplitOptions, kinds ...Matcher) *Splitter {
	if opts.Timeout <= 0 {
		opts.Timeout = 5 * time.Second
	}
	if opts.MaxPending <= 0 {
		opts.MaxPending = 256
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Splitter{ln: ln, opts: opts, kinds: kinds, lobby: lobby{limit: opts.MaxPending, log: opts.Logger}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	for range len(kinds) + 1 {
		s.sides = append(s.sides, &side{s: s, conns: make(chan net.Conn), done: make(chan struct{})})
	}
	s.open.Store(int32(len(s.sides)))
	s.wg.Go(func() { acceptLoop(s.ctx, ln, s.admit, opts.Logger) })
	return s
}

// SplitHTTP splits ln into HTTP and everything else, for the transports ws and
// net on one port. Closing both listeners closes ln.
func SplitHTTP(ln net.Listener, opts SplitOptions) (http, raw net.Listener) {
	s := Split(ln, opts, MatchHTTP)
	return s.Listener(0), s.Rest()
}

// Listener returns the listener for connections of the kind with that index.
func (s *Splitter) Listener(kind int) net.Listener { return s.sides[kind] }

// Rest returns the listener for connections of no kind.
func (s *Splitter) Rest() net.Listener { return s.sides[len(s.kinds)] }

// Close closes the listener underneath and those of all sides, and waits for
// everything that Split started. It happens by itself when all sides are
// closed.
func (s *Splitter) Close() error {
	s.shut()
	s.wg.Wait()
	return s.err
}

func (s *Splitter) shut() {
	s.once.Do(func() {
		s.cancel()
		s.err = s.ln.Close()
		for _, side := range s.sides {
			side.end()
		}
	})
}

func (s *Splitter) admit(conn net.Conn) {
	place := s.lobby.enter(conn)
	s.wg.Go(func() { s.sort(conn, place) })
}

// sort reads as much of the connection as it takes to tell its kind, and
// hands it over.
func (s *Splitter) sort(raw net.Conn, place *list.Element) {
	conn, kind, err := s.receive(raw)
	if !s.lobby.leave(place) {
		err = errMadeRoom
	}
	if err == nil {
		side := s.sides[kind]
		select {
		case side.conns <- conn:
			return
		case <-side.done:
			err = errUnwanted
		}
	}
	s.opts.Logger.Debug("connection refused", "remote", conn.RemoteAddr(), "err", err)
	Abort(conn)
}

// receive returns the connection to hand over and its kind. With an error, it
// returns the connection to close.
func (s *Splitter) receive(raw net.Conn) (conn net.Conn, kind int, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.opts.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(longAgo()) })
	conn, kind, err = s.sorted(ctx, raw)
	switch {
	case stop() && ctx.Err() == nil:
		return conn, kind, err
	case s.ctx.Err() != nil:
		return conn, kind, errSplitDone
	default:
		return conn, kind, errKindLate
	}
}

func (s *Splitter) sorted(ctx context.Context, conn net.Conn) (_ net.Conn, kind int, err error) {
	if s.opts.Open != nil {
		opened, err := s.opts.Open(ctx, conn)
		if opened != nil {
			conn = opened
		}
		if err != nil {
			return conn, Unsorted, err
		}
	}
	for kind = Unsorted; kind == Unsorted && ctx.Err() == nil; {
		c := &replayConn{Conn: conn}
		conn = c
		if kind, err = s.kind(c); err != nil || s.opts.Inside == nil {
			return conn, kind, err
		}
		inside, insideKind, err := s.opts.Inside(ctx, conn, kind)
		if err != nil {
			return conn, kind, err
		}
		conn, kind = inside, insideKind
	}
	return conn, kind, nil
}

// kind reads the first bytes of a connection until they tell its kind.
func (s *Splitter) kind(c *replayConn) (int, error) {
	for {
		n, err := c.Conn.Read(c.prefix[c.end:])
		c.end += uint8(n)
		if c.end > 0 {
			if kind, ok := s.decide(c.prefix[:c.end]); ok {
				return kind, nil
			}
		}
		if err != nil {
			return Unsorted, fmt.Errorf("ended before it told its kind: %w", err)
		}
	}
}

// decide returns the index of the side, unless more bytes are needed.
func (s *Splitter) decide(prefix []byte) (kind int, ok bool) {
	for i, match := range s.kinds {
		switch match(prefix) {
		case MatchYes:
			return i, true
		case MatchMore:
			if len(prefix) < splitPrefix {
				return 0, false
			}
		}
	}
	return len(s.kinds), true
}

// longAgo is a deadline that ends reading and writing at once.
func longAgo() time.Time { return time.Unix(1, 0) }

// side is the listener of one kind.
type side struct {
	s     *Splitter
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *side) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *side) Addr() net.Addr { return l.s.ln.Addr() }

// Close ends this side. The last one to be closed closes the splitter.
func (l *side) Close() error {
	if l.end(); l.s.open.Load() > 0 {
		return nil
	}
	return l.s.Close()
}

func (l *side) end() {
	l.once.Do(func() {
		close(l.done)
		l.s.open.Add(-1)
	})
}

// replayConn is a connection of which some bytes were read before.
type replayConn struct {
	net.Conn
	prefix     [splitPrefix]byte
	start, end uint8 // of what is still to be read; owned by the reader
}

// Read returns what was read before, then what follows.
func (c *replayConn) Read(p []byte) (int, error) {
	if c.start == c.end {
		return c.Conn.Read(p)
	}
	n := copy(p, c.prefix[c.start:c.end])
	c.start += uint8(n)
	return n, nil
}

// Proved returns the connection underneath once what was read before has been read.
func (c *replayConn) Proved() net.Conn {
	below := proved(c.Conn)
	if c.start == c.end {
		return below
	}
	return c
}

// CloseWrite half-closes the connection underneath.
func (c *replayConn) CloseWrite() error { return plainWriter{c.Conn}.Close() }

// PeerPart is the peer's part of the connection underneath.
func (c *replayConn) PeerPart() Part { return PeerPart(c.Conn) }

// Abort closes the connection underneath at once.
func (c *replayConn) Abort() error {
	Abort(c.Conn)
	return nil
}

// NetConn returns the connection underneath. It may be read directly once
// nothing is buffered.
func (c *replayConn) NetConn() net.Conn { return c.Conn }

// Buffered returns how many bytes are to be read from here, not from the
// connection underneath. Only who reads may ask.
func (c *replayConn) Buffered() int { return int(c.end - c.start) }

// TCPConn returns the TCP connection below conn, if all that conn still reads
// and writes is what that one reads and writes, so that the kernel can copy it:
// below connections of a [Splitter] whose first 16 bytes have been read, but not
// below TLS. It must not be called while conn is being read.
func TCPConn(conn net.Conn) (tcp *net.TCPConn, ok bool) {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c, true
		case interface {
			NetConn() net.Conn
			Buffered() int
		}:
			if c.Buffered() > 0 {
				return nil, false
			}
			conn = c.NetConn()
		default:
			return nil, false
		}
	}
}
