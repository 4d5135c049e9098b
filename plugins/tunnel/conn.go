package tunnel

import (
	"context"

	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/streamconn"
)

// conn is one end of a tunnel.
type conn struct {
	*streamconn.Conn
	peer multiserver.Part
}

// newConn makes a connection of a stream; cancel ends the stream's context.
func newConn(cancel context.CancelFunc, stream streamconn.Stream, peer multiserver.Part) *conn {
	return &conn{
		Conn: streamconn.New(stream, streamconn.Options{Local: address(""), Remote: address(peer.Rest()), OnClose: cancel}),
		peer: peer,
	}
}

// PeerPart names the portal and who is behind it.
func (c *conn) PeerPart() multiserver.Part { return c.peer }

// Abort ends the tunnel with an error.
func (c *conn) Abort() error {
	c.Conn.Abort(errAborted)
	return nil
}

var errAborted = muxrpc.Errorf("the tunnel was cut")

type address string

func (address) Network() string  { return name }
func (a address) String() string { return string(a) }
