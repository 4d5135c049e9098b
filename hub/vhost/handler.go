package vhost

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"time"

	"github.com/secretstack/secretstack/secrez"
)

// A Courier is whoever serves HTTP behind an id.
type Courier interface {
	// Dial gives a connection on which the courier serves HTTP/1.1, for one exchange. It waits as long as is reasonable,
	// and no longer than its context. The connection must keep read and write deadlines, and its Close must not block.
	// When it has a method Release(), that is called instead of Close if another exchange may follow on it.
	//
	// Its error is, or wraps, [ErrAway], [ErrBusy] or [ErrTooSlow]; every other one is a courier that broke.
	Dial(ctx context.Context) (net.Conn, error)
}

// A Directory knows the couriers.
type Directory interface {
	// Courier finds a courier. Its error is, or wraps, [ErrUnknown] for an id that belongs to nobody, [ErrAway] when the
	// courier cannot be reached now, or one of the others that Dial may give. It is asked again before a request is sent
	// a second time.
	Courier(ctx context.Context, id secrez.ID) (Courier, error)
}

// Config says for whom a [Handler] answers, and within which bounds. The zero value of each bound stands for its default.
type Config struct {
	Domain    string    // couriers are at <id>.<Domain>. Required, unless IDFrom is set
	Directory Directory // Required

	// IDFrom tells whose host a request is for, for a hub that has no domain. It must not find ids where a visitor's own
	// choice of host could have put them. nil: the host must be exactly <id>.<Domain>, in any case, with or without a port.
	IDFrom func(*http.Request) (secrez.ID, bool)

	// Next answers requests for nobody's host. nil: 404, and 400 for a request without a host.
	Next http.Handler

	// TrustedProxies are the proxies in front of the hub whose X-Forwarded-For and X-Forwarded-Proto are believed. From
	// everybody else these headers are thrown away. See [Handler.ServeHTTP].
	TrustedProxies []netip.Prefix

	MaxRequests       int   // exchanges of one courier at once, upgraded connections included; 0: 256
	MaxRequestHeader  int   // bytes of a visitor's header; 0: 64 KiB
	MaxBody           int64 // bytes of a visitor's body; 0: any number
	MaxResponseHeader int   // bytes of a courier's header, with those of interim responses; 0: 64 KiB

	// ReplayBody is the size up to which a body of known length is read before a connection is taken: it can be sent a
	// second time, and a visitor that sends it slowly keeps nobody waiting. 0: 16 KiB; negative: none is.
	ReplayBody int64

	DialTimeout     time.Duration // to find the courier and to get a connection; 0: 15 s
	SendTimeout     time.Duration // for the courier to take the next bytes; 0: 30 s
	ExpectTimeout   time.Duration // for a courier to say 100 Continue before the body is sent anyway; 0: 1 s
	ResponseTimeout time.Duration // from the end of the request to the end of the response's header; 0: 60 s
	BodyTimeout     time.Duration // for the courier to send the next bytes of a response's body; 0: 5 min
	VisitorTimeout  time.Duration // for the visitor to send or take the next bytes; 0: 30 s
	UpgradeTimeout  time.Duration // silence in both directions of an upgraded connection; 0: 10 min

	// MinRate is the bytes a second that a visitor has to send and to take, on the whole, while the hub waits for it and
	// VisitorTimeout is used up: who sends a byte now and then would otherwise keep a courier's connection for ever.
	// 0: 256; negative: any.
	MinRate int64

	Logger  *slog.Logger   // says, at debug level, which courier failed and how. nil: none
	Observe func(Exchange) // called at the end of each request for an id, on its goroutine; nil: none
}

// An Exchange is what can be told about one request and its response without looking into them.
type Exchange struct {
	ID       secrez.ID
	Status   int  // what the visitor got; 0 when it left before, or the request was canceled
	Failed   bool // the hub answered in the courier's place, or the response broke off
	Upgraded bool
	Received int64 // bytes of the request's body, or from the visitor of an upgraded connection
	Sent     int64 // bytes of the response's body, or to the visitor of an upgraded connection
	Duration time.Duration
}

// Handler is the reverse proxy for couriers. It can be used by many goroutines.
type Handler struct {
	cfg   Config
	log   *slog.Logger
	proxy httputil.ReverseProxy // what all exchanges have in common
	load  gauge

	buffers buffers
}

