package vhost

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/secretstack/secretstack/secrez"
)

// mostUnheard is how often a courier may say that it heard no request before that is what the visitor hears. The sockets of
// a tunnel client are as old as each other, so a node server behind it gives up on all of them at the same moment, and each
// of them says so to whoever uses it just then.
const mostUnheard = defaultSockets

// An exchange is one request and its response. It is the proxy's RoundTripper, for this request alone.
type exchange struct {
	h       *Handler
	id      secrez.ID
	in      *http.Request // the visitor's
	visitor *visitor
	began   time.Time

	body  *visitorBody // nil: the request has none
	small []byte       // the body, when it was read beforehand
	taken bool         // small holds the body

	link      *link // the connection in use, or the last one
	pair      *pair // of an upgraded connection
	bodyLater bool  // nothing of the response's body has come with its header
	failure   error // why the visitor got the hub's answer instead of the courier's
}

func newExchange(h *Handler, id secrez.ID, w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{h: h, id: id, in: r, began: time.Now()}
	ctl := http.NewResponseController(w)
	p := pace{stall: h.cfg.VisitorTimeout, rate: h.cfg.MinRate}
	x.visitor = &visitor{ResponseWriter: w, ctl: ctl, x: x, pace: p, length: -1}
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return x
	}
	x.body = &visitorBody{src: r.Body, ctl: ctl, pace: p, left: -1}
	if h.cfg.MaxBody > 0 {
		x.body.left = h.cfg.MaxBody
	}
	return x
}

// finish leaves nothing of the exchange behind.
func (x *exchange) finish() {
	if x.link != nil {
		x.link.finish(false)
		x.link.endUpload()
	}
	if x.body != nil && !x.visitor.hijacked {
		x.body.abandon()
	}
	if !x.visitor.hijacked {
		x.visitor.setDeadline() // for what the server has not sent yet
	}
	x.report()
}

func (x *exchange) report() {
	if x.id.IsZero() || x.h.cfg.Observe == nil {
		return
	}
	e := Exchange{ID: x.id, Status: x.visitor.status, Failed: x.failure != nil, Sent: x.visitor.sent, Duration: time.Since(x.began)}
	if x.link != nil && x.link.failed {
		e.Failed = true
	}
	if errors.Is(x.failure, context.Canceled) {
		e.Status, e.Failed = 0, false
	}
	if x.body != nil {
		e.Received = x.body.read.Load()
	}
	if x.visitor.hijacked && x.pair != nil {
		e.Status, e.Upgraded = http.StatusSwitchingProtocols, true
		e.Received, e.Sent = x.pair.received.Load(), x.pair.sent.Load()
	}
	x.h.cfg.Observe(e)
}

// fail gives the hub's own answer, unless it is too late for one.
func (x *exchange) fail(err error) {
	x.failure = err
	if !x.id.IsZero() && x.in.Context().Err() == nil {
		x.h.log.LogAttrs(x.in.Context(), slog.LevelDebug, "no response from a courier", slog.String("id", x.id.String()), slog.Any("err", err))
	}
	if x.visitor.status != 0 || x.visitor.hijacked {
		return
	}
	answerTo(err).write(x.visitor)
}

// RoundTrip sends the request that the proxy has made to the courier, and reads the response's header.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	var courier Courier
	if x.isSmall() {
		ctx, cancel := x.dialContext()
		defer cancel()
		var err error
		if courier, err = x.find(ctx); err != nil { // before anybody waits for a body
			return nil, err
		}
		if err := x.takeBody(); err != nil {
			return nil, err
		}
	}
	var last error
	for tries := 1; ; tries++ {
		res, err := x.attempt(out, courier, tries)
		if err != nil && x.link == nil && last != nil {
			return nil, last // there was no other connection: the failure of this one is what happened
		}
		if err == nil || !x.mayRepeat(out, err, tries) {
			return res, err
		}
		courier, last = nil, err
	}
}

