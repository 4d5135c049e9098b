package share

import (
	"context"
	"errors"
	"iter"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

// MethodPublish is a source for the app's owner: Publish → Event, the first of which is Shared. The service is shared for as
// long as the source is open.
const MethodPublish = name + ".publish"

// Publish asks for a service to be shared.
type Publish struct {
	Name string `json:"name"`
	// Target is where the service is: "tcp:HOST:PORT" or "unix:PATH".
	Target string `json:"target"`
	// Allow are the keys of those who may connect. Anyone lets everybody who has the peer's address.
	Allow  []keys.PublicKey `json:"allow,omitempty"`
	Anyone bool             `json:"anyone,omitempty"`
	// Contacts are keys of contacts who may connect for as long as they are contacts, with the key that they have then.
	// AllContacts lets all whom the owner has then. Both need [Contacts].
	Contacts    []keys.PublicKey `json:"contacts,omitempty"`
	AllContacts bool             `json:"allContacts,omitempty"`
}

// Contacts knows the owner's contacts. The plugin finds it among what other plugins of the app export. Who is blocked, or
// comes with a key that a contact has given up, may not connect, whatever is asked for.
type Contacts interface {
	// Contact finds the contact who has the key, or has had it. present is the contact's key now, zero for nobody's.
	Contact(ctx context.Context, key keys.PublicKey) (present keys.PublicKey, blocked bool, err error)
	// ContactsChanged gives a channel that is closed with the next change of any of it.
	ContactsChanged() <-chan struct{}
}

// service is the service that is asked for, until ctx ends. No contacts are known if known is nil.
func (p Publish) service(ctx context.Context, known Contacts) (Service, error) {
	sv := Service{Name: p.Name}
	network, where, _ := strings.Cut(p.Target, ":")
	switch network {
	case "tcp":
		if _, _, err := net.SplitHostPort(where); err != nil {
			return sv, muxrpc.Errorf("%q is no host and port", where)
		}
		sv.Dial = TCP(where)
	case "unix":
		sv.Dial = Unix(where)
	default:
		return sv, muxrpc.Errorf("%q is neither tcp:HOST:PORT nor unix:PATH", p.Target)
	}
	switch {
	case known != nil:
		sv.Allow = func(peer keys.PublicKey) bool { return p.allows(ctx, known, peer) }
	case p.AllContacts || len(p.Contacts) > 0:
		return sv, muxrpc.Errorf("there are no contacts here: name keys")
	default:
		sv.Allow = p.names
	}
	return sv, nil
}

// names reports whether a peer may connect whoever it is.
func (p Publish) names(peer keys.PublicKey) bool {
	return p.Anyone || slices.ContainsFunc(p.Allow, peer.Equal)
}

// allows reports whether a peer may connect now.
func (p Publish) allows(ctx context.Context, known Contacts, peer keys.PublicKey) bool {
	present, blocked, err := known.Contact(ctx, peer)
	switch {
	case err != nil || blocked:
		return false
	case present.IsZero():
		return p.names(peer)
	case !present.Equal(peer):
		return false
	case p.AllContacts || p.names(peer):
		return true
	}
	return slices.ContainsFunc(p.Contacts, func(key keys.PublicKey) bool {
		now, _, err := known.Contact(ctx, key)
		return err == nil && now.Equal(peer)
	})
}

// mount adds what programs of the owner call.
func (s *Shares) mount(r muxrpc.Registrar) error { return muxrpc.HandleSource(r, "publish", s.publish) }

// everySecond is how often traffic is told.
const everySecond = time.Second

// publish shares a service for as long as somebody listens to what happens to it.
func (s *Shares) publish(ctx context.Context, p Publish) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		const backlog = 256
		events := make(chan Event, backlog)
		var following sync.WaitGroup
		defer following.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		known, _ := secretstack.Find[Contacts](s.app)
		sv, err := p.service(ctx, known)
		if err != nil {
			yield(Event{}, err)
			return
		}
		sv.Meter = new(Meter)
		sv.Watch = func(e Event) {
			select {
			case events <- e:
			default: // whoever does not listen misses something
			}
		}
		if err := s.Share(ctx, sv); err != nil {
			yield(Event{}, told(err))
			return
		}
		if known != nil {
			following.Go(func() { s.follow(ctx, known, sv.Name) })
		}
		s.tellEvents(ctx, events, sv.Meter, func(e Event) bool { return yield(e, nil) })
	}
}

// follow cuts the connections of those who may not connect any more, until ctx ends.
func (s *Shares) follow(ctx context.Context, known Contacts, name string) {
	for {
		changed := known.ContactsChanged()
		s.Recheck(name)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// told is an error as the owner is told it.
func told(err error) error {
	if errors.Is(err, ErrName) || errors.Is(err, ErrTaken) {
		return muxrpc.Errorf("%s", strings.TrimPrefix(err.Error(), "share: "))
	}
	return err
}

// tellEvents tells what happens, and now and then what has passed, until ctx ends or nobody listens.
func (s *Shares) tellEvents(ctx context.Context, events <-chan Event, m *Meter, tell func(Event) bool) {
	tick := time.NewTicker(everySecond)
	defer tick.Stop()
	if !tell(Event{Type: Shared, Time: time.Now()}) {
		return
	}
	var before Event
	for {
		var e Event
		select {
		case e = <-events:
		case now := <-tick.C:
			e = Event{Type: Traffic, Time: now}
			if e.Sent, e.Received = m.Read(); e.Sent == before.Sent && e.Received == before.Received {
				continue
			}
			before = e
		case <-s.closing:
			return
		case <-ctx.Done():
			return
		}
		if !tell(e) {
			return
		}
	}
}
