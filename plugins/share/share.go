// Package share publishes local services to peers, and reaches those of other peers: whatever speaks over a TCP
// connection or a unix socket. Between the two peers runs a stream of bytes, end to end encrypted, with an authentic end in
// either direction.
//
// An app that has the plugin shares with [Shares.Share] and reaches others with [Shares.Connect], or with [Shares.Forward]
// for a local port:
//
//	stack.Use(hubclient.Plugin(…), share.Plugin(share.Config{}))
//	…
//	shares, _ := secretstack.Find[*share.Shares](app)
//	err := shares.Share(ctx, share.Service{Name: "web", Dial: share.TCP("127.0.0.1:3000"), Allow: allow})
//
// Programs of the app's owner share over the owner's own socket, with the method share.publish, which no other peer may
// call. See docs/PROTOCOL.md §13.
package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

const (
	name = "share"
	// protocol is what is spoken between two plugins.
	protocol = "share"
)

// Streams carries streams of bytes to peers and from them. The plugin finds it among what other plugins of the app export:
// the Client of plugins/hubclient is one.
type Streams interface {
	DialStream(ctx context.Context, address, protocol string) (*multiserver.Conn, error)
	HandleStream(protocol string, serve func(ctx context.Context, conn *multiserver.Conn)) error
}

// Config configures the plugin. The zero value is fit for use.
type Config struct {
	// MaxConns bounds the connections to all services at a time, and MaxPerPeer those of one peer. Zero: 4096, 256.
	MaxConns, MaxPerPeer int
	// RequestTimeout is how long a peer may take to say what it wants, or to answer that. Zero: 15 seconds.
	RequestTimeout time.Duration
	// DialTimeout is how long a local service may take to take a connection. Zero: 10 seconds.
	DialTimeout time.Duration
}

func (c *Config) setDefaults() {
	if c.MaxConns <= 0 {
		c.MaxConns = 4096
	}
	if c.MaxPerPeer <= 0 {
		c.MaxPerPeer = 256
	}
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 15 * time.Second
	}
	if c.DialTimeout <= 0 {
		c.DialTimeout = 10 * time.Second
	}
}

// Service is what is shared.
type Service struct {
	// Name is what peers ask for: 1 to 64 of letters, digits, ".", "-", "_" and ":".
	Name string
	// Dial connects to the service. See [TCP] and [Unix].
	Dial func(ctx context.Context) (net.Conn, error)
	// Allow says who may connect. It is asked for each connection, perhaps twice, and by [Shares.Recheck]. Nil: nobody may.
	Allow func(peer keys.PublicKey) bool
	// Watch is told of every connection, in the order of what happens to it, and must not block. Nil: nobody is.
	Watch func(e Event)
	// Meter counts what passes. Nil: nothing does.
	Meter *Meter
}

// The kinds of Event.
const (
	Shared  = "shared"  // the service is shared from now on
	Traffic = "traffic" // bytes have passed: Sent and Received are those of all connections so far
	Opened  = "opened"  // a peer has been connected
	Closed  = "closed"  // it has been disconnected
	Refused = "refused" // it may not connect
	Failed  = "failed"  // the local service did not take the connection
)

// Event is something that happens to a service, or to a forwarded port.
type Event struct {
	Type string         `json:"type"`
	Peer keys.PublicKey `json:"peer,omitzero"`
	// Conn numbers the connection.
	Conn uint64    `json:"conn,omitempty"`
	Time time.Time `json:"time"`
	// Sent and Received are bytes to the peer and from it, when the connection is closed.
	Sent     uint64 `json:"sent,omitempty"`
	Received uint64 `json:"received,omitempty"`
	// Error says what went wrong, if anything did. Err is the same for programs; it does not travel.
	Error string `json:"error,omitempty"`
	Err   error  `json:"-"`
}

// TCP connects to a service at host:port.
func TCP(address string) func(ctx context.Context) (net.Conn, error) { return dialler("tcp", address) }

// Unix connects to a service at a unix socket.
func Unix(path string) func(ctx context.Context) (net.Conn, error) { return dialler("unix", path) }

func dialler(network, address string) func(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) }
}

var (
	// ErrName says that a service cannot have the name.
	ErrName = errors.New("share: a name is 1 to 64 letters, digits, dots, dashes, colons and underscores")
	// ErrTaken says that a service with the name is shared already.
	ErrTaken = errors.New("share: a service of this name is shared already")
)

