package hub

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/secrez"
)

// plugin serves what couriers and visitors ask of the hub, docs/PROTOCOL.md §11, and asks admission about everybody.
func (h *Hub) plugin() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name:        "hub",
		Needs:       []string{"roomTunnel"},
		Permissions: secretstack.Anonymous(append(mailMethodNames(), "publish", "reset", "whois", "connect", "status")...),
	}, func(_ context.Context, s *secretstack.Setup) error {
		s.OnConnect(h.connected)
		s.OnDisconnect(h.disconnected)
		return errors.Join(
			s.AuthHook(h.admit),
			s.Hook("tunnel.connect", h.countTunnels),
			muxrpc.HandleAsync(s, "publish", asking(h.publish)),
			muxrpc.HandleAsync(s, "reset", asking(h.reset)),
			muxrpc.HandleAsync(s, "whois", asking(h.whois)),
			muxrpc.HandleAsync(s, "connect", asking(h.connect)),
			muxrpc.HandleAsync(s, "status", h.status),
			h.mailMethods(s),
		)
	})
}

// admit decides whether somebody who has proved a key may connect.
func (h *Hub) admit(next secretstack.AuthFunc) secretstack.AuthFunc {
	return func(ctx context.Context, caller secretstack.Caller) (secretstack.Access, error) {
		addr := addrOf(caller.Remote)
		err := h.admission.Visit(addr, caller.Key)
		if err == nil && caller.Remote != "" {
			err = h.admission.AllowKey(admission.Connection, addr, caller.Key)
		}
		if err == nil && h.isDraining() {
			err = errDraining
		}
		if err != nil {
			h.refused(err, addr, caller.Key, "connect")
			return secretstack.Access{}, err
		}
		return next(ctx, caller)
	}
}

// connected takes a new connection into the directory.
func (h *Hub) connected(p *secretstack.Peer) {
	if p.Key().Equal(h.identity.Public()) {
		return // the hub's own: its control socket
	}
	s := h.directory.newSession(p)
	err := h.admission.Gate().Enter(s.addr)
	if err != nil {
		h.refused(err, s.addr, p.Key(), "connect")
		p.Abort(err)
	}
	s.gated = err == nil
	h.directory.enter(s)
	h.observer.Opened(s.protocol())
}

func (h *Hub) disconnected(p *secretstack.Peer) {
	s, streams := h.directory.leave(p)
	if s == nil {
		return
	}
	if s.gated {
		h.admission.Gate().Leave(s.addr)
	}
	h.tellTraffic(s)
	h.observer.Closed(s.protocol())
	if streams != nil {
		_ = h.background(func() { _ = streams.Close() })
	}
	h.present(p.Key())
}

// countTunnels counts the tunnels through the room that somebody asks for.
func (h *Hub) countTunnels(next muxrpc.Handler) muxrpc.Handler {
	return func(ctx context.Context, call *muxrpc.CallInfo) (any, error) {
		p := secretstack.PeerFrom(ctx)
		if err := h.admission.AllowKey(admission.Circuit, h.addrOf(p), p.Key()); err != nil {
			h.refused(err, h.addrOf(p), p.Key(), "tunnel")
			return nil, muxrpc.Errorf("too many tunnels at once")
		}
		return next(ctx, call)
	}
}

func (h *Hub) addrOf(p *secretstack.Peer) netip.Addr {
	if s := h.directory.session(p); s != nil {
		return s.addr
	}
	return addrOf(p.Address())
}

// longestRequest bounds the argument of a call, in bytes.
const longestRequest = 16 << 10

// asking decodes the argument of a method, so that what is wrong with it has a code.
func asking[A, R any](answer func(ctx context.Context, p *secretstack.Peer, arg A) (R, error)) func(context.Context, muxrpc.Args) (R, error) {
	return func(ctx context.Context, args muxrpc.Args) (r R, err error) {
		var arg A
		if len(args.At(0)) > longestRequest {
			return r, refusal(native.BadRequest, "the request is too long")
		}
		if args.At(0) == nil || args.Decode(&arg) != nil {
			return r, refusal(native.BadRequest, "the request is not understood")
		}
		return answer(ctx, secretstack.PeerFrom(ctx), arg)
	}
}

