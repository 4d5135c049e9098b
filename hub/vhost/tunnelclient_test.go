package vhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// tunnelClient does what the JavaScript tunnel client 0.1.7 does once it is registered. It opens its sockets to the hub,
// dials its local server as soon as one is open, and passes bytes. It frames nothing and introduces itself to nobody. Its
// weaknesses are here as well:
//
//   - a socket that the hub closes is replaced at once, without any pause;
//   - a local server that refuses is tried again after a second, while the hub's socket stays open;
//   - any other local error loses the socket and its replacement, for ever;
//   - a hub that refuses ends the client, for ever.
type tunnelClient struct {
	hub, local string
	retry      time.Duration // a second

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	opened int  // sockets, ever
	lost   int  // of these, without a replacement
	dead   bool // the hub has refused
}

// startTunnelClient opens n sockets to a port, for a local server, until the test ends.
func startTunnelClient(t *testing.T, port, n int, local string) *tunnelClient {
	t.Helper()
	c := &tunnelClient{hub: fmt.Sprintf("127.0.0.1:%d", port), local: local, retry: 50 * time.Millisecond}
	c.ctx, c.stop = context.WithCancel(context.Background())
	t.Cleanup(c.close)
	for range n {
		c.wg.Go(c.slot)
	}
	return c
}

func (c *tunnelClient) close() {
	c.stop()
	c.wg.Wait()
}

// slot keeps one socket open.
func (c *tunnelClient) slot() {
	for c.ctx.Err() == nil {
		remote, err := new(net.Dialer).DialContext(c.ctx, "tcp", c.hub)
		if err != nil {
			c.mu.Lock()
			c.dead = c.dead || errors.Is(err, syscall.ECONNREFUSED)
			c.lost++
			c.mu.Unlock()
			return
		}
		c.mu.Lock()
		c.opened++
		c.mu.Unlock()
		if !c.serve(remote) {
			c.mu.Lock()
			c.lost++
			c.mu.Unlock()
			return
		}
	}
}

// serve passes bytes between a socket and the local server, and reports whether the socket is to be replaced.
func (c *tunnelClient) serve(remote net.Conn) (replace bool) {
	stop := context.AfterFunc(c.ctx, func() { _ = remote.Close() })
	defer stop()
	defer func() { _ = remote.Close() }()
	local, ok := c.dialLocal(remote)
	if !ok {
		return false
	}
	defer func() { _ = local.Close() }()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(remote, local)
		_ = closeWrite(remote)
	})
	broken := pass(local, remote)
	if broken { // what the local server would not take is a local error
		_ = remote.Close()
	}
	_ = closeWrite(local)
	_ = local.SetReadDeadline(time.Now().Add(time.Minute))
	wg.Wait()
	return !broken
}

// pass copies from remote to local, and reports whether local failed.
func pass(local, remote net.Conn) (broken bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := remote.Read(buf)
		if n > 0 {
			if _, err := local.Write(buf[:n]); err != nil {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}

func (c *tunnelClient) dialLocal(net.Conn) (net.Conn, bool) {
	for {
		local, err := new(net.Dialer).DialContext(c.ctx, "tcp", c.local)
		if err == nil {
			return local, true
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, false
		}
		select {
		case <-time.After(c.retry):
		case <-c.ctx.Done():
			return nil, false
		}
	}
}

func (c *tunnelClient) counts() (opened, lost int, dead bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened, c.lost, c.dead
}
