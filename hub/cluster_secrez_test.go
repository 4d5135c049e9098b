package hub_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// keepSockets keeps as many tunnel sockets open as a courier of Secrez may have: a closed one is replaced.
func keepSockets(t *testing.T, g guest, handler http.Handler) {
	t.Helper()
	sockets := &sockets{to: fmt.Sprintf("127.0.0.1:%d", g.Port), free: make(chan struct{}, g.Count), closed: make(chan struct{})}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(sockets)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
}

// sockets is a listener that connects, until nobody listens any more.
type sockets struct {
	to     string
	free   chan struct{} // has an element for each socket that is open
	once   sync.Once
	closed chan struct{}
}

func (s *sockets) Accept() (net.Conn, error) {
	select {
	case s.free <- struct{}{}:
	case <-s.closed:
		return nil, net.ErrClosed
	}
	c, err := net.Dial("tcp", s.to)
	if err != nil {
		return nil, err
	}
	return &replaced{Conn: c, gone: func() { <-s.free }}, nil
}

func (s *sockets) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *sockets) Addr() net.Addr { return &net.TCPAddr{} }

type replaced struct {
	net.Conn
	once sync.Once
	gone func()
}

func (k *replaced) Close() error {
	defer k.once.Do(k.gone)
	return k.Conn.Close()
}

func TestACourierOfSecrezIsReachedThroughAnotherNode(t *testing.T) {
	nodes := startNodes(t, 3)
	a, b := nodes[0], nodes[1]
	status, g := register(t, a, "alice", nil)
	if status != http.StatusOK {
		t.Fatal(status)
	}
	keepSockets(t, g, says("alice"))
	url := "http://" + g.ID.String() + "." + domain + "/there"
	client := b.visitor()
	for range 2 * g.Count { // more often than there are sockets
		eventually(t, "the courier is reached", func() bool {
			status, body := get(t, client, url)
			return status == http.StatusOK && strings.HasPrefix(body, "alice "+g.ID.String())
		})
	}
	a.end()
	eventually(t, "the courier is away", func() bool {
		status, _ := get(t, client, url)
		return status == http.StatusServiceUnavailable
	})
}
