package courier

import (
	"context"
	"errors"
	"sync"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	pluginName    = "courier"
	deliverMethod = "courier.deliver"

	// maxBatch and maxBatchBytes bound what is delivered in one call.
	maxBatch      = 64
	maxBatchBytes = 1 << 20
)

// deliverRequest is the argument of courier.deliver: signed messages in order.
type deliverRequest struct {
	Messages [][]byte `json:"messages"` // in base64
}

// deliverAnswer says of each message what has become of it. What comes after one that is "full" was not looked at.
type deliverAnswer struct {
	States []string `json:"states"`
}

// What a recipient says of a message.
const (
	answerDelivered = "delivered" // it is kept, now or from before
	answerHeld      = "held"      // its sender is not known: the owner will be asked, perhaps
	answerFull      = "full"      // not now
	answerRefused   = "refused"   // never
)

// outcomes reads what a recipient says of n messages. Words that are not known mean that it was not taken.
func (a deliverAnswer) outcomes(n int) []Outcome {
	states := a.States[:min(n, len(a.States))]
	outcomes := make([]Outcome, len(states))
	for i, state := range states {
		switch state {
		case answerDelivered:
			outcomes[i].State = store.Delivered
		case answerHeld:
			outcomes[i].State = store.Held
		case answerRefused:
			outcomes[i] = Outcome{State: store.Failed, Note: "the recipient refuses it"}
		default:
			outcomes[i] = Outcome{State: store.Queued, Note: "the recipient takes no more for now"}
		}
	}
	return outcomes
}

// plugin serves other couriers, and carries the engine.
func (c *Courier) plugin() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{
		Name: pluginName, Needs: []string{"hubclient"}, Permissions: secretstack.Anonymous("deliver"),
	}, func(_ context.Context, s *secretstack.Setup) error {
		routes := []Route{&direct{s.App(), append([]Dialer{addresses{s.App()}, circuits{s.App()}}, c.cfg.Dialers...)}}
		c.engine = newEngine(c.cfg, c.store, append(append(routes, c.cfg.Routes...), mailRoute{s.App(), c.cfg.Identity}, secrezRoute{c.secrez}))
		s.Export(c.book)
		s.Go(c.engine.run)
		c.startMail(s)
		s.OnClose(sync.OnceFunc(func() { close(c.closing) }))
		s.OnConnect(func(p *secretstack.Peer) { c.engine.met(p.Key()) })
		return muxrpc.HandleAsync(s, "deliver", c.deliver)
	})
}

// deliver takes messages from another courier.
func (c *Courier) deliver(ctx context.Context, r deliverRequest) (deliverAnswer, error) {
	from := secretstack.PeerFrom(ctx).Key()
	if len(r.Messages) > maxBatch {
		return deliverAnswer{}, muxrpc.Errorf("at most %d messages at a time", maxBatch)
	}
	intake := intake{courier: c, from: from}
	for _, b := range r.Messages {
		if err := intake.add(ctx, b); err != nil {
			return deliverAnswer{}, err
		}
	}
	err := intake.flush(ctx)
	return deliverAnswer{States: intake.states}, err
}

// intake takes the messages of one call, as many as possible at once.
type intake struct {
	courier *Courier
	from    keys.PublicKey
	states  []string           // answers; that of a message that is pending is empty
	pending []*envelope.Signed // to be given to the store
	full    bool               // the rest is not looked at
}

// add looks at the next message.
func (in *intake) add(ctx context.Context, b []byte) error {
	if in.full {
		return nil
	}
	m, err := envelope.Parse(b)
	if err != nil || !in.courier.isMine(m.Recipient) {
		in.states = append(in.states, answerRefused)
		return nil
	}
	if m.Kind == envelope.Rotation { // who may bring what depends on it
		if err := in.flush(ctx); err != nil || in.full {
			return err
		}
		in.states, in.pending = append(in.states, ""), append(in.pending, m)
		err := in.flush(ctx)
		if len(in.states) > 0 && in.states[len(in.states)-1] == answerDelivered { // a stranger's changes nothing, and costs nothing
			in.courier.contactsChanged(ctx)
			in.courier.engine.met(in.from)
		}
		return err
	}
	mayBring, err := in.courier.mayBring(ctx, in.from, m)
	if err != nil {
		return err
	}
	if !mayBring {
		in.states = append(in.states, answerRefused)
		return nil
	}
	in.states, in.pending = append(in.states, ""), append(in.pending, m)
	return nil
}

// flush gives what is pending to the store and fills in the answers.
func (in *intake) flush(ctx context.Context) error {
	if len(in.pending) == 0 {
		return nil
	}
	taken, err := in.courier.store.Receive(ctx, store.Direct, in.pending...)
	if err != nil {
		return err
	}
	in.pending = nil
	for i := range in.states {
		if in.states[i] != "" {
			continue
		}
		if len(taken) == 0 { // behind the one for which there was no room
			in.states = in.states[:i]
			return nil
		}
		in.states[i] = answerTo(taken[0])
		in.full = in.states[i] == answerFull
		taken = taken[1:]
	}
	return nil
}

// answerTo says what has become of a message.
func answerTo(t store.Taken) string {
	switch {
	case errors.Is(t.Err, store.ErrFull):
		return answerFull
	case t.Err != nil:
		return answerRefused
	case t.State == store.Held:
		return answerHeld
	}
	return answerDelivered
}

// isMine reports whether a key is the owner's, or was.
func (c *Courier) isMine(key keys.PublicKey) bool {
	if key.Equal(c.cfg.Identity.Public()) {
		return true
	}
	for _, f := range c.cfg.Former {
		if key.Equal(f.Public()) {
			return true
		}
	}
	return false
}

// mayBring reports whether a peer may bring a message: its own, one that its contact has signed with an earlier key, or
// a change of keys, which proves itself.
func (c *Courier) mayBring(ctx context.Context, from keys.PublicKey, m *envelope.Signed) (bool, error) {
	if from.Equal(m.Sender) || m.Kind == envelope.Rotation {
		return true, nil
	}
	sender, err := c.store.ContactByKey(ctx, m.Sender)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	bringer, err := c.store.ContactByKey(ctx, from)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && bringer.ID == sender.ID, err
}
