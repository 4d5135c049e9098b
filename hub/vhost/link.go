package vhost

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"time"
)

const (
	// lastWords is how long a response may take that a courier began before it stopped reading the request.
	lastWords = time.Second

	// uploadGrace is how long the end of a request may take after the end of its response. Until then its connection
	// cannot be used again.
	uploadGrace = 50 * time.Millisecond
)

// A link is a courier's connection while one exchange goes over it. It belongs to the exchange's goroutine, apart from
// what the upload does.
type link struct {
	x    *exchange
	conn net.Conn
	br   *bufio.Reader // nil when the link has ended
	stay func() bool   // takes back that the visitor's leaving closes conn

	budget int64     // bytes of header that may still come; negative: the header has been read
	heard  bool      // anything has come
	broken bool      // conn failed, so what cannot be read is nobody's garbage
	until  time.Time // the deadline for the next bytes of the body
	failed bool

	mu       sync.Mutex
	answered bool  // guarded by mu: the header has been read, so its deadline is not to be set
	upErr    error // guarded by mu: why the upload failed, unless that was our doing
	reading  bool  // guarded by mu: the upload has begun to read the body
	cut      bool  // guarded by mu: the upload is being ended

	goAhead  chan struct{} // closed when the courier says 100 Continue; nil unless that matters
	stop     chan struct{} // closed to end the upload; nil when there is none
	uploaded chan struct{} // closed when the upload has ended; nil when there is none
	sent     bool          // the upload sent everything; to be read after uploaded
}

func newLink(x *exchange, c net.Conn) *link {
	l := &link{x: x, conn: c, budget: int64(x.h.cfg.MaxResponseHeader)}
	l.br = x.h.buffers.reader(l)
	l.stay = context.AfterFunc(x.in.Context(), func() { _ = c.Close() })
	return l
}

// exchange sends the request and reads the header of the final response.
func (l *link) exchange(out *http.Request) (*http.Response, error) {
	if err := l.send(out); err != nil {
		return nil, err
	}
	res, err := l.receive(out)
	if err != nil {
		return nil, err
	}
	l.begin(res)
	return res, nil
}

// send writes the header and what is known of the body in one go, and lets the rest follow.
func (l *link) send(out *http.Request) error {
	head := l.x.h.buffers.head()
	defer l.x.h.buffers.putHead(head)
	writeHead(head, out, l.x)
	head.Write(l.x.small)
	_ = l.conn.SetWriteDeadline(time.Now().Add(l.x.h.cfg.SendTimeout))
	if n, err := l.conn.Write(head.Bytes()); err != nil {
		switch {
		case isTimeout(err):
			return ErrTooSlow
		case n == 0:
			return errUnsent
		}
		return errBroke
	}
	if !l.x.streams() {
		l.expectAnswer(l.x.h.cfg.ResponseTimeout)
		return nil
	}
	_ = l.conn.SetReadDeadline(time.Time{}) // it runs from the end of the upload
	l.stop, l.uploaded = make(chan struct{}), make(chan struct{})
	if expectsContinue(l.x.in) {
		l.goAhead = make(chan struct{})
	}
	go l.upload(out) // ended by endUpload
	return nil
}

// expectAnswer sets the time for the header, unless that has come.
func (l *link) expectAnswer(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.answered {
		_ = l.conn.SetReadDeadline(time.Now().Add(d))
	}
}

// upload sends the body while it comes in.
func (l *link) upload(out *http.Request) {
	defer close(l.uploaded)
	err := l.sendBody(out)
	if err == nil {
		l.sent = true
		l.expectAnswer(l.x.h.cfg.ResponseTimeout)
		return
	}
	l.mu.Lock()
	cut := l.cut
	if !cut {
		l.upErr = err
	}
	l.mu.Unlock()
	if cut {
		return
	}
	if isVisitors(err) {
		_ = l.conn.Close() // half a request is worth nothing
		return
	}
	l.expectAnswer(lastWords)
}

var errStopped = errors.New("vhost: the upload was ended")

