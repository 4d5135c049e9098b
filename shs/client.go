package shs

import (
	"crypto/ecdh"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/secretstack/secretstack/keys"
)

// ClientState is the client's side of a handshake on bytes. The steps are
// Challenge, ReadChallenge, Hello and ReadAccept, in this order; after a failure
// nothing more may be sent. It is for one goroutine and one handshake.
type ClientState struct {
	state
	server    keys.PublicKey
	serverKey *ecdh.PublicKey // X25519 form of server; nil if there is none
	hello     [helloPlain]byte
}

// NewClientState begins a handshake with the server that has the given key. It
// fails only if cfg lacks something, if there is no key or if cfg.Rand fails; a
// key that no server can have makes ReadChallenge fail.
func NewClientState(cfg Config, server keys.PublicKey) (*ClientState, error) {
	if server.IsZero() {
		return nil, errors.New("shs: a client must know the server's public key")
	}
	c := &ClientState{server: server}
	if err := c.init(cfg); err != nil {
		return nil, err
	}
	if key, err := server.X25519(); err == nil {
		c.serverKey = key
	}
	return c, nil
}

// Challenge returns message 1, of [ChallengeSize] bytes.
func (c *ClientState) Challenge() []byte {
	return append([]byte(nil), c.local[:]...)
}

// ReadChallenge checks message 2. See docs/PROTOCOL.md §1.
func (c *ClientState) ReadChallenge(msg []byte) error {
	if c.step != stepStart {
		return errStep
	}
	ephemeral, ok := c.readChallenge(msg)
	if !ok || !agree(&c.ab, c.ephemeral, ephemeral) {
		return c.fail(textClientBadChallenge, ErrAppKey)
	}
	if c.serverKey == nil || !agree(&c.aB, c.ephemeral, c.serverKey) {
		return c.fail(textClientBadChallenge, ErrServerKey)
	}
	private, err := c.identity.X25519()
	if err != nil || !agree(&c.Ab, private, ephemeral) {
		return c.fail(textClientBadChallenge, ErrAppKey)
	}
	c.abHash = sha256.Sum256(c.ab[:])
	c.step = stepChallenge
	return nil
}

// Hello returns message 3, of [HelloSize] bytes, which proves this side's key to
// the right server and says nothing to others.
func (c *ClientState) Hello() ([]byte, error) {
	if c.step != stepChallenge {
		return nil, errStep
	}
	signed := c.clientSigned(c.server)
	public := c.identity.Public().Array()
	copy(c.hello[:], c.identity.Sign(signed[:]))
	copy(c.hello[signatureSize:], public[:])
	key := c.helloKey()
	defer clear(key[:])
	msg := make([]byte, HelloSize)
	sealBox(msg, c.hello[:], &key)
	c.step = stepHello
	return msg, nil
}

// ReadAccept checks message 4, with which the server proves its key and accepts
// the client, and returns the session.
func (c *ClientState) ReadAccept(msg []byte) (*Session, error) {
	if c.step != stepHello {
		return nil, errStep
	}
	key := c.acceptKey()
	defer clear(key[:])
	var sig [signatureSize]byte
	signed := c.serverSigned(&c.hello)
	if len(msg) != AcceptSize || !openBox(sig[:], msg, &key) || !c.server.Verify(signed[:], sig[:]) {
		return nil, c.fail(textClientBadAccept, ErrServerKey)
	}
	session := c.session(c.server)
	c.forget(stepDone)
	return session, nil
}

// fail ends the handshake.
func (c *ClientState) fail(text string, reason error) error {
	c.forget(stepFailed)
	return fail(text, reason)
}

// Client runs the client's side of a handshake over rw with the server that has
// the key remote. Errors are those of docs/PROTOCOL.md §1, as [*Error]; after one,
// close rw: nothing is said to the other side.
func Client(rw io.ReadWriter, cfg Config, remote keys.PublicKey) (*Session, error) {
	c, err := NewClientState(cfg, remote)
	if err != nil {
		return nil, err
	}
	defer c.forget(stepDone)
	if err := send(rw, c.local[:], textClientNoChallenge); err != nil {
		return nil, err
	}
	var buf [AcceptSize]byte
	if _, err := io.ReadFull(rw, buf[:ChallengeSize]); err != nil {
		return nil, failIO(textClientNoChallenge, ErrAppKey, err)
	}
	if err := c.ReadChallenge(buf[:ChallengeSize]); err != nil {
		return nil, err
	}
	hello, err := c.Hello()
	if err != nil {
		return nil, err
	}
	if err := send(rw, hello, textClientHungUp); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(rw, buf[:]); err != nil {
		return nil, failIO(textClientHungUp, ErrRefused, err)
	}
	return c.ReadAccept(buf[:])
}

// send writes a message whole.
func send(w io.Writer, msg []byte, text string) error {
	n, err := w.Write(msg)
	if err == nil && n != len(msg) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return failIO(text, nil, err)
	}
	return nil
}
