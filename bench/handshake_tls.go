package main

import (
	"context"
	"crypto/tls"
	"net"
)

func startTLSHandshakes(context.Context) (meter, error) {
	client, server, err := newTLSPair()
	if err != nil {
		return nil, err
	}
	return handshakes(
		func(ctx context.Context, conn net.Conn) error { return tls.Client(conn, client).HandshakeContext(ctx) },
		func(ctx context.Context, conn net.Conn) error { return tls.Server(conn, server).HandshakeContext(ctx) },
	), nil
}