func (l *link) sendBody(out *http.Request) error {
	if !l.awaitContinue() || !l.mayRead() {
		return errStopped
	}
	buf := l.x.h.buffers.Get()
	defer l.x.h.buffers.Put(buf)
	w := bodyWriter{link: l, chunked: out.ContentLength < 0}
	for {
		n, err := l.x.body.Read(buf)
		if n > 0 {
			if err := w.write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return w.end(l.x.in.Trailer)
		}
		if err != nil {
			return err
		}
	}
}

// awaitContinue waits for the courier's 100 Continue if the visitor does. It reports false when the body is not wanted.
func (l *link) awaitContinue() bool {
	if l.goAhead == nil {
		return true
	}
	timer := time.NewTimer(l.x.h.cfg.ExpectTimeout)
	defer timer.Stop()
	select {
	case <-l.goAhead:
	case <-timer.C:
	case <-l.stop:
		return false
	}
	return true
}

// mayRead says that the upload begins to read the body, unless it is being ended.
func (l *link) mayRead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reading = !l.cut
	return l.reading
}

// receive reads interim responses, passes them on, and reads the header of the final one.
func (l *link) receive(out *http.Request) (*http.Response, error) {
	for {
		res, err := http.ReadResponse(l.br, out)
		if err != nil {
			return nil, l.readFailure(err)
		}
		switch code := res.StatusCode; {
		case code < 100:
			return nil, errGarbage
		case code >= 200, code == http.StatusSwitchingProtocols:
			return res, nil
		case code == http.StatusContinue && l.goAhead == nil:
			// nobody waits for it
		default:
			if err := l.interim(out, res); err != nil {
				return nil, err
			}
		}
	}
}

func (l *link) interim(out *http.Request, res *http.Response) error {
	if res.StatusCode == http.StatusContinue {
		select {
		case <-l.goAhead:
			return nil // once is enough
		default:
			close(l.goAhead)
		}
	}
	trace := httptrace.ContextClientTrace(out.Context())
	if trace == nil || trace.Got1xxResponse == nil || !l.x.in.ProtoAtLeast(1, 1) {
		return nil
	}
	for _, hop := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "Trailer", "Content-Length"} {
		res.Header.Del(hop)
	}
	return trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header))
}

// readFailure tells what went wrong while the header was being read.
func (l *link) readFailure(err error) error {
	switch {
	case errors.Is(err, errResponseHeader):
		return errResponseHeader
	case isTimeout(err):
		return ErrTooSlow
	case !l.heard:
		return errSilentEnd
	case l.broken:
		return errBroke
	}
	return errGarbage
}

// blame finds the cause behind a failure, and leaves nothing of the upload.
func (l *link) blame(err error) error {
	gone := l.x.in.Context().Err() // ending the upload may look like a visitor that leaves
	if l.uploaded != nil && gone != nil {
		l.settled(lastWords) // a body that breaks off cancels the context first, and then says so
	}
	l.endUpload()
	l.mu.Lock()
	upErr := l.upErr
	l.mu.Unlock()
	switch {
	case isVisitors(upErr):
		return upErr
	case upErr != nil && (errors.Is(err, ErrTooSlow) || errors.Is(err, errSilentEnd)):
		return upErr
	case gone != nil:
		return gone
	}
	return err
}

// begin turns the response over to the proxy.
func (l *link) begin(res *http.Response) {
	l.mu.Lock()
	l.answered = true
	l.mu.Unlock()
	l.budget = -1
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		l.upgrade(res)
	case res.Body == http.NoBody:
		l.finish(!res.Close)
	default:
		l.x.bodyLater = l.br.Buffered() == 0
		res.Body = &responseBody{link: l, src: res.Body, reuse: !res.Close}
	}
}

// Read reads from the courier within the header's budget, and then within the time for the next bytes of the body.
func (l *link) Read(p []byte) (int, error) {
	if l.budget == 0 {
		return 0, errResponseHeader
	}
	if l.budget > 0 {
		p = p[:min(int64(len(p)), l.budget)]
	} else {
		l.extend()
	}
	n, err := l.conn.Read(p)
	if l.budget > 0 {
		l.budget -= int64(n)
	}
	if n > 0 {
		l.heard = true
	}
	if err != nil {
		l.broken = true
	}
	return n, err
}

