package main

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/net"
	"github.com/secretstack/secretstack/muxrpc"
)

// stackPair is two of our own peers connected as users connect them: multiserver's net and shs on loopback TCP, and a
// muxrpc session on top, with default limits. Both run in this process.
type stackPair struct {
	client, server         *muxrpc.Session
	listening, dialling    *multiserver.Server
	clientConn, serverConn *multiserver.Conn
}

func newStackPair(ctx context.Context) (*stackPair, error) {
	mux, err := newMux()
	if err != nil {
		return nil, err
	}
	p := new(stackPair)
	if err := p.connect(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	// The sessions outlive the call that starts them.
	background := context.WithoutCancel(ctx)
	p.server = muxrpc.New(background, p.serverConn, muxrpc.Options{Mux: mux})
	p.client = muxrpc.New(background, p.clientConn, muxrpc.Options{})
	return p, nil
}

func (p *stackPair) connect(ctx context.Context) (err error) {
	accepted := make(chan *multiserver.Conn, 1)
	if p.listening, err = newMultiserver(func(conn *multiserver.Conn) { accepted <- conn }); err != nil {
		return err
	}
	if p.dialling, err = newMultiserver(nil); err != nil {
		return err
	}
	if err := p.listening.Listen(ctx); err != nil {
		return err
	}
	address, err := p.dialling.Parse(p.listening.Address(multiserver.Device))
	if err != nil {
		return err
	}
	if p.clientConn, err = p.dialling.Dial(ctx, address); err != nil {
		return err
	}
	select {
	case p.serverConn = <-accepted:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newMultiserver(onConn func(*multiserver.Conn)) (*multiserver.Server, error) {
	identity, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	return multiserver.New(multiserver.Options{
		Transports: []multiserver.Transport{net.New(net.Options{})},
		Transforms: []multiserver.Transform{
			multiserver.SHS(multiserver.SHSConfig{Identity: identity, AppKey: keys.MainNet()}),
		},
		Config: multiserver.DefaultConfig("127.0.0.1", 0),
		OnConn: onConn,
	})
}

// newMux serves what the rows call.
func newMux() (*muxrpc.Mux, error) {
	mux := muxrpc.NewMux()
	return mux, errors.Join(
		muxrpc.HandleAsync(mux, "echo", func(_ context.Context, text string) (string, error) { return text, nil }),
		muxrpc.HandleSource(mux, "items", func(context.Context, muxrpc.None) iter.Seq2[item, error] { return forever(newItem) }),
		muxrpc.HandleSource(mux, "chunks", func(context.Context, muxrpc.None) iter.Seq2[[]byte, error] {
			chunk := newChunk()
			return forever(func(int) []byte { return chunk })
		}),
	)
}

// forever yields values until the reader leaves.
func forever[T any](value func(n int) T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for n := 0; yield(value(n), nil); n++ {
		}
	}
}

// read calls a source and hands its items to got until the context ends.
func read[T any](ctx context.Context, p *stackPair, name string, got func(T) error) error {
	for value, err := range muxrpc.Source[T](ctx, p.client, name) {
		if err != nil {
			return err
		}
		if err := got(value); err != nil {
			return err
		}
	}
	return fmt.Errorf("the source %s ended", name)
}

func (p *stackPair) Close() error {
	var errs []error
	if p.client != nil {
		errs = append(errs, p.client.Close(context.Background()))
	}
	if p.server != nil {
		errs = append(errs, p.server.Close(context.Background()))
	}
	for _, server := range []*multiserver.Server{p.dialling, p.listening} {
		if server != nil {
			errs = append(errs, server.Close())
		}
	}
	return errors.Join(errs...)
}
