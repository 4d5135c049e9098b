package main

import (
	"context"
	"net"
)

func startNoiseHandshakes(context.Context) (meter, error) {
	client, server, err := newNoisePair()
	if err != nil {
		return nil, err
	}
	return handshakes(
		func(ctx context.Context, conn net.Conn) error {
			_, err := client.transport.SecureOutbound(ctx, conn, server.id)
			return err
		},
		func(ctx context.Context, conn net.Conn) error {
			_, err := server.transport.SecureInbound(ctx, conn, client.id)
			return err
		},
	), nil
}
