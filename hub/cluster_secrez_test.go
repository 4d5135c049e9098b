package hub_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack/secrez"
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

// whatIsSignedCountsOnce registers at all nodes at once with what was signed once: whoever has seen that opens no port at another.
func whatIsSignedCountsOnce(t *testing.T, nodes []*running) {
	t.Helper()
	account, err := secrez.FromIdentity(identity(t, "carol"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := account.SignPayload(map[string]any{"id": 0}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var took atomic.Int64
	ask := func(r *running) {
		if status, _ := registerAs(t, r, signed); status == http.StatusOK {
			took.Add(1)
		}
	}
	var all sync.WaitGroup
	for _, r := range nodes {
		all.Go(func() { ask(r) })
	}
	all.Wait()
	if took.Load() != 1 {
		t.Errorf("%d nodes have taken what was signed once", took.Load())
	}
}

func TestACourierOfSecrezIsReachedThroughAnotherNode(t *testing.T) {
	nodes := startNodes(t, 3)
	whatIsSignedCountsOnce(t, nodes)
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
