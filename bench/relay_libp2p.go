package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	libp2ppeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	blankhost "github.com/libp2p/go-libp2p/p2p/host/blank"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	relayv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

const roleLibp2pRelay = "libp2p-relay"

// libp2pHost is a host, and what it secures its connections with.
type libp2pHost struct {
	host.Host
	upgrader transport.Upgrader
}

// newLibp2pHost is a host with TCP, noise and yamux, all as libp2p sets them up.
func newLibp2pHost() (*libp2pHost, error) {
	private, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	id, err := libp2ppeer.IDFromPrivateKey(private)
	if err != nil {
		return nil, err
	}
	peers, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	if err := peers.AddPrivKey(id, private); err != nil {
		return nil, err
	}
	bus := eventbus.NewBus()
	net, err := swarm.NewSwarm(id, peers, bus)
	if err != nil {
		return nil, err
	}
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	security, err := noise.New(noise.ID, private, muxers)
	if err != nil {
		return nil, err
	}
	up, err := upgrader.New([]sec.SecureTransport{security}, muxers, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	overTCP, err := tcp.NewTCPTransport(up, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := net.AddTransport(overTCP); err != nil {
		return nil, err
	}
	return &libp2pHost{blankhost.NewBlankHost(net, blankhost.WithEventBus(bus)), up}, nil
}

// serveLibp2pRelay serves circuits without limits.
func serveLibp2pRelay(context.Context, []string) error {
	h, err := newLibp2pHost()
	if err != nil {
		return err
	}
	at, err := multiaddr.NewMultiaddr("/ip4/127.0.0.1/tcp/0")
	if err != nil {
		return err
	}
	if err := h.Network().Listen(at); err != nil {
		return err
	}
	const many = 1 << 20
	resources := relayv2.DefaultResources()
	resources.Limit = nil
	resources.MaxReservations, resources.MaxCircuits = many, many
	resources.MaxReservationsPerIP, resources.MaxReservationsPerASN = many, many
	r, err := relayv2.New(h, relayv2.WithResources(resources))
	if err != nil {
		return err
	}
	fmt.Printf("%s/p2p/%s\n", h.Addrs()[0], h.ID())
	return errors.Join(answerMemory([]string{""}, silence), r.Close(), h.Close())
}

// libp2pRelay is the relay with visitors and targets.
type libp2pRelay struct {
	*role
	info libp2ppeer.AddrInfo
	matcher

	mu    sync.Mutex
	pairs []libp2pEnds
	next  int
}

type libp2pEnds struct{ visitor, target *libp2pHost }

// libp2pPairs is how many connections there are to the relay on either side, over which circuits are spread.
const libp2pPairs = 16

func startLibp2pRelay(ctx context.Context) (relay, error) {
	r := new(libp2pRelay)
	var err error
	if r.role, err = startRole(ctx, roleLibp2pRelay); err != nil {
		return nil, err
	}
	if err := r.connect(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *libp2pRelay) connect(ctx context.Context) error {
	if err := r.find(); err != nil {
		return err
	}
	for range libp2pPairs {
		ends, err := r.newEnds(ctx, func(*libp2pHost) error { return nil })
		if err != nil {
			return err
		}
		ends.target.SetStreamHandler(proto.ProtoIDv2Stop, r.stop)
	}
	return nil
}

// find learns where the relay is.
func (r *libp2pRelay) find() error {
	said, err := r.line()
	if err != nil {
		return err
	}
	at, err := multiaddr.NewMultiaddr(said)
	if err != nil {
		return err
	}
	info, err := libp2ppeer.AddrInfoFromP2pAddr(at)
	if err != nil {
		return err
	}
	r.info = *info
	return nil
}

// newEnds makes two hosts that are connected to the relay, which is willing to lead to the second.
func (r *libp2pRelay) newEnds(ctx context.Context, prepare func(h *libp2pHost) error) (ends libp2pEnds, err error) {
	for _, h := range []**libp2pHost{&ends.visitor, &ends.target} {
		if *h, err = newLibp2pHost(); err != nil {
			return ends, err
		}
		if err := errors.Join(prepare(*h), (*h).Connect(ctx, r.info)); err != nil {
			return ends, err
		}
	}
	r.pairs = append(r.pairs, ends)
	_, err = client.Reserve(ctx, ends.target, r.info)
	return ends, err
}

const libp2pMessage = 4096

// stop takes a circuit at the target's end.
func (r *libp2pRelay) stop(s network.Stream) {
	var msg pb.StopMessage
	if err := util.NewDelimitedReader(s, libp2pMessage).ReadMsg(&msg); err != nil {
		_ = s.Reset()
		return
	}
	msg.Reset()
	msg.Type, msg.Status = pb.StopMessage_STATUS.Enum(), pb.Status_OK.Enum()
	if err := util.NewDelimitedWriter(s).WriteMsg(&msg); err != nil {
		_ = s.Reset()
		return
	}
	r.came(libp2pEnd{s})
}

// open asks for a circuit at the visitor's end.
func (r *libp2pRelay) open(ctx context.Context) (io.WriteCloser, io.ReadCloser, error) {
	r.mu.Lock()
	ends := r.pairs[r.next%len(r.pairs)]
	r.next++
	r.mu.Unlock()
	s, err := ends.visitor.NewStream(ctx, r.info.ID, proto.ProtoIDv2Hop)
	if err != nil {
		return nil, nil, err
	}
	a := libp2pEnd{s}
	msg := &pb.HopMessage{
		Type: pb.HopMessage_CONNECT.Enum(), Peer: util.PeerInfoToPeerV2(libp2ppeer.AddrInfo{ID: ends.target.ID()}),
	}
	if err := util.NewDelimitedWriter(s).WriteMsg(msg); err != nil {
		return a, nil, err
	}
	msg.Reset()
	if err := util.NewDelimitedReader(s, libp2pMessage).ReadMsg(msg); err != nil {
		return a, nil, err
	}
	if msg.GetStatus() != pb.Status_OK {
		return a, nil, fmt.Errorf("the relay answers %s", msg.GetStatus())
	}
	b, err := r.meet(ctx, a)
	return a, b, err
}

func (r *libp2pRelay) Close() error {
	var errs []error
	for _, ends := range r.pairs {
		errs = append(errs, ends.visitor.Close(), ends.target.Close())
	}
	return errors.Join(append(errs, r.role.Close())...)
}

// libp2pEnd ends both directions when it is closed.
type libp2pEnd struct{ network.Stream }

func (e libp2pEnd) Close() error { return e.Reset() }
