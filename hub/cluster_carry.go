package hub

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/cluster"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/internal/netaddr"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

const (
	// mostElsewhere is how many circuits at other nodes may wait for their visitors here.
	mostElsewhere = 4096
	// mostRemoteWeb is how many couriers at other nodes are kept with unused connections.
	mostRemoteWeb = 1024
	// socketsIdle is how long an unused tunnel socket at another node is kept: a courier has few of them.
	socketsIdle = time.Second
)

// offerToNode offers a circuit to a courier that is here and a visitor that is at another node.
func (h *Hub) offerToNode(s *session, visitor keys.PublicKey) ([]byte, error) {
	switch {
	case visitor.IsZero():
		return nil, nodeBadRequest
	case !s.offers().circuits:
		return nil, nodeNoCircuits
	}
	connected, err := h.offer(visitor, s)
	switch {
	case err == nil:
		return json.Marshal(connected)
	case errors.Is(err, circuits.ErrVisitorLimit):
		return nil, nodeVisitorLimit
	case errors.Is(err, circuits.ErrTargetLimit):
		return nil, nodeTargetLimit
	case errors.Is(err, circuits.ErrClosed):
		return nil, nodeDraining
	}
	return nil, nodeFull
}

// connectAnywhere looks for who is asked for at other nodes, and reports whether it is at one.
func (h *Hub) connectAnywhere(ctx context.Context, visitor keys.PublicKey, r native.ConnectRequest) (
	c native.Connected, elsewhere bool, err error,
) {
	key := r.Key
	if key.IsZero() {
		rec, _ := h.registry.Lookup(r.ID)
		key = rec.Key
	}
	rec, known := h.registry.LookupKey(key)
	if !known || h.admission.Reach(rec.ID, key) != nil {
		return c, false, nil
	}
	c, err = h.connectElsewhere(ctx, visitor, key)
	switch {
	case err == nil:
		return c, true, nil
	case errors.Is(err, cluster.ErrOffline):
		return c, false, nil
	case errors.Is(err, nodeNoCircuits):
		return c, true, refusal(native.NoCircuits, "it serves no circuits")
	case errors.Is(err, cluster.ErrUnreachable), errors.Is(err, cluster.ErrVersion), errors.Is(err, nodeDraining):
		return c, true, refusal(native.Unavailable, "it cannot be reached just now")
	}
	return c, true, h.toldCircuit(err)
}

// connectElsewhere asks the node that has a courier for a circuit. The visitor comes to this one with its token.
func (h *Hub) connectElsewhere(ctx context.Context, visitor, key keys.PublicKey) (native.Connected, error) {
	var c native.Connected
	place, err := h.ask(ctx, key, nodeQuestion{Ask: askCircuit, Visitor: visitor}, &c)
	switch {
	case err == nil:
		if !h.expect(c.Token, place, c.Patience()) {
			return c, circuits.ErrFull
		}
		return c, nil
	case errors.Is(err, nodeVisitorLimit):
		err = circuits.ErrVisitorLimit
	case errors.Is(err, nodeTargetLimit):
		err = circuits.ErrTargetLimit
	case errors.Is(err, nodeFull):
		err = circuits.ErrFull
	}
	return c, err
}

// ticket is a token that is good at another node.
type ticket struct {
	token circuit.Token
	at    cluster.Place
	ends  time.Time
}

// expect remembers where a token is good, for as long as that is. It reports false when there are too many.
func (h *Hub) expect(t circuit.Token, at cluster.Place, lifetime time.Duration) bool {
	now := time.Now()
	h.nodes.mu.Lock()
	defer h.nodes.mu.Unlock()
	if len(h.nodes.elsewhere) >= mostElsewhere {
		maps.DeleteFunc(h.nodes.elsewhere, func(_ circuit.TokenName, old *ticket) bool { return now.After(old.ends) })
	}
	if len(h.nodes.elsewhere) >= mostElsewhere {
		return false
	}
	h.nodes.elsewhere[t.Name()] = &ticket{t, at, now.Add(lifetime)}
	return true
}

// redeem tells where a token is good, once.
func (h *Hub) redeem(t circuit.Token) (at cluster.Place, known bool) {
	name := t.Name()
	h.nodes.mu.Lock()
	defer h.nodes.mu.Unlock()
	one := h.nodes.elsewhere[name]
	if one == nil || subtle.ConstantTimeCompare(one.token[:], t[:]) != 1 {
		return at, false
	}
	delete(h.nodes.elsewhere, name)
	return one.at, time.Now().Before(one.ends)
}

// circuitElsewhere takes a connection over that presents the token of a circuit at another node.
func (h *Hub) circuitElsewhere(conn net.Conn, t circuit.Token) bool {
	place, known := h.redeem(t)
	if known {
		h.proved(conn)
		h.passOn(conn, t, place)
	}
	return known
}

