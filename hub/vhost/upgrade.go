package vhost

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A pair is the two ends of an upgraded connection. It ends when nothing has moved in either direction for long.
type pair struct {
	idle, write, half time.Duration

	last           atomic.Int64 // when something moved last, in nanoseconds of the Unix time
	halfClosed     atomic.Bool  // one direction has ended: the other one has less time
	received, sent atomic.Int64 // from, and to, the visitor

	mu   sync.Mutex
	ends []*end // guarded by mu
}

// upgrade makes the response's body the courier's end of a pair.
func (l *link) upgrade(res *http.Response) {
	cfg := l.x.h.cfg
	p := &pair{idle: cfg.UpgradeTimeout, write: cfg.SendTimeout, half: min(cfg.VisitorTimeout, cfg.UpgradeTimeout)}
	l.x.pair = p
	early, err := l.br.Peek(l.br.Buffered())
	if err != nil {
		early = nil // cannot be: they are there
	}
	res.Body = p.add(l.conn, early, &p.sent)
}

// visitor makes the visitor's connection the other end.
func (p *pair) visitor(c net.Conn, early []byte) net.Conn { return p.add(c, early, &p.received) }

// add copies early: it stands in a buffer that is not ours.
func (p *pair) add(c net.Conn, early []byte, count *atomic.Int64) *end {
	e := &end{Conn: c, pair: p, early: append([]byte(nil), early...), count: count}
	p.last.Store(time.Now().UnixNano())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends = append(p.ends, e)
	return e
}

// rest is how long silence may still last.
func (p *pair) rest(now time.Time) time.Duration {
	limit := p.idle
	if p.halfClosed.Load() {
		limit = p.half
	}
	return limit - now.Sub(time.Unix(0, p.last.Load()))
}

// ended says that one direction has ended, and gives the other one less time.
func (p *pair) ended() {
	if p.halfClosed.Swap(true) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.ends {
		_ = e.SetReadDeadline(time.Now().Add(p.half))
	}
}

// An end is one of a pair's connections. One goroutine reads from it, another one writes to it.
type end struct {
	net.Conn
	pair  *pair
	early []byte        // came with the header, and is read first
	count *atomic.Int64 // of the bytes read

	readUntil  time.Time // owned by the reader
	writeUntil time.Time // owned by the writer
}

// Read waits as long as the pair is not idle.
func (e *end) Read(p []byte) (int, error) {
	if len(e.early) > 0 {
		n := copy(p, e.early)
		e.early = e.early[n:]
		e.count.Add(int64(n))
		return n, nil
	}
	for {
		now := time.Now()
		rest := e.pair.rest(now)
		if e.readUntil.Sub(now) < rest-rest/8 || e.pair.halfClosed.Load() {
			e.readUntil = now.Add(rest)
			_ = e.SetReadDeadline(e.readUntil)
		}
		n, err := e.Conn.Read(p)
		if n > 0 {
			e.pair.last.Store(time.Now().UnixNano())
			e.count.Add(int64(n))
			return n, err
		}
		if errors.Is(err, io.EOF) {
			e.pair.ended()
		}
		if !isTimeout(err) || e.pair.rest(time.Now()) <= 0 {
			return 0, err
		}
	}
}

// Write gives the other side as long as any part of a request has.
func (e *end) Write(p []byte) (int, error) {
	now := time.Now()
	if e.writeUntil.Sub(now) < e.pair.write-e.pair.write/8 {
		e.writeUntil = now.Add(e.pair.write)
		_ = e.SetWriteDeadline(e.writeUntil)
	}
	n, err := e.Conn.Write(p)
	if n > 0 {
		e.pair.last.Store(time.Now().UnixNano())
	}
	return n, err
}

// CloseWrite ends the direction towards this end, where that is possible; otherwise both.
func (e *end) CloseWrite() error { return closeWrite(e.Conn) }

// closeWrite ends the sending direction of c, or closes it.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}
