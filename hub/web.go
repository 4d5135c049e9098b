package hub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver/ws"
	"github.com/secretstack/secretstack/secrez"
)

// openPools prepares the raw tunnel sockets of Secrez's couriers.
func (h *Hub) openPools(context.Context) error {
	ports, err := vhost.NewPorts(h.cfg.TunnelAddress, h.cfg.TunnelPorts)
	if err != nil {
		return err
	}
	l := h.cfg.Limits
	h.pools = vhost.NewPools(ports, vhost.PoolConfig{
		MaxSockets: h.cfg.MaxSockets, Grace: l.SocketGrace, KeepAlive: l.SocketKeepAlive, Queue: l.Queue, Wait: l.QueueWait,
		Logger: h.log,
	}, h.guestLeft)
	return nil
}

// openWeb prepares what the hub does over HTTP: couriers at their hosts; below its own, peers that come by WebSocket, ends of
// circuits, and the v1 API.
func (h *Hub) openWeb(context.Context) (err error) {
	l := h.cfg.Limits
	var below http.Handler = h.circuitWS
	if checked, ok := h.cfg.Certificates.(interface {
		HTTPHandler(http.Handler) http.Handler
	}); ok {
		below = checked.HTTPHandler(below) // an authority may check the domain by HTTP
	}
	h.ws = ws.New(ws.Options{Mounted: true, Logger: h.log, Handler: below})
	h.vhost, err = vhost.NewHandler(vhost.Config{
		Domain: h.cfg.Domain, Directory: (*couriers)(h), IDFrom: h.idFrom(), Next: http.HandlerFunc(h.own),
		TrustedProxies: h.cfg.TrustedProxies,
		MaxRequests:    l.MaxRequests, MaxRequestHeader: l.MaxRequestHeader, MaxBody: l.MaxBody,
		MaxResponseHeader: l.MaxResponseHeader, ReplayBody: l.ReplayBody,
		DialTimeout: l.DialTimeout, SendTimeout: l.SendTimeout, ExpectTimeout: l.ExpectTimeout,
		ResponseTimeout: l.ResponseTimeout, BodyTimeout: l.BodyTimeout, VisitorTimeout: l.VisitorTimeout,
		UpgradeTimeout: l.UpgradeTimeout, MinRate: l.MinRate,
		Logger: h.log, Observe: h.observeExchange,
	})
	return err
}

// idFrom is how a hub without a domain finds couriers: at <id>.localhost, for visitors on its own machine.
func (h *Hub) idFrom() func(*http.Request) (secrez.ID, bool) {
	if h.cfg.Domain != "" {
		return nil
	}
	return func(r *http.Request) (secrez.ID, bool) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !from.Addr().IsLoopback() {
			return secrez.ID{}, false
		}
		return secrez.IDFromHost(r.Host, localDomain)
	}
}

// ServeHTTP does everything that a hub does over HTTP: requests for <id>.<domain> go to couriers, peers connect by
// WebSocket at "/", and programs of Secrez find the v1 API. The ResponseWriter must be net/http's, or unwrap to it.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	addr := h.vhost.Visitor(r)
	err := h.admission.Network(addr)
	if err == nil {
		err = h.admission.Allow(admission.Request, addr)
	}
	if err != nil {
		h.refused(err, addr, keys.PublicKey{}, "request")
		turnAway(w, err)
		return
	}
	ctx, leave := h.visitors.enter(r.Context(), addr)
	defer leave()
	h.vhost.ServeHTTP(w, r.WithContext(ctx))
}

// own answers requests for the hub itself.
func (h *Hub) own(w http.ResponseWriter, r *http.Request) {
	if addr := h.vhost.Visitor(r); addr.IsValid() && len(h.cfg.TrustedProxies) > 0 {
		r.RemoteAddr = netip.AddrPortFrom(addr, 0).String() // a WebSocket's peer is who it is for, not the proxy
	}
	h.ws.ServeHTTP(w, r)
}

// turnAway answers somebody who is not let in.
func turnAway(w http.ResponseWriter, err error) {
	status, message := http.StatusForbidden, "Not welcome here"
	if rate, ok := errors.AsType[*admission.RateError](err); ok {
		status, message = http.StatusTooManyRequests, "Too many requests"
		w.Header().Set("Retry-After", strconv.FormatInt(int64((rate.RetryAfter+time.Second-1)/time.Second), 10))
	}
	answer(w, status, message)
}

// answer writes an answer of the hub's own.
func answer(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Status  int    `json:"status_code"`
		Message string `json:"message"`
	}{status, message})
}

// couriers are a Hub as a [vhost.Directory].
type couriers Hub

// Courier finds the courier of an id: the native one, else that of Secrez.
func (c *couriers) Courier(ctx context.Context, id secrez.ID) (vhost.Courier, error) {
	h := (*Hub)(c)
	rec, known := h.registry.Lookup(id)
	if !known || h.admission.Reach(id, rec.Key) != nil {
		return nil, vhost.ErrUnknown
	}
	if s := h.directory.courier(rec.Key); s != nil && s.offers().http {
		return s, nil
	}
	if h.nodes.node != nil && h.pools.Pool(id) == nil {
		if c, err := h.courierElsewhere(ctx, rec.Key); err == nil && c != nil {
			return c, nil
		}
	}
	return h.pools.Courier(ctx, id)
}
