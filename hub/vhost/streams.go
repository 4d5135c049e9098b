package vhost

import (
	"context"
	"fmt"
	"net"
	"time"
)

// StreamsConfig says how the connections of [Streams] are made and kept.
type StreamsConfig struct {
	// Open makes a connection on which the courier serves HTTP/1.1, such as a stream on the courier's own connection. It
	// must end when its context does. What it returns must keep read and write deadlines, and its Close must not block.
	Open func(context.Context) (net.Conn, error)

	MaxStreams  int           // connections open at once; 0: 64
	IdleTimeout time.Duration // how long an unused connection is kept; 0: 10 s. Less than the courier's own idle time
	Queue       int           // visitors that may wait for one; 0: 256; negative: none
	Wait        time.Duration // for how long; 0: 10 s
}

// Streams is a [Courier] whose connections the hub opens itself. An idle courier costs nothing: unused connections are
// closed after IdleTimeout.
type Streams struct {
	shelf

	open func(context.Context) (net.Conn, error)
}

// NewStreams makes the connections of one courier. Its error is [ErrConfig].
func NewStreams(cfg StreamsConfig) (*Streams, error) {
	if cfg.Open == nil {
		return nil, fmt.Errorf("%w: no way to open a stream", ErrConfig)
	}
	st := &Streams{open: cfg.Open}
	st.most = positive(cfg.MaxStreams, defaultStreams)
	st.standby = positive(cfg.IdleTimeout, defaultStandby)
	st.queue = bound(cfg.Queue, defaultQueue)
	st.wait = positive(cfg.Wait, defaultWait)
	st.init()
	return st, nil
}

// Dial gives a connection for one exchange: one that was used before, or a new one. Its errors are [ErrBusy], [ErrAway]
// after Close, the context's, and those of Open.
func (st *Streams) Dial(ctx context.Context) (net.Conn, error) {
	s, err := st.take(ctx)
	if err != nil {
		return nil, err
	}
	if s == nil {
		if s, err = st.fresh(ctx); err != nil {
			return nil, err
		}
	}
	return &lease{socket: s, shelf: &st.shelf}, nil
}

func (st *Streams) fresh(ctx context.Context) (*socket, error) {
	retirements := st.retirements()
	c, err := st.open(ctx)
	if err != nil {
		st.unopened()
		return nil, err
	}
	return st.opened(c, retirements)
}

// Retire closes the connections that are not used, and lets those in use or being opened be closed after their exchange. New ones are opened
// when they are needed.
func (st *Streams) Retire() { st.retire() }

// Stats counts connections and visitors.
func (st *Streams) Stats() Stats { return st.stats() }

// Close closes every connection, those in use too, and waits for what Streams has started. It always returns nil.
func (st *Streams) Close() error {
	st.end()
	st.watchers.Wait()
	return nil
}