// Plugin lets an app share services and connect to those of others. It needs the plugin hubclient, or another with the
// name that exports [Streams].
func Plugin(cfg Config) secretstack.Plugin {
	cfg.setDefaults()
	return secretstack.NewPlugin(secretstack.Info{Name: name, Needs: []string{"hubclient"}}, func(_ context.Context, s *secretstack.Setup) error {
		streams, ok := secretstack.Find[Streams](s.App())
		if !ok {
			return errors.New("share: no plugin exports streams")
		}
		sh := &Shares{
			cfg: cfg, app: s.App(), streams: streams, log: s.Logger(), closing: make(chan struct{}),
			services: map[string]*service{}, perPeer: map[[32]byte]int{}, visits: map[uint64]*visit{},
		}
		s.Export(sh)
		s.OnClose(func() { close(sh.closing) })
		return errors.Join(sh.mount(s), streams.HandleStream(protocol, sh.serve))
	})
}

// Shares is what an app shares, and its way to what others do.
type Shares struct {
	cfg     Config
	app     *secretstack.App
	streams Streams
	log     *slog.Logger
	closing chan struct{} // closed when the app begins to close

	mu       sync.Mutex
	services map[string]*service // guarded by mu
	conns    int                 // guarded by mu
	perPeer  map[[32]byte]int    // guarded by mu: conns
	numbers  uint64              // guarded by mu: connections so far
	visits   map[uint64]*visit   // guarded by mu: connections to services, by number
}

// visit is a connection to a service.
type visit struct {
	peer keys.PublicKey
	sv   *service
	cut  context.CancelCauseFunc
}

// service is a shared service. Its context ends when it is not shared any more.
type service struct {
	Service
	ctx   context.Context
	meter *Meter
}

// Meter counts bytes as they pass. The zero value is ready for use.
type Meter struct{ sent, received atomic.Uint64 }

// Read returns how many bytes have gone to peers and come from them.
func (m *Meter) Read() (sent, received uint64) { return m.sent.Load(), m.received.Load() }

// Share shares a service until ctx ends; then its connections are cut. It returns at once. Its error is [ErrName] or
// [ErrTaken].
func (s *Shares) Share(ctx context.Context, sv Service) error {
	if !validName(sv.Name) {
		return fmt.Errorf("%w, not %q", ErrName, sv.Name)
	}
	if sv.Dial == nil {
		return errors.New("share: a service needs Dial")
	}
	one := &service{sv, ctx, sv.Meter}
	if one.meter == nil {
		one.meter = new(Meter)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.services[sv.Name]; old != nil && old.ctx.Err() == nil {
		return fmt.Errorf("%w: %s", ErrTaken, sv.Name)
	}
	s.services[sv.Name] = one
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.services[sv.Name] == one {
			delete(s.services, sv.Name)
		}
	})
	return nil
}

// errNotAllowed is why a connection is cut.
var errNotAllowed = errors.New("share: the peer may not connect any more")

// Recheck asks anew who may connect to the service of a name, and cuts the connections of those who may not.
func (s *Shares) Recheck(name string) {
	s.mu.Lock()
	var all []*visit
	for _, v := range s.visits {
		if v.sv.Name == name {
			all = append(all, v)
		}
	}
	s.mu.Unlock()
	for _, v := range all {
		if !v.sv.Allow(v.peer) {
			v.cut(errNotAllowed)
		}
	}
}

// begin makes a connection known to Recheck until the returned function is called.
func (s *Shares) begin(number uint64, v *visit) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits[number] = v
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.visits, number)
	}
}

// allowed returns the services that a peer may connect to, by name.
func (s *Shares) allowed(peer keys.PublicKey) map[string]*service {
	s.mu.Lock()
	all := make([]*service, 0, len(s.services))
	for _, sv := range s.services {
		all = append(all, sv)
	}
	s.mu.Unlock()
	mine := map[string]*service{}
	for _, sv := range all {
		if sv.ctx.Err() == nil && sv.Allow != nil && sv.Allow(peer) {
			mine[sv.Name] = sv
		}
	}
	return mine
}

// tell tells whoever watches the service. Peers that may not connect are told to all services that they can have meant.
func (sv *service) tell(e Event) {
	if sv.Watch != nil {
		e.Time = time.Now()
		sv.Watch(e)
	}
}

// named returns the shared services of a name; all for "".
func (s *Shares) named(name string) []*service {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*service
	for _, sv := range s.services {
		if name == "" || sv.Name == name {
			all = append(all, sv)
		}
	}
	return all
}

// enter counts a connection, unless there are too many.
func (s *Shares) enter(peer keys.PublicKey) (number uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := peer.Array()
	if s.conns >= s.cfg.MaxConns || s.perPeer[key] >= s.cfg.MaxPerPeer {
		return 0, false
	}
	s.conns++
	s.perPeer[key]++
	s.numbers++
	return s.numbers, true
}

func (s *Shares) leave(peer keys.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := peer.Array()
	s.conns--
	if s.perPeer[key]--; s.perPeer[key] == 0 {
		delete(s.perPeer, key)
	}
}

func validName(name string) bool {
	const longest = 64
	if name == "" || len(name) > longest {
		return false
	}
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:"
	return !strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(allowed, r) })
}
