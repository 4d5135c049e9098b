package share

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/secretstack/secretstack/multiserver"
)

// Connect connects to a service of the peer at an address, or at several joined with ";", each in turn until one answers.
// An empty name stands for the only service that the peer shares with us. Its error is an [*Error] when the peer refuses.
// ctx bounds the connecting.
func (s *Shares) Connect(ctx context.Context, address, service string) (*multiserver.Conn, error) {
	conn, _, err := s.ask(ctx, address, request{Service: service})
	return conn, err
}

// Services returns the names of the services that the peer at an address shares with us.
func (s *Shares) Services(ctx context.Context, address string) ([]string, error) {
	conn, a, err := s.ask(ctx, address, request{List: true})
	if err != nil {
		return nil, err
	}
	return a.Services, conn.Close()
}

// ask makes a connection and waits for the peer's consent.
func (s *Shares) ask(ctx context.Context, address string, r request) (*multiserver.Conn, answer, error) {
	conn, err := s.streams.DialStream(ctx, address, protocol)
	if err != nil {
		return nil, answer{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.RequestTimeout+s.cfg.DialTimeout, errNoAnswer)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Abort() })
	var a answer
	err = writeMessage(conn, r)
	if err == nil {
		err = readMessage(conn, &a)
	}
	switch {
	case !stop():
		err = context.Cause(ctx)
	case err == nil && a.Status != OK:
		err = &Error{a.Status, r.Service, a.Services}
	}
	if err != nil {
		_ = conn.Close()
		return nil, a, err
	}
	return conn, a, nil
}

var errNoAnswer = errors.New("share: the peer does not answer")

// A Forward says where local connections lead.
type Forward struct {
	// Address is the peer's, or several joined with ";".
	Address string
	// Service is what to connect to there. Empty: the only service that the peer shares with us.
	Service string
	// Timeout is how long connecting may take. Zero: as long as the context lives.
	Timeout time.Duration
	// Watch is told of every connection, and must not block. Nil: nobody is.
	Watch func(e Event)
	// Meter counts what passes. Nil: nothing does.
	Meter *Meter
}

func (f *Forward) tell(e Event) {
	if f.Watch != nil {
		e.Time = time.Now()
		f.Watch(e)
	}
}

// Join connects to a service and moves bytes between it and a local connection until both directions have ended. It closes
// the local connection in any case; when something has failed, it resets it.
func (s *Shares) Join(ctx context.Context, local net.Conn, f Forward) error {
	return s.join(ctx, local, f, 1)
}

func (s *Shares) join(ctx context.Context, local net.Conn, f Forward, number uint64) error {
	peer, err := s.connectWithin(ctx, f)
	if err != nil {
		reset(local)
		f.tell(Event{Type: Failed, Conn: number, Error: err.Error(), Err: err})
		return err
	}
	f.tell(Event{Type: Opened, Peer: peer.Remote(), Conn: number})
	own := []*Meter{new(Meter)}
	if f.Meter != nil {
		own = append(own, f.Meter)
	}
	err = Pump(ctx, local, peer, own...)
	e := Event{Type: Closed, Peer: peer.Remote(), Conn: number}
	e.Sent, e.Received = own[0].Read()
	if err != nil {
		e.Error, e.Err = err.Error(), err
	}
	f.tell(e)
	return err
}

func (s *Shares) connectWithin(ctx context.Context, f Forward) (*multiserver.Conn, error) {
	if f.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.Timeout)
		defer cancel()
	}
	return s.Connect(ctx, f.Address, f.Service)
}

// Forward connects everybody who connects to a listener to a service, until ctx ends, and returns its cause. It owns the
// listener, and waits for the connections.
func (s *Shares) Forward(ctx context.Context, ln net.Listener, f Forward) error {
	ctx, cancel := context.WithCancel(ctx)
	var conns sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer conns.Wait()
	defer cancel()
	defer stop()
	for number := uint64(1); ; number++ {
		local, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = local.Close()
			}
			return context.Cause(ctx)
		}
		if err != nil {
			_ = ln.Close()
			return err
		}
		conns.Go(func() { _ = s.join(ctx, local, f, number) }) // whoever watches is told
	}
}

// isGone reports whether an error says that the other side of a local connection is not there any more.
func isGone(err error) bool {
	return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
