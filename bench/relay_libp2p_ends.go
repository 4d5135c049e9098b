package main

import (
	"context"
	"errors"
	"io"

	"github.com/libp2p/go-libp2p/core/network"
	libp2ppeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/multiformats/go-multiaddr"
)

// libp2pCircuits is the relay with hosts that reach each other as apps of libp2p do: a circuit with noise and yamux inside,
// and a stream in that. A pair of hosts has one such connection at a time.
type libp2pCircuits struct {
	*libp2pRelay
	free chan libp2pEnds
}

func startLibp2pCircuits(ctx context.Context) (relay, error) {
	base := new(libp2pRelay)
	r := &libp2pCircuits{base, make(chan libp2pEnds, libp2pPairs)}
	var err error
	if base.role, err = startRole(ctx, roleLibp2pRelay); err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *libp2pCircuits) start(ctx context.Context) error {
	if err := r.find(); err != nil {
		return err
	}
	for range libp2pPairs {
		ends, err := r.newEnds(ctx, func(host *libp2pHost) error { return client.AddTransport(host, host.upgrader) })
		if err != nil {
			return err
		}
		ends.target.SetStreamHandler(endsProtocol, func(s network.Stream) { r.came(libp2pEnd{s}) })
		circuit, err := multiaddr.NewMultiaddr("/p2p-circuit")
		if err != nil {
			return err
		}
		if err := ends.target.Network().Listen(circuit); err != nil {
			return err
		}
		r.free <- ends
	}
	return nil
}

// open dials the target of a free pair through the relay, and opens a stream.
func (r *libp2pCircuits) open(ctx context.Context) (io.WriteCloser, io.ReadCloser, error) {
	ends := <-r.free
	through, err := multiaddr.NewMultiaddr(r.info.Addrs[0].String() + "/p2p/" + r.info.ID.String() + "/p2p-circuit")
	if err != nil {
		return nil, nil, err
	}
	target := libp2ppeer.AddrInfo{ID: ends.target.ID(), Addrs: []multiaddr.Multiaddr{through}}
	if err := ends.visitor.Connect(ctx, target); err != nil {
		return nil, nil, err
	}
	s, err := ends.visitor.NewStream(ctx, target.ID, endsProtocol)
	if err != nil {
		return nil, nil, err
	}
	a := &libp2pCircuit{Stream: s, circuits: r, ends: ends}
	b, err := r.meet(ctx, a)
	return a, b, err
}

// libp2pCircuit is a visitor's end, whose connection ends with it.
type libp2pCircuit struct {
	network.Stream
	circuits *libp2pCircuits
	ends     libp2pEnds
	closed   bool
}

func (c *libp2pCircuit) Close() error {
	if c.closed {
		return nil
	}
	c.closed = true
	err := errors.Join(c.Reset(), c.ends.visitor.Network().ClosePeer(c.ends.target.ID()))
	c.circuits.free <- c.ends
	return err
}
