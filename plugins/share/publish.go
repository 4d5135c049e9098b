package share

import (
	"context"
	"errors"
	"iter"
	"net"
	"slices"
	"strings"
	"time"

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
}

// Service is the service that is asked for.
func (p Publish) Service() (Service, error) {
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
	sv.Allow = func(peer keys.PublicKey) bool {
		return p.Anyone || slices.ContainsFunc(p.Allow, peer.Equal)
	}
	return sv, nil
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
		sv, err := p.Service()
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
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if err := s.Share(ctx, sv); err != nil {
			yield(Event{}, told(err))
			return
		}
		s.tellEvents(ctx, events, sv.Meter, func(e Event) bool { return yield(e, nil) })
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
