package secretstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// ErrClosed is returned by what needs an app that has been closed.
var ErrClosed = errors.New("secretstack: the app is closed")

// errNotStarted is returned to plugins that dial in Init.
var errNotStarted = errors.New("secretstack: the app has not started yet")

// App is a running node: an identity that listens, dials and serves what its plugins offer. All its methods may be
// called by many goroutines.
type App struct {
	cfg        *resolved
	log        *slog.Logger
	peerLog    *slog.Logger // of sessions
	admitFalse bool
	mux        *muxrpc.Mux

	// Added to by Init, one plugin after the other; set once the app has started.
	sets       map[string]muxrpc.Permissions
	hooks      []hook
	transports []multiserver.Transport
	transforms []multiserver.Transform
	auth       muxrpc.Handler // "auth" with its hooks
	address    muxrpc.Handler // "address" with its hooks
	server     *multiserver.Server

	life      context.Context // of sessions: ends when the app has closed
	endLife   context.CancelFunc
	work      context.Context // of what plugins do in the background, and of dialling: ends when the app begins to close
	stopWork  context.CancelFunc
	ready     chan struct{} // closed by letIn when incoming connections need not wait any more
	letIn     func()
	closeOnce sync.Once
	hurry     context.Context // ends when somebody will not wait any longer for the app to close
	hurryUp   context.CancelFunc
	done      chan struct{}
	closeErr  error // set before done is closed

	mu           sync.Mutex // guards what follows, and is not held while anything waits or a plugin is called
	state        state
	peers        map[[32]byte]*Peer // the newest with that key
	open         int                // connections whose end the plugins have not been told yet
	jobs         map[string]int     // background work that is running, by plugin
	queued       []job              // background work for when the app has started
	idle         *time.Timer        // ends idle connections; nil while there is nobody
	changed      chan struct{}      // closed, and replaced, when open or jobs become fewer
	exports      []any
	detach       func() bool       // stops watching the context of Start
	self         []*muxrpc.Session // both ends of the app's session with itself, when made
	dir          string            // of the plugins' folders, when made
	temporary    bool              // dir is removed at the end
	onListening  []func()
	onConnect    []func(*Peer)
	onDisconnect []func(*Peer)
	onClose      []func()
}

// state is where an app is in its life; it only ever grows.
type state int

const (
	starting state = iota // plugins are being initialised
	opening               // it begins to listen
	running
	closing
)

// hook is a plugin's wish to wrap a method.
type hook struct {
	by     string
	method string
	wrap   muxrpc.Hook
}

// job is background work of a plugin.
type job struct {
	by string
	f  func(ctx context.Context)
}

func newApp(cfg *resolved, admitFalse bool) *App {
	a := &App{
		cfg:        cfg,
		log:        cfg.log.With("app", cfg.identity.Public().Short()),
		admitFalse: admitFalse,
		mux:        muxrpc.NewMux(),
		sets:       map[string]muxrpc.Permissions{},
		ready:      make(chan struct{}),
		done:       make(chan struct{}),
		peers:      map[[32]byte]*Peer{},
		jobs:       map[string]int{},
		changed:    make(chan struct{}),
	}
	a.peerLog = slog.New(peerLog{a.log.Handler()})
	a.letIn = sync.OnceFunc(func() { close(a.ready) })
	a.life, a.endLife = context.WithCancel(context.Background())
	a.work, a.stopWork = context.WithCancel(a.life)
	a.hurry, a.hurryUp = context.WithCancel(context.Background())
	return a
}

// start initialises the plugins and begins to listen.
func (a *App) start(ctx context.Context, entries []entry) error {
	if err := a.core(); err != nil {
		return err
	}
	for _, e := range entries {
		mergeSets(a.sets, e.info.Permissions, e.mount)
		if err := e.plugin.Init(ctx, &Setup{app: a, entry: e}); err != nil {
			return fmt.Errorf("secretstack: plugin %q: %w", e.label(), err)
		}
	}
	a.advance(opening)
	if err := a.checkPermissions(entries); err != nil {
		return err
	}
	if err := a.applyHooks(); err != nil {
		return err
	}
	if err := a.listen(ctx); err != nil {
		return err
	}
	for _, f := range a.run() {
		f()
	}
	a.letIn()
	detach := context.AfterFunc(ctx, func() { _ = a.Close(context.Background()) })
	a.mu.Lock()
	a.detach = detach
	a.mu.Unlock()
	return nil
}

func (a *App) hasStarted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state > starting
}

// advance moves the app to a later state.
func (a *App) advance(to state) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = max(a.state, to)
}

// applyHooks wraps the methods in the order in which the hooks were added, and keeps those that the app itself calls.
func (a *App) applyHooks() error {
	keep := func(into *muxrpc.Handler) muxrpc.Hook {
		return func(h muxrpc.Handler) muxrpc.Handler {
			*into = h
			return h
		}
	}
	hooks := append(slices.Clip(a.hooks),
		hook{method: authMethod, wrap: keep(&a.auth)},
		hook{method: addressMethod, wrap: keep(&a.address)})
	for _, h := range hooks {
		err := a.mux.Hook(h.method, h.wrap)
		if errors.Is(err, muxrpc.ErrNoMethod) {
			return fmt.Errorf("secretstack: plugin %q hooks the method %q, which no plugin has", h.by, h.method)
		}
		if err != nil {
			return fmt.Errorf("secretstack: plugin %q: %w", h.by, err)
		}
	}
	return nil
}

