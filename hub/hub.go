package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/port"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/secrezapi"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/ws"
	"github.com/secretstack/secretstack/plugins/room"
	"github.com/secretstack/secretstack/secrez"
)

// Hub is a running hub. All its methods may be called concurrently.
type Hub struct {
	cfg      Config // what does not change; see live
	identity *keys.Identity
	log      *slog.Logger
	started  time.Time
	places   places

	registry    *registry.Registry
	admission   *admission.Admission
	mailboxes   *mailbox.Mailboxes
	pools       *vhost.Pools
	guests      guests
	secrez      *secrezapi.Handler
	vhost       *vhost.Handler
	ws          *ws.Transport
	circuits    *circuits.Table
	circuitWS   *ws.Transport
	circuitEnds multiserver.Listener // WebSockets that are ends of circuits
	intake      *intake
	directory   *directory
	visitors    visitors
	observer    *admin.Observer
	app         *secretstack.App
	room        *room.Room

	mailReaders turns // calls of hub.mailbox
	mailKeepers turns // calls of hub.acknowledge

	nodes     nodes
	live      atomic.Pointer[Config] // what Reload changes
	reloading sync.Mutex             // one Reload at a time
	port      atomic.Pointer[port.Port]
	draining  atomic.Bool
	operator  atomic.Pointer[string] // see OperatorAt
	ready     atomic.Bool            // New is done
	stop      chan struct{}          // closed when nothing new is to be accepted
	stopOnce  sync.Once
	life      context.Context // ends when the hub begins to close
	end       context.CancelFunc

	mu        sync.Mutex // guards what follows
	listeners []net.Listener
	server    *http.Server // nil: not served yet
	served    bool
	closed    bool
	jobs      sync.WaitGroup // Add only while closed is false

	closeOnce sync.Once
	closeErr  error
}

// New opens a hub: its listeners, its registry, its lists. Peers are served from [Hub.Serve] on, and requests as soon as
// New has returned. ctx bounds the opening, not the hub's life. Its error is [ErrConfig]; registry.ErrLocked,
// registry.ErrDamaged or registry.ErrUnavailable where the data folder is the reason; or says what could not be opened.
func New(ctx context.Context, cfg Config) (*Hub, error) {
	if err := cfg.check(); err != nil {
		closeAll(cfg.Listeners)
		return nil, err
	}
	cfg = cfg.withDefaults()
	h := &Hub{
		cfg: cfg, identity: cfg.Identity, log: cfg.Logger, started: time.Now(), stop: make(chan struct{}),
		intake: newIntake(), directory: newDirectory(cfg.Limits), observer: admin.NewObserver(),
	}
	h.live.Store(&cfg)
	h.life, h.end = context.WithCancel(context.Background())
	for _, open := range []func(context.Context) error{
		h.openListeners, h.openDir, h.openLinks, h.openRegistry, h.patiently(h.openAdmission), h.patiently(h.openMailboxes),
		h.openPools, h.patiently(h.openSecrez), h.openCircuits, h.openWeb, h.openApp, h.openCluster,
	} {
		if err := open(ctx); err != nil {
			return nil, errors.Join(err, h.Close(ctx))
		}
	}
	h.ready.Store(true)
	return h, nil
}

// openDir makes the data folder, and loads the hub's identity or makes it.
func (h *Hub) openDir(context.Context) error {
	if err := os.MkdirAll(h.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("hub: the data folder cannot be made: %w", err)
	}
	if h.cfg.Cluster != nil {
		if err := h.keepIdentity(); err != nil {
			return err
		}
	}
	if !h.identity.IsZero() {
		return nil
	}
	id, err := keys.LoadOrCreate(filepath.Join(h.cfg.Dir, secretFile), keys.FileOptions{})
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	h.identity = id
	return nil
}

// keepIdentity puts the cluster's identity into a node's data folder, so that its backup is that of a whole hub. A folder that has
// another one is another hub's.
func (h *Hub) keepIdentity() error {
	h.identity = h.cfg.Cluster.Credential.Identity()
	file := filepath.Join(h.cfg.Dir, secretFile)
	err := keys.Save(file, h.identity, keys.FileOptions{})
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("hub: %w", err)
	}
	there, err := keys.Load(file, keys.FileOptions{})
	switch {
	case errors.Is(err, keys.ErrPassphrase):
		return nil // whose it is cannot be seen
	case err != nil:
		return fmt.Errorf("hub: %w", err)
	case !there.Public().Equal(h.identity.Public()):
		return fmt.Errorf("%w: Cluster.Credential: it is of the hub %s, and the data in %s are of the hub %s: use that hub's "+
			"credential, or an empty folder", ErrConfig, h.identity.Public().Short(), h.cfg.Dir, there.Public().Short())
	}
	return nil
}

