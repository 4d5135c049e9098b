package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	gonet "net"
	"sync"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

// hubRelay is our hub, with a visitor and a courier that take circuits as they are: what plugins/hubclient does before
// the two ends begin to prove who they are to each other.
type hubRelay struct {
	process
	at   hubAt // of the courier
	from hubAt // of the visitor: the same, or another node's of the same hub

	other *role // the visitor's node; nil: there is but one
	matcher

	visitor, courier *hubPeer
	dialing          sync.WaitGroup
}

func startHubRelay(ctx context.Context) (relay, error) { return relayOfHub(ctx) }

func relayOfHub(ctx context.Context) (*hubRelay, error) {
	program, err := startRole(ctx, roleHub, "")
	if err != nil {
		return nil, err
	}
	at, err := program.hubAt()
	if err != nil {
		return nil, errors.Join(err, program.Close())
	}
	return connectHubRelay(ctx, &hubRelay{process: program, at: at, from: at})
}

// connectHubRelay connects the two ends. Without them it closes what there is.
func connectHubRelay(ctx context.Context, r *hubRelay) (*hubRelay, error) {
	if err := r.connect(ctx); err != nil {
		return nil, errors.Join(err, r.process.Close())
	}
	return r, nil
}

func (r *hubRelay) connect(ctx context.Context) error {
	mux := muxrpc.NewMux()
	if err := muxrpc.HandleAsync(mux, native.MethodCircuit, r.offered); err != nil {
		return err
	}
	for _, end := range []struct {
		peer **hubPeer
		at   hubAt
		mux  *muxrpc.Mux
	}{{&r.visitor, r.from, nil}, {&r.courier, r.at, mux}} {
		identity, err := keys.Generate()
		if err != nil {
			return err
		}
		if *end.peer, err = dialHub(ctx, end.at.Peers, identity, end.mux); err != nil {
			return err
		}
	}
	if err := r.courier.publish(ctx, native.ServesCircuits); err != nil {
		return err
	}
	return eventually(ctx, func() error { return r.lookUp(ctx) })
}

// lookUp asks whether the courier can be reached.
func (r *hubRelay) lookUp(ctx context.Context) error {
	online, err := r.visitor.sees(ctx, r.courier.identity.Public())
	if err == nil && !online {
		err = errOffline
	}
	return err
}

// offered is called by the hub when the visitor wants a circuit.
func (r *hubRelay) offered(ctx context.Context, offer native.CircuitOffer) (muxrpc.None, error) {
	ctx = context.WithoutCancel(ctx)
	r.dialing.Go(func() {
		conn, err := r.at.enter(ctx, offer.Token, offer.Patience())
		if err != nil {
			return // the visitor hears it from the hub
		}
		r.came(conn)
	})
	return muxrpc.None{}, nil
}

func (at hubAt) enter(ctx context.Context, token circuit.Token, patience time.Duration) (gonet.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(gonet.Dialer).DialContext(ctx, "tcp", at.Port)
	if err != nil {
		return nil, err
	}
	if err := circuit.Enter(ctx, conn, token); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func (r *hubRelay) open(ctx context.Context) (io.WriteCloser, io.ReadCloser, error) {
	request := native.ConnectRequest{Key: r.courier.identity.Public()}
	answer, err := muxrpc.Call[native.Connected](ctx, r.visitor.session, native.MethodConnect, request)
	if err != nil {
		return nil, nil, err
	}
	if !answer.Key.Equal(request.Key) {
		return nil, nil, fmt.Errorf("the hub leads to %s", answer.Key.Short())
	}
	a, err := r.from.enter(ctx, answer.Token, answer.Patience())
	if err != nil {
		return nil, nil, err
	}
	b, err := r.meet(ctx, a)
	return a, b, err
}

func (r *hubRelay) Close() error {
	drop(r.visitor, r.courier)
	r.dialing.Wait()
	return r.process.Close()
}
