package multiserver

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/secretstack/secretstack/internal/pause"
)

// acceptLoop hands connections to handle, which must not wait for a peer, until
// the listener or ctx ends. Other errors are temporary, such as too many open
// files: it tries again after a while.
func acceptLoop(ctx context.Context, ln interface{ Accept() (net.Conn, error) }, handle func(net.Conn), logger *slog.Logger) {
	var backoff time.Duration
	for {
		conn, err := ln.Accept()
		if err == nil {
			backoff = 0
			handle(conn)
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		backoff = min(max(2*backoff, 5*time.Millisecond), time.Second)
		logger.Warn("accepting connections failed", "err", err, "retry", backoff)
		if !pause.Sleep(ctx, backoff) {
			return
		}
	}
}
