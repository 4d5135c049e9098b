package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/multiserver"
)

// A link begins with the secret handshake, or resumes what another one has begun: see resume.go. In box streams, each after its
// length (4 bytes, big endian), the node that has connected sends a request and the other an answer, both JSON. With Bare in the
// request, the node that has connected then sends goByte outside of the box streams, and what follows is outside of them too.
// Neither side sends anything ahead of what it waits for, so that no byte is read by the wrong layer. See docs/PROTOCOL.md §15.4.

const goByte = 'G'

// longestMessage bounds a request and an answer, bytes: a body of maxQuestion grows by a third in JSON.
const longestMessage = 2 * maxQuestion

// A linkRequest opens a link.
type linkRequest struct {
	Version int    `json:"version"`
	Node    string `json:"node"`
	Run     string `json:"run,omitempty"`     // of the node that has connected
	Address string `json:"address,omitempty"` // where that takes links
	Bare    bool   `json:"bare,omitempty"`
	Body    []byte `json:"body,omitempty"`
	Ticket  bool   `json:"ticket,omitempty"` // one is wanted
}

// A linkAnswer lets it be, or not.
type linkAnswer struct {
	Version int     `json:"version"`
	Run     string  `json:"run,omitempty"`
	Refusal Refusal `json:"refusal,omitempty"`
	Ticket  []byte  `json:"ticket,omitempty"` // name and secret
}

// Dial opens a link to a node, which must take the request. A bare link carries what follows as it is, for ends that encrypt
// by themselves; otherwise it is encrypted. The context that it gives ends when the other node has gone, which need not show on
// the link, and with this node: then the link is to be closed. Its error is ErrUnreachable, ErrVersion, ErrBusy, a [Refusal], or
// that of ctx.
func (n *Node) Dial(ctx context.Context, to Place, body []byte, bare bool) (net.Conn, context.Context, error) {
	conn, life, err := n.dial(ctx, to, body, bare)
	n.counts.link(err)
	return conn, life, err
}

func (n *Node) dial(ctx context.Context, to Place, body []byte, bare bool) (net.Conn, context.Context, error) {
	if n.life.Err() != nil {
		return nil, nil, ErrClosed
	}
	if len(body) > maxQuestion {
		return nil, nil, errors.New("cluster: the request is too long")
	}
	opening, cancel := context.WithTimeout(ctx, n.cfg.Limits.LinkTimeout)
	defer cancel()
	raw, conn, resumed, err := n.connect(opening, to)
	if err != nil {
		return nil, nil, n.unreachable(ctx, to, err)
	}
	a, err := request(opening, raw, conn, linkRequest{n.cfg.version, n.cfg.Name, n.self, n.cfg.Advertise, bare, body, !resumed})
	if err != nil {
		_ = raw.Close()
		return nil, nil, n.unreachable(ctx, to, err)
	}
	if !resumed {
		n.tickets.keep(to.Key, a.Ticket, time.Now())
	}
	life := n.partner(to, a.Run)
	if err := n.objection(to.Node, a.Version, a.Refusal); err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	if bare {
		return raw, life, nil
	}
	return conn, life, nil
}

// connect connects to a node and lets it prove its key: by a handshake, or with a ticket from an earlier one.
func (n *Node) connect(ctx context.Context, to Place) (raw net.Conn, conn *multiserver.Conn, resumed bool, err error) {
	var d net.Dialer
	if raw, err = d.DialContext(ctx, "tcp", to.Address); err != nil {
		return nil, nil, false, err
	}
	if one := n.tickets.of(to.Key, time.Now()); one != nil {
		if conn, err = one.resume(ctx, raw); err == nil {
			return raw, conn, true, nil
		}
		_ = raw.Close()
		n.tickets.forget(one)
		if !errors.Is(err, errTicket) {
			return nil, nil, false, err
		}
		if raw, err = d.DialContext(ctx, "tcp", to.Address); err != nil {
			return nil, nil, false, err
		}
	}
	conn, err = n.shs.Client(ctx, raw, multiserver.NewPart("shs", to.Key.Base64())) // it closes raw when it fails
	return raw, conn, false, err
}

func longAgo() time.Time { return time.Unix(1, 0) }

func (n *Node) unreachable(ctx context.Context, to Place, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cluster: connect to %q: %w", to.Node, context.Cause(ctx))
	}
	return fmt.Errorf("%w: %q: %w", ErrUnreachable, to.Node, err)
}

