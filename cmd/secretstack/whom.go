package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/share"
	"github.com/secretstack/secretstack/secrez"
	"github.com/secretstack/secretstack/shs"
)

// remotePart is a peer and one of its services, as somebody has typed them: PEER/NAME.
type remotePart struct {
	peer, service string
}

// splitRemote splits PEER/NAME. Keys and addresses may have slashes of their own: what follows the key is the name.
func splitRemote(text string) remotePart {
	const suffix = ".ed25519"
	at := -1
	switch {
	case strings.Contains(text, "~shs:"):
		if i := strings.LastIndex(text, "=/"); i >= 0 {
			at = i + 1
		}
	case strings.HasPrefix(text, "@"):
		if i := strings.LastIndex(text, suffix+"/"); i >= 0 {
			at = i + len(suffix)
		}
	default:
		at = strings.IndexByte(text, '/')
	}
	if at < 0 {
		return remotePart{peer: text}
	}
	return remotePart{text[:at], text[at+1:]}
}

// whom is a peer that was found by what somebody has typed.
type whom struct {
	shown   string // as it was typed
	address string // of circuits, joined with ";"
}

// finder finds peers: by address, by key, by the name of a contact, by an id at a hub.
type finder struct {
	*globals
	app     *secretstack.App
	hubs    []multiserver.Address
	courier *courier.Client // nil: none is running
}

func (f *finder) find(ctx context.Context, text string) (whom, error) {
	if strings.Contains(text, "~") {
		return f.byAddress(text)
	}
	if key, err := keys.ParsePublicKey(text); err == nil {
		return f.byKey(text, key, f.hubs)
	}
	if f.courier != nil {
		if w, err := f.byContact(ctx, text); err == nil || !errors.Is(err, errNoContact) {
			return w, err
		}
	}
	if id, err := secrez.ParseID(text); err == nil {
		return f.byID(ctx, text, id)
	}
	if f.courier == nil {
		return whom{}, usagef("%q is no address, key or id; contacts have names while your courier runs: secretstack courier", text)
	}
	return whom{}, usagef("%q is no contact, address, key or id (see secretstack contact list)", text)
}

func (f *finder) byAddress(text string) (whom, error) {
	parsed, err := multiserver.Parse(text)
	if err != nil {
		return whom{}, usagef("%s", plain(err))
	}
	for _, a := range parsed {
		if a.Transport().Name != "circuit" {
			return whom{}, usagef("%s is no address of a circuit, such as share prints; for peers that are reached otherwise there is call", a.Redacted())
		}
	}
	return whom{shortAddress(parsed[0]), text}, nil
}

// shortAddress names a peer by the beginning of its key.
func shortAddress(a multiserver.Address) string {
	key, _ := a.Key()
	return key.Short() + "…"
}

func (f *finder) byKey(shown string, key keys.PublicKey, hubs []multiserver.Address) (whom, error) {
	var all []multiserver.Address
	for _, hub := range hubs {
		a, err := hubclient.CircuitAddress(hub, key)
		if err != nil {
			return whom{}, err
		}
		all = append(all, a)
	}
	if len(all) == 0 {
		return whom{}, usagef("no hub is known through which %s could be reached: name one with --hub", shown)
	}
	if len(shown) > 12 {
		shown = key.Short() + "…"
	}
	return whom{shown, multiserver.Join(all)}, nil
}

var errNoContact = errors.New("no such contact")

// byContact finds a contact by the places on its card, and by our own hubs.
func (f *finder) byContact(ctx context.Context, name string) (whom, error) {
	all, err := f.courier.Contacts(ctx)
	if err != nil {
		return whom{}, ownersText(err)
	}
	i := slices.IndexFunc(all, func(c courier.Contact) bool { return c.Name == name })
	if i < 0 {
		return whom{}, errNoContact
	}
	var hubs []multiserver.Address
	for _, place := range all[i].Places {
		for _, a := range multiserver.ParseLoose(place.Address) {
			if _, ok := a.Key(); ok && place.Kind == card.Hub {
				hubs = append(hubs, a)
			}
		}
	}
	return f.byKey(name, all[i].Key, append(hubs, f.hubs...))
}

// byID asks our hubs whose an id is. They are believed, and what they say is shown.
func (f *finder) byID(ctx context.Context, text string, id secrez.ID) (whom, error) {
	if len(f.hubs) == 0 {
		return f.byKey(text, keys.PublicKey{}, nil)
	}
	var errs []error
	for _, hub := range f.hubs {
		p, err := f.app.Connect(ctx, hub.String())
		if err != nil {
			key, _ := hub.Key()
			errs = append(errs, &hubclient.HubError{Hub: key, Err: err})
			continue
		}
		who, err := whois(ctx, p, id)
		if err == nil {
			fmt.Fprintf(f.err, "%s is %s, says the hub\n", id, who.Key)
			return f.byKey(text, who.Key, []multiserver.Address{hub})
		}
		errs = append(errs, err)
	}
	return whom{}, explainCircuit(errors.Join(errs...), text)
}

