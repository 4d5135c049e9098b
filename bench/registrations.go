package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/hub/native"
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

// registrationRow is how many new couriers a hub can register natively a second.
func registrationRow(key string) row {
	return row{
		Key: key, Title: "registrations, native", Unit: "couriers/s",
		Ours: peer{
			Name: oursName,
			Note: "16 at a time, each with a new key, over connections that were made before: signing on either side and an id that is " +
				"on disk when the answer comes",
			Start: startNativeRegistrations,
		},
		Peers: []peer{limit("the limit", registrationsPerSecond)},
	}
}

// unregisteredPerSecond is how many connections are made for each second of a measurement: more than can register in it.
const unregisteredPerSecond = 6000

func startNativeRegistrations(ctx context.Context) (meter, error) {
	srv, err := startRole(ctx, roleHub, "")
	if err != nil {
		return nil, err
	}
	said, err := srv.line()
	if err != nil {
		return nil, errors.Join(err, srv.Close())
	}
	measure := func(ctx context.Context, d time.Duration) (float64, error) {
		n := int(d.Seconds()*unregisteredPerSecond) + dialers
		conns, err := dialMany(ctx, n, peersAddress(said), dialVisitor)
		defer drop(conns...)
		if err != nil {
			return 0, err
		}
		var next atomic.Int64
		return perSecond(ctx, d, dialers, func(ctx context.Context) error {
			i := int(next.Add(1)) - 1
			if i >= len(conns) {
				return fmt.Errorf("more than %d have registered in %v", len(conns), d)
			}
			return conns[i].(*hubPeer).publish(ctx, native.ServesHTTP, native.ServesCircuits)
		})
	}
	return held{measure, srv.Close}, nil
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