// extend moves the deadline for the body's next bytes when a good part of it has passed.
func (l *link) extend() {
	now, limit := time.Now(), l.x.h.cfg.BodyTimeout
	if l.until.Sub(now) > limit-limit/8 {
		return
	}
	l.until = now.Add(limit)
	_ = l.conn.SetReadDeadline(l.until)
}

// finish ends the exchange's use of the connection, which is given back when another request may follow on it. Doing so
// again changes nothing.
func (l *link) finish(reuse bool) {
	if l.br == nil {
		return
	}
	reuse = reuse && l.uploadEnded() && l.br.Buffered() == 0
	l.x.h.buffers.putReader(l.br)
	l.br = nil
	if !l.stay() {
		return // the visitor has left, and conn is closed
	}
	if again, ok := l.conn.(interface{ Release() }); ok && reuse {
		again.Release()
		return
	}
	_ = l.conn.Close()
}

// uploadEnded reports whether the whole request has been sent, or is about to be.
func (l *link) uploadEnded() bool {
	return l.uploaded == nil || l.settled(uploadGrace) && l.sent
}

// settled waits for the end of the upload, for some time, and reports whether it has come.
func (l *link) settled(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.uploaded:
		return true
	case <-timer.C:
		return false
	}
}

// endUpload ends the upload, if there is one, and waits for it.
func (l *link) endUpload() {
	if l.uploaded == nil {
		return
	}
	l.mu.Lock()
	again, reading := l.cut, l.reading
	l.cut = true
	l.mu.Unlock()
	if again {
		return
	}
	close(l.stop)
	select {
	case <-l.uploaded:
		return
	default:
	}
	_ = l.conn.Close() // it may be sending
	if reading && !l.x.body.interrupt() {
		return // not net/http's server: its body ends when the handler returns
	}
	<-l.uploaded
}

// A responseBody is the response's body. Its end is the end of the exchange with the courier, before the visitor has
// taken the last of it.
type responseBody struct {
	link  *link
	src   io.Reader
	reuse bool
	err   error
}

func (b *responseBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		b.err = io.EOF
		b.link.finish(b.reuse)
	default:
		b.err = errBroke
		b.link.failed = b.link.x.in.Context().Err() == nil
		b.link.finish(false)
	}
	return n, b.err
}

// Close gives the connection up unless the body was read to its end.
func (b *responseBody) Close() error {
	if b.err == nil {
		b.err = errBroke
		b.link.finish(false)
	}
	return nil
}

// A bodyWriter sends a request's body.
type bodyWriter struct {
	link    *link
	chunked bool
	until   time.Time
}

func (w *bodyWriter) write(p []byte) error {
	if !w.chunked {
		return w.send(p)
	}
	head := w.link.x.h.buffers.head()
	defer w.link.x.h.buffers.putHead(head)
	fmt.Fprintf(head, "%x\r\n", len(p))
	head.Write(p)
	head.WriteString("\r\n")
	return w.send(head.Bytes())
}

// end sends the end of a chunked body, and the trailers that the visitor has announced and sent.
func (w *bodyWriter) end(trailer http.Header) error {
	if !w.chunked {
		return nil
	}
	var b bytes.Buffer
	b.WriteString("0\r\n")
	for key, values := range trailer {
		if trailing(key) {
			for _, v := range values {
				writeField(&b, key, v)
			}
		}
	}
	b.WriteString("\r\n")
	return w.send(b.Bytes())
}

func (w *bodyWriter) send(p []byte) error {
	now, limit := time.Now(), w.link.x.h.cfg.SendTimeout
	if w.until.Sub(now) < limit-limit/8 {
		w.until = now.Add(limit)
		_ = w.link.conn.SetWriteDeadline(w.until)
	}
	if _, err := w.link.conn.Write(p); err != nil {
		if isTimeout(err) {
			return ErrTooSlow
		}
		return errBroke
	}
	return nil
}
