package main

import (
	"context"
	"crypto/tls"
	"net"
)

// startTLSHandshakes uses these key agreements, or Go's defaults.
func startTLSHandshakes(curves ...tls.CurveID) func(context.Context) (meter, error) {
	return func(context.Context) (meter, error) {
		client, server, err := newTLSPair(curves...)
		if err != nil {
			return nil, err
		}
		return handshakes(
			func(ctx context.Context, conn net.Conn) error { return tls.Client(conn, client).HandshakeContext(ctx) },
			func(ctx context.Context, conn net.Conn) error { return tls.Server(conn, server).HandshakeContext(ctx) },
		), nil
	}
}
