package main

import (
	"context"
	"net"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/shs"
)

func startHandshakes(context.Context) (meter, error) {
	client, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	server, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	return handshakes(
		func(_ context.Context, conn net.Conn) error {
			_, err := shs.Client(conn, shs.Config{Identity: client, AppKey: keys.MainNet()}, server.Public())
			return err
		},
		func(_ context.Context, conn net.Conn) error {
			authorize := func(remote keys.PublicKey) error {
				if !remote.Equal(client.Public()) {
					return shs.ErrNotAuthorized
				}
				return nil
			}
			_, err := shs.Server(conn, shs.Config{Identity: server, AppKey: keys.MainNet()}, authorize)
			return err
		},
	), nil
}
