package hubclient

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/multiserver"
)

// circuitConn is one end of a circuit. It notices a hub that has vanished.
type circuitConn struct {
	net.Conn
	part     multiserver.Part
	vanished atomic.Bool
	once     sync.Once
	onClose  func() // ends the watch, and more
}

func newCircuitConn(raw net.Conn, part multiserver.Part, onClose func()) *circuitConn {
	c := &circuitConn{Conn: raw, part: part}
	stop := circuit.Watch(raw, circuit.DefaultVanished, func() {
		c.vanished.Store(true)
		multiserver.Abort(raw)
	})
	c.onClose = func() {
		stop()
		if onClose != nil {
			onClose()
		}
	}
	return c
}

// PeerPart returns circuit:HUB-PART:@HUB.ed25519:@PEER.ed25519.
func (c *circuitConn) PeerPart() multiserver.Part { return c.part }

// Read reads what the peer has sent.
func (c *circuitConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.reason(err)
}

// Write sends p to the peer.
func (c *circuitConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.reason(err)
}

// reason says what a failure means.
func (c *circuitConn) reason(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	if c.vanished.Load() || errors.Is(err, syscall.ETIMEDOUT) {
		return errVanished
	}
	return err
}

// errVanished is what a circuit fails with whose hub does not answer any more, as far as the system can tell.
var errVanished = fmt.Errorf("the hub of the circuit does not answer any more: %w", circuit.ErrVanished)

// CloseWrite ends what is sent, as far as the connection has halves.
func (c *circuitConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection.
func (c *circuitConn) Close() error {
	c.once.Do(c.onClose)
	return c.Conn.Close()
}

// Abort closes the connection without waiting for anything.
func (c *circuitConn) Abort() error {
	c.once.Do(c.onClose)
	multiserver.Abort(c.Conn)
	return nil
}
