package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/muxrpc"
)

// hubPeer is a peer that has connected to a hub, as plugins/hubclient does it and without an app around it, so that ten
// thousand of them fit into one process.
type hubPeer struct {
	identity *keys.Identity
	hub      keys.PublicKey
	session  *muxrpc.Session
}

// dialHub connects and does the handshake. What the hub may call is in mux; nil: nothing.
func dialHub(ctx context.Context, address string, identity *keys.Identity, mux *muxrpc.Mux) (*hubPeer, error) {
	return dialHubOver(ctx, hubTransport, address, identity, mux)
}

func dialHubOver(
	ctx context.Context, transport multiserver.Transport, address string, identity *keys.Identity, mux *muxrpc.Mux,
) (*hubPeer, error) {
	addresses, err := multiserver.Parse(address)
	if err != nil {
		return nil, err
	}
	key, _ := addresses[0].Key()
	raw, err := transport.Dial(ctx, addresses[0].Transport())
	if err != nil {
		return nil, err
	}
	shs := multiserver.SHS(multiserver.SHSConfig{Identity: identity, AppKey: keys.MainNet()})
	conn, err := shs.Client(ctx, raw, addresses[0][1])
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	session := muxrpc.New(context.WithoutCancel(ctx), conn, muxrpc.Options{Mux: mux})
	return &hubPeer{identity, key, session}, nil
}

var hubTransport = net.New(net.Options{})

// status asks for something small: with the answer the handshake is done for both ends.
func (p *hubPeer) status(ctx context.Context) error {
	_, err := muxrpc.Call[native.Status](ctx, p.session, native.MethodStatus)
	return err
}

// sees asks whether a courier can be reached.
func (p *hubPeer) sees(ctx context.Context, courier keys.PublicKey) (bool, error) {
	who, err := muxrpc.Call[native.Who](ctx, p.session, native.MethodWhois, native.WhoisRequest{Key: courier})
	return who.Online, err
}

var errOffline = errors.New("the courier cannot be reached")

// publish makes it a courier.
func (p *hubPeer) publish(ctx context.Context, serves ...string) error {
	signed, err := claim.Statement{
		Action: claim.Register, Hub: p.hub, Key: p.identity.Public(), Time: time.Now(),
	}.Sign(p.identity)
	if err != nil {
		return err
	}
	answer, err := muxrpc.Call[native.Published](ctx, p.session, native.MethodPublish, native.PublishRequest{Signed: signed, Serves: serves})
	if err != nil {
		return err
	}
	if !answer.Receipt.Key.Equal(p.identity.Public()) || answer.Receipt.ID != answer.ID {
		return fmt.Errorf("the hub answers for somebody else: %+v", answer)
	}
	return answer.Receipt.Verify(p.hub)
}

// Close ends the connection at once.
func (p *hubPeer) Close() error {
	p.session.Abort(errLeft)
	return nil
}

var errLeft = errors.New("the measurement is over")

// dialCourier connects with a key of its own and publishes itself.
func dialCourier(ctx context.Context, address string) (io.Closer, error) {
	identity, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	return publishAs(ctx, address, identity)
}

func publishAs(ctx context.Context, address string, identity *keys.Identity) (io.Closer, error) {
	p, err := dialHub(ctx, address, identity, nil)
	if err != nil {
		return nil, err
	}
	return p, p.publish(ctx, native.ServesHTTP, native.ServesCircuits)
}

// dialVisitor connects with a key of its own and does no more than that.
func dialVisitor(ctx context.Context, address string) (io.Closer, error) {
	identity, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	p, err := dialHub(ctx, address, identity, nil)
	if err != nil {
		return nil, err
	}
	return p, p.status(ctx)
}

// The parts of the rows about couriers, beside roleHub.
const roleCouriers = "couriers"

const (
	// courierKiB is what an idle courier may cost a hub.
	courierKiB = 8
	// connectsPerSecond and registrationsPerSecond are how many there are to be at least.
	connectsPerSecond      = 1500
	registrationsPerSecond = 2000
	// dialers is how many connections are made at the same time.
	dialers = 16
)

// limit is a peer that is no program, but a figure to be reached.
func limit(name string, figure float64) peer {
	return peer{Name: name, AtLeast: 1, Start: stateless(func(context.Context, time.Duration) (float64, error) { return figure, nil })}
}

