package main

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// apiRow is how many new accounts a hub can register a second with the v1 API.
func apiRow(key string, secrez *secrezJS) row {
	return row{
		Key: key, Title: "registrations, v1 API", Unit: "couriers/s",
		Ours: peer{
			Name:  oursName,
			Note:  "over 16 connections, each with a new account; the id is on disk and a port is open when the answer comes",
			Start: registers(func(ctx context.Context) (*role, error) { return startRole(ctx, roleHub, "") }),
		},
		Peers: []peer{
			limit("the limit", registrationsPerSecond),
			{Name: "@secrez/hub", AtLeast: 1, Note: secrezNote, Start: registers(secrez.start)},
		},
	}
}

func registers(server func(context.Context) (*role, error)) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		srv, err := server(ctx)
		if err != nil {
			return nil, err
		}
		said, err := srv.line()
		if err != nil {
			return nil, errors.Join(err, srv.Close())
		}
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: dialers}}
		measure := func(ctx context.Context, d time.Duration) (float64, error) {
			return perSecond(ctx, d, dialers, func(ctx context.Context) error {
				account, err := newAccount()
				if err != nil {
					return err
				}
				_, err = register(ctx, client, portOf(said), account)
				return err
			})
		}
		return held{measure, func() error {
			client.CloseIdleConnections()
			return srv.Close()
		}}, nil
	}
}
