package courier

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

const (
	tokenLabel = "secretstack mailbox token v1\x00"
	tokenSize  = 32
)

// mailToken is what lets somebody leave mail in a recipient's mailbox: both can compute it, and nobody else, so that the
// recipient can allow his contacts without naming them to the hub.
func mailToken(own *keys.Identity, other, recipient keys.PublicKey) ([]byte, error) {
	secret, err := own.X25519()
	if err != nil {
		return nil, err
	}
	public, err := other.X25519()
	if err != nil {
		return nil, err
	}
	shared, err := secret.ECDH(public)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, shared, nil, tokenLabel+string(recipient.Bytes()), tokenSize)
}

// mailRoute leaves sealed messages in the mailboxes of contacts at hubs: those on their cards, and our own.
type mailRoute struct {
	app *secretstack.App
	id  *keys.Identity
}

func (r mailRoute) Name() string { return "a mailbox at a hub" }
func (r mailRoute) Keeps() bool  { return true }

func (r mailRoute) Deliver(ctx context.Context, to store.Contact, batch []store.Outgoing) ([]Outcome, error) {
	client, ok := secretstack.Find[*hubclient.Client](r.app)
	if !ok {
		return nil, ErrNoWay
	}
	token, err := mailToken(r.id, to.Key, to.Key)
	if err != nil {
		return nil, err
	}
	failure := ErrNoWay
	for _, hub := range hubsOf(client, to) {
		outcomes, err := r.leave(ctx, client, hub, token, batch)
		if len(outcomes) > 0 || err == nil {
			return outcomes, err
		}
		if !errors.Is(err, ErrNoWay) {
			failure = err
		}
	}
	return nil, failure
}

// hubsOf lists the hubs at which a contact may be, each once: those on its card, then those at which we are.
func hubsOf(client *hubclient.Client, to store.Contact) []multiserver.Address {
	var hubs []multiserver.Address
	known := map[[keys.PublicKeySize]byte]bool{}
	add := func(text string) {
		for _, hub := range multiserver.ParseLoose(text) {
			key, ok := hub.Key()
			if ok && !known[key.Array()] && hub.Transport().Name != "unix" {
				known[key.Array()] = true
				hubs = append(hubs, hub)
			}
		}
	}
	for _, p := range to.Places {
		if p.Kind == card.Hub {
			add(p.Address)
		}
	}
	for _, h := range client.Hubs() {
		if h.Online {
			add(h.Address)
		}
	}
	return hubs
}

// leave leaves messages in the recipient's mailbox at one hub. Its error is ErrNoWay when there is none for us.
func (r mailRoute) leave(ctx context.Context, client *hubclient.Client, hub multiserver.Address, token []byte, batch []store.Outgoing) ([]Outcome, error) {
	var outcomes []Outcome
	for _, o := range batch {
		m, err := envelope.Parse(o.Signed)
		if err != nil {
			return outcomes, err
		}
		sealed, err := envelope.Seal(m)
		if err != nil {
			return outcomes, err
		}
		kept, err := client.Deposit(ctx, hub, native.DepositRequest{Recipient: m.Recipient, Envelope: sealed, Token: token})
		if err != nil {
			return outcomes, notLeft(err)
		}
		outcomes = append(outcomes, Outcome{State: store.AtHub, Expires: kept.Keep()})
	}
	return outcomes, nil
}

// notLeft says in the owner's words why something could not be left at a hub.
func notLeft(err error) error {
	switch native.CodeOf(err) {
	case native.NoMailbox, native.NotAllowed, native.Denied, native.Unknown:
		return ErrNoWay
	case native.MailboxFull:
		return errors.New("the mailbox at the hub is full")
	case native.SenderFull:
		return errors.New("the mailbox at the hub takes no more of us until some of it has been fetched")
	case native.HubFull:
		return errors.New("the hub keeps as much as it can")
	case "":
		return errors.New("the hub cannot be reached")
	}
	return fmt.Errorf("the hub refuses it: %w", err)
}