// Listen opens what Config.Listen names, all or none, for Config.Listeners. Its error is [ErrConfig] if New's would be.
func Listen(ctx context.Context, cfg Config) ([]net.Listener, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	var config net.ListenConfig
	var listeners []net.Listener
	for _, address := range cfg.Listen {
		ln, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("hub: %w", err)
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, ln := range listeners {
		_ = ln.Close()
	}
}

// openListeners comes first: where a port is somebody else's, nothing is written.
func (h *Hub) openListeners(ctx context.Context) error {
	h.listeners = h.cfg.Listeners
	if h.listeners == nil {
		var err error
		if h.listeners, err = Listen(ctx, h.cfg); err != nil {
			return err
		}
	}
	for _, ln := range h.listeners {
		if err := h.intake.advertise(ctx, ln, h.cfg.Domain); err != nil {
			return err
		}
	}
	var first net.Addr
	if len(h.listeners) > 0 {
		first = h.listeners[0].Addr()
	}
	h.places = placesOf(h.cfg, first)
	return nil
}

func (h *Hub) openRegistry(ctx context.Context) (err error) {
	shared, err := h.registryCluster()
	if err != nil {
		return err
	}
	cfg := registry.Config{
		Dir: filepath.Join(h.cfg.Dir, registryDir), Identity: h.identity, Logger: h.log, Limits: h.cfg.Limits.Registry, Cluster: shared,
		Lost: h.lost,
	}
	if shared != nil {
		cfg.Replicas = h.cfg.Cluster.Replicas
	}
	h.registry, err = registry.Open(ctx, cfg)
	return err
}

func (h *Hub) openAdmission(ctx context.Context) error {
	rules, err := h.registry.Bucket(ctx, admission.RulesBucket)
	if err != nil {
		return err
	}
	invites, err := h.registry.Bucket(ctx, admission.InvitesBucket)
	if err != nil {
		return err
	}
	h.admission, err = admission.Open(ctx, admission.Config{
		Mode: h.cfg.Mode, Rules: rules, Invites: invites, Fixed: h.cfg.Rules, Limits: h.cfg.Limits.Admission, Logger: h.log,
		OnChange: h.recheck,
		IDOf: func(key keys.PublicKey) secrez.ID {
			rec, _ := h.registry.LookupKey(key)
			return rec.ID
		},
	})
	return err
}

// openApp starts the node that peers connect to.
func (h *Hub) openApp(context.Context) error {
	l := h.cfg.Limits
	stack := secretstack.New(secretstack.Options{Bare: true})
	cfg := room.Config{
		Name: h.cfg.Name, MaxTunnels: l.MaxTunnels, MaxTunnelsPerPeer: l.MaxTunnelsPerPeer, TunnelIdle: l.TunnelIdle,
		Member: func(key keys.PublicKey) bool {
			_, known := h.registry.LookupKey(key)
			return known
		},
		Changed: h.attending,
	}
	if h.cfg.Cluster != nil {
		cfg.Elsewhere = h.tunnelElsewhere
	}
	if err := stack.Use(secretstack.SHSPlugin(), h.transports(), room.Plugin(cfg), h.plugin(), h.control()); err != nil {
		return err
	}
	incoming := map[string][]multiserver.Incoming{
		"net": {{Scope: everywhere(), Transform: "shs"}},
		"ws":  {{Scope: everywhere(), Transform: "shs", Options: path("/")}},
	}
	if h.cfg.Control {
		incoming["unix"] = []multiserver.Incoming{{Transform: "noauth", Options: path(filepath.Join(h.cfg.Dir, controlDir))}}
	}
	// The app lives as long as the hub: Close ends it.
	app, err := stack.Start(context.Background(), secretstack.Config{
		Identity: h.identity, AppKey: h.cfg.AppKey, Dir: filepath.Join(h.cfg.Dir, "plugins"), Logger: h.log,
		Connections: &multiserver.Config{Incoming: incoming},
		Inactivity:  l.Inactivity, HandshakeTimeout: l.HandshakeTimeout, MaxPending: l.MaxUnproved,
		MaxPeers: l.MaxPeers, MaxPeersPerKey: l.MaxPeersPerKey, Limits: l.Session,
	})
	if err != nil {
		return err
	}
	h.app = app
	h.room, _ = secretstack.Find[*room.Room](app)
	return nil
}

// App returns the node that the hub is to its peers: its key, its addresses, who is connected. It ends with the hub.
func (h *Hub) App() *secretstack.App { return h.app }

// Admission returns who may use the hub, for an operator to change.
func (h *Hub) Admission() *admission.Admission { return h.admission }

// Addrs returns where the hub listens from New on, in the order of Config.Listen.
func (h *Hub) Addrs() []net.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	var addrs []net.Addr
	for _, ln := range h.listeners {
		addrs = append(addrs, ln.Addr())
	}
	return addrs
}

// isDraining reports whether the hub is about to end.
func (h *Hub) isDraining() bool { return h.draining.Load() }

// proved tells the port that somebody has a place in a circuit.
func (h *Hub) proved(conn net.Conn) {
	if p := h.port.Load(); p != nil {
		p.Proved(conn)
	}
}

// background runs f in a goroutine for which Close waits. It reports false, and does not run it, when the hub is closed.
func (h *Hub) background(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.jobs.Go(f)
	return true
}
