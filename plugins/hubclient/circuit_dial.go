package hubclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/streamconn"
)

// HubError is a failure on the way to a peer that has to do with the hub, not with the peer: the hub cannot be reached or
// refuses, or it does not know where the peer is.
type HubError struct {
	Hub keys.PublicKey
	// Err is a [*native.Error] when the hub has refused, a [*circuit.AnswerError] when it has not joined the circuit, and
	// otherwise why the hub could not be asked.
	Err error
}

// Error says which hub, and why.
func (e *HubError) Error() string { return "hubclient: hub " + e.Hub.Short() + ": " + e.Err.Error() }

// Unwrap returns why.
func (e *HubError) Unwrap() error { return e.Err }

const (
	// maxHubs is at how many hubs a peer is looked for.
	maxHubs = 4
	// extraPatience is how much longer than its hub an end waits for the other: the hub says what has happened.
	extraPatience = 5 * time.Second
)

// Dial connects to the peer through the hub in the part, or through another hub where the peer has said that it is.
func (cs *circuits) Dial(ctx context.Context, p multiserver.Part) (net.Conn, error) {
	r, err := cs.parse(p, multiserver.Loose)
	if err != nil {
		return nil, err
	}
	return cs.dial(ctx, r, true)
}

// dial tries one hub after the other. Through one at which the peer serves no circuits it may go by a tunnel.
func (cs *circuits) dial(ctx context.Context, r route, mayTunnel bool) (net.Conn, error) {
	routes := []route{r}
	var errs []error
	for i := 0; i < len(routes); i++ {
		conn, err := cs.through(ctx, routes[i], mayTunnel)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if _, atHub := errors.AsType[*HubError](err); !atHub || ctx.Err() != nil {
			break
		}
		routes = cs.more(routes)
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, &dialError{errs}
}

// more adds the hubs at which the peer has said that it is.
func (cs *circuits) more(routes []route) []route {
	said, ok := cs.book.look(routes[0].peer)
	if !ok {
		return routes
	}
	for _, a := range multiserver.ParseLoose(said.Text) {
		if len(routes) >= maxHubs {
			break
		}
		r, err := cs.parse(a.Transport(), multiserver.Loose)
		if err == nil && r.peer.Equal(routes[0].peer) && !tried(routes, r) {
			routes = append(routes, r)
		}
	}
	return routes
}

func tried(routes []route, r route) bool {
	for _, other := range routes {
		if other.key.Equal(r.key) && other.hub.String() == r.hub.String() {
			return true
		}
	}
	return false
}

// dialError is what happened at several hubs.
type dialError struct{ errs []error }

func (e *dialError) Error() string {
	texts := make([]string, len(e.errs))
	for i, err := range e.errs {
		texts[i] = strings.TrimPrefix(err.Error(), "hubclient: ")
	}
	return fmt.Sprintf("hubclient: none of %d hubs leads there: %s", len(e.errs), strings.Join(texts, "; "))
}

func (e *dialError) Unwrap() []error { return e.errs }

// through asks one hub for a circuit, and comes to its end of it.
func (cs *circuits) through(ctx context.Context, r route, mayTunnel bool) (net.Conn, error) {
	failed := func(err error) (net.Conn, error) { return nil, &HubError{r.key, err} }
	request := native.ConnectRequest{Key: r.peer}
	p, answer, err := ask[native.Connected](ctx, cs.c, r.key, r.hubAddress(), native.MethodConnect, request)
	switch code := native.CodeOf(err); {
	case mayTunnel && (code == native.NoCircuits || muxrpc.IsDenied(err)):
		return cs.tunnel(ctx, p, r)
	case code != "" && code != native.Unknown:
		cs.askWhere(ctx, p, r.peer)
		return failed(err)
	case err != nil:
		return failed(err)
	case !answer.Key.Equal(r.peer):
		return failed(errOther)
	}
	cs.book.note(r.peer, answer.Addresses)
	conn, err := cs.enter(ctx, way(p, r), answer.Token, answer.Patience(), nil)
	if err != nil {
		return failed(err)
	}
	return conn, nil
}

// oldTimeout is how long a hub may take to answer on a connection that was there before: it may be dead without a sign.
const oldTimeout = 5 * time.Second

// askWhere asks a hub where else a peer may be.
func (cs *circuits) askWhere(ctx context.Context, p *secretstack.Peer, peer keys.PublicKey) {
	who, err := call[native.Who](ctx, cs.c.cfg.AnswerTimeout, p, native.MethodWhois, native.WhoisRequest{Key: peer})
	if err == nil {
		cs.book.note(peer, who.Addresses)
	}
}

// connectionTo returns the connection to a hub that there is, or nil.
func (c *Client) connectionTo(hub keys.PublicKey) *secretstack.Peer {
	if h, err := c.hub(hub); err == nil {
		if p := h.connection(); p != nil {
			return p
		}
	}
	for _, p := range c.app.PeersOf(hub) {
		if p.IsClient() && isDirect(p) {
			return p
		}
	}
	return nil
}

// isDirect reports whether a connection leads through nobody else.
func isDirect(p *secretstack.Peer) bool {
	through, _, _ := strings.Cut(p.Address(), ":")
	return through != circuitName && through != tunnelName
}

// way is the route by which a connection to its hub leads there: so the circuit's connection finds the same hub where
// several answer to one name.
func way(p *secretstack.Peer, r route) route {
	if a := multiserver.ParseLoose(p.Address()); len(a) == 1 && p.IsClient() {
		r.hub = a[0].Transport()
	}
	return r
}

// enter opens another connection to the hub, and presents the token there.
func (cs *circuits) enter(ctx context.Context, r route, t circuit.Token, patience time.Duration, onClose func()) (*circuitConn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience+extraPatience, errNoAnswer)
	defer cancel()
	raw, err := cs.reach(ctx, r.hub)
	if err != nil {
		return nil, err
	}
	if err := circuit.Enter(ctx, raw, t); err != nil {
		multiserver.Abort(raw)
		return nil, err
	}
	return newCircuitConn(raw, r.part(), onClose), nil
}

