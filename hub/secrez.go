package hub

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/secrezapi"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// The v1 API remembers payloads that were used in usedBucket, nodes in sharedBucket.
const (
	usedBucket   = "secrez-used"
	sharedBucket = "secrez-once"
)

// guests are the couriers that have registered with the v1 API and have a tunnel port.
type guests struct {
	mu  sync.Mutex
	all map[secrez.ID]guest
}

// guest is one of them.
type guest struct {
	id    secrez.ID
	key   keys.PublicKey
	addr  netip.Addr
	since time.Time

	traffic *traffic
}

func (g *guests) enter(one guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all == nil {
		g.all = map[secrez.ID]guest{}
	}
	g.all[one.id] = one
}

// traffic gives the counters of a courier, or nil if there is none with the id.
func (g *guests) traffic(id secrez.ID) *traffic {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all[id].traffic
}

// leave takes a courier away, and returns it: the zero value if there is none with the id.
func (g *guests) leave(id secrez.ID) guest {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.all[id]
	delete(g.all, id)
	return one
}

func (g *guests) list() []guest {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]guest, 0, len(g.all))
	for _, one := range g.all {
		list = append(list, one)
	}
	return list
}

// openSecrez makes what the hub says over HTTP under its own name.
func (h *Hub) openSecrez(ctx context.Context) error {
	cfg := secrezapi.Config{
		Registry: h.registry, Pools: h.pools,
		Domain: h.cfg.Domain, Port: h.places.port, Secure: h.places.secure, TunnelHost: h.cfg.TunnelHost,
		Landing: h.cfg.Landing, Version: h.cfg.Version, Key: h.identity.Public(), Code: h.cfg.Code,
		MaxBody: h.cfg.Limits.MaxRegistrationBody, Timeout: h.cfg.Limits.RegistrationTimeout,
		Addr: func(r *http.Request) netip.Addr { return h.vhost.Visitor(r) },
		Allow: func(kind secrezapi.Kind, addr netip.Addr) error {
			return h.toVisitor(h.admission.Allow(kindOf(kind), addr), addr, keys.PublicKey{}, string(kind))
		},
		Publish: func(ctx context.Context, addr netip.Addr, key keys.PublicKey, id secrez.ID, invite string) error {
			if h.isDraining() {
				return h.toVisitor(errDraining, addr, key, "publish")
			}
			return h.toVisitor(h.admission.Publish(ctx, addr, key, id, invite), addr, key, "publish")
		},
		Reset: func(addr netip.Addr, key keys.PublicKey) error {
			return h.toVisitor(h.admission.AllowKey(admission.NewID, addr, key), addr, key, "reset")
		},
		Registered: h.guestRegistered,
		Online:     func() int { return len(h.directory.published()) + h.pools.Len() },
		Sockets:    h.sockets,
		Observe:    h.observeSecrez,
		Logger:     h.log,
	}
	if err := h.openUsed(ctx, &cfg); err != nil {
		return err
	}
	var err error
	h.secrez, err = secrezapi.New(cfg)
	return err
}

// openUsed opens where used payloads are remembered.
func (h *Hub) openUsed(ctx context.Context, cfg *secrezapi.Config) error {
	if h.cfg.Cluster == nil {
		used, err := h.registry.Bucket(ctx, usedBucket)
		cfg.Used = used
		return err
	}
	shared, err := h.registry.TemporaryBucket(ctx, sharedBucket, secrezapi.LedgerLife)
	cfg.Shared = shared
	return err
}

func kindOf(kind secrezapi.Kind) admission.Kind {
	if kind == secrezapi.Registration {
		return admission.Registration
	}
	return admission.Lookup
}

// guestRegistered is called when a courier of Secrez has an id and a port.
func (h *Hub) guestRegistered(rec registry.Record, previous secrez.ID, addr netip.Addr) {
	if previous != rec.ID {
		h.guests.leave(previous)
	}
	one := guest{rec.ID, rec.Key, addr, time.Now(), &traffic{}}
	h.guests.enter(one)
	if h.pools.Pool(rec.ID) == nil { // it has ended already
		h.guests.leave(rec.ID)
	}
	h.present(rec.Key)
	h.recheckGuest(one) // the rules may have changed meanwhile
}

// guestLeft is called when the pool of a courier has ended.
func (h *Hub) guestLeft(id secrez.ID) {
	if one := h.guests.leave(id); !one.key.IsZero() {
		h.present(one.key)
	}
}

// recheckGuest ends the pool of a courier that is not welcome any more.
func (h *Hub) recheckGuest(g guest) {
	err := h.admission.Visit(g.addr, g.key)
	if err == nil {
		err = h.admission.Reach(g.id, g.key)
	}
	if err != nil {
		h.refused(errUnwelcome, g.addr, g.key, "tunnel sockets")
		h.pools.Remove(g.id)
	}
}

// sockets counts the connections of a courier for HTTP.
func (h *Hub) sockets(id secrez.ID) (int, bool) {
	if p := h.pools.Pool(id); p != nil {
		return p.Stats().Open, true
	}
	rec, known := h.registry.Lookup(id)
	if !known {
		return 0, false
	}
	s := h.directory.courier(rec.Key)
	if s == nil {
		return 0, false
	}
	return s.webStats().Open, true
}

func (h *Hub) observeSecrez(call string, status int) {
	if call != "new" {
		return
	}
	result := admin.ResultAccepted
	switch {
	case status >= http.StatusInternalServerError:
		result = admin.ResultFailed
	case status >= http.StatusBadRequest:
		result = admin.ResultRefused
	}
	h.observer.Registered(admin.KindSecrez, result)
}

// toVisitor counts a refusal of admission, and says it in the words of HTTP.
func (h *Hub) toVisitor(err error, addr netip.Addr, key keys.PublicKey, what string) error {
	if err == nil {
		return nil
	}
	h.refused(err, addr, key, what)
	if rate, ok := errors.AsType[*admission.RateError](err); ok {
		return &secrezapi.Refusal{Status: http.StatusTooManyRequests, Message: "Too many requests", RetryAfter: rate.RetryAfter}
	}
	for _, known := range []struct {
		err     error
		status  int
		message string
	}{
		{admission.ErrDenied, http.StatusForbidden, "Not welcome here"},
		{admission.ErrInviteNeeded, http.StatusForbidden, "Registering here needs an invitation: ask whoever runs the hub"},
		{admission.ErrInvite, http.StatusForbidden, "The invitation is unknown, used up or expired"},
		{errDraining, http.StatusServiceUnavailable, "The hub is about to end"},
	} {
		if errors.Is(err, known.err) {
			refusal := &secrezapi.Refusal{Status: known.status, Message: known.message}
			if known.status == http.StatusServiceUnavailable {
				refusal.RetryAfter = retrySoon
			}
			return refusal
		}
	}
	return err
}
