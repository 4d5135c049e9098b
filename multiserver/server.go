package multiserver

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what peers that have proved nothing can cost.
type Limits struct {
	// HandshakeTimeout is the deadline of a whole handshake, on either side.
	// 0 means 5 seconds.
	HandshakeTimeout time.Duration
	// MaxPending is how many accepted connections may be without a proven key
	// at one time. Above it the oldest of them makes room: whoever means well is
	// done within moments. 0 means 256.
	MaxPending int
	// DialTimeout bounds the transport's part of one attempt to dial. 0 means
	// 15 seconds.
	DialTimeout time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.HandshakeTimeout <= 0 {
		l.HandshakeTimeout = 5 * time.Second
	}
	if l.MaxPending <= 0 {
		l.MaxPending = 256
	}
	if l.DialTimeout <= 0 {
		l.DialTimeout = 15 * time.Second
	}
	return l
}

// Options configures [New].
type Options struct {
	// Transports and Transforms are all there is to choose from. Addresses are
	// advertised in their order.
	Transports []Transport
	Transforms []Transform
	// Config says which of them to listen with and to dial with; what it leaves
	// out is not done. See [DefaultConfig].
	Config Config
	// Limits bound what strangers can cost.
	Limits Limits
	// OnConn gets every connection that was accepted and whose handshake is
	// done. It owns the connection. It runs in a goroutine of the server, for
	// which Close waits: start another for the life of the connection. Nil
	// means that connections are closed.
	OnConn func(*Conn)
	// Logger gets what goes wrong with peers; nil discards it.
	Logger *slog.Logger
	// Interfaces lists this machine's network interfaces; nil means
	// [SystemInterfaces].
	Interfaces func() ([]Interface, error)
}

// PeerError is a failure with one peer: the transport could not reach it, or
// the handshake failed.
type PeerError struct {
	// Address is the peer's address; for one that dialled us, its transport
	// part and the name of the transform.
	Address string
	// Err says what happened.
	Err error
}

// Error returns the address and what happened.
func (e *PeerError) Error() string { return "multiserver: " + e.Address + ": " + e.Err.Error() }

// Unwrap returns what happened.
func (e *PeerError) Unwrap() error { return e.Err }

var (
	// ErrServerClosed is returned by a Server that is closed.
	ErrServerClosed = errors.New("multiserver: the server is closed")

	// errHandshakeTimeout and errDialTimeout are the causes of ended contexts.
	errHandshakeTimeout = fmt.Errorf("the handshake was not done in time: %w", context.DeadlineExceeded)
	errDialTimeout      = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
)

// Stats counts connections that were accepted.
type Stats struct {
	Pending  int    // have not proved a key yet
	Accepted uint64 // have proved a key
	Failed   uint64 // failed to
	Refused  uint64 // closed before that because MaxPending was reached
}

// Server listens for peers and dials them.
type Server struct {
	opts   Options
	limits Limits
	log    *slog.Logger
	routes []route // what may be dialled

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	began     bool        // guarded by mu: Listen was called
	closed    bool        // guarded by mu
	listeners []listening // guarded by mu

	lobby            lobby
	accepted, failed atomic.Uint64
}

type listening struct {
	Listener
	transform Transform
}

// route is one way to dial: a transport with a transform.
type route struct {
	transport Transport
	transform Transform
}

func (r route) String() string { return r.transport.Name() + "~" + r.transform.Name() }

// New checks the options and makes a server, which does nothing yet.
func New(opts Options) (*Server, error) {
	s := &Server{opts: opts, limits: opts.Limits.withDefaults(), log: opts.Logger}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.lobby = lobby{limit: s.limits.MaxPending, log: s.log}
	if err := s.checkNames(); err != nil {
		return nil, err
	}
	if err := s.checkConfig(); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s, nil
}

func (s *Server) checkNames() error {
	seen := map[string]bool{}
	for _, name := range slices.Concat(namesOf(s.opts.Transports), namesOf(s.opts.Transforms)) {
		if seen[name] {
			return fmt.Errorf("multiserver: there are two protocols with the name %q", name)
		}
		seen[name] = true
	}
	return nil
}

func namesOf[P PartParser](parsers []P) []string {
	var all []string
	for _, p := range parsers {
		all = append(all, p.Name())
	}
	return all
}