// readMail takes what comes into the owner's mailbox at one hub, until ctx ends.
func (c *Courier) readMail(ctx context.Context, client *hubclient.Client, hub keys.PublicKey) {
	for batch := range client.Mail(ctx, hub) {
		done, err := c.takeMail(ctx, batch)
		if err == nil && len(done) > 0 {
			err = client.Acknowledge(ctx, done...)
		}
		if err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("courier: mail at the hub", "hub", hub.Short(), "error", err)
			pause.Sleep(ctx, pause.Jitter(c.cfg.RetryMin)) // it comes again
		}
		c.engine.wake() // senders are owed receipts
	}
}

// takeMail keeps what is in envelopes, and gives those that are of no further use at the hub.
func (c *Courier) takeMail(ctx context.Context, batch []hubclient.Mail) (done []hubclient.Mail, err error) {
	var messages []*envelope.Signed
	var from []hubclient.Mail
	rotated := false
	for _, mail := range batch {
		m, err := c.open(mail.Envelope)
		if err != nil {
			done = append(done, mail) // nobody can do anything with it
			continue
		}
		messages, from = append(messages, m), append(from, mail)
	}
	for len(messages) > 0 {
		taken, err := c.store.Receive(ctx, store.Mailbox, messages...)
		if err != nil {
			return done, err
		}
		for i, t := range taken {
			rotated = rotated || messages[i].Kind == envelope.Rotation && t.Err == nil && t.State == store.Delivered
			if !errors.Is(t.Err, store.ErrFull) { // what there is no room for waits at the hub
				done = append(done, from[i])
			}
		}
		messages, from = messages[len(taken):], from[len(taken):]
	}
	if rotated {
		c.contactsChanged(ctx)
	}
	return done, nil
}

// open opens an envelope with the owner's key, or one that he has given up.
func (c *Courier) open(sealed []byte) (*envelope.Signed, error) {
	m, err := envelope.Open(c.cfg.Identity, sealed)
	for i := 0; errors.Is(err, envelope.ErrSealed) && i < len(c.cfg.Former); i++ {
		m, err = envelope.Open(c.cfg.Former[i], sealed)
	}
	return m, err
}

// contactsChanged tells everybody who has to know that the contacts may be others now.
func (c *Courier) contactsChanged(ctx context.Context) {
	c.book.change()
	c.allowMail(ctx)
}

// allowMail tells the hubs who may leave mail: whoever has the token of a contact, and strangers a little.
func (c *Courier) allowMail(ctx context.Context) {
	client, ok := secretstack.Find[*hubclient.Client](c.app)
	if !ok || len(c.cfg.Hubs) == 0 {
		return
	}
	contacts, err := c.store.Contacts(ctx)
	if err != nil {
		c.engine.report(err)
		return
	}
	allow := native.AllowRequest{Strangers: true}
	for _, known := range contacts {
		if known.Blocked {
			continue
		}
		token, err := mailToken(c.cfg.Identity, known.Key, c.ID())
		if err != nil {
			continue // the key is no point: nobody has it
		}
		hash := sha256.Sum256(token)
		allow.Tokens = append(allow.Tokens, hash[:])
	}
	digest := allow.Digest()
	c.allowed.Store(&digest)
	client.AllowMail(allow)
}

// mailboxReady reports whether a hub keeps mail for the owner, from the contacts that he has now.
func (c *Courier) mailboxReady(s native.MailboxStatus) bool {
	digest := c.allowed.Load()
	return digest != nil && s.Open && bytes.Equal(s.Digest, *digest)
}

// startMail reads the mailboxes at all hubs, for as long as the app runs.
func (c *Courier) startMail(s *secretstack.Setup) {
	client, ok := secretstack.Find[*hubclient.Client](s.App())
	if !ok {
		return
	}
	for _, h := range client.Hubs() {
		s.Go(func(ctx context.Context) { c.readMail(ctx, client, h.Hub) })
	}
	s.Go(func(ctx context.Context) { c.followHubs(ctx, client) })
}

// followHubs tries again what is in vain without a hub, whenever one can be used that could not.
func (c *Courier) followHubs(ctx context.Context, client *hubclient.Client) {
	online := map[[keys.PublicKeySize]byte]bool{}
	for all := range client.Watch(ctx) {
		came := false
		for _, h := range all {
			came = came || h.Online && !online[h.Hub.Array()]
			online[h.Hub.Array()] = h.Online
		}
		if came {
			c.engine.wayOpen(ctx)
		}
	}
}