var errNoAnswer = errors.New("the hub has not answered in time")

// reach opens a plain connection to a hub.
func (cs *circuits) reach(ctx context.Context, hub multiserver.Part) (net.Conn, error) {
	t, p, err := cs.way(hub, multiserver.Loose)
	if err != nil {
		return nil, err
	}
	if p.Name == "ws" || p.Name == "wss" {
		u, _, err := multiserver.ParseURL(p, multiserver.Loose)
		if err != nil {
			return nil, err
		}
		p = multiserver.URLPart(u.JoinPath(circuitName))
	}
	return t.Dial(ctx, p)
}

const tunnelName = "tunnel"

// tunnelRequest is the argument of tunnel.connect, docs/PROTOCOL.md §7.1.
type tunnelRequest struct {
	Target string `json:"target"`
	Portal string `json:"portal"`
}

// tunnel goes through the hub's room, to a peer that serves no circuits.
func (cs *circuits) tunnel(ctx context.Context, p *secretstack.Peer, r route) (net.Conn, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stream, err := muxrpc.Duplex[[]byte, []byte](life, p, tunnelName+".connect", tunnelRequest{r.peer.Ref(), r.key.Ref()})
	if err != nil {
		cancel()
		return nil, &HubError{r.key, err}
	}
	part := multiserver.NewPart(tunnelName, r.key.Ref()+":"+r.peer.Ref())
	return tunnelConn{streamconn.New(stream, streamconn.Options{OnClose: cancel}), part}, nil
}

// tunnelConn is a tunnel that knows where it leads.
type tunnelConn struct {
	*streamconn.Conn
	part multiserver.Part
}

// PeerPart returns tunnel:@HUB.ed25519:@PEER.ed25519.
func (c tunnelConn) PeerPart() multiserver.Part { return c.part }
