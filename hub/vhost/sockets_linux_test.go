package vhost

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
)

// A machine that vanishes sends nothing: only TCP's own questions find that out.
func TestRawSocketsAreAskedWhetherTheyLive(t *testing.T) {
	testkit.LeakCheckOf(t, "hub/vhost.")
	pool := openPool(t, PoolConfig{KeepAlive: 7 * time.Second})
	c, err := net.Dial("tcp", pool.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	got, err := pool.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := got.(*lease).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range []struct {
		name               string
		level, option, min int
		max                int
	}{
		{"keep-alive", syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1, 1},
		{"idle seconds", syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 7, 7},
		{"seconds between questions", syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 1, 3},
		{"questions", syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 3, 3},
	} {
		var value int
		var failure error
		if err := raw.Control(func(fd uintptr) { value, failure = syscall.GetsockoptInt(int(fd), option.level, option.option) }); err != nil || failure != nil {
			t.Fatal(err, failure)
		}
		if value < option.min || value > option.max {
			t.Errorf("%s: %d", option.name, value)
		}
	}
}

// TestAttackStrangerAtTheCouriersPort: with the original, whoever connects to a courier's port gets its visitors in turn.
func TestAttackStrangerAtTheCouriersPort(t *testing.T) {
	testkit.LeakCheckOf(t, "hub/vhost.")
	pool := openPool(t, PoolConfig{})
	dial := func(from net.IP) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
		return d.DialContext(context.Background(), "tcp", pool.listener.Addr().String())
	}
	for range 20 {
		stranger, err := dial(net.IPv4(127, 0, 0, 2))
		if err != nil {
			if errors.Is(err, syscall.ECONNRESET) {
				continue // refused before we knew that we were connected
			}
			t.Fatal(err)
		}
		_ = stranger.SetDeadline(time.Now().Add(time.Minute))
		if n, err := stranger.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Fatalf("the stranger read %d bytes, %v", n, err)
		}
		_ = stranger.Close()
	}
	courier, err := dial(net.IPv4(127, 0, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = courier.Close() }()
	waitFor(t, "the courier's socket", func() bool { return pool.Stats().Open == 1 })
	if addr := pool.listener.Addr().(*net.TCPAddr); !addr.IP.Equal(net.IPv4(127, 0, 0, 1)) {
		t.Errorf("the port is open on %v", addr.IP)
	}
}
