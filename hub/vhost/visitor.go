package vhost

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// linger is how long the rest of a request's body may take to arrive after the answer has been given: closing a connection
// on which bytes are still on their way can destroy the answer.
const linger = time.Second

// A visitor is the visitor's end of an exchange, as the ResponseWriter that the proxy sees. It belongs to the exchange's
// goroutine.
type visitor struct {
	http.ResponseWriter
	ctl  *http.ResponseController
	x    *exchange
	pace pace

	status   int   // of the final response; 0: none has been written
	length   int64 // what its Content-Length says, or -1
	sent     int64
	hijacked bool
}

// Unwrap lets http.ResponseController find what the visitor does not do itself.
func (v *visitor) Unwrap() http.ResponseWriter { return v.ResponseWriter }

// WriteHeader sends the header on its way at once when the body is not at hand yet.
func (v *visitor) WriteHeader(status int) {
	if status < 200 && status != http.StatusSwitchingProtocols {
		v.ResponseWriter.WriteHeader(status)
		return
	}
	if v.status != 0 {
		return
	}
	v.status = status
	h := v.Header()
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // what the courier did not say is not guessed
	}
	if v.x.in.ProtoMajor == 1 && v.x.body != nil && !v.x.body.done.Load() {
		// What is left of the body must not be taken for the next request.
		h.Set("Connection", "close")
	}
	v.length = contentLength(h)
	v.setDeadline()
	v.ResponseWriter.WriteHeader(status)
	if v.length > 0 && v.x.bodyLater {
		_ = v.ctl.Flush() // its error comes back with the next write
	}
}

// Write sends what it gets on its way, unless it is the end of the response, which is sent with the end.
func (v *visitor) Write(p []byte) (int, error) {
	if v.status == 0 {
		v.WriteHeader(http.StatusOK)
	}
	start := v.setDeadline()
	n, err := v.ResponseWriter.Write(p)
	v.sent += int64(n)
	if err == nil && v.sent < v.length {
		err = v.flush()
	}
	v.pace.spent(start, n)
	return n, err
}

// FlushError is what the proxy calls for responses of unknown length.
func (v *visitor) FlushError() error {
	start := v.setDeadline()
	defer v.pace.spent(start, 0)
	return v.flush()
}

func (v *visitor) flush() error {
	if err := v.ctl.Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

func (v *visitor) setDeadline() time.Time {
	now := time.Now()
	if until, set := v.pace.deadline(now); set {
		_ = v.ctl.SetWriteDeadline(until)
	}
	return now
}

// Hijack hands the visitor's connection over, for a protocol that follows HTTP.
func (v *visitor) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, brw, err := v.ctl.Hijack()
	if err != nil {
		return nil, nil, err
	}
	v.hijacked = true
	early, err := brw.Peek(brw.Reader.Buffered())
	if err != nil {
		early = nil // cannot be: they are there
	}
	_ = c.SetWriteDeadline(time.Now().Add(v.x.h.cfg.VisitorTimeout)) // for the header
	return v.x.pair.visitor(c, early), brw, nil
}

func contentLength(h http.Header) int64 {
	n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// A visitorBody is the body of a visitor's request. One goroutine reads it.
type visitorBody struct {
	src  io.Reader
	ctl  *http.ResponseController
	pace pace
	left int64 // bytes that may still come; negative: any number
	err  error // owned by the reader until it has ended
	read atomic.Int64

	begun atomic.Bool // somebody has begun to read it
	done  atomic.Bool // it was read to its end

	mu  sync.Mutex
	cut bool // guarded by mu: nobody is to wait for it any more
}

// Read gives the next bytes, or one of this package's errors.
func (b *visitorBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	b.begun.Store(true)
	now := time.Now()
	b.setDeadline(now)
	n, err := b.src.Read(p)
	b.pace.spent(now, n)
	b.read.Add(int64(n))
	if b.left >= 0 && int64(n) > b.left {
		b.err = errBodyTooLarge
		return 0, b.err
	}
	b.left -= int64(n)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		b.err = io.EOF
		b.done.Store(true)
	case isTimeout(err):
		b.err = errVisitorSlow
	default:
		b.err = visitorError(err)
	}
	return n, b.err
}

func visitorError(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return errBodyTooLarge
	}
	return errVisitorBroke
}

func (b *visitorBody) setDeadline(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until, set := b.pace.deadline(now); set && !b.cut {
		_ = b.ctl.SetReadDeadline(until)
	}
}

// interrupt makes a Read that waits fail, and every later one. It reports whether that is possible.
func (b *visitorBody) interrupt() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut = true
	return b.ctl.SetReadDeadline(time.Unix(1, 0)) == nil
}

// abandon lets the server read what is left of the body, and wait for no longer than linger.
func (b *visitorBody) abandon() {
	if !b.done.Load() {
		_ = b.ctl.SetReadDeadline(time.Now().Add(linger))
	}
}