// checkConfig resolves the names in the configuration.
func (s *Server) checkConfig() error {
	for _, name := range slices.Sorted(maps.Keys(s.opts.Config.Incoming)) {
		for _, in := range s.opts.Config.Incoming[name] {
			if _, err := s.route("incoming", name, in.Transform); err != nil {
				return err
			}
			for _, scope := range in.Scope {
				if _, err := ParseScope(string(scope)); err != nil {
					return err
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.opts.Config.Outgoing)) {
		for _, out := range s.opts.Config.Outgoing[name] {
			if _, err := s.route("outgoing", name, out.Transform); err != nil {
				return err
			}
		}
	}
	for _, t := range s.opts.Transports {
		for _, out := range s.opts.Config.Outgoing[t.Name()] {
			r, err := s.route("outgoing", t.Name(), out.Transform)
			if err != nil {
				return err
			}
			s.routes = append(s.routes, r)
		}
	}
	return nil
}

func (s *Server) route(section, transport, transform string) (route, error) {
	i := slices.IndexFunc(s.opts.Transports, func(t Transport) bool { return t.Name() == transport })
	if i < 0 {
		return route{}, fmt.Errorf("multiserver: connections.%s names the transport %q, which is not known here; known: %s",
			section, transport, names(s.opts.Transports))
	}
	j := slices.IndexFunc(s.opts.Transforms, func(t Transform) bool { return t.Name() == transform })
	switch {
	case transform == "":
		return route{}, fmt.Errorf("multiserver: an entry of connections.%s.%s has no transform; known: %s",
			section, transport, names(s.opts.Transforms))
	case j < 0:
		return route{}, fmt.Errorf("multiserver: connections.%s.%s names the transform %q, which is not known here; known: %s",
			section, transport, transform, names(s.opts.Transforms))
	}
	return route{s.opts.Transports[i], s.opts.Transforms[j]}, nil
}

// Known returns the transports and transforms of the server, to check addresses
// against.
func (s *Server) Known() Known {
	var k Known
	for _, t := range s.opts.Transports {
		k.Transports = append(k.Transports, t)
	}
	for _, t := range s.opts.Transforms {
		k.Transforms = append(k.Transforms, t)
	}
	return k
}

// Parse reads the addresses that a person typed, by the strict rules, with the
// transports and transforms of the server.
func (s *Server) Parse(text string) ([]Address, error) { return s.Known().Parse(text) }

// Listen begins to listen on everything that is configured and returns once
// peers can connect. When something cannot be listened on, it says what and
// nothing is. ctx bounds the beginning only. It can be called once.
func (s *Server) Listen(ctx context.Context) error {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return ErrServerClosed
	case s.began:
		s.mu.Unlock()
		return errors.New("multiserver: Listen was called before")
	}
	s.began = true
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrServerClosed) })
	defer stop()

	listeners, err := s.openAll(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(ErrServerClosed, closeAll(listeners))
	}
	s.listeners = listeners
	for _, l := range listeners {
		s.wg.Go(func() { s.accept(l) })
	}
	s.mu.Unlock()
	return nil
}

func (s *Server) openAll(ctx context.Context) ([]listening, error) {
	var listeners []listening
	for _, t := range s.opts.Transports {
		for _, in := range s.opts.Config.Incoming[t.Name()] {
			l, err := s.open(ctx, t, in)
			if err != nil {
				_ = closeAll(listeners)
				return nil, err
			}
			listeners = append(listeners, l)
		}
	}
	return listeners, nil
}

func (s *Server) open(ctx context.Context, t Transport, in Incoming) (listening, error) {
	r, err := s.route("incoming", t.Name(), in.Transform)
	if err != nil {
		return listening{}, err
	}
	if in.Interfaces == nil {
		in.Interfaces = s.opts.Interfaces
	}
	l, err := t.Listen(ctx, in)
	if err != nil {
		return listening{}, fmt.Errorf("multiserver: cannot listen with %s: %w", r, err)
	}
	return listening{l, r.transform}, nil
}

func closeAll(listeners []listening) error {
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Address returns the addresses by which peers in the scope reach this server,
// joined with ';', or "" when there is none.
func (s *Server) Address(scope Scope) string {
	s.mu.Lock()
	listeners := s.listeners
	s.mu.Unlock()
	var all []string
	for _, l := range listeners {
		for _, part := range l.Addresses(scope) {
			all = append(all, part.String()+"~"+l.transform.Address())
		}
	}
	return strings.Join(all, ";")
}

// Stats returns what has been counted so far.
func (s *Server) Stats() Stats {
	pending, refused := s.lobby.counts()
	return Stats{Pending: pending, Accepted: s.accepted.Load(), Failed: s.failed.Load(), Refused: refused}
}

// accept is the loop of one listener.
func (s *Server) accept(l listening) {
	acceptLoop(s.ctx, l.Listener, func(raw net.Conn) { s.admit(l, raw) }, s.log)
}

// admit starts the handshake of one connection.
func (s *Server) admit(l listening, raw net.Conn) {
	place := s.lobby.enter(raw)
	s.wg.Go(func() { s.serve(l, raw, place) })
}

// serve runs the handshake of one connection and hands it over.
func (s *Server) serve(l listening, raw net.Conn, place *list.Element) {
	conn, err := s.handshake(l, raw)
	stayed := s.lobby.leave(place)
	switch {
	case err == nil:
	case !stayed:
		return // it was closed to make room, and counted
	default:
		s.failed.Add(1)
		s.log.Info("a peer that dialled us was turned away", "err", err)
		return
	}
	s.accepted.Add(1)
	if s.opts.OnConn == nil {
		_ = conn.Close()
		return
	}
	s.opts.OnConn(conn)
}

func (s *Server) handshake(l listening, raw net.Conn) (*Conn, error) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, s.limits.HandshakeTimeout, errHandshakeTimeout)
	defer cancel()
	from := PeerPart(raw).String() + "~" + l.transform.Name() + ":"
	conn, err := l.transform.Server(ctx, raw)
	if err != nil {
		return nil, &PeerError{from, err}
	}
	return conn, nil
}

