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
	*role
	at hubAt
	matcher

	visitor, courier *hubPeer
	dialing          sync.WaitGroup
}

func startHubRelay(ctx context.Context) (relay, error) {
	r := new(hubRelay)
	var err error
	if r.role, err = startRole(ctx, roleHub, ""); err != nil {
		return nil, err
	}
	if err := r.connect(ctx); err != nil {
		return nil, errors.Join(err, r.role.Close())
	}
	return r, nil
}

func (r *hubRelay) connect(ctx context.Context) error {
	said, err := r.line()
	if err != nil {
		return err
	}
	if r.at, err = parseHubAt(said); err != nil {
		return err
	}
	mux := muxrpc.NewMux()
	if err := muxrpc.HandleAsync(mux, native.MethodCircuit, r.offered); err != nil {
		return err
	}
	for _, end := range []struct {
		peer **hubPeer
		mux  *muxrpc.Mux
	}{{&r.visitor, nil}, {&r.courier, mux}} {
		identity, err := keys.Generate()
		if err != nil {
			return err
		}
		if *end.peer, err = dialHub(ctx, r.at.Peers, identity, end.mux); err != nil {
			return err
		}
	}
	return r.courier.publish(ctx, native.ServesCircuits)
}

// offered is called by the hub when the visitor wants a circuit.
func (r *hubRelay) offered(ctx context.Context, offer native.CircuitOffer) (muxrpc.None, error) {
	ctx = context.WithoutCancel(ctx)
	r.dialing.Go(func() {
		conn, err := r.enter(ctx, offer.Token, offer.Patience())
		if err != nil {
			return // the visitor hears it from the hub
		}
		r.came(conn)
	})
	return muxrpc.None{}, nil
}

func (r *hubRelay) enter(ctx context.Context, token circuit.Token, patience time.Duration) (gonet.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(gonet.Dialer).DialContext(ctx, "tcp", r.at.Port)
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
	a, err := r.enter(ctx, answer.Token, answer.Patience())
	if err != nil {
		return nil, nil, err
	}
	b, err := r.meet(ctx, a)
	return a, b, err
}

func (r *hubRelay) Close() error {
	drop(r.visitor, r.courier)
	r.dialing.Wait()
	return r.role.Close()
}
