package cluster

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/secretstack/secretstack/boxstream"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// Most of what a link costs is the secret handshake's curve operations, on both nodes. So the first link between two nodes
// brings a ticket along: a secret that both know from inside that link's box streams. A link that resumes begins with
// resumeMagic, the ticket's name and a nonce; the other node answers with a nonce of its own. Both make the keys of two box
// streams from the secret and the nonces. Only who has the secret can read or write there, and nothing that was
// recorded can be used again. See docs/PROTOCOL.md §15.4.

const (
	resumeMagic = "resumed\n" // a handshake begins with 64 bytes that look like chance

	ticketName   = 16
	ticketSecret = 32
	nonceSize    = 32

	// ticketLife is for how long a ticket is good. It is in nobody's files: with it ends what a node's memory could tell about
	// links that were recorded.
	ticketLife = 10 * time.Minute
	// mostTickets is how many a node has given at once. Without one, links begin with the handshake.
	mostTickets = 4096
)

// errTicket says that the other node does not know a ticket any more.
var errTicket = errors.New("cluster: the ticket is not known")

type ticket struct {
	name   [ticketName]byte
	secret [ticketSecret]byte
	node   keys.PublicKey // that has proved its key to whom has the ticket
	ends   time.Time
}

// tickets are what a node has got from others, and given to others.
type tickets struct {
	mu    sync.Mutex
	got   map[[keys.PublicKeySize]byte]*ticket // by the key of the node that has given it; guarded by mu
	given map[[ticketName]byte]*ticket         // guarded by mu
}

// give makes a ticket for a node that has proved its key; nil if there are too many.
func (t *tickets) give(node keys.PublicKey, now time.Time) []byte {
	one := &ticket{node: node, ends: now.Add(ticketLife)}
	_, _ = rand.Read(one.name[:]) // it never fails
	_, _ = rand.Read(one.secret[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, old := range t.given {
		if now.After(old.ends) {
			delete(t.given, name)
		}
	}
	if len(t.given) >= mostTickets {
		return nil
	}
	t.given[one.name] = one
	return append(one.name[:], one.secret[:]...)
}

// named gives a ticket that this node has given; nil if it has not, or not lately.
func (t *tickets) named(name [ticketName]byte, now time.Time) *ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.given[name]; one != nil && now.Before(one.ends) {
		return one
	}
	return nil
}

// keep takes a ticket that a node has given.
func (t *tickets) keep(node keys.PublicKey, raw []byte, now time.Time) {
	if len(raw) != ticketName+ticketSecret {
		return
	}
	one := &ticket{node: node, ends: now.Add(ticketLife / 2)} // it is replaced before it is forgotten there
	copy(one.name[:], raw)
	copy(one.secret[:], raw[ticketName:])
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, old := range t.got {
		if now.After(old.ends) {
			delete(t.got, other)
		}
	}
	t.got[node.Array()] = one
}

// of gives what resumes a link to a node; nil if there is nothing.
func (t *tickets) of(node keys.PublicKey, now time.Time) *ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.got[node.Array()]; one != nil && now.Before(one.ends) {
		return one
	}
	return nil
}

// forget drops a ticket that is of no use, unless there is a newer one.
func (t *tickets) forget(one *ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.got[one.node.Array()] == one {
		delete(t.got, one.node.Array())
	}
}

// resume begins a link with a ticket. Its error is errTicket if another attempt, without it, may do better.
func (one *ticket) resume(ctx context.Context, raw net.Conn) (*multiserver.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(longAgo()) })
	defer stop()
	hello := append([]byte(resumeMagic), one.name[:]...)
	hello = append(hello, newNonce()...)
	theirs := make([]byte, nonceSize)
	_, err := raw.Write(hello)
	if err == nil {
		_, err = io.ReadFull(raw, theirs)
	}
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, errTicket
	}
	return one.conn(raw, hello[len(hello)-nonceSize:], theirs, true)
}

func newNonce() []byte {
	b := make([]byte, nonceSize)
	_, _ = rand.Read(b) // it never fails
	return b
}

// conn makes the box streams, for the node that has the ticket or for the one that has given it.
func (one *ticket) conn(raw net.Conn, client, server []byte, holder bool) (*multiserver.Conn, error) {
	const each = boxstream.KeySize + boxstream.NonceSize
	made, err := hkdf.Key(sha256.New, one.secret[:], bytes.Join([][]byte{client, server}, nil), "secretstack link", 2*each)
	if err != nil {
		return nil, err
	}
	defer clear(made)
	toServer, toClient := made[:each], made[each:]
	if !holder {
		toServer, toClient = toClient, toServer
	}
	return multiserver.NewConn(multiserver.ConnConfig{
		Raw:    raw,
		Reader: boxstream.NewReader(raw, (*[boxstream.KeySize]byte)(toClient), (*[boxstream.NonceSize]byte)(toClient[boxstream.KeySize:])),
		Writer: boxstream.NewWriter(raw, (*[boxstream.KeySize]byte)(toServer), (*[boxstream.NonceSize]byte)(toServer[boxstream.KeySize:])),
		Remote: one.node,
	}), nil
}

// prove lets the node that has connected prove its key, by the handshake or with a ticket. When it fails, raw is of no use.
func (n *Node) prove(ctx context.Context, raw net.Conn) (*multiserver.Conn, error) {
	begun := &begunConn{Conn: raw}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(longAgo()) })
	_, err := io.ReadFull(raw, begun.first[:])
	if err == nil && string(begun.first[:]) == resumeMagic {
		defer stop()
		return n.resumed(raw)
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	begun.left = begun.first[:]
	return n.shs.Server(ctx, begun)
}

// resumed is prove for a link that begins with resumeMagic, which has been read.
func (n *Node) resumed(raw net.Conn) (*multiserver.Conn, error) {
	var hello struct {
		name  [ticketName]byte
		nonce [nonceSize]byte
	}
	for _, part := range [][]byte{hello.name[:], hello.nonce[:]} {
		if _, err := io.ReadFull(raw, part); err != nil {
			return nil, err
		}
	}
	one := n.tickets.named(hello.name, time.Now())
	if one == nil {
		return nil, errTicket
	}
	ours := newNonce()
	if _, err := raw.Write(ours); err != nil {
		return nil, err
	}
	n.counts.resumed.Add(1)
	return one.conn(raw, hello.nonce[:], ours, false)
}

// begunConn is a connection of which the first bytes have been read.
type begunConn struct {
	net.Conn
	first [len(resumeMagic)]byte
	left  []byte
}

func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

// Proved gives the connection itself: a handshake has read what was left.
func (c *begunConn) Proved() net.Conn { return c.Conn }
