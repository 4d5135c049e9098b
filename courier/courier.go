package courier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/onion"
	"github.com/secretstack/secretstack/multiserver/unix"
	"github.com/secretstack/secretstack/multiserver/ws"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/tunnel"
)

const (
	databaseName = "courier.db"
	controlName  = "control"
)

// Config describes a courier. Identity and Dir are needed.
type Config struct {
	// Identity is the owner's.
	Identity *keys.Identity
	// Former are identities that the owner has given up, the latest last. Messages for them are taken, contacts who knew one
	// of them are told the new one, and hubs give the id of one of them to the new one.
	Former []*keys.Identity
	// AppKey names the network. Zero: the main network.
	AppKey keys.AppKey
	// Dir is the folder of the database, of the control socket, and of what plugins keep. Only its owner can use it.
	Dir string
	// Name is what the owner calls himself on his contact card. Empty: nothing.
	Name string
	// Incoming says where peers can connect directly. Nil: nowhere, the courier only dials.
	Incoming map[string][]multiserver.Incoming
	// Hubs are those at which the courier can be reached.
	Hubs []hubclient.Hub
	// Secrez says what the courier does for programs of Secrez.
	Secrez SecrezConfig
	// Plugins are used besides the courier's own, for transports that it has not.
	Plugins secretstack.Plugins
	// Dialers connect to contacts, besides the dialling of their addresses.
	Dialers []Dialer
	// Routes bring messages to contacts to whom there is no connection.
	Routes []Route
	// RetryMin and RetryMax bound the pause between two attempts to reach a contact, which doubles with each and is
	// jittered. Zero: 2 seconds, 10 minutes.
	RetryMin, RetryMax time.Duration
	// GiveUpAfter is how long a message waits before it has failed. Zero: 60 days.
	GiveUpAfter time.Duration
	// MaxVisits is how many contacts are delivered to at once. Zero: 16.
	MaxVisits int
	// Store bounds what is kept.
	Store store.Options
	// Logger gets what went wrong. Nil: slog.Default(). No message's content is logged.
	Logger *slog.Logger
}

func (c *Config) setDefaults() error {
	if c.Identity.IsZero() || c.Dir == "" {
		return errors.New("courier: Identity and Dir are needed")
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&c.RetryMin, 2 * time.Second}, {&c.RetryMax, 10 * time.Minute}, {&c.GiveUpAfter, 60 * 24 * time.Hour}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.MaxVisits <= 0 {
		c.MaxVisits = 16
	}
	if c.Store.Now == nil {
		c.Store.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// Courier is a running courier.
type Courier struct {
	cfg     Config
	store   *store.Store
	app     *secretstack.App
	engine  *engine
	secrez  *secrezSide
	started time.Time
	allowed atomic.Pointer[[]byte] // the digest of who may leave mail at hubs
	book    *book
	closing chan struct{} // closed when the app begins to close
}

// Start starts a courier. It is running when Start returns; it ends with [Courier.Close]. The error is
// [store.ErrInUse] when another one runs in the folder, [store.ErrIdentity] when the folder is another identity's.
func Start(ctx context.Context, cfg Config) (*Courier, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.Dir) // the control socket's address must not depend on where we are
	if err != nil {
		return nil, fmt.Errorf("courier: %w", err)
	}
	cfg.Dir = dir
	if err := os.MkdirAll(filepath.Join(dir, controlName), 0o700); err != nil {
		return nil, fmt.Errorf("courier: %w", err)
	}
	s, err := store.Open(ctx, filepath.Join(dir, databaseName), cfg.Store)
	if err != nil {
		return nil, err
	}
	c := &Courier{cfg: cfg, store: s, started: cfg.Store.Now(), book: newBook(s), closing: make(chan struct{})}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return c, nil
}

func (c *Courier) start(ctx context.Context) error {
	if err := c.store.AdoptIdentity(ctx, c.cfg.Identity, c.cfg.Former); err != nil {
		return err
	}
	rotations, err := rotation.NewAll(c.cfg.Former, c.cfg.Identity, c.cfg.Store.Now())
	if err != nil {
		return err
	}
	if c.secrez, err = newSecrezSide(c); err != nil {
		return err
	}
	stack := secretstack.New(secretstack.Options{})
	err = stack.Use(
		secretstack.TransportPlugin(ws.New(ws.Options{})),
		secretstack.TransportPlugin(unix.New(unix.Options{})),
		secretstack.TransportPlugin(onion.New(onion.Options{})),
		secretstack.NoAuthPlugin(),
		tunnel.Plugin(tunnel.Config{DialOnly: true}), // a room tells everybody who is in it
		hubclient.Plugin(hubclient.Config{Hubs: c.cfg.Hubs, Rotations: rotations, Handler: c.secrez.public}),
		c.cfg.Plugins, c.plugin(), c.controlPlugin(),
	)
	if err != nil {
		return err
	}
	// The app is ended by Close alone, in its order.
	c.app, err = stack.Start(context.WithoutCancel(ctx), secretstack.Config{
		Identity: c.cfg.Identity, AppKey: c.cfg.AppKey, Dir: c.cfg.Dir, Logger: c.cfg.Logger, Connections: c.connections(),
	})
	if err != nil {
		return err
	}
	c.allowMail(ctx)
	if err := c.secrez.start(ctx); err != nil {
		return errors.Join(err, c.secrez.close(), c.app.Close(context.WithoutCancel(ctx)))
	}
	return nil
}

// connections are those that the configuration names, and the control socket.
func (c *Courier) connections() *multiserver.Config {
	in := map[string][]multiserver.Incoming{}
	for name, entries := range c.cfg.Incoming {
		in[name] = append(in[name], entries...)
	}
	in["unix"] = append(in["unix"], multiserver.Incoming{
		Scope: multiserver.Scopes{multiserver.Device}, Transform: "noauth", Options: jsonOptions("path", filepath.Join(c.cfg.Dir, controlName)),
	})
	in["circuit"] = []multiserver.Incoming{{Scope: multiserver.Scopes{multiserver.Public}, Transform: "shs"}}
	withKey := []multiserver.Outgoing{{Transform: "shs"}}
	return &multiserver.Config{
		Incoming: in,
		Outgoing: map[string][]multiserver.Outgoing{
			"net": withKey, "ws": withKey, "onion": withKey, "tunnel": withKey, "circuit": withKey,
		},
	}
}

// ID is the key that names the courier's owner.
func (c *Courier) ID() keys.PublicKey { return c.cfg.Identity.Public() }

// App is the node that the courier is.
func (c *Courier) App() *secretstack.App { return c.app }

// Close ends the courier: it stops taking and delivering messages and waits for what is under way. What waits is
// delivered by the next one in the folder. Close may be called again.
func (c *Courier) Close(ctx context.Context) error {
	return errors.Join(c.secrez.close(), c.app.Close(ctx), c.store.Close())
}