// Dial connects to the first address that answers and whose peer proves its
// key. It tries each in turn, with an equal share of what time ctx leaves.
// When none does, the error wraps a [PeerError] for each attempt. Addresses
// that nothing here can dial are passed over.
func (s *Server) Dial(ctx context.Context, addrs []Address) (*Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if !s.begin() {
		return nil, ErrServerClosed
	}
	defer s.wg.Done()
	stop := context.AfterFunc(s.ctx, func() { cancel(ErrServerClosed) })
	defer stop()

	attempts, errs := s.plan(addrs)
	if len(attempts) == 0 {
		return nil, s.noRoute(addrs, errs)
	}
	for i, a := range attempts {
		conn, err := s.attempt(ctx, a, len(attempts)-i)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, &PeerError{a.addr.Redacted(), err})
		if ctx.Err() != nil {
			break
		}
	}
	return nil, joinErrors(errs)
}

// begin counts a use of the server, for which Close waits.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// attempt is an address and the way to dial it.
type attempt struct {
	route
	addr Address
}

// plan finds the way to dial each address that can be dialled, and what is
// wrong with those that a transport knows but cannot use.
func (s *Server) plan(addrs []Address) (attempts []attempt, errs []error) {
	for _, a := range addrs {
		found, err := s.planOne(a)
		switch {
		case err != nil:
			errs = append(errs, &PeerError{a.Redacted(), err})
		case found != nil:
			attempts = append(attempts, *found)
		}
	}
	return attempts, errs
}

func (s *Server) planOne(a Address) (*attempt, error) {
	var reason error
	for _, r := range s.routes {
		transport, err := r.transport.ParsePart(a.Transport(), Loose)
		if errors.Is(err, ErrOtherPart) {
			continue
		}
		if err != nil {
			return nil, err
		}
		// JavaScript dials an address without a transform in the role of the
		// server, and waits until the peer gives up.
		if len(a) != 2 {
			reason = errors.New("a transport and exactly one transform are needed")
			continue
		}
		transform, err := r.transform.ParsePart(a[1], Loose)
		if err == nil {
			return &attempt{r, Address{transport, transform}}, nil
		}
		if !errors.Is(err, ErrOtherPart) {
			reason = err
		}
	}
	return nil, reason
}

func (s *Server) noRoute(addrs []Address, errs []error) error {
	if len(errs) > 0 {
		return joinErrors(errs)
	}
	know := make([]string, len(s.routes))
	for i, r := range s.routes {
		know[i] = r.String()
	}
	shown := make([]string, len(addrs))
	for i, a := range addrs {
		shown[i] = a.Redacted()
	}
	return fmt.Errorf("multiserver: could not connect to:%s, only know:%s", shorten(strings.Join(shown, ";")), strings.Join(know, ";"))
}

// attempt dials one address when left attempts remain, this one included.
func (s *Server) attempt(ctx context.Context, a attempt, left int) (*Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Until(deadline)/time.Duration(left), errDialTimeout)
		defer cancel()
	}
	raw, err := s.connect(ctx, a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.limits.HandshakeTimeout, errHandshakeTimeout)
	defer cancel()
	return a.transform.Client(ctx, raw, a.addr[1])
}

func (s *Server) connect(ctx context.Context, a attempt) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.limits.DialTimeout, errDialTimeout)
	defer cancel()
	raw, err := a.transport.Dial(ctx, a.addr[0])
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return raw, err
}

// joinErrors keeps one error as it is and puts several on one line.
func joinErrors(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return &dialErrors{errs}
}

type dialErrors struct{ errs []error }

func (e *dialErrors) Error() string {
	texts := make([]string, len(e.errs))
	for i, err := range e.errs {
		texts[i] = strings.TrimPrefix(err.Error(), "multiserver: ")
	}
	return fmt.Sprintf("multiserver: none of %d addresses could be reached: %s", len(e.errs), strings.Join(texts, "; "))
}

func (e *dialErrors) Unwrap() []error { return e.errs }

// Close stops listening, ends every handshake and dial that is under way, and
// waits for all of them and for the calls of OnConn. Connections that were
// handed over stay open. It may be called more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	listeners := s.listeners
	s.mu.Unlock()
	s.cancel(ErrServerClosed)
	err := closeAll(listeners)
	s.wg.Wait()
	return err
}
