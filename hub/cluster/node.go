package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// Node is this machine as one of a cluster's. Its methods may be called concurrently.
type Node struct {
	cfg  Config
	shs  multiserver.Transform
	self string // tells this process from others of the same node

	life    context.Context // ends with Close
	end     context.CancelFunc
	wg      sync.WaitGroup
	kick    chan struct{}      // buffered; published has changed
	answers chan struct{}      // a place for each question that is answered
	links   chan struct{}      // a place for each link of another node
	inbox   chan *nats.Msg     // questions from the bus
	hellos  chan *nats.Msg     // what other nodes say of themselves
	catchUp chan chan struct{} // those who wait until what has come of these was heard
	ready   chan struct{}      // closed when the node is on the bus for the first time
	turns   atomic.Uint64      // what has been said of this node
	counts  counts
	tickets tickets

	mu        sync.Mutex
	published map[presence]bool                     // guarded by mu
	telling   bool                                  // the bus is told of what changes; guarded by mu
	changed   []change                              // of published, not yet told to the bus; guarded by mu
	others    map[string]*other                     // by name; guarded by mu
	partners  map[[keys.PublicKeySize]byte]*partner // by the key of the node; guarded by mu
	closed    bool                                  // guarded by mu
}

// Role is what somebody is looked for as.
type Role uint8

// The roles.
const (
	Courier   Role = iota // who is reached by circuits and HTTP
	Attendant             // who is in the room
	Self                  // a node: its key is in its [Place]
)

// A presence is somebody who is reached through this node.
type presence struct {
	role Role
	key  [keys.PublicKeySize]byte
}

// A change is somebody who has come or gone.
type change struct {
	presence
	here bool
}

// Open joins the others. It waits until the bus is there, or ctx ends, and asks the others for their versions. Its error is
// ErrVersion, ErrUnreachable, or says what is missing in the configuration. The listener is closed if there is one.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:       cfg,
		self:      rand.Text(),
		kick:      make(chan struct{}, 1),
		answers:   make(chan struct{}, cfg.Limits.MaxAnswers),
		links:     make(chan struct{}, cfg.Limits.MaxLinks),
		inbox:     make(chan *nats.Msg, cfg.Limits.MaxAnswers),
		hellos:    make(chan *nats.Msg, mostHellos),
		catchUp:   make(chan chan struct{}),
		ready:     make(chan struct{}),
		published: map[presence]bool{},
		others:    map[string]*other{},
		tickets:   tickets{got: map[[keys.PublicKeySize]byte]*ticket{}, given: map[[ticketName]byte]*ticket{}},
		partners:  map[[keys.PublicKeySize]byte]*partner{},
	}
	n.shs = multiserver.SHS(multiserver.SHSConfig{Identity: cfg.Identity, AppKey: cfg.AppKey})
	n.Publish(Self, cfg.Identity.Public())
	n.life, n.end = context.WithCancel(context.Background())
	n.wg.Go(n.attend)
	n.wg.Go(n.receive)
	n.wg.Go(n.listen)
	n.wg.Go(n.accept)
	select {
	case <-n.ready:
		err = n.meet(ctx)
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", ErrUnreachable, context.Cause(ctx))
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	n.wg.Go(n.greet)
	n.wg.Go(n.watch)
	return n, nil
}

// Close leaves the others. It waits until everything that the node has started has ended. Closing again waits for the same end.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.end()
	err := n.cfg.Listener.Close()
	n.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// run runs f, for which Close waits, unless the node is closed.
func (n *Node) run(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.wg.Go(f)
	}
	return !n.closed
}

// attend keeps the node subscribed to what it has to hear, on one connection after another.
func (n *Node) attend() {
	first := true
	for n.life.Err() == nil {
		conn, changed := n.cfg.Bus.Conn()
		if conn != nil {
			n.serve(conn, changed, func() {
				if first {
					first = false
					close(n.ready)
				}
			})
		}
		select {
		case <-changed:
		case <-n.life.Done():
		case <-time.After(retryPause(conn)):
		}
	}
}

// retryPause is long unless a connection did not do what it should.
func retryPause(conn *nats.Conn) time.Duration {
	if conn == nil {
		return time.Minute
	}
	return 200 * time.Millisecond
}

// serve is attend for one connection. It returns when that is of no use any more.
func (n *Node) serve(conn *nats.Conn, changed <-chan struct{}, subscribed func()) {
	subs := map[presence]*nats.Subscription{}
	hellos, err := conn.ChanSubscribe(subjectHello, n.hellos)
	if err != nil {
		return
	}
	defer func() {
		_ = hellos.Unsubscribe()
		for _, sub := range subs {
			_ = sub.Unsubscribe()
		}
	}()
	defer n.rest()
	todo := n.all()
	for {
		for _, c := range todo {
			if err := n.tell(conn, subs, c, len(todo) <= mostDrained); err != nil {
				n.cfg.Logger.Warn("cluster: presence cannot be told", "err", err)
				return
			}
		}
		if err := n.flush(conn); err != nil {
			return
		}
		subscribed()
		select {
		case <-n.kick:
			todo = n.take()
		case <-changed:
			return
		case <-n.life.Done():
			return
		}
	}
}

// flush waits until the bus has taken in what it was told.
func (n *Node) flush(conn *nats.Conn) error {
	ctx, cancel := context.WithTimeout(n.life, n.cfg.Limits.AskTimeout)
	defer cancel()
	return conn.FlushWithContext(ctx)
}

// mostDrained is how many are given up at a time so that questions under way are answered: each costs a word with the bus.
const mostDrained = 256

// tell tells the bus of a change. Questions about who has gone that are under way are answered if there is time for that; else
// who asks waits, and asks again.
func (n *Node) tell(conn *nats.Conn, subs map[presence]*nats.Subscription, c change, answers bool) error {
	sub := subs[c.presence]
	switch {
	case c.here && sub == nil:
		sub, err := conn.ChanQueueSubscribe(c.subject(), queueGroup, n.inbox)
		if err != nil {
			return err
		}
		subs[c.presence] = sub
	case !c.here && sub != nil:
		delete(subs, c.presence)
		if answers {
			return sub.Drain()
		}
		return sub.Unsubscribe()
	}
	return nil
}

// all gives everything that a new connection must be told.
func (n *Node) all() []change {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.telling, n.changed = true, nil
	all := make([]change, 0, len(n.published))
	for p := range n.published {
		all = append(all, change{p, true})
	}
	return all
}

// rest forgets what has changed: the next connection is told everything, and until there is one nothing must pile up.
func (n *Node) rest() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.telling, n.changed = false, nil
}

// take gives what has changed since.
func (n *Node) take() []change {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := n.changed
	n.changed = nil
	return changed
}

// Publish says that somebody is reached through this node.
func (n *Node) Publish(as Role, key keys.PublicKey) { n.set(presence{as, key.Array()}, true) }

// Withdraw says that it is not any more.
func (n *Node) Withdraw(as Role, key keys.PublicKey) { n.set(presence{as, key.Array()}, false) }

func (n *Node) set(p presence, here bool) {
	n.mu.Lock()
	same := n.published[p] == here
	if here {
		n.published[p] = true
	} else {
		delete(n.published, p)
	}
	if !same && n.telling {
		n.changed = append(n.changed, change{p, here})
	}
	n.mu.Unlock()
	select {
	case n.kick <- struct{}{}:
	default: // it has been kicked
	}
}

func (n *Node) has(p presence) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.published[p]
}