// request asks for a link and waits for the answer. On a bare link that it gets it says go.
func request(ctx context.Context, raw net.Conn, conn io.ReadWriter, r linkRequest) (a linkAnswer, err error) {
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(longAgo()) })
	if err = writeJSON(conn, r); err == nil {
		err = readJSON(conn, &a)
	}
	if err == nil && r.Bare && a.Refusal == "" {
		_, err = raw.Write([]byte{goByte})
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	return a, err
}

// acceptPause is for others to close files, when there are too many.
const acceptPause = 100 * time.Millisecond

// accept takes links until the node is closed.
func (n *Node) accept() {
	for {
		raw, err := n.cfg.Listener.Accept()
		if err != nil {
			if n.life.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			n.cfg.Logger.Warn("cluster: accept a link", "err", err)
			_ = pause.Sleep(n.life, acceptPause)
			continue
		}
		n.admit(raw)
	}
}

// admit serves a link beside others, if there is room.
func (n *Node) admit(raw net.Conn) {
	select {
	case n.links <- struct{}{}:
	default:
		_ = raw.Close()
		return
	}
	ok := n.run(func() {
		defer func() { <-n.links }()
		if !n.link(raw) {
			_ = raw.Close()
		}
	})
	if !ok {
		<-n.links
		_ = raw.Close()
	}
}

// link serves a link, and reports whether it has become somebody else's.
func (n *Node) link(raw net.Conn) (taken bool) {
	ctx, cancel := context.WithTimeout(n.life, n.cfg.Limits.LinkTimeout)
	defer cancel()
	conn, err := n.prove(ctx, raw)
	if err != nil {
		n.cfg.Logger.Debug("cluster: a link was not opened", "err", err)
		return false
	}
	stop := context.AfterFunc(n.life, func() { _ = raw.SetDeadline(longAgo()) })
	defer stop()
	var r linkRequest
	_ = raw.SetDeadline(time.Now().Add(n.cfg.Limits.LinkTimeout))
	if err := readJSON(conn, &r); err != nil {
		n.cfg.Logger.Debug("cluster: a link was not opened", "err", err)
		return false
	}
	l := &incoming{n: n, raw: raw, conn: conn, bare: r.Bare, ticket: r.Ticket, stop: stop}
	if !n.cfg.works(r.Version) {
		n.cfg.Logger.Error("cluster: a node of a version that does not work with this one was refused",
			"node", r.Node, "version", r.Version, "own version", n.cfg.version)
		_, _ = l.accept(refusedVersion)
		return false
	}
	n.cfg.Serve(n.partner(Place{r.Node, conn.Remote(), r.Address}, r.Run), conn.Remote(), r.Body, l.accept)
	return l.taken
}

// incoming is a link that waits for its answer.
type incoming struct {
	n      *Node
	raw    net.Conn
	conn   *multiserver.Conn
	bare   bool
	ticket bool        // one is wanted
	stop   func() bool // stops watching for the end of the node

	once  sync.Once
	taken bool // set within once, read when Serve has returned
}

var errAnswered = errors.New("cluster: the link has been answered before")

// accept answers, and gives the connection for what follows if the answer is no error.
func (l *incoming) accept(refusal error) (conn net.Conn, err error) {
	err = errAnswered
	l.once.Do(func() { conn, err = l.answer(refusal) })
	return conn, err
}

func (l *incoming) answer(refusal error) (net.Conn, error) {
	a := linkAnswer{Version: l.n.cfg.version, Run: l.n.self}
	if refusal != nil {
		a.Refusal = refusalOf(refusal)
	}
	if l.ticket {
		a.Ticket = l.n.tickets.give(l.conn.Remote(), time.Now())
	}
	_ = l.raw.SetDeadline(time.Now().Add(l.n.cfg.Limits.LinkTimeout))
	if err := writeJSON(l.conn, a); err != nil {
		return nil, err
	}
	if refusal != nil {
		return nil, refusal
	}
	if l.bare {
		var b [1]byte
		if _, err := io.ReadFull(l.raw, b[:]); err != nil || b[0] != goByte {
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
	}
	if !l.stop() {
		return nil, ErrClosed
	}
	l.taken = true
	l.n.counts.taken.Add(1)
	_ = l.raw.SetDeadline(time.Time{})
	if l.bare {
		return l.raw, nil
	}
	return l.conn, nil
}

func writeJSON(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

func readJSON(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > longestMessage {
		return errors.New("cluster: the message is too long")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}
