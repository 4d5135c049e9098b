package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	libp2ppeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
)

// noisePeer is one end of libp2p's noise.
type noisePeer struct {
	id        libp2ppeer.ID
	transport *noise.Transport
}

func newNoisePair() (client, server noisePeer, err error) {
	client, errClient := newNoisePeer()
	server, errServer := newNoisePeer()
	return client, server, errors.Join(errClient, errServer)
}

func newNoisePeer() (noisePeer, error) {
	private, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return noisePeer{}, err
	}
	id, err := libp2ppeer.IDFromPrivateKey(private)
	if err != nil {
		return noisePeer{}, err
	}
	transport, err := noise.New(noise.ID, private, nil)
	return noisePeer{id: id, transport: transport}, err
}

// libp2pPair secures a connection with noise and puts yamux on it, as libp2p's swarm does, with libp2p's own
// settings for both.
func libp2pPair(ctx context.Context, a, b net.Conn) (client, server network.MuxedConn, err error) {
	from, to, err := newNoisePair()
	if err != nil {
		return nil, nil, err
	}
	err = together(func() { drop(a) },
		func() error {
			conn, err := from.transport.SecureOutbound(ctx, a, to.id)
			if err != nil {
				return err
			}
			client, err = yamux.DefaultTransport.NewConn(conn, false, nil)
			return err
		},
		func() error {
			conn, err := to.transport.SecureInbound(ctx, b, from.id)
			if err != nil {
				return err
			}
			server, err = yamux.DefaultTransport.NewConn(conn, true, nil)
			return err
		},
	)
	return client, server, err
}

// libp2pFlow sends chunks through one stream over the connection a-b and tells count of the bytes that arrived.
func libp2pFlow(ctx context.Context, a, b net.Conn, count func(int)) error {
	client, server, err := libp2pPair(ctx, a, b)
	if err != nil {
		return err
	}
	abandon := func() { drop(client, server) }
	defer abandon()
	defer context.AfterFunc(ctx, abandon)()
	return together(abandon,
		func() error {
			stream, err := client.OpenStream(ctx)
			if err != nil {
				return err
			}
			return writeChunks(stream, chunkSize)
		},
		func() error {
			stream, err := server.AcceptStream()
			if err != nil {
				return err
			}
			return readAll(stream, chunkSize, count)
		},
	)
}