// passOn joins the visitor's connection with one to the node that has the circuit, which answers it.
func (h *Hub) passOn(conn net.Conn, t circuit.Token, place cluster.Place) {
	_ = conn.SetReadDeadline(time.Time{})
	ctx, leave := h.visitors.enter(h.life, netaddr.Remote(conn)) // so that it is waited for, and ended with the hub
	defer leave()
	link, life, err := h.dialNode(ctx, place, linkRequest{For: linkCircuit}, true)
	if err == nil {
		_, err = link.Write(circuit.AppendPreamble(nil, t))
	}
	if err != nil {
		h.log.Debug("hub: a circuit's node cannot be reached", "node", place.Node, "err", err)
		_ = conn.SetWriteDeadline(time.Now().Add(h.cfg.Limits.NoticeTimeout))
		_ = circuit.WriteAnswer(conn, circuit.Absent)
		_ = conn.Close()
		if link != nil {
			_ = link.Close()
		}
		return
	}
	if tcp, ok := multiserver.TCPConn(conn); ok {
		conn = tcp
	}
	h.nodes.out.Add(1)
	defer h.nodes.out.Add(-1)
	l := h.circuits.Limits()
	joined := circuit.Join(conn, link, circuit.JoinConfig{Idle: l.Idle, Vanished: l.Vanished})
	defer context.AfterFunc(ctx, func() { joined.Cut(errDraining) })()
	defer context.AfterFunc(life, func() { joined.Cut(errLinkLost) })()
	_ = joined.Run()
}

// remoteCourier is a courier at another node, as a [vhost.Courier].
type remoteCourier struct {
	h       *Hub
	key     keys.PublicKey
	streams *vhost.Streams
}

// Dial gives a connection on which the courier serves HTTP.
func (c *remoteCourier) Dial(ctx context.Context) (net.Conn, error) { return c.streams.Dial(ctx) }

// open opens a connection through the node that has the courier now.
func (c *remoteCourier) open(ctx context.Context) (net.Conn, error) {
	var conn net.Conn
	var life context.Context
	err := c.h.follow(ctx, func() error {
		place, _, err := c.h.elsewhereReach(ctx, c.key)
		if err == nil {
			conn, life, err = c.h.dialNode(ctx, place, linkRequest{For: linkHTTP, Key: c.key}, false)
		}
		return err
	})
	if err != nil {
		return nil, away(err)
	}
	return &linked{conn, context.AfterFunc(life, func() { _ = conn.Close() })}, nil
}

// linked is a link that is closed when its node has gone.
type linked struct {
	net.Conn
	forget func() bool
}

// Close closes it earlier.
func (l *linked) Close() error {
	l.forget()
	return l.Conn.Close()
}

// courierElsewhere finds a courier at another node that serves HTTP; nil if there is none.
func (h *Hub) courierElsewhere(ctx context.Context, key keys.PublicKey) (*remoteCourier, error) {
	_, r, err := h.elsewhereReach(ctx, key)
	if err != nil || !slices.Contains(r.Serves, native.ServesHTTP) {
		return nil, err
	}
	c := &remoteCourier{h: h, key: key}
	cfg := h.directory.web
	cfg.Open = c.open
	if r.Sockets { // what is kept here, the courier's other visitors wait for
		cfg.IdleTimeout = socketsIdle
	}
	if c.streams, err = vhost.NewStreams(cfg); err != nil {
		return nil, err
	}
	return h.keepWeb(key, c)
}

// keepWeb remembers a courier at another node with its unused connections, or gives the one that is remembered.
func (h *Hub) keepWeb(key keys.PublicKey, c *remoteCourier) (*remoteCourier, error) {
	h.nodes.mu.Lock()
	defer h.nodes.mu.Unlock()
	if known := h.nodes.web[key.Array()]; known != nil {
		return known, nil
	}
	if h.nodes.web == nil {
		return nil, vhost.ErrAway // the hub ends
	}
	for other, old := range h.nodes.web {
		if len(h.nodes.web) < mostRemoteWeb {
			break
		}
		delete(h.nodes.web, other)
		_ = h.background(func() { _ = old.streams.Close() })
	}
	h.nodes.web[key.Array()] = c
	return c, nil
}

// nodeDrains gives unused connections to couriers at other nodes up: one that is about to end would wait for them.
func (h *Hub) nodeDrains() {
	h.nodes.mu.Lock()
	web := slices.Collect(maps.Values(h.nodes.web))
	h.nodes.mu.Unlock()
	for _, c := range web {
		c.streams.Retire()
	}
}

// webHere opens a connection on which a courier that is here serves HTTP. A tunnel socket of Secrez is closed after it.
func (h *Hub) webHere(ctx context.Context, rec registry.Record) (net.Conn, error) {
	if s := h.directory.courier(rec.Key); s != nil && s.offers().http {
		return s.open(ctx)
	}
	pool, err := h.pools.Courier(ctx, rec.ID)
	if err != nil {
		return nil, err
	}
	conn, err := pool.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{}) // from when it stood
}

// serveWebLink joins a link with a connection on which a courier that is here serves HTTP.
func (h *Hub) serveWebLink(ctx context.Context, key keys.PublicKey, accept func(error) (net.Conn, error)) {
	rec, _ := h.registry.LookupKey(key)
	if h.admission.Reach(rec.ID, key) != nil {
		_, _ = accept(cluster.ErrOffline)
		return
	}
	if h.isDraining() { // it would be waited for
		_, _ = accept(nodeDraining)
		return
	}
	stream, err := h.webHere(ctx, rec)
	if err != nil {
		_, _ = accept(cluster.ErrOffline)
		return
	}
	defer func() { _ = stream.Close() }()
	conn, err := accept(nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	ctx, leave := h.visitors.enter(ctx, netaddr.Remote(conn)) // so that it is waited for, and ended with the hub
	defer leave()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(stream, conn)
		_ = stream.Close()
	}()
	_, _ = io.Copy(conn, stream)
	_ = conn.Close()
	_ = stream.Close()
	<-done
}

var _ vhost.Courier = (*remoteCourier)(nil)
