package circuit

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/netns"
)

// farPair returns a connection between a host and the hub.
func farPair(t *testing.T, star *netns.Star, host int) (end, atHub *net.TCPConn) {
	t.Helper()
	var ln net.Listener
	var err error
	star.At(0, func() { ln, err = net.Listen("tcp", star.HubAddress(host)+":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var dialled net.Conn
	star.At(host, func() { dialled, err = net.Dial("tcp", ln.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// TestAnEndThatVanishedEndsTheLink cuts the cable to one end at every stage of a connection's life, and in one of them
// leaves it: the other end has to learn it, and nothing else may end the link.
func TestAnEndThatVanishedEndsTheLink(t *testing.T) {
	const vanished = time.Second
	stages := map[string]func(a, b *net.TCPConn){
		"idle":           func(_, _ *net.TCPConn) {},
		"sending":        func(a, _ *net.TCPConn) { go pour(a) },
		"receiving":      func(_, b *net.TCPConn) { go pour(b) },
		"both":           func(a, b *net.TCPConn) { go pour(a); go pour(b) },
		"half closed":    func(a, _ *net.TCPConn) { _ = a.CloseWrite() },
		"half closed to": func(_, b *net.TCPConn) { _ = b.CloseWrite() },
		"not reading": func(a, b *net.TCPConn) {
			_ = a.SetReadBuffer(4 << 10)
			_ = b.SetWriteDeadline(time.Now().Add(2 * vanished))
			pour(b) // until nothing goes any more: the end is there, and must not count as gone
			_ = b.SetWriteDeadline(time.Time{})
		},
	}
	star := netns.New(t, 2*len(stages))
	host := 0
	var all sync.WaitGroup
	defer all.Wait()
	stage := func(name string, run func(t *testing.T)) { all.Go(func() { t.Run(name, run) }) } // it is nothing but waiting
	for name, begin := range stages {
		host += 2
		hostA, hostB := host-1, host
		stage(name, func(t *testing.T) {
			a, hubA := farPair(t, star, hostA)
			b, hubB := farPair(t, star, hostB)
			link := Join(hubA, hubB, JoinConfig{Vanished: vanished})
			ended := make(chan error, 1)
			go func() { ended <- link.Run() }()
			if name != "not reading" {
				go func() { _, _ = io.Copy(io.Discard, a) }()
			}
			begin(a, b)
			select {
			case err := <-ended:
				t.Fatalf("ended with %v while all were there", err)
			default:
			}
			star.Cut(hostA)
			// The system says once that an end has vanished: a write that comes second is told of a broken pipe, and may be
			// the first to tell the link.
			if err := <-ended; !errors.Is(err, ErrVanished) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the link ended with %v", err)
			}
			if _, err := io.Copy(io.Discard, b); err != nil {
				t.Logf("b was told with %v", err)
			}
		})
	}
}

// pour writes until that fails.
func pour(conn net.Conn) { _, _ = io.Copy(conn, zeros{}) }