// NewHandler makes a handler. Its error is [ErrConfig].
func NewHandler(cfg Config) (*Handler, error) {
	if cfg.Domain == "" && cfg.IDFrom == nil || cfg.Directory == nil {
		return nil, fmt.Errorf("%w: a handler needs a domain and a directory", ErrConfig)
	}
	cfg = cfg.withDefaults()
	h := &Handler{cfg: cfg, log: cfg.Logger}
	h.load = gauge{most: cfg.MaxRequests, now: map[secrez.ID]int{}}
	h.proxy = httputil.ReverseProxy{
		BufferPool: &h.buffers,
		// Its lines quote what peers send. Failures are logged by kind, in fail.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	return h, nil
}

func (c Config) withDefaults() Config {
	c.MaxRequests = positive(c.MaxRequests, defaultRequests)
	c.MaxRequestHeader = positive(c.MaxRequestHeader, defaultHeader)
	c.MaxBody = max(c.MaxBody, 0)
	c.MaxResponseHeader = positive(c.MaxResponseHeader, defaultHeader)
	c.ReplayBody = bound(c.ReplayBody, defaultReplay)
	c.DialTimeout = positive(c.DialTimeout, defaultDialTimeout)
	c.SendTimeout = positive(c.SendTimeout, defaultSendTimeout)
	c.ExpectTimeout = positive(c.ExpectTimeout, defaultExpectTimeout)
	c.ResponseTimeout = positive(c.ResponseTimeout, defaultResponseTimeout)
	c.BodyTimeout = positive(c.BodyTimeout, defaultBodyTimeout)
	c.VisitorTimeout = positive(c.VisitorTimeout, defaultVisitorTimeout)
	c.UpgradeTimeout = positive(c.UpgradeTimeout, defaultUpgradeTimeout)
	c.MinRate = bound(c.MinRate, defaultMinRate)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// ID tells whose host a request is for. It reports false for nobody's.
func (h *Handler) ID(r *http.Request) (secrez.ID, bool) {
	if h.cfg.IDFrom != nil {
		return h.cfg.IDFrom(r)
	}
	return secrez.IDFromHost(r.Host, h.cfg.Domain)
}

// Active is how many exchanges are under way.
func (h *Handler) Active() int { return h.load.active() }

// ServeHTTP carries a request to the courier whose host it names, and the response back.
//
// The courier gets the visitor's header without what is meant for one hop, and with X-Forwarded-For, X-Forwarded-Host and
// X-Forwarded-Proto as the hub knows them. Whatever of that kind the visitor sent is thrown away, unless it comes from one
// of TrustedProxies: then X-Forwarded-For begins with the last address in it that is not such a proxy, and X-Forwarded-Proto
// is kept when it is http or https. The Host header stays as it is.
//
// The ResponseWriter must be net/http's, or unwrap to it, for deadlines and upgrades to work. The server's ReadTimeout and
// WriteTimeout, if any, are replaced by those of the handler; its ReadHeaderTimeout and IdleTimeout are what it needs. A response that breaks off is
// reported to the server with a panic of [http.ErrAbortHandler], as the standard library's proxy does: whatever recovers
// from panics in between must let that one pass.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, ok := h.ID(r)
	if !ok && h.cfg.Next != nil {
		h.cfg.Next.ServeHTTP(w, r)
		return
	}
	x := newExchange(h, id, w, r)
	defer x.finish()
	if err := x.check(ok); err != nil {
		x.fail(err)
		return
	}
	defer h.load.leave(id)
	proxy := h.proxy
	proxy.Rewrite = x.rewrite
	proxy.Transport = x
	proxy.ModifyResponse = modifyResponse
	proxy.ErrorHandler = func(_ http.ResponseWriter, _ *http.Request, err error) { x.fail(err) }
	proxy.ServeHTTP(x.visitor, x.in)
}

// check refuses what is not for a courier. When it returns nil the courier's load counts the exchange.
func (x *exchange) check(known bool) error {
	switch {
	case x.in.Host == "":
		return errNoHost
	case !known:
		return ErrUnknown
	case x.in.Method == http.MethodConnect:
		return errMethod
	case headerSize(x.in) > x.h.cfg.MaxRequestHeader:
		return errRequestHeader
	case x.h.cfg.MaxBody > 0 && x.in.ContentLength > x.h.cfg.MaxBody:
		return errBodyTooLarge
	case !x.h.load.enter(x.id):
		return ErrBusy
	}
	return nil
}

func headerSize(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for key, values := range r.Header {
		for _, v := range values {
			n += len(key) + len(v) + len(": \r\n")
		}
	}
	return n
}

const (
	copyBuffer = 32 << 10
	readBuffer = 4 << 10
	keptHead   = 64 << 10 // a larger buffer for a head is not kept
)

// buffers lends the buffers that an exchange uses for a moment.
type buffers struct{ copies, heads, readers sync.Pool }

// Get lends a copy buffer; with Put it makes a [httputil.BufferPool].
func (b *buffers) Get() []byte {
	if buf, ok := b.copies.Get().(*[copyBuffer]byte); ok {
		return buf[:]
	}
	return make([]byte, copyBuffer)
}

// Put takes a copy buffer back.
func (b *buffers) Put(buf []byte) {
	if len(buf) == copyBuffer {
		b.copies.Put((*[copyBuffer]byte)(buf))
	}
}

func (b *buffers) head() *bytes.Buffer {
	if buf, ok := b.heads.Get().(*bytes.Buffer); ok {
		return buf
	}
	return new(bytes.Buffer)
}

func (b *buffers) putHead(buf *bytes.Buffer) {
	if buf.Cap() <= keptHead {
		buf.Reset()
		b.heads.Put(buf)
	}
}

func (b *buffers) reader(r io.Reader) *bufio.Reader {
	if br, ok := b.readers.Get().(*bufio.Reader); ok {
		br.Reset(r)
		return br
	}
	return bufio.NewReaderSize(r, readBuffer)
}

func (b *buffers) putReader(br *bufio.Reader) {
	br.Reset(nil)
	b.readers.Put(br)
}
