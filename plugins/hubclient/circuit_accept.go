package hubclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/shs"
)

// handshakeTimeout bounds the handshake of a stream of bytes. That of other circuits is bounded by the app.
const handshakeTimeout = 5 * time.Second

// circuit serves hubclient.circuit: a hub says that somebody wants to reach the app. The answer does not wait until that
// has been done.
func (c *Client) circuit(ctx context.Context, offer native.CircuitOffer) (muxrpc.None, error) {
	s, err := c.session(ctx)
	if err != nil {
		return muxrpc.None{}, err
	}
	cs := c.circuits
	r, err := cs.routeOf(s, offer)
	if err != nil {
		return muxrpc.None{}, err
	}
	if s.circuits.Add(1) > int64(c.cfg.MaxCircuits) {
		s.circuits.Add(-1)
		return muxrpc.None{}, muxrpc.Errorf("too many circuits are open")
	}
	c.setup.Go(func(ctx context.Context) {
		conn, err := cs.enter(ctx, r, offer.Token, offer.Patience(), func() { s.circuits.Add(-1) })
		if err != nil {
			s.circuits.Add(-1)
			c.log.Info("hubclient: a circuit was offered and not joined", "hub", r.key.Short(), "origin", r.peer.Short(), "err", err)
			return
		}
		cs.take(ctx, conn)
	})
	return muxrpc.None{}, nil
}

// routeOf is the way by which who has asked for the app comes, if it may.
func (cs *circuits) routeOf(s *session, offer native.CircuitOffer) (route, error) {
	switch {
	case offer.Origin.IsZero():
		return route{}, muxrpc.Errorf("the origin is missing")
	case !cs.listens.Load() && !cs.hasProtocols():
		return route{}, muxrpc.Errorf("this app takes no circuits")
	}
	return way(s.peer, route{key: s.hub.key, peer: offer.Origin}), nil
}

// take finds out what a peer that has come wants to speak, and hands it over.
func (cs *circuits) take(ctx context.Context, conn *circuitConn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Abort() })
	spoken, challenge, err := cs.spoken(conn)
	if !stop() || err != nil {
		_ = conn.Abort()
		return
	}
	replay := &replayConn{circuitConn: conn, r: io.MultiReader(bytes.NewReader(challenge), conn)}
	switch {
	case spoken != nil:
		cs.serve(ctx, replay, *spoken)
		return
	case !cs.listens.Load():
		_ = conn.Abort()
		return
	}
	select {
	case cs.incoming <- replay:
	case <-ctx.Done():
		_ = conn.Abort()
	}
}

// replayConn is a connection of which the first bytes have been read before.
type replayConn struct {
	*circuitConn
	r io.Reader
}

// Read returns what was read before, then what follows.
func (c *replayConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// A protocol is spoken on a plain stream of bytes in a circuit.
type protocol struct {
	name  string
	key   keys.AppKey
	serve func(ctx context.Context, conn *multiserver.Conn)
}

// streamKey is the app key with which a protocol's handshakes are made. See docs/PROTOCOL.md §12.7.
func streamKey(app keys.AppKey, protocol string) (keys.AppKey, error) {
	text := append([]byte("secretstack stream v1\x00"+protocol+"\x00"), app.Bytes()...)
	sum := sha256.Sum256(text)
	return keys.NewAppKey(sum[:])
}

// HandleStream serves a protocol of the caller's own in circuits that peers dial with [Client.DialStream]: a stream of
// bytes either way, each with an authentic end of its own ([multiserver.Conn.CloseWrite]). serve is called for each peer
// that has proved its key and is not refused by the app's auth hooks; conn is closed when it returns, which it must soon
// after ctx has ended.
func (c *Client) HandleStream(name string, serve func(ctx context.Context, conn *multiserver.Conn)) error {
	if c.circuits == nil {
		return errNoCircuits
	}
	key, err := streamKey(c.setup.AppKey(), name)
	if err != nil {
		return err
	}
	c.circuits.mu.Lock()
	defer c.circuits.mu.Unlock()
	if _, taken := c.circuits.protocols[name]; taken {
		return fmt.Errorf("hubclient: the protocol %q is served already", name)
	}
	c.circuits.protocols[name] = protocol{name, key, serve}
	return nil
}

var errNoCircuits = errors.New("hubclient: the app is configured to have no circuits")

func (cs *circuits) hasProtocols() bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.protocols) > 0
}

// spoken reads the first message of a handshake when that can tell anything: which protocol it is for, none for muxrpc.
func (cs *circuits) spoken(conn net.Conn) (p *protocol, challenge []byte, err error) {
	cs.mu.Lock()
	all := make([]protocol, 0, len(cs.protocols))
	for _, p := range cs.protocols {
		all = append(all, p)
	}
	cs.mu.Unlock()
	if len(all) == 0 {
		return nil, nil, nil
	}
	challenge = make([]byte, shs.ChallengeSize)
	_ = conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
	if _, err := io.ReadFull(conn, challenge); err != nil {
		return nil, nil, err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		state, err := shs.NewServerState(shs.Config{Identity: cs.c.self, AppKey: p.key})
		if err != nil {
			return nil, nil, err
		}
		if state.ReadChallenge(challenge) == nil {
			return &p, challenge, nil
		}
	}
	return nil, challenge, nil
}

// serve lets a peer prove its key, and serves a protocol to it.
func (cs *circuits) serve(ctx context.Context, raw net.Conn, p protocol) {
	transform := multiserver.SHS(multiserver.SHSConfig{Identity: cs.c.self, AppKey: p.key, Authorize: cs.c.setup.Authorize})
	shaking, cancel := context.WithTimeout(ctx, handshakeTimeout)
	conn, err := transform.Server(shaking, raw)
	cancel()
	if err != nil {
		cs.c.log.Info("hubclient: who came by a circuit was turned away", "protocol", p.name, "err", err)
		return
	}
	defer func() { _ = conn.Close() }()
	p.serve(ctx, conn)
}

// DialStream connects to a peer at a circuit's address, or at several joined with ";", each in turn until one answers, to
// speak a protocol that the peer serves with [Client.HandleStream]. ctx bounds the dialling.
func (c *Client) DialStream(ctx context.Context, address, name string) (*multiserver.Conn, error) {
	if c.circuits == nil {
		return nil, errNoCircuits
	}
	key, err := streamKey(c.setup.AppKey(), name)
	if err != nil {
		return nil, err
	}
	transform := multiserver.SHS(multiserver.SHSConfig{Identity: c.self, AppKey: key})
	var errs []error
	for _, a := range multiserver.ParseLoose(address) {
		r, err := c.circuits.parse(a.Transport(), multiserver.Loose)
		if errors.Is(err, multiserver.ErrOtherPart) {
			continue
		}
		var conn *multiserver.Conn
		if err == nil {
			conn, err = c.circuits.dialStream(ctx, r, transform)
		}
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	switch len(errs) {
	case 0:
		return nil, errors.New("hubclient: there is no address of a circuit, such as circuit:net:HOST:PORT:@HUB.ed25519:@PEER.ed25519")
	case 1:
		return nil, errs[0]
	}
	return nil, &dialError{errs}
}

func (cs *circuits) dialStream(ctx context.Context, r route, transform multiserver.Transform) (*multiserver.Conn, error) {
	raw, err := cs.dial(ctx, r, false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	return transform.Client(ctx, raw, multiserver.NewPart("shs", r.peer.Base64()))
}
