package courier

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/courier/secrezapi"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

// believed is the warning for a key that only a hub has named.
const believed = "the key is the hub's word: compare it with your contact's over another way, or ask for a contact card"

// addContact makes somebody a contact, or brings the places of one up to date whose key is the same.
func (c *Courier) addContact(ctx context.Context, r addRequest) (Contact, error) {
	add, warning, err := c.meant(ctx, r.What)
	if err != nil {
		return Contact{}, err
	}
	if add.Key.Equal(c.ID()) {
		return Contact{}, muxrpc.Errorf("that is your own key")
	}
	add.Name = r.Name
	known, err := c.store.AddContact(ctx, add)
	if errors.Is(err, store.ErrKnown) {
		known, err = c.refresh(ctx, add)
	}
	if err != nil {
		return Contact{}, err
	}
	c.contactsChanged(ctx)
	c.engine.met(known.Key)
	out := c.contactFrom(known)
	out.Warning = warning
	return out, nil
}

// refresh takes over where a contact with the same name and key is reached.
func (c *Courier) refresh(ctx context.Context, add store.Contact) (store.Contact, error) {
	known, err := c.store.ContactByKey(ctx, add.Key)
	if err != nil {
		return known, err
	}
	if !strings.EqualFold(known.Name, add.Name) {
		return known, muxrpc.Errorf("this key is that of your contact %q", known.Name)
	}
	switch {
	case add.Card != nil:
		_, err = c.store.SetCard(ctx, known.ID, add.Card)
	case len(add.Places) > 0:
		err = c.store.SetPlaces(ctx, known.ID, add.Courier, add.Places)
	}
	if err != nil {
		return known, err
	}
	return c.store.ContactByID(ctx, known.ID)
}

// meant finds out whom a text means: a contact card, a page or web address at a hub, an id at a hub of ours, a
// multiserver address, or a key of either form.
func (c *Courier) meant(ctx context.Context, text string) (add store.Contact, warning string, err error) {
	text = strings.TrimSpace(text)
	own, signed, err := card.ParseSigned(text)
	switch {
	case err == nil:
		return store.Contact{Key: own.Key, Courier: own.ID, Places: own.Places, Card: signed}, "", nil
	case strings.HasPrefix(text, card.Scheme), errors.Is(err, card.ErrSignature), meantAsCard(text):
		return add, "", muxrpc.Errorf("%s", strings.TrimPrefix(err.Error(), "card: "))
	}
	if at, ok := page(text); ok {
		return c.atWeb(ctx, at)
	}
	if at, err := secrez.ParseContactURL(text); err == nil {
		return c.atWeb(ctx, at)
	}
	if id, err := secrez.ParseID(text); err == nil {
		return c.atOurHubs(ctx, id)
	}
	if key, err := secrez.ParsePublicKey(text); err == nil {
		return fromSecrez(key, store.Contact{}), "", nil
	}
	if key, err := keys.ParsePublicKey(text); err == nil {
		return store.Contact{Key: key}, "", nil
	}
	if all, err := multiserver.Parse(text); err == nil {
		return addressed(all)
	}
	return add, "", muxrpc.Errorf("%.40q is no contact card, link, address, id or key", text)
}

// meantAsCard reports whether a text is a link with something of a card, be it damaged. Whoever was given a card is to
// know that it does not count: the hub's word is no substitute.
func meantAsCard(text string) bool {
	link, _, found := strings.Cut(text, "#")
	return found && strings.Contains(link, "://")
}

// addressed is a contact at multiserver addresses, which must agree on the key.
func addressed(all []multiserver.Address) (add store.Contact, warning string, err error) {
	for _, a := range all {
		key, ok := a.Key()
		switch {
		case !ok:
			return add, "", muxrpc.Errorf("the address %s has no key", a)
		case !add.Key.IsZero() && !add.Key.Equal(key):
			return add, "", muxrpc.Errorf("the addresses have different keys")
		case len(a.String()) > card.MaxAddress || len(add.Places) == card.MaxPlaces:
			return add, "", muxrpc.Errorf("that is too long for an address")
		}
		add.Key = key
		add.Places = append(add.Places, card.Place{Kind: card.Peer, Address: a.String()})
	}
	return add, "", nil
}

// fromSecrez completes a contact by a key of Secrez.
func fromSecrez(key secrez.PublicKey, add store.Contact) store.Contact {
	add.Key = key.Identity()
	if !key.Derived() {
		add.Box = key.Box()
	}
	return add
}

// page reads the address of somebody's page at a hub: docs/PROTOCOL.md §10.4.
func page(text string) (secrez.ContactURL, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return secrez.ContactURL{}, false
	}
	path, found := strings.CutPrefix(u.Path, card.WebPath)
	id, err := secrez.ParseID(path)
	return secrez.ContactURL{ID: id, Hub: u.Scheme + "://" + u.Host}, found && err == nil
}

// atWeb is a contact at the web address of a hub, which is asked for the key.
func (c *Courier) atWeb(ctx context.Context, at secrez.ContactURL) (add store.Contact, warning string, err error) {
	key, err := c.lookUp(ctx, at.Hub, at.ID)
	if err != nil {
		return add, "", err
	}
	add.Courier = at.ID
	add.Places = []card.Place{{Kind: card.URL, Address: at.String()}}
	return fromSecrez(key, add), believed, nil
}

// atOurHubs is a contact with an id at one of the hubs at which we are.
func (c *Courier) atOurHubs(ctx context.Context, id secrez.ID) (add store.Contact, warning string, err error) {
	client, ok := secretstack.Find[*hubclient.Client](c.app)
	if !ok {
		return add, "", ErrNoWay
	}
	who, err := client.WhoisID(ctx, keys.PublicKey{}, id)
	if err != nil {
		return add, "", fmt.Errorf("%s: %w", id, err)
	}
	add.Courier = id
	if who.PublicKey.IsZero() {
		add.Key = who.Key
		return add, believed, nil
	}
	return fromSecrez(who.PublicKey, add), believed, nil
}

// lookUp asks a hub, by HTTP, whose an id is.
func (c *Courier) lookUp(ctx context.Context, hub string, id secrez.ID) (secrez.PublicKey, error) {
	key, err := c.secrez.client.PublicKey(ctx, hub, id)
	refused, isRefused := errors.AsType[*secrezapi.RefusedError](err)
	switch {
	case errors.Is(err, secrezapi.ErrUnknown):
		err = muxrpc.Errorf("the hub %s knows nobody with the id %s", hub, id)
	case errors.Is(err, secrezapi.ErrPrivate):
		err = muxrpc.Errorf("the hub %s is in a private network: only hubs that the courier is told to use may be there", hub)
	case isRefused:
		err = muxrpc.Errorf("the hub %s answers %d", hub, refused.Status)
	case err != nil:
		err = muxrpc.Errorf("the hub %s does not answer", hub)
	}
	return key, err
}
