package hub

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/ws"
	"github.com/secretstack/secretstack/muxrpc"
)

// circuitPath is where WebSockets are the ends of circuits.
const circuitPath = "/circuit"

// limitedRetry is how long somebody waits who has too many circuits: some of them may be over by then.
const limitedRetry = 10 * time.Second

// openCircuits makes the table of circuits, and the WebSockets that lead to it.
func (h *Hub) openCircuits(ctx context.Context) error {
	h.circuits = circuits.New(circuits.Config{
		Limits: h.cfg.Limits.Circuits, Proved: h.proved, Logger: h.log, Elsewhere: h.circuitElsewhere,
		Ended: func(c circuits.Circuit) {
			if !c.Joined.IsZero() {
				h.observer.CircuitEnded(c.Ended.Sub(c.Joined))
			}
		},
	})
	var err error
	h.circuitWS = ws.New(ws.Options{Mounted: true, Logger: h.log, Handler: h.secrez})
	h.circuitEnds, err = h.circuitWS.Listen(ctx, multiserver.Incoming{Transform: "shs", Options: path(circuitPath)})
	if err != nil {
		return err
	}
	_ = h.background(func() { h.serveCircuits(h.circuitEnds) })
	return nil
}

// serveCircuits hands the connections of a listener to the table, until it is closed.
func (h *Hub) serveCircuits(ln interface{ Accept() (net.Conn, error) }) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return // closed: it has no other errors
		}
		if !h.background(func() { h.circuits.Serve(c) }) {
			_ = c.Close()
		}
	}
}

// connect offers a circuit to a visitor and to the courier that it asks for, docs/PROTOCOL.md §12.
func (h *Hub) connect(ctx context.Context, p *secretstack.Peer, r native.ConnectRequest) (native.Connected, error) {
	addr := h.addrOf(p)
	if err := h.admission.AllowKey(admission.Circuit, addr, p.Key()); err != nil {
		h.refused(err, addr, p.Key(), "circuit")
		return native.Connected{}, h.told(err)
	}
	target, err := h.target(p, r)
	if native.CodeOf(err) == native.Offline {
		if connected, elsewhere, err := h.connectAnywhere(ctx, p.Key(), r); elsewhere {
			return connected, err
		}
	}
	if err != nil {
		return native.Connected{}, err
	}
	connected, err := h.offer(p.Key(), target)
	if err != nil {
		h.refused(err, addr, p.Key(), "circuit")
		return native.Connected{}, h.toldCircuit(err)
	}
	return connected, nil
}

// offer offers a circuit to a courier that is here, and returns what the visitor is told.
func (h *Hub) offer(visitor keys.PublicKey, target *session) (native.Connected, error) {
	key := target.peer.Key()
	offer, err := h.circuits.Offer(visitor, key)
	if err != nil {
		return native.Connected{}, err
	}
	lifetime := offer.Lifetime.Milliseconds()
	_ = h.background(func() {
		ctx, cancel := context.WithTimeout(h.life, offer.Lifetime)
		defer cancel()
		_, err := muxrpc.Call[muxrpc.None](ctx, target.peer, native.MethodCircuit,
			native.CircuitOffer{Origin: visitor, Token: offer.Target, Lifetime: lifetime})
		if _, said := errors.AsType[*muxrpc.RemoteError](err); said {
			offer.Refuse(circuit.Refused)
		} else if err != nil {
			offer.Refuse(circuit.Absent)
		}
	})
	return native.Connected{Key: key, Token: offer.Visitor, Lifetime: lifetime, Addresses: h.directory.addressesOf(key)}, nil
}

// target finds who is asked for, if it is here and serves circuits.
func (h *Hub) target(p *secretstack.Peer, r native.ConnectRequest) (*session, error) {
	key := r.Key
	switch {
	case r.ID.IsZero() == r.Key.IsZero():
		return nil, refusal(native.BadRequest, "it takes an id or a key, one of the two")
	case r.Key.IsZero():
		rec, known := h.registry.Lookup(r.ID)
		if !known {
			return nil, refusal(native.Unknown, "nobody here has that id")
		}
		key = rec.Key
	}
	if key.Equal(p.Key()) {
		return nil, refusal(native.BadRequest, "that is your own key")
	}
	rec, known := h.registry.LookupKey(key)
	if h.admission.Reach(rec.ID, key) != nil {
		return nil, refusal(native.Offline, "it is not here")
	}
	s := h.directory.courier(key)
	_, given := h.registry.Heir(key)
	switch {
	case s != nil && s.offers().circuits:
		return s, nil
	case given && !known:
		return nil, refusal(native.GivenUp, "that key was given up for another")
	case s != nil, len(h.app.PeersOf(key)) > 0, known && h.pools.Pool(rec.ID) != nil:
		return nil, refusal(native.NoCircuits, "it serves no circuits: it may be in the room")
	case known:
		return nil, refusal(native.Offline, "it is not here")
	}
	return nil, refusal(native.Unknown, "nobody here has that key")
}

// Circuits returns the table of the hub's circuits: which there are, and what each key has used.
func (h *Hub) Circuits() *circuits.Table { return h.circuits }

// toldCircuit returns what a visitor is told of a circuit that cannot be.
func (h *Hub) toldCircuit(err error) error {
	switch {
	case errors.Is(err, circuits.ErrVisitorLimit):
		return (&native.Error{Code: native.RateLimited, Text: "you have too many circuits", RetryAfter: limitedRetry}).ForPeer()
	case errors.Is(err, circuits.ErrTargetLimit):
		return (&native.Error{Code: native.RateLimited, Text: "it has too many circuits", RetryAfter: limitedRetry}).ForPeer()
	case errors.Is(err, circuits.ErrClosed):
		return h.told(errDraining)
	}
	return refusal(native.Unavailable, "the hub has no room for another circuit")
}

// recheckCircuits ends the circuits of those who are not welcome any more, and of the keys whose connections were ended.
func (h *Hub) recheckCircuits(ended map[[keys.PublicKeySize]byte]bool) {
	unwelcome := func(key keys.PublicKey) bool {
		rec, _ := h.registry.LookupKey(key)
		return ended[key.Array()] || h.admission.Reach(rec.ID, key) != nil
	}
	h.circuits.Cut(func(visitor, target keys.PublicKey) bool { return unwelcome(visitor) || unwelcome(target) })
}