// publish gives a courier its id and leads visitors to its connection.
func (h *Hub) publish(ctx context.Context, p *secretstack.Peer, r native.PublishRequest) (native.Published, error) {
	if r.Addresses != nil && r.Addresses.Verify(p.Key()) != nil {
		return native.Published{}, refusal(native.Evidence, "the addresses are not signed by you")
	}
	answer, err := h.register(ctx, p, claim.Register, r)
	if err != nil {
		return answer, err
	}
	replaced, here := h.directory.publish(p, offered(r.Serves))
	if !here {
		return answer, refusal(native.Unavailable, "the connection has ended")
	}
	if _, known := h.registry.LookupKey(p.Key()); !known { // it was given up at the same moment
		h.directory.withdraw(p.Key())
		return native.Published{}, h.told(registry.ErrGivenUp)
	}
	h.directory.note(p.Key(), r.Addresses)
	h.present(p.Key())
	if replaced != nil {
		_ = h.background(func() { h.replace(replaced, "the same key has published itself over another connection") })
	}
	return answer, nil
}

// reset gives a courier a new id. Whoever comes for the old one finds nobody from then on.
func (h *Hub) reset(ctx context.Context, p *secretstack.Peer, r native.ResetRequest) (native.Published, error) {
	return h.register(ctx, p, claim.Reset, native.PublishRequest{Signed: r.Signed, Receipt: r.Receipt})
}

// register is what publish and reset have in common.
func (h *Hub) register(ctx context.Context, p *secretstack.Peer, action claim.Action, r native.PublishRequest,
) (native.Published, error) {
	rec, err := h.registered(ctx, p, action, r)
	if err != nil {
		h.refused(err, h.addrOf(p), p.Key(), "publish")
		h.observer.Registered(admin.KindNative, resultOf(err))
		return native.Published{}, h.told(err)
	}
	h.observer.Registered(admin.KindNative, admin.ResultAccepted)
	public, err := rec.PublicKey()
	if err != nil {
		return native.Published{}, err
	}
	return native.Published{
		ID: rec.ID, URL: h.places.courier(rec.ID, h.addrOf(p)), Sequence: rec.Sequence, Receipt: h.registry.Receipt(rec),
		PublicKey: public, Hub: h.cfg.Name,
	}, nil
}

// registered asks admission and the registry.
func (h *Hub) registered(ctx context.Context, p *secretstack.Peer, action claim.Action, r native.PublishRequest,
) (registry.Record, error) {
	addr := h.addrOf(p)
	if h.isDraining() {
		return registry.Record{}, errDraining
	}
	if err := h.admission.AllowKey(admission.Registration, addr, p.Key()); err != nil {
		return registry.Record{}, err
	}
	statement, err := r.Verify()
	switch {
	case err != nil:
		return registry.Record{}, refusal(native.Evidence, "the statement is not signed as it must be")
	case !statement.Key.Equal(p.Key()):
		return registry.Record{}, refusal(native.BadRequest, "the statement is another key's")
	case !statement.Hub.Equal(h.identity.Public()):
		return registry.Record{}, refusal(native.BadRequest, "the statement is for another hub")
	case statement.Action != action:
		return registry.Record{}, refusal(native.BadRequest, "the statement asks for something else")
	}
	handed, err := h.handedOver(p.Key(), r)
	if err != nil {
		return registry.Record{}, err
	}
	id := h.heldBy(p.Key(), r.Receipt)
	if id.IsZero() {
		id = handed.id
	}
	if err := h.admission.Publish(ctx, addr, p.Key(), id, r.Invite); err != nil {
		return registry.Record{}, err
	}
	if action == claim.Reset || handed.statement != nil {
		if err := h.admission.AllowKey(admission.NewID, addr, p.Key()); err != nil {
			return registry.Record{}, err
		}
	}
	reg := registry.Registration{Statement: &r.Signed, Receipt: r.Receipt}
	if handed.statement != nil {
		reg.Rotations = []*rotation.Statement{handed.statement}
	}
	return h.registry.Register(ctx, reg)
}

