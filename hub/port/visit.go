package port

import (
	"container/list"
	"net"
	"net/netip"
)

// visit is a connection of somebody: it knows who that is, and counts as long as it has to.
type visit struct {
	net.Conn
	told   net.Addr // the visitor's address, if a proxy has told it
	guests *guests

	head       [minHeader]byte // what was read in search of a header; owned by the reader
	start, end uint8           // of what is still to be read of it

	quiet   *list.Element // guarded by guests.mu: nil while something is done for it, and once it has left
	counted netip.Addr    // guarded by guests.mu: for whom it counts
	inside  bool          // guarded by guests.mu
}

// RemoteAddr returns the visitor's address, which a proxy may have told.
func (c *visit) RemoteAddr() net.Addr {
	if c.told != nil {
		return c.told
	}
	return c.Conn.RemoteAddr()
}

// Read returns what was read before, then what follows.
func (c *visit) Read(p []byte) (int, error) {
	if c.start == c.end {
		return c.Conn.Read(p)
	}
	n := copy(p, c.head[c.start:c.end])
	c.start += uint8(n)
	return n, nil
}

// Buffered returns how many bytes are to be read here, not from the connection underneath.
func (c *visit) Buffered() int { return int(c.end - c.start) }

// Proved ends that the connection counts. There is no more use for it then, unless it knows more than the one underneath.
func (c *visit) Proved() net.Conn {
	c.guests.leave(c)
	if c.told != nil || c.Buffered() > 0 {
		return c
	}
	return c.Conn
}

// NetConn returns the connection underneath.
func (c *visit) NetConn() net.Conn { return c.Conn }

// CloseWrite half-closes the connection underneath.
func (c *visit) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection, which counts no longer.
func (c *visit) Close() error {
	c.guests.leave(c)
	return c.Conn.Close()
}
