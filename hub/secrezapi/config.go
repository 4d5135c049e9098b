package secrezapi

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/internal/netaddr"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

const (
	defaultMaxBody    = 64 << 10
	defaultMaxAnswers = 1 << 16
	defaultTimeout    = 15 * time.Second

	// window is how far a payload's time may be from now, either way: the protocol's.
	window = time.Minute
)

// ErrConfig says that a configuration is not usable.
var ErrConfig = errors.New("secrezapi: the configuration is not usable")

// Registry is what is needed of a [registry.Registry].
type Registry interface {
	Register(context.Context, registry.Registration) (registry.Record, error)
	Lookup(secrez.ID) (registry.Record, bool)
	LookupKey(keys.PublicKey) (registry.Record, bool)
}

// Store is what is needed of a [registry.Bucket].
type Store interface {
	Put(ctx context.Context, key string, value []byte) (uint64, error)
	All(ctx context.Context) iter.Seq2[registry.Item, error]
}

// Ledger is what is needed of a bucket that several nodes have, such as [registry.Registry.TemporaryBucket] gives.
type Ledger interface {
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	Delete(ctx context.Context, key string) error
}

// LedgerLife is how long a [Ledger] must remember a key at least: payloads that one node takes for fresh, however wrong its clock
// is within a few minutes, are known to the others.
const LedgerLife = 15 * time.Minute

// Kind is what a visitor wants that not everybody may have as often as he likes.
type Kind string

// The kinds of requests.
const (
	Registration Kind = "registration" // an id, and a port
	Lookup       Kind = "lookup"       // the key or the link of an id
	Admin        Kind = "admin"        // what only those may have who know the code
)

// A Refusal is the error with which Config.Allow, Config.Publish and Config.Reset turn a request away. Every other error of
// theirs is told as 503.
type Refusal struct {
	Status     int           // of the HTTP response, 4xx or 5xx
	Message    string        // for the visitor
	RetryAfter time.Duration // when asking again makes sense, in whole seconds, rounded up. Zero: not said
}

// Error gives the message.
func (r *Refusal) Error() string { return "secrezapi: " + r.Message }

// Config says for whom a [Handler] answers, and within which bounds.
type Config struct {
	Registry Registry // Required

	// Pools gives the couriers their ports. nil: the hub has none to give, and registrations are answered with 501.
	Pools *vhost.Pools

	// Used is where used payloads are remembered across restarts, a bucket of its own. nil: they are not, and whatever was
	// signed before New is refused, which locks out couriers with slow clocks for as long as they are slow.
	Used Store

	// Shared is where used payloads are remembered in place of Used when several nodes have the same registry: so that one
	// counts once at all of them. nil: this hub is alone.
	Shared Ledger

	// Domain is the hub's own name, without a port: couriers are at <id>.<Domain>. Empty: couriers can register from the
	// machine itself only, and are at <id>.localhost.
	Domain string
	Port   int  // in addresses; 0: the usual one of the scheme
	Secure bool // addresses are https

	// TunnelHost is where couriers open their tunnel sockets, if not at the host that they registered at: the "ip" of the
	// answer, for a hub whose HTTP goes through a proxy that does not carry other ports. Empty: not said.
	TunnelHost string

	Landing string         // where / leads, an address. Empty: to the welcome document
	Version string         // in the welcome document. Empty: "0.2.1", the version of Secrez's hub whose API this is
	Key     keys.PublicKey // the hub's own, for couriers that know it by a web address alone; in the welcome document. Zero: not said
	Code    string         // for the counts. Empty: nobody gets them

	// Addr tells a visitor's true address. nil: the other end of the connection.
	Addr func(*http.Request) netip.Addr

	// Allow is asked before anything is done for a request. It must not block. nil: everything is allowed.
	Allow func(Kind, netip.Addr) error

	// Publish is asked whether a key may have an id, once for each payload, after its signature has been verified. id is
	// the one that the key has, or the zero value. invite is what came with the request, or empty. nil: everybody may.
	Publish func(ctx context.Context, addr netip.Addr, key keys.PublicKey, id secrez.ID, invite string) error

	// Reset is asked besides Publish, and after it, whether a key that has an id may have another one. nil: it may.
	Reset func(addr netip.Addr, key keys.PublicKey) error

	// Registered is told of each registration when it is done, on the goroutine of the request, and from where it came.
	// previous is the id that the key had before, the same or the zero value included. nil: nobody is.
	Registered func(rec registry.Record, previous secrez.ID, addr netip.Addr)

	// Online counts the couriers that can be reached now. nil: those with a tunnel port.
	Online func() int

	// Sockets counts the connections of a courier, or reports that it is away. nil: its tunnel sockets.
	Sockets func(secrez.ID) (int, bool)

	// Observe is told of each request when it has been answered: a fixed name of what was asked for, and the status. nil:
	// nobody is.
	Observe func(call string, status int)

	MaxBody    int64         // bytes of a registration that is sent by POST; 0: 64 KiB
	MaxAnswers int           // registrations whose answers are kept, some 400 bytes each; 0: 65536
	Timeout    time.Duration // for one registration, disk and ports included, and for its body to arrive; 0: 15 s

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // says who registered, and what failed; never a payload or a code. nil: none
}

func (c Config) withDefaults() Config {
	c.Domain = strings.ToLower(strings.TrimSuffix(c.Domain, "."))
	if c.Version == "" {
		c.Version = "0.2.1"
	}
	if c.Addr == nil {
		c.Addr = remoteAddr
	}
	if c.Allow == nil {
		c.Allow = func(Kind, netip.Addr) error { return nil }
	}
	if c.Publish == nil {
		c.Publish = func(context.Context, netip.Addr, keys.PublicKey, secrez.ID, string) error { return nil }
	}
	if c.Reset == nil {
		c.Reset = func(netip.Addr, keys.PublicKey) error { return nil }
	}
	if c.Registered == nil {
		c.Registered = func(registry.Record, secrez.ID, netip.Addr) {}
	}
	if c.Observe == nil {
		c.Observe = func(string, int) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxBody <= 0 {
		c.MaxBody = defaultMaxBody
	}
	if c.MaxAnswers <= 0 {
		c.MaxAnswers = defaultMaxAnswers
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	return c.withCounts()
}

func (c Config) withCounts() Config {
	pools := c.Pools
	if c.Online == nil {
		c.Online = func() int {
			if pools == nil {
				return 0
			}
			return pools.Len()
		}
	}
	if c.Sockets == nil {
		c.Sockets = func(id secrez.ID) (int, bool) {
			if pools == nil {
				return 0, false
			}
			p := pools.Pool(id)
			if p == nil {
				return 0, false
			}
			return p.Stats().Open, true
		}
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.Registry == nil:
		return fmt.Errorf("%w: no registry", ErrConfig)
	case c.Domain != "" && !netaddr.IsHostName(c.Domain):
		return fmt.Errorf("%w: the domain must be a host name without scheme and port", ErrConfig)
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("%w: no such port", ErrConfig)
	}
	if c.Landing != "" && !isAddress(c.Landing) {
		return fmt.Errorf("%w: the landing page must be an http or https address, with %%xx for what is not plain ASCII", ErrConfig)
	}
	return nil
}

// isAddress reports whether s is an address of the web as it may stand in a header.
func isAddress(s string) bool {
	for _, c := range s {
		if c <= ' ' || c >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", c) {
			return false
		}
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func remoteAddr(r *http.Request) netip.Addr { return netaddr.Of(r.RemoteAddr) }
