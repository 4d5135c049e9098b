package hub

import (
	"cmp"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/cert"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// Hub is what package admin must know of a hub.
var _ admin.Hub = (*Hub)(nil)

// Addresses returns where peers find the hub, in the widest scope in which it has an address.
func (h *Hub) Addresses() []string {
	for _, scope := range []multiserver.Scope{multiserver.Public, multiserver.Local, multiserver.Device} {
		if joined := h.app.Address(scope); joined != "" {
			return strings.Split(joined, ";")
		}
	}
	return nil
}

// About tells which hub this is.
func (h *Hub) About() admin.About {
	about := admin.About{Version: h.cfg.Version, Key: h.identity.Public(), Domain: h.cfg.Domain, Started: h.started}
	if addresses := h.Addresses(); len(addresses) > 0 {
		about.Address = addresses[0]
	}
	about.Limits = h.limits()
	return about
}

// limits tells which bounds are in force.
func (h *Hub) limits() []admin.Limit {
	live := h.live.Load().Limits.Admission.WithDefaults()
	number := func(n int) string {
		if n < 0 {
			return "any number"
		}
		return strconv.Itoa(n)
	}
	list := []admin.Limit{
		{Name: "connections at once", Value: number(live.Connections)},
		{Name: "connections of an address at once", Value: number(live.ConnectionsPerAddress)},
		{Name: "connections with a proven key", Value: number(h.cfg.Limits.MaxPeers)},
		{Name: "tunnel sockets of a courier", Value: number(cmp.Or(h.cfg.MaxSockets, 4))},
	}
	for _, kind := range admission.Kinds() {
		list = append(list, admin.Limit{Name: kind.String() + "s of an address", Value: live.Address.Of(kind).String()},
			admin.Limit{Name: kind.String() + "s of a key", Value: live.Key.Of(kind).String()})
	}
	return list
}

// Status tells how the hub is doing.
func (h *Hub) Status() admin.Status {
	status := admin.Status{
		Draining: h.isDraining(), Registry: h.registry.Status(), Pools: h.pools.Len(), Requests: h.vhost.Active(),
		Circuits: h.circuits.Stats(), Tunnels: h.room.Tunnels(), Mailboxes: h.mailboxes.Stats(),
	}
	status.Cluster = h.clusterStatus(status.Registry.Cluster)
	if p := h.port.Load(); p != nil {
		status.Port = p.Stats()
	}
	for _, s := range h.directory.all() {
		h.tellTraffic(s)
	}
	for _, g := range h.guests.list() {
		if p := h.pools.Pool(g.id); p != nil {
			stats := p.Stats()
			status.Sockets += stats.Open
			status.Waiting += stats.Waiting
		}
	}
	for _, s := range h.directory.published() {
		status.Waiting += s.webStats().Waiting
	}
	if h.cfg.Certificates != nil {
		status.Certificates, status.Problems = certificates(h.cfg.Certificates.Status(), time.Now())
	}
	return status
}

// certificates tells how certificates are doing, and which of them keep visitors away.
func certificates(all []cert.Status, now time.Time) (list []admin.Certificate, problems []string) {
	for _, c := range all {
		one := admin.Certificate{Name: strings.Join(c.Names, ", "), Expires: c.NotAfter}
		if c.Err != nil {
			one.Problem = c.Err.Error()
		}
		list = append(list, one)
		switch {
		case c.NotAfter.IsZero():
			problems = append(problems, "There is no certificate for "+one.Name+".")
		case c.NotAfter.Before(now):
			problems = append(problems, "The certificate for "+one.Name+" has expired.")
		}
	}
	return list, problems
}

// Couriers lists who is connected.
func (h *Hub) Couriers() []admin.Courier {
	var all []admin.Courier
	for _, s := range h.directory.all() {
		c := admin.Courier{Key: s.peer.Key(), Kind: admin.KindRoom, Addr: s.addr, Since: s.since()}
		rec, known := h.registry.LookupKey(c.Key)
		switch {
		case s.isPublished() && known:
			c.Kind, c.ID = admin.KindNative, rec.ID
		case !h.room.Has(c.Key):
			continue // a visitor
		}
		stats := s.peer.Stats()
		c.Received, c.Sent = int64(stats.BytesRead), int64(stats.BytesWritten)
		all = append(all, c)
	}
	for _, g := range h.guests.list() {
		all = append(all, admin.Courier{
			Key: g.key, ID: g.id, Kind: admin.KindSecrez, Addr: g.addr, Since: g.since,
			Received: g.traffic.received.Load(), Sent: g.traffic.sent.Load(),
		})
	}
	return all
}

// Disconnect closes all connections of a key, and tells how many there were. The peer may come back: a rule keeps it away.
func (h *Hub) Disconnect(key keys.PublicKey) int {
	peers := h.app.PeersOf(key)
	for _, p := range peers {
		p.Abort(errUnwelcome)
	}
	n := len(peers)
	if rec, known := h.registry.LookupKey(key); known && h.pools.Pool(rec.ID) != nil {
		h.pools.Remove(rec.ID)
		n++
	}
	h.circuits.Cut(func(visitor, target keys.PublicKey) bool { return visitor.Equal(key) || target.Equal(key) })
	return n
}

// InviteLink writes the code of an invitation as the link that a person gets.
func (h *Hub) InviteLink(code string) string {
	return native.Link{Address: native.Ways(strings.Join(h.Addresses(), ";")), Invite: code}.String()
}

// Operator returns what the operator of the hub is served, by [admin.NewServer] on a listener of its own: metrics, health, an API and a page.
// It asks for the token in the file "admin-token" in the data folder, which is made when missing. Names are host names of
// the listener; under others than those, localhost and the hub's domain it answers nothing.
func (h *Hub) Operator(names ...string) (http.Handler, error) {
	token, err := admin.LoadToken(filepath.Join(h.cfg.Dir, tokenFile))
	if err != nil {
		return nil, err
	}
	return admin.New(admin.Config{
		Hub: h, Admission: h.admission, Observer: h.observer, Token: token, Names: names, Logger: h.log,
	})
}

// OperatorAt says at which address what [Hub.Operator] returns is served. The owner of the data folder is told when he asks.
func (h *Hub) OperatorAt(address string) { h.operator.Store(&address) }

// recheck ends what is not welcome any more. Admission calls it when something has changed.
func (h *Hub) recheck() {
	if !h.ready.Load() {
		return
	}
	ended := map[[keys.PublicKeySize]byte]bool{}
	for _, s := range h.directory.all() {
		if err := h.admission.Visit(s.addr, s.peer.Key()); err != nil {
			h.refused(errUnwelcome, s.addr, s.peer.Key(), "connection")
			ended[s.peer.Key().Array()] = true
			s.peer.Abort(errUnwelcome)
		}
	}
	for _, g := range h.guests.list() {
		h.recheckGuest(g)
	}
	h.recheckCircuits(ended)
	h.visitors.recheck(func(addr netip.Addr) error { return h.admission.Network(addr) })
}
