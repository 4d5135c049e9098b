package hubclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	tcp "github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/multiserver/onion"
	"github.com/secretstack/secretstack/multiserver/ws"
)

const circuitName = "circuit"

// CircuitAddress returns the address of a peer that is to be reached by a circuit at a hub, whose own address must end with
// its key. See docs/PROTOCOL.md §12.6.
func CircuitAddress(hub multiserver.Address, peer keys.PublicKey) (multiserver.Address, error) {
	key, ok := hub.Key()
	if !ok {
		return nil, fmt.Errorf("hubclient: %s does not say which key the hub has", hub.Redacted())
	}
	return route{hub: hub.Transport(), key: key, peer: peer}.address(), nil
}

// route is the way to a peer: the transport part by which a hub is reached, the hub's key, and the peer's.
type route struct {
	hub       multiserver.Part
	key, peer keys.PublicKey
}

func (r route) part() multiserver.Part {
	data := append([]string{r.hub.Name}, r.hub.Data...)
	return multiserver.Part{Name: circuitName, Data: append(data, r.key.Ref(), r.peer.Ref())}
}

func (r route) address() multiserver.Address {
	return multiserver.Address{r.part(), multiserver.NewPart("shs", r.peer.Base64())}
}

// hubAddress is the address of the hub itself.
func (r route) hubAddress() string {
	return multiserver.Address{r.hub, multiserver.NewPart("shs", r.key.Base64())}.String()
}

// circuits is the transport "circuit": circuit:HUB-PART:@HUB.ed25519:@PEER.ed25519.
type circuits struct {
	c        *Client
	ways     []multiserver.Transport // by which hubs can be reached
	incoming chan net.Conn           // from peers that speak muxrpc
	listens  atomic.Bool
	signed   *claim.Addresses // where the app can be reached; nil: nowhere. Set by start
	book     book

	mu        sync.Mutex
	protocols map[string]protocol // guarded by mu: what else is spoken in circuits
}

// newCircuits prepares circuits for an app.
func newCircuits(c *Client) *circuits {
	cs := &circuits{c: c, ways: c.cfg.Transports, incoming: make(chan net.Conn), protocols: map[string]protocol{}}
	if cs.ways == nil {
		cs.ways = []multiserver.Transport{tcp.New(tcp.Options{}), ws.New(ws.Options{}), onion.New(onion.Options{})}
	}
	return cs
}

// mount adds the transport, and a check that who comes by a circuit is who the hub has said.
func (cs *circuits) mount(s *secretstack.Setup) error {
	err := s.AuthHook(func(next secretstack.AuthFunc) secretstack.AuthFunc {
		return func(ctx context.Context, caller secretstack.Caller) (secretstack.Access, error) {
			if err := cs.checkOrigin(caller); err != nil {
				return secretstack.Access{}, err
			}
			return next(ctx, caller)
		}
	})
	return errors.Join(err, s.Transport(cs, multiserver.Config{
		Incoming: map[string][]multiserver.Incoming{circuitName: {{Scope: multiserver.Scopes{multiserver.Public}, Transform: "shs"}}},
		Outgoing: map[string][]multiserver.Outgoing{circuitName: {{Transform: "shs"}}},
	}))
}

// checkOrigin refuses a caller whose circuit was announced as another's.
func (cs *circuits) checkOrigin(caller secretstack.Caller) error {
	for _, a := range multiserver.ParseLoose(caller.Remote) {
		r, err := cs.parse(a.Transport(), multiserver.Loose)
		if err == nil && !r.peer.Equal(caller.Key) {
			return fmt.Errorf("hubclient: hub %s has announced %s, and %s has come", r.key.Short(), r.peer.Short(), caller.Key.Short())
		}
	}
	return nil
}

// Name returns "circuit".
func (*circuits) Name() string { return circuitName }

// ParsePart reads circuit:HUB-PART:@HUB.ed25519:@PEER.ed25519.
func (cs *circuits) ParsePart(p multiserver.Part, mode multiserver.Mode) (multiserver.Part, error) {
	r, err := cs.parse(p, mode)
	if err != nil {
		return multiserver.Part{}, err
	}
	return r.part(), nil
}