func (a *App) listen(ctx context.Context) error {
	if len(a.transforms) == 0 {
		return errors.New("secretstack: an app needs at least 1 transform protocol; a plugin such as SHSPlugin adds one")
	}
	server, err := multiserver.New(multiserver.Options{
		Transports: a.transports,
		Transforms: a.transforms,
		Config:     a.cfg.conns,
		Limits:     multiserver.Limits{HandshakeTimeout: a.cfg.handshake, MaxPending: a.cfg.maxPending},
		OnConn:     a.incoming,
		Logger:     a.log,
	})
	if err != nil {
		return err // it names the part of the configuration that is wrong
	}
	a.server = server
	return server.Listen(ctx)
}

// run starts the background work of the plugins and returns who wants to know that the app listens.
func (a *App) run() (onListening []func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = max(a.state, running)
	for _, j := range a.queued {
		a.spawn(j)
	}
	a.queued = nil
	return a.onListening
}

// ID returns the key that names the app.
func (a *App) ID() keys.PublicKey { return a.cfg.identity.Public() }

// Address returns the addresses at which peers in the scope reach the app, joined with ';', or "" when there are none.
// It is what the method "address" answers, hooks included. The empty scope is [multiserver.Device].
func (a *App) Address(scope multiserver.Scope) string {
	if a.address == nil {
		return "" // the app has not started yet
	}
	return a.addressNow(scope)
}

func (a *App) listensAt(scope multiserver.Scope) string {
	if a.server == nil {
		return ""
	}
	return a.server.Address(scope)
}

// Manifest returns the names and types of all methods that the app serves. The caller may change it.
func (a *App) Manifest() muxrpc.Manifest { return a.mux.Manifest() }

// Permissions returns a permission set by its name: what the plugins have added to it. A set that nobody has added to
// allows nothing.
func (a *App) Permissions(set string) muxrpc.Permissions { return explicit(a.sets[set]) }

// Config returns a copy of the settings that all plugins share, under "global"; the app's secrets are not among them.
func (a *App) Config() Settings { return Settings{globalKey: a.cfg.settings.shared()} }

// Connections returns what the app is configured to listen on and to dial with, defaults included.
func (a *App) Connections() multiserver.Config {
	return multiserver.Config{Incoming: maps.Clone(a.cfg.conns.Incoming), Outgoing: maps.Clone(a.cfg.conns.Outgoing)}
}

// Done is closed when the app has closed.
func (a *App) Done() <-chan struct{} { return a.done }

// Self returns a session with the app itself: whoever has it may call all methods, with their hooks. It ends with the
// app; closing it is an error of the caller.
func (a *App) Self() *muxrpc.Session {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.self == nil {
		a.self = a.newSelf()
	}
	if a.state == closing { // Close may have ended the sessions it knew of already
		for _, end := range a.self {
			go end.Abort(ErrClosed)
		}
	}
	return a.self[0]
}

// newSelf makes both ends of a session. The app serves on one what is called on the other, and is the peer of both.
func (a *App) newSelf() []*muxrpc.Session {
	here, there := net.Pipe()
	open := make(chan struct{})
	defer close(open)
	var ends []*muxrpc.Session
	for _, conn := range []net.Conn{here, there} {
		p := &Peer{app: a}
		p.Session = muxrpc.New(a.life, &pipeGate{Conn: conn, open: open}, muxrpc.Options{
			Mux: a.mux, Peer: p, Limits: a.cfg.limits, Logger: a.log,
		})
		ends = append(ends, p.Session)
	}
	return ends
}

// pipeGate is the gate of the app's session with itself.
type pipeGate struct {
	net.Conn
	open chan struct{}
}

func (g *pipeGate) Read(b []byte) (int, error) {
	<-g.open
	return g.Conn.Read(b)
}

// AddressOf returns the address of a peer by its parts: with the transport onion when the host's name ends with
// ".onion", with net otherwise.
func AddressOf(host string, port uint16, key keys.PublicKey) string {
	transport := "net"
	if isOnion(host) {
		transport = "onion"
	}
	return multiserver.HostPortPart(transport, host, port).String() + "~shs:" + key.Base64()
}

// stateDir returns the folder of the plugins' folders.
func (a *App) stateDir() (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state == closing {
		return "", ErrClosed
	}
	if a.dir != "" {
		return a.dir, nil
	}
	if a.cfg.dir != "" {
		a.dir = a.cfg.dir
		return a.dir, nil
	}
	dir, err := os.MkdirTemp("", "secretstack-*")
	if err != nil {
		return "", fmt.Errorf("secretstack: %w", err)
	}
	a.dir, a.temporary = dir, true
	return dir, nil
}

// background runs f when the app has started, and not at all once it closes.
func (a *App) background(by string, f func(ctx context.Context)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch a.state {
	case starting, opening:
		a.queued = append(a.queued, job{by, f})
	case running:
		a.spawn(job{by, f})
	}
}

// spawn runs background work. The caller holds mu.
func (a *App) spawn(j job) {
	a.jobs[j.by]++
	go func() {
		defer a.jobDone(j.by)
		j.f(a.work)
	}()
}

func (a *App) jobDone(by string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jobs[by]--; a.jobs[by] == 0 {
		delete(a.jobs, by)
	}
	a.signal()
}

// signal wakes those who wait for connections or jobs to end. The caller holds mu.
func (a *App) signal() {
	close(a.changed)
	a.changed = make(chan struct{})
}