func (x *exchange) dialContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(x.in.Context(), x.h.cfg.DialTimeout)
}

// find asks for the courier.
func (x *exchange) find(ctx context.Context) (Courier, error) {
	courier, err := x.h.cfg.Directory.Courier(ctx, x.id)
	if err != nil {
		return nil, x.cause(err)
	}
	if courier == nil {
		return nil, ErrUnknown
	}
	return courier, nil
}

// isSmall reports whether the body is read before a connection is taken. A visitor that waits for 100 Continue waits for
// the courier's.
func (x *exchange) isSmall() bool {
	n := x.in.ContentLength
	return x.body != nil && n >= 0 && n <= x.h.cfg.ReplayBody && !expectsContinue(x.in)
}

// takeBody reads a small body.
func (x *exchange) takeBody() error {
	x.small = make([]byte, x.in.ContentLength)
	if _, err := io.ReadFull(x.body, x.small); err != nil {
		if isVisitors(x.body.err) {
			return x.body.err
		}
		return errVisitorBroke
	}
	x.taken = true
	if !x.body.done.Load() { // most bodies say so with their last bytes
		if _, err := x.body.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return errVisitorBroke
		}
	}
	return nil
}

// isVisitors reports whether err is what a visitor did.
func isVisitors(err error) bool {
	return errors.Is(err, errVisitorBroke) || errors.Is(err, errVisitorSlow) || errors.Is(err, errBodyTooLarge)
}

func expectsContinue(r *http.Request) bool {
	return r.ProtoAtLeast(1, 1) && headerHas(r.Header["Expect"], "100-continue")
}

// streams reports whether the body goes to the courier while it comes from the visitor.
func (x *exchange) streams() bool { return x.body != nil && !x.taken }

// attempt sends the request over one connection and reads the response's header. The courier is looked for unless it has
// been found. After an error nothing of the attempt is left, and link is nil when there was no connection.
func (x *exchange) attempt(out *http.Request, courier Courier, tries int) (*http.Response, error) {
	x.link = nil
	c, err := x.dial(courier)
	if err != nil {
		return nil, err
	}
	l := newLink(x, c)
	x.link = l
	res, err := l.exchange(out)
	if err == nil && tries <= mostUnheard && res.StatusCode == http.StatusRequestTimeout && res.Close && x.replayable() {
		err = errUnheard
	}
	if err != nil {
		l.failed = true
		l.finish(false)
		return nil, l.blame(err)
	}
	return res, nil
}

func (x *exchange) dial(courier Courier) (net.Conn, error) {
	ctx, cancel := x.dialContext()
	defer cancel()
	if courier == nil {
		var err error
		if courier, err = x.find(ctx); err != nil {
			return nil, err
		}
	}
	c, err := courier.Dial(ctx)
	if err != nil {
		return nil, x.cause(err)
	}
	return c, nil
}

// cause puts the visitor's leaving before everything that follows from it.
func (x *exchange) cause(err error) error {
	if gone := x.in.Context().Err(); gone != nil {
		return gone
	}
	return err
}

// replayable reports whether the whole body can be sent (again).
func (x *exchange) replayable() bool { return x.body == nil || x.taken || !x.body.begun.Load() }

// mayRepeat reports whether the request may be sent once more, without the risk that the courier does it twice.
func (x *exchange) mayRepeat(out *http.Request, err error, tries int) bool {
	if x.in.Context().Err() != nil || !x.replayable() {
		return false
	}
	switch {
	case errors.Is(err, errUnheard):
		return true
	case errors.Is(err, errUnsent):
		return tries == 1
	case errors.Is(err, errSilentEnd):
		return tries == 1 && idempotent(out)
	}
	return false
}

// idempotent follows RFC 9110 §9.2.2: a proxy repeats nothing else by itself.
func idempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.Header.Get("Idempotency-Key") != ""
}