func (cs *circuits) parse(p multiserver.Part, mode multiserver.Mode) (r route, err error) {
	n := len(p.Data) - 2
	switch {
	case p.Name != circuitName:
		return r, multiserver.ErrOtherPart
	case n < 2:
		return r, errors.New("circuit needs a hub and a peer, as in circuit:net:HOST:PORT:@HUB.ed25519:@PEER.ed25519")
	}
	parse := keys.ParsePublicKey
	if mode == multiserver.Loose {
		parse = keys.ParsePublicKeyLenient
	}
	if r.key, err = parse(p.Data[n]); err != nil {
		return r, fmt.Errorf("the hub's key is none: %w", err)
	}
	if r.peer, err = parse(p.Data[n+1]); err != nil {
		return r, fmt.Errorf("the peer's key is none: %w", err)
	}
	if r.key.IsZero() || r.peer.IsZero() {
		return r, errors.New("zero is nobody's key")
	}
	_, r.hub, err = cs.way(multiserver.Part{Name: p.Data[0], Data: p.Data[1:n]}, mode)
	return r, err
}

// way finds the transport by which a hub is reached, and the canonical form of its part.
func (cs *circuits) way(hub multiserver.Part, mode multiserver.Mode) (multiserver.Transport, multiserver.Part, error) {
	for _, t := range cs.ways {
		p, err := t.ParsePart(hub, mode)
		if errors.Is(err, multiserver.ErrOtherPart) {
			continue
		}
		return t, p, err
	}
	return nil, hub, fmt.Errorf("hubs cannot be reached with %q here", hub.Name)
}

// Listen takes the circuits that hubs offer.
func (cs *circuits) Listen(_ context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	var none struct{}
	if err := in.Decode(&none); err != nil {
		return nil, err
	}
	cs.listens.Store(true)
	return &circuitListener{cs: cs, in: in, done: make(chan struct{})}, nil
}

type circuitListener struct {
	cs   *circuits
	in   multiserver.Incoming
	done chan struct{}
	once sync.Once
}

// Accept waits for the next circuit.
func (l *circuitListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.cs.incoming:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and with it the taking of circuits.
func (l *circuitListener) Close() error {
	l.once.Do(func() {
		l.cs.listens.Store(false)
		close(l.done)
	})
	return nil
}

// Addresses returns the parts by which the app is reached at the hubs that it is connected to.
func (l *circuitListener) Addresses(scope multiserver.Scope) []multiserver.Part {
	if !slices.Contains(l.in.Scope, scope) {
		return nil
	}
	l.cs.c.mu.Lock()
	defer l.cs.c.mu.Unlock()
	var parts []multiserver.Part
	for _, h := range l.cs.c.hubs {
		if h.peer != nil {
			parts = append(parts, l.cs.parts(h)...)
		}
	}
	return parts
}

// parts are those of the app at a hub, for each address by which circuits can be had there.
func (cs *circuits) parts(h *hub) []multiserver.Part {
	var parts []multiserver.Part
	for _, a := range multiserver.ParseLoose(h.address) {
		if _, hub, err := cs.way(a.Transport(), multiserver.Loose); err == nil {
			parts = append(parts, route{hub, h.key, cs.c.app.ID()}.part())
		}
	}
	return parts
}

// sign signs where the app can be reached: all its hubs, whether it is there at the moment or not.
func (cs *circuits) sign() error {
	var all []multiserver.Address
	for _, h := range cs.c.hubs {
		for _, p := range cs.parts(h) {
			all = append(all, multiserver.Address{p, multiserver.NewPart("shs", cs.c.app.ID().Base64())})
		}
	}
	if len(all) == 0 {
		return nil
	}
	signed, err := claim.Addresses{Text: multiserver.Join(all), Time: time.Now()}.Sign(cs.c.self)
	if err != nil {
		return err
	}
	cs.signed = &signed
	return nil
}

// Addresses returns where the app can be reached by circuits, signed by itself, as its hubs tell those who ask for it. It
// is the zero value when the app is at no hub.
func (c *Client) Addresses() claim.Addresses {
	if c.circuits == nil || c.circuits.signed == nil {
		return claim.Addresses{}
	}
	return *c.circuits.signed
}
