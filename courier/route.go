package courier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// ErrNoWay is returned by a [Route] or a [Dialer] that does not lead to a contact: others are tried, and nothing is
// wrong.
var ErrNoWay = errors.New("courier: no way there")

// Dialer connects to contacts.
type Dialer interface {
	// Dial connects to a contact, whose key the other end has proved. Its error is [ErrNoWay] when it does not know where.
	Dial(ctx context.Context, to store.Contact) (*secretstack.Peer, error)
}

// Route brings messages to contacts.
type Route interface {
	// Name is what the log calls the route: "a mailbox at a hub".
	Name() string
	// Keeps reports whether what the route takes waits somewhere for the contact. Such a route gets each message once; one
	// that does not gets all whose arrival is not known.
	Keeps() bool
	// Deliver takes messages in order and says of each what has become of it. There are fewer outcomes than messages when it
	// could not go on: then the error says why, in words for the owner. Its error is [ErrNoWay] when the route does not lead
	// to the contact.
	Deliver(ctx context.Context, to store.Contact, batch []store.Outgoing) ([]Outcome, error)
}

// Outcome is what has become of a message.
type Outcome struct {
	State   store.State // store.Queued: it was not taken now, try again
	Note    string      // why, unless it was delivered
	Expires time.Time   // when what is store.AtHub is thrown away there, by the hub's clock; zero: not said
}

const (
	// deliverTimeout bounds one call that delivers a batch.
	deliverTimeout = 2 * time.Minute
	// dialTimeout bounds connecting to a contact.
	dialTimeout = 30 * time.Second
)

// direct delivers over connections with the contact's own courier.
type direct struct {
	app     *secretstack.App
	dialers []Dialer
}

func (d *direct) Name() string { return "a direct connection" }
func (d *direct) Keeps() bool  { return false }

func (d *direct) Deliver(ctx context.Context, to store.Contact, batch []store.Outgoing) ([]Outcome, error) {
	for _, p := range d.app.PeersOf(to.Key) {
		if outcomes, err := deliver(ctx, p, batch); err == nil {
			return outcomes, nil
		}
		// It may be another program of the contact, or a connection that is about to break.
	}
	p, err := d.dial(ctx, to)
	if err != nil {
		return nil, err
	}
	outcomes, err := deliver(ctx, p, batch)
	if remote, ok := errors.AsType[*muxrpc.RemoteError](err); ok {
		return nil, fmt.Errorf("the other side answers: %s", remote.Message)
	}
	if err != nil {
		return nil, errors.New("the connection broke")
	}
	return outcomes, nil
}

// dial tries all dialers. An error of one that knows where counts more than that others do not.
func (d *direct) dial(ctx context.Context, to store.Contact) (*secretstack.Peer, error) {
	ctx, stop := context.WithTimeout(ctx, dialTimeout)
	defer stop()
	failure := ErrNoWay
	for _, dialer := range d.dialers {
		p, err := dialer.Dial(ctx, to)
		if err == nil && p.Key().Equal(to.Key) {
			return p, nil
		}
		if err == nil {
			p.Abort(nil)
			err = errors.New("somebody else answers there")
		}
		if !errors.Is(err, ErrNoWay) {
			failure = err
		}
	}
	return nil, failure
}

// deliver hands a batch over and reads what has become of it.
func deliver(ctx context.Context, p *secretstack.Peer, batch []store.Outgoing) ([]Outcome, error) {
	ctx, stop := context.WithTimeout(ctx, deliverTimeout)
	defer stop()
	request := deliverRequest{Messages: make([][]byte, len(batch))}
	for i, o := range batch {
		request.Messages[i] = o.Signed
	}
	answer, err := muxrpc.Call[deliverAnswer](ctx, p, deliverMethod, request)
	if err != nil {
		return nil, err
	}
	return answer.outcomes(len(batch)), nil
}

// addresses dials the addresses that are known of a contact.
type addresses struct{ app *secretstack.App }

func (a addresses) Dial(ctx context.Context, to store.Contact) (*secretstack.Peer, error) {
	var where []string
	for _, p := range to.Places {
		if p.Kind != card.Peer {
			continue
		}
		for _, address := range multiserver.ParseLoose(p.Address) {
			// A contact that has changed its key is at the old address, where it proves the new one.
			if address.Transport().Name != "unix" {
				where = append(where, withKey(address, to).String())
			}
		}
	}
	if where == nil {
		return nil, ErrNoWay
	}
	p, err := a.app.Connect(ctx, strings.Join(where, ";"))
	if err != nil {
		return nil, fmt.Errorf("nobody answers at %s", where[0][:strings.IndexByte(where[0]+"~", '~')])
	}
	return p, nil
}

// withKey puts the contact's key into an address.
func withKey(address multiserver.Address, to store.Contact) multiserver.Address {
	changed := append(multiserver.Address(nil), address...)
	for i, part := range changed {
		if i > 0 && part.Name == "shs" {
			changed[i] = multiserver.NewPart("shs", to.Key.Base64())
		}
	}
	return changed
}

// circuits dials through hubs: those on the contact's card, and those at which we are.
type circuits struct{ app *secretstack.App }

func (d circuits) Dial(ctx context.Context, to store.Contact) (*secretstack.Peer, error) {
	client, ok := secretstack.Find[*hubclient.Client](d.app)
	if !ok {
		return nil, ErrNoWay
	}
	var where []string
	for _, hub := range hubsOf(client, to) {
		if address, err := hubclient.CircuitAddress(hub, to.Key); err == nil {
			where = append(where, address.String())
		}
	}
	if where == nil {
		return nil, ErrNoWay
	}
	p, err := d.app.Connect(ctx, strings.Join(where, ";"))
	if err != nil {
		return nil, errors.New("not at a hub now")
	}
	return p, nil
}