// allow sets who may connect from what was given with --allow, and returns it as it is shown.
func (f *finder) allow(ctx context.Context, p *share.Publish, names []string) (shown []string, err error) {
	for _, name := range names {
		key, bad := keys.ParsePublicKey(name)
		switch {
		case name == "anyone":
			p.Anyone = true
			return []string{"anyone who has the address"}, nil
		case bad == nil:
			p.Allow, shown = append(p.Allow, key), append(shown, key.Short()+"…")
			continue
		case f.courier == nil:
			return nil, usagef("--allow takes keys such as @….ed25519, or anyone; names of contacts only while your courier runs, and %q is none", name)
		}
		contacts, err := f.courier.Contacts(ctx)
		if err != nil {
			return nil, ownersText(err)
		}
		p.AllContacts = p.AllContacts || name == "contacts"
		found := false
		for _, c := range contacts {
			if c.Name == name && c.Blocked {
				return nil, usagef("--allow: %s is blocked; to let them in: secretstack contact unblock %s", name, name)
			}
			if (c.Name == name || name == "contacts") && !c.Blocked {
				p.Contacts, shown, found = append(p.Contacts, c.Key), append(shown, c.Name), true
			}
		}
		if !found && name != "contacts" {
			return nil, usagef("--allow: there is no contact %q", name)
		}
	}
	return shown, nil
}

// explainCircuit says in a person's words why a peer cannot be reached, and what to do. shown is the peer.
func explainCircuit(err error, shown string) error {
	if refused, ok := errors.AsType[*share.Error](err); ok {
		return explainShare(refused, shown)
	}
	at, atHub := errors.AsType[*hubclient.HubError](err)
	if !atHub {
		return explainPeer(err, shown)
	}
	hub := "the hub " + at.Hub.Short() + "…"
	if answer, ok := errors.AsType[*circuit.AnswerError](err); ok {
		switch answer.Answer {
		case circuit.Absent, circuit.Expired:
			return fmt.Errorf("%s has not answered: its connection to %s may just have broken; try again", shown, hub)
		case circuit.Refused:
			return fmt.Errorf("%s takes no connections now: it has too many, or is about to end", shown)
		}
		return fmt.Errorf("%s: %s", hub, answer.Answer)
	}
	switch native.CodeOf(err) {
	case native.Unknown:
		return fmt.Errorf("nobody at %s is %s: has it ever been there? Its owner sees its hubs with 'secretstack status'", hub, shown)
	case native.Offline:
		return fmt.Errorf("%s is offline: its program does not run, or has no connection to %s", shown, hub)
	case native.GivenUp:
		return fmt.Errorf("%s has changed its key, and the old one leads nowhere: start this again with the name of the contact, whose new key your courier is told, or with a new address", shown)
	case native.NoCircuits:
		return fmt.Errorf("%s is at %s, but its program shares nothing", shown, hub)
	case native.BadRequest, native.InviteNeeded, native.InviteBad:
		return fmt.Errorf("%s: %s", hub, refusalText(err))
	case native.Denied:
		return fmt.Errorf("%s does not let you in", hub)
	case native.RateLimited, native.Unavailable, native.Draining:
		return fmt.Errorf("%s cannot connect you now: %s; try again later", hub, refusalText(err))
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted before there was a connection")
	case errors.Is(err, shs.ErrServerKey), errors.Is(err, shs.ErrRefused):
		return fmt.Errorf("whoever is at the hub's address does not have the hub's key %s, or does not let you in; ask for the address again", at.Hub)
	case errors.Is(err, shs.ErrAppKey):
		return errors.New("what is at the hub's address is on another network, or no hub; if the network has an app key of its own, give it with --app-key")
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s does not run: nobody listens at its address", hub)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return fmt.Errorf("this machine has no way to %s: is it online?", hub)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s has not answered in time", hub)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("%s cannot be found: there is no host %s", hub, dns.Name)
	}
	return fmt.Errorf("%s: %s", hub, plain(at.Err))
}

func refusalText(err error) string {
	if e, ok := errors.AsType[*native.Error](err); ok {
		return e.Text
	}
	return plain(err)
}

// explainPeer is for what went wrong with the peer itself.
func explainPeer(err error, shown string) error {
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted before there was a connection")
	case errors.Is(err, shs.ErrServerKey), errors.Is(err, shs.ErrRefused):
		return fmt.Errorf("%s does not let you in: it has blocked you, or it is somebody else who answers there", shown)
	case errors.Is(err, shs.ErrAppKey): // each kind of stream has one of its own
		return fmt.Errorf("%s is there, but its program shares nothing, or is on another network (see --app-key)", shown)
	case errors.Is(err, shs.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s has not answered in time", shown)
	}
	return fmt.Errorf("cannot connect to %s: %s", shown, plain(err))
}

func explainShare(e *share.Error, shown string) error {
	names := make([]string, len(e.Services))
	for i, name := range e.Services {
		names[i] = shown + "/" + printable(name)
	}
	list := strings.Join(names, ", ")
	switch e.Status {
	case share.Unknown:
		return fmt.Errorf("%s shares no %q with you; there is %s", shown, e.Service, list)
	case share.Which:
		return usagef("%s shares several services with you, choose one: %s", shown, list)
	case share.Busy:
		return fmt.Errorf("%s takes no more connections now", shown)
	case share.Down:
		return fmt.Errorf("%s shares it, but the service itself does not run there", shown)
	}
	return fmt.Errorf("%s shares nothing with you; its owner has to allow your key ('secretstack keys' shows it)", shown)
}

// whois asks a hub whose an id is.
func whois(ctx context.Context, p *secretstack.Peer, id secrez.ID) (native.Who, error) {
	who, err := muxrpc.Call[native.Who](ctx, p, native.MethodWhois, native.WhoisRequest{ID: id})
	if refusal, ok := native.FromPeer(err); ok {
		err = refusal
	}
	if err != nil {
		return who, &hubclient.HubError{Hub: p.Key(), Err: err}
	}
	if who.ID != id || who.Key.IsZero() {
		return who, &hubclient.HubError{Hub: p.Key(), Err: errors.New("the hub has answered for somebody else")}
	}
	return who, nil
}