// courierMemoryRow is the memory of a hub for each native courier that is connected and silent.
func courierMemoryRow(key, profile string, secrez *secrezJS) row {
	start := func(server func(context.Context) (*role, error), peers string, perSecond float64) func(context.Context) (meter, error) {
		return stateless(func(ctx context.Context, d time.Duration) (float64, error) {
			return measureIdle(ctx, server, peers, max(int(d.Seconds()*perSecond), 1))
		})
	}
	return row{
		Key: key, Title: "memory of an idle courier at the hub", Unit: "KiB", LessIsMore: true,
		Ours: peer{
			Name: oursName,
			Note: "resident memory of the hub for each of 10,000 couriers (for each second of -seconds) that have connected, " +
				"published themselves and fallen silent, when the hub's garbage is collected",
			Start: start(startServer(roleHub, profile), roleCouriers, idlePerSecond),
		},
		Peers: []peer{
			limit("the limit", courierKiB),
			{Name: "raw TCP", Note: "one goroutine a connection, which waits for bytes in a buffer of 512",
				Start: start(startServer(idleTCP, ""), idleTCP+idlePeers, idlePerSecond)},
			{Name: "derper", Note: derpNote + "; 10,000 clients in the same way", Start: start(startServer(roleDerp, ""), roleDerpClients, idlePerSecond)},
			{Name: "@secrez/hub", Note: "300 couriers with one tunnel socket each, for each second of -seconds: it registers too slowly for more",
				Start: start(secrez.start, roleTunnels, 300)},
		},
	}
}

// connectingRow is how many peers can connect a second.
func connectingRow(key string) row {
	return row{
		Key: key, Title: "couriers connecting", Unit: "connections/s",
		Ours: peer{
			Name:  oursName,
			Note:  "TCP, the secret handshake with a new key, and one call answered; the hub is a process of its own; 16 at a time",
			Start: connects(startServer(roleHub, ""), dialVisitor),
		},
		Peers: []peer{
			limit("the limit", connectsPerSecond),
			{Name: "derper", Note: derpNote, Start: connects(startServer(roleDerp, ""), dialDerp)},
		},
	}
}

// comingBackRow is how many couriers that have an id can publish themselves again a second.
func comingBackRow(key string) row {
	return row{
		Key: key, Title: "couriers coming back", Unit: "couriers/s",
		Ours: peer{
			Name: oursName,
			Note: "connecting, as above, with a key that has an id, and publishing it again",
			Start: func(ctx context.Context) (meter, error) {
				back := new(known)
				return startConnects(ctx, startServer(roleHub, ""), back.dial, back.prepare)
			},
		},
		Peers: []peer{limit("the limit", connectsPerSecond)},
	}
}

type dialFunc func(ctx context.Context, address string) (io.Closer, error)

func connects(server func(context.Context) (*role, error), dial dialFunc) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		return startConnects(ctx, server, dial, func(context.Context, string, time.Duration) error { return nil })
	}
}

// startConnects starts a server and measures how many connections can be made to it a second. They stay until the end of
// the round.
func startConnects(ctx context.Context, server func(context.Context) (*role, error), dial dialFunc,
	prepare func(ctx context.Context, address string, d time.Duration) error,
) (meter, error) {
	srv, err := server(ctx)
	if err != nil {
		return nil, err
	}
	said, err := srv.line()
	if err != nil {
		return nil, err
	}
	address := peersAddress(said)
	measure := func(ctx context.Context, d time.Duration) (float64, error) {
		if err := prepare(ctx, address, d); err != nil {
			return 0, err
		}
		var mu sync.Mutex
		var stay []io.Closer
		defer func() { drop(stay...) }()
		return perSecond(ctx, d, dialers, func(ctx context.Context) error {
			conn, err := dial(ctx, address)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			stay = append(stay, conn)
			return nil
		})
	}
	return held{measure, srv.Close}, nil
}

// known are keys that have an id at a hub.
type known struct {
	mu   sync.Mutex
	keys []*keys.Identity
	next int
}

// knownPerSecond is how many keys are registered for each second of a measurement: more than can come back in it.
const knownPerSecond = 5000

// prepare registers keys, unless there are enough.
func (k *known) prepare(ctx context.Context, address string, d time.Duration) error {
	k.next = 0
	missing := int(d.Seconds()*knownPerSecond) + dialers - len(k.keys)
	if missing <= 0 {
		return nil
	}
	couriers, err := dialMany(ctx, missing, address, dialCourier)
	for _, c := range couriers {
		k.keys = append(k.keys, c.(*hubPeer).identity)
	}
	drop(couriers...)
	return err
}

func (k *known) dial(ctx context.Context, address string) (io.Closer, error) {
	k.mu.Lock()
	identity := k.keys[k.next%len(k.keys)]
	k.next++
	k.mu.Unlock()
	return publishAs(ctx, address, identity)
}
