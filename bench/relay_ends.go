package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// hubEnds is our hub with a visitor and a courier as apps have them: streams in circuits, encrypted from end to end.
type hubEnds struct {
	*role
	visitor, courier *secretstack.App
	client           *hubclient.Client // the visitor's
	address          string            // of the courier
	matcher
}

func startHubEnds(ctx context.Context) (relay, error) {
	r := new(hubEnds)
	var err error
	if r.role, err = startRole(ctx, roleHub, ""); err != nil {
		return nil, err
	}
	if err := r.connect(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// endsProtocol is what is spoken in the streams: bytes.
const endsProtocol = "bench"

func (r *hubEnds) connect(ctx context.Context) error {
	said, err := r.line()
	if err != nil {
		return err
	}
	hub := peersAddress(said)
	if r.visitor, r.client, err = startEnd(ctx, hubclient.Config{}); err != nil {
		return err
	}
	var client *hubclient.Client
	if r.courier, client, err = startEnd(ctx, hubclient.Config{Hubs: []hubclient.Hub{{Address: hub}}}); err != nil {
		return err
	}
	if err := client.HandleStream(endsProtocol, r.served); err != nil {
		return err
	}
	if err := online(ctx, client); err != nil {
		return err
	}
	addresses, err := multiserver.Parse(hub)
	if err != nil {
		return err
	}
	address, err := hubclient.CircuitAddress(addresses[0], r.courier.ID())
	r.address = address.String()
	return err
}

func startEnd(ctx context.Context, cfg hubclient.Config) (*secretstack.App, *hubclient.Client, error) {
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(hubclient.Plugin(cfg)); err != nil {
		return nil, nil, err
	}
	identity, err := keys.Generate()
	if err != nil {
		return nil, nil, err
	}
	app, err := stack.Start(context.WithoutCancel(ctx), secretstack.Config{
		Identity: identity, Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, nil, err
	}
	client, _ := secretstack.Find[*hubclient.Client](app)
	return app, client, nil
}

// served is the courier's end of a stream. It stays until the measurement has closed it.
func (r *hubEnds) served(ctx context.Context, conn *multiserver.Conn) {
	end := &servedEnd{Conn: conn, closed: make(chan struct{})}
	r.came(end)
	select {
	case <-end.closed:
	case <-ctx.Done():
	}
}

type servedEnd struct {
	*multiserver.Conn
	once   sync.Once
	closed chan struct{}
}

func (e *servedEnd) Close() error {
	e.once.Do(func() { close(e.closed) })
	return e.Abort()
}

func (r *hubEnds) open(ctx context.Context) (io.WriteCloser, io.ReadCloser, error) {
	a, err := r.client.DialStream(ctx, r.address, endsProtocol)
	if err != nil {
		return nil, nil, err
	}
	b, err := r.meet(ctx, a)
	return abortedEnd{a}, b, err
}

// abortedEnd ends without a goodbye when it is closed.
type abortedEnd struct{ *multiserver.Conn }

func (e abortedEnd) Close() error { return e.Abort() }

func (r *hubEnds) Close() error {
	var errs []error
	for _, app := range []*secretstack.App{r.visitor, r.courier} {
		if app != nil {
			errs = append(errs, app.Close(context.Background()))
		}
	}
	return errors.Join(append(errs, r.role.Close())...)
}
