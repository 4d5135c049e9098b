package ws

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/secretstack/secretstack/multiserver"
)

// maxWrite is the largest message that Write sends, in bytes. More becomes
// several messages.
const maxWrite = 64 << 10

// conn is a byte stream over the binary messages of a WebSocket. How bytes are
// cut into messages means nothing.
type conn struct {
	ws   *websocket.Conn
	raw  net.Conn // what the WebSocket runs on, below TLS on the client's side
	part multiserver.Part

	message io.Reader // what is left of the message; owned by the reader
}

func newConn(ws *websocket.Conn, raw net.Conn, part multiserver.Part, maxMessage int64) *conn {
	ws.SetReadLimit(maxMessage)
	return &conn{ws: ws, raw: raw, part: part}
}

// NetConn returns what the WebSocket runs on, for what counts connections.
func (c *conn) NetConn() net.Conn { return c.raw }

// PeerPart returns the URL that was dialled, or ws:address of the client.
func (c *conn) PeerPart() multiserver.Part { return c.part }

// Read reads from the current message, or the next that is not empty. It
// returns io.EOF when the peer has closed the WebSocket in an orderly way.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if c.message == nil {
			if err := c.next(); err != nil {
				return 0, err
			}
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next waits for a message. Deadlines are those of the socket, so that no
// context is needed.
func (c *conn) next() error {
	kind, message, err := c.ws.Reader(context.Background())
	if err != nil {
		switch websocket.CloseStatus(err) {
		case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
			return io.EOF
		}
		return err
	}
	if kind != websocket.MessageBinary {
		_ = c.Abort()
		return fmt.Errorf("the peer sent a WebSocket message of text, not of bytes")
	}
	c.message = message
	return nil
}

// Write sends p as one message or several.
func (c *conn) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), maxWrite)
		if err := c.ws.Write(context.Background(), websocket.MessageBinary, p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// Close closes the WebSocket, waits for a second for the peer to do the same,
// and closes the socket in any case.
func (c *conn) Close() error {
	hard := time.AfterFunc(closeTimeout, func() { _ = c.raw.Close() })
	defer hard.Stop()
	_ = c.raw.SetDeadline(time.Now().Add(closeTimeout))
	// Whether the peer closed its side as it should makes no difference.
	_ = c.ws.Close(websocket.StatusNormalClosure, "")
	return ignoreClosed(c.raw.Close())
}

// Abort closes the socket at once.
func (c *conn) Abort() error {
	err := c.raw.Close()
	_ = c.ws.CloseNow()
	return ignoreClosed(err)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (c *conn) LocalAddr() net.Addr  { return c.raw.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// The deadlines are those of the socket. Reading or writing that runs into one
// may leave the stream in the middle of a frame, unfit for more.

func (c *conn) SetDeadline(t time.Time) error      { return c.raw.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.raw.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.raw.SetWriteDeadline(t) }

// Hijack takes the connection over and remembers it.
func (w *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.raw = c
	return c, rw, err
}
