package circuit

import (
	"net"
	"sync"
	"time"
)

// watchLooks is how often, in the time that an end may be silent, somebody looks or the system asks.
const watchLooks = 3

// Watch notices within about the given time that the other end of a connection has vanished: the machine is off, or the
// network between is gone. An idle connection is asked by the system's keep-alive, and fails when nothing answers. For
// bytes that are not acknowledged the systems wait a quarter of an hour and more; Watch calls vanished, once, in a
// goroutine of its own. An end that is there but does not read is not taken for vanished, however long that lasts.
//
// The connection must be TCP, or have it below as its NetConn; for others, and for a time that is negative, nothing is
// done. Outside Linux only idle connections are watched. What Watch returns ends it.
func Watch(conn net.Conn, after time.Duration, vanished func()) (stop func()) {
	tcp := socket(conn)
	if tcp == nil || after < 0 {
		return func() {}
	}
	every := max(after/watchLooks, time.Millisecond)
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{ // an error shows itself when the connection is used
		Enable:   true,
		Idle:     max(every, time.Second), // the systems count in seconds
		Interval: max(every, time.Second),
		Count:    watchLooks - 1,
	})
	askOften(tcp, every)
	if !tellsSilence {
		return func() {}
	}
	w := &watch{tcp: tcp, after: after, every: every, vanished: vanished}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(every, w.look)
	return w.stop
}

// socket returns the TCP connection at the bottom of conn, or nil.
func socket(conn net.Conn) *net.TCPConn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

type watch struct {
	tcp          *net.TCPConn
	after, every time.Duration
	vanished     func()

	mu      sync.Mutex
	stopped bool        // guarded by mu
	timer   *time.Timer // guarded by mu
}

func (w *watch) look() {
	silent, err := silence(w.tcp)
	if err != nil {
		return // the connection is closed
	}
	if silent >= w.after {
		w.vanished()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.timer.Reset(w.every)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
}