// heldBy returns the id that this hub has given to a key once, as the receipt proves, or the zero id.
func (h *Hub) heldBy(key keys.PublicKey, r *claim.Receipt) secrez.ID {
	if r == nil || !r.Key.Equal(key) || r.Verify(h.identity.Public()) != nil {
		return secrez.ID{}
	}
	return r.ID
}

// replace tells a connection that its courier is not reached by it any more and why, and ends it after a while.
func (h *Hub) replace(p *secretstack.Peer, why string) {
	_ = h.notify(p, native.Notice{Type: native.NoticeReplaced, Text: why})
	late := time.NewTimer(h.cfg.Limits.ReplacedGrace)
	defer late.Stop()
	select {
	case <-p.Done():
	case <-late.C:
		p.Abort(secretstack.ErrReplaced)
	case <-h.life.Done():
	}
}

// notify tells a courier something.
func (h *Hub) notify(p *secretstack.Peer, n native.Notice) error {
	ctx, cancel := context.WithTimeout(h.life, h.cfg.Limits.NoticeTimeout)
	defer cancel()
	_, err := muxrpc.Call[muxrpc.None](ctx, p, native.MethodNotice, n)
	return err
}

// whois answers whose an id is, or which id a key has.
func (h *Hub) whois(ctx context.Context, p *secretstack.Peer, r native.WhoisRequest) (native.Who, error) {
	addr := h.addrOf(p)
	if err := h.admission.AllowKey(admission.Lookup, addr, p.Key()); err != nil {
		h.refused(err, addr, p.Key(), "whois")
		return native.Who{}, h.told(err)
	}
	var rec registry.Record
	var known bool
	switch {
	case r.ID.IsZero() == r.Key.IsZero():
		return native.Who{}, refusal(native.BadRequest, "it takes an id or a key, one of the two")
	case !r.Key.IsZero():
		rec, known = h.registry.LookupKey(r.Key)
	default:
		rec, known = h.registry.Lookup(r.ID)
	}
	if !known {
		return native.Who{}, refusal(native.Unknown, "nobody here has that id or key")
	}
	public, err := rec.PublicKey()
	if err != nil {
		return native.Who{}, err
	}
	who := native.Who{ID: rec.ID, Key: rec.Key, PublicKey: public, URL: h.places.courier(rec.ID, addr)}
	who.Addresses = h.directory.addressesOf(rec.Key)
	who.Serves, who.Online = h.reach(ctx, rec)
	return who, nil
}

// reach tells how a courier can be reached now, and whether it can.
func (h *Hub) reach(ctx context.Context, rec registry.Record) (serves []string, online bool) {
	if h.admission.Reach(rec.ID, rec.Key) != nil {
		return nil, false
	}
	if s := h.directory.courier(rec.Key); s != nil {
		return s.offers().words(), true
	}
	if h.pools.Pool(rec.ID) != nil {
		return []string{native.ServesHTTP}, true
	}
	if _, r, err := h.elsewhereReach(ctx, rec.Key); err == nil {
		return r.Serves, true
	}
	return nil, false
}

func (h *Hub) status(ctx context.Context, _ muxrpc.None) (native.Status, error) {
	published := false
	if s := h.directory.session(secretstack.PeerFrom(ctx)); s != nil {
		published = s.isPublished()
	}
	return native.Status{
		Hub: h.cfg.Name, Version: h.cfg.Version, Domain: h.cfg.Domain, Admission: string(h.admission.Mode()),
		Draining: h.isDraining(), Published: published,
	}, nil
}
