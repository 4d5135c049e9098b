package courier

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

const controlPluginName = "control"

// controlPlugin serves the owner's programs. It permits nothing to anybody, so that only the control socket, whose
// callers have full access, leads to it.
func (c *Courier) controlPlugin() secretstack.Plugin {
	return secretstack.NewPlugin(secretstack.Info{Name: controlPluginName, Needs: []string{pluginName}},
		func(_ context.Context, s *secretstack.Setup) error {
			return errors.Join(
				muxrpc.HandleAsync(s, "status", told(c.status)),
				muxrpc.HandleAsync(s, "card", told(c.card)),
				muxrpc.HandleAsync(s, "send", told(c.send)),
				muxrpc.HandleDuplex(s, "sendFile", c.sendFile),
				muxrpc.HandleSource(s, "messages", c.messages),
				muxrpc.HandleSource(s, "file", c.file),
				muxrpc.HandleAsync(s, "contacts", told(c.contacts)),
				muxrpc.HandleAsync(s, "addContact", told(c.addContact)),
				muxrpc.HandleAsync(s, "renameContact", told(c.renameContact)),
				muxrpc.HandleAsync(s, "removeContact", told(c.removeContact)),
				muxrpc.HandleAsync(s, "blockContact", told(c.blockContact)),
				muxrpc.HandleAsync(s, "seen", told(c.seen)),
				muxrpc.HandleAsync(s, "requests", told(c.requests)),
				muxrpc.HandleAsync(s, "accept", told(c.acceptRequest)),
				muxrpc.HandleAsync(s, "drop", told(c.dropRequest)),
			)
		})
}

// told lets the owner hear every error: he is who the courier works for.
func told[A, R any](f func(context.Context, A) (R, error)) func(context.Context, A) (R, error) {
	return func(ctx context.Context, args A) (R, error) {
		r, err := f(ctx, args)
		return r, ownersError(err)
	}
}

func ownersError(err error) error {
	if err == nil {
		return nil
	}
	return muxrpc.Errorf("%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "store: "), "courier: "))
}

func (c *Courier) status(ctx context.Context, _ muxrpc.None) (Status, error) {
	out := Status{Key: c.ID(), Secrez: secrezKey(c.ID(), nil), Name: c.cfg.Name, Started: c.started.UTC(), Addresses: c.addresses(), Hubs: c.hubs(), Waiting: map[string]int{}, Alerts: []string{}}
	contacts, err := c.store.Contacts(ctx)
	if err != nil {
		return out, err
	}
	requests, err := c.store.Requests(ctx)
	if err != nil {
		return out, err
	}
	counts, err := c.store.Counts(ctx)
	out.Contacts, out.Requests = len(contacts), len(requests)
	for state, n := range counts {
		out.Waiting[state.String()] = n
	}
	for _, known := range contacts {
		if known.Alert != "" {
			out.Alerts = append(out.Alerts, known.Name+": "+known.Alert)
		}
	}
	return out, err
}

// addresses are those at which peers can connect, in the widest scope that has any.
func (c *Courier) addresses() []string {
	for _, scope := range []multiserver.Scope{multiserver.Public, multiserver.Local, multiserver.Private, multiserver.Device} {
		var found []string
		for address := range strings.SplitSeq(c.app.Address(scope), ";") {
			if address != "" && !strings.HasPrefix(address, "unix:") {
				found = append(found, address)
			}
		}
		if found != nil {
			return found
		}
	}
	return []string{}
}

func (c *Courier) hubs() []HubStatus {
	out := []HubStatus{}
	client, ok := secretstack.Find[*hubclient.Client](c.app)
	var native []hubclient.Status
	if ok {
		native = client.Hubs()
	}
	for _, h := range native {
		s := HubStatus{Key: h.Hub, Name: h.Name, Address: h.Address, ID: h.ID, URL: h.URL, Online: h.Online, Mailbox: c.mailboxReady(h.Mailbox)}
		if h.Err != nil {
			s.Trouble = h.Err.Error()
		}
		out = append(out, s)
	}
	if c.cfg.Secrez.Hub != "" {
		at := c.secrez.published()
		out = append(out, HubStatus{Address: c.cfg.Secrez.Hub, ID: at.ID, URL: at.URL, Online: !at.ID.IsZero()})
	}
	return out
}

// secrezKey writes a key as Secrez's programs do. Nil box: the X25519 form of the key.
func secrezKey(key keys.PublicKey, box []byte) string {
	if box != nil {
		if k, err := secrez.NewPublicKey(box, key.Bytes()); err == nil {
			return k.String()
		}
	}
	k, err := secrez.DerivePublicKey(key)
	if err != nil {
		return ""
	}
	return k.String()
}

// card makes the owner's card as of now.
func (c *Courier) card(context.Context, muxrpc.None) (CardLinks, error) {
	own := card.Card{Key: c.ID(), Name: c.cfg.Name, Time: c.cfg.Store.Now()}
	var web secrez.ContactURL
	for _, h := range c.hubs() {
		if h.ID.IsZero() || len(own.Places) == card.MaxPlaces/2 {
			continue
		}
		if own.ID.IsZero() {
			own.ID = h.ID
		}
		if h.ID == own.ID && !h.Key.IsZero() {
			own.Places = append(own.Places, card.Place{Kind: card.Hub, Address: native.Ways(h.Address)})
		}
		if at, err := secrez.ParseContactURL(h.URL); err == nil && web.ID.IsZero() {
			web = at
		}
	}
	if at := c.secrez.published(); web.ID.IsZero() && !at.ID.IsZero() {
		if parsed, err := secrez.ParseContactURL(at.URL); err == nil {
			web = parsed
			if own.ID.IsZero() {
				own.ID = at.ID
			}
		}
	}
	if !web.ID.IsZero() {
		own.Places = append(own.Places, card.Place{Kind: card.URL, Address: web.String()})
	}
	for _, address := range c.addresses() {
		if !derived(address, own.Places) && len(own.Places) < card.MaxPlaces && len(address) <= card.MaxAddress {
			own.Places = append(own.Places, card.Place{Kind: card.Peer, Address: address})
		}
	}
	signed, err := own.Sign(c.cfg.Identity)
	if err != nil {
		return CardLinks{}, err
	}
	links := CardLinks{Link: card.Link(signed)}
	if !web.ID.IsZero() {
		links.Web = card.WebLink(web.Hub, web.ID, signed)
	}
	return links, nil
}

// derived reports whether an address is a circuit through a hub that is among the places: whoever knows the hub and the
// owner's key knows that way.
func derived(address string, places []card.Place) bool {
	return strings.HasPrefix(address, "circuit:") && slices.ContainsFunc(places, func(p card.Place) bool {
		for _, hub := range multiserver.ParseLoose(p.Address) {
			if key, ok := hub.Key(); ok && p.Kind == card.Hub && strings.Contains(address, key.Ref()) {
				return true
			}
		}
		return false
	})
}

func (c *Courier) send(ctx context.Context, r sendRequest) (Message, error) {
	to, err := c.find(ctx, r.To)
	if err != nil {
		return Message{}, err
	}
	if len(r.Text) > envelope.MaxText {
		return Message{}, muxrpc.Errorf("the text has %d bytes; %d are allowed: send it as a file", len(r.Text), envelope.MaxText)
	}
	return c.queue(ctx, to, store.Draft{Kind: envelope.Text, Body: []byte(r.Text)})
}

func (c *Courier) queue(ctx context.Context, to store.Contact, drafts ...store.Draft) (Message, error) {
	if to.Blocked {
		return Message{}, muxrpc.Errorf("%q is blocked: unblock the contact first", to.Name)
	}
	sent, err := c.store.Queue(ctx, c.cfg.Identity, to.ID, drafts...)
	if err != nil {
		return Message{}, err
	}
	c.engine.wake()
	return messageFrom(sent[0]), nil
}

// find finds a contact by its name.
func (c *Courier) find(ctx context.Context, name string) (store.Contact, error) {
	found, err := c.store.Contact(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return found, muxrpc.Errorf("there is no contact %q", name)
	}
	return found, err
}

// sendFile takes a file from the owner's program, and answers with its message.
func (c *Courier) sendFile(ctx context.Context, r fileRequest, s *muxrpc.Stream[[]byte, Message]) error {
	to, err := c.find(ctx, r.To)
	if err != nil {
		return err
	}
	most := c.cfg.Store.MaxFile
	if most <= 0 {
		most = store.DefaultMaxFile
	}
	if r.Size < 0 || r.Size > most {
		return muxrpc.Errorf("the file has %d bytes; %d are allowed", r.Size, most)
	}
	content := make([]byte, 0, r.Size)
	for int64(len(content)) < r.Size {
		b, err := s.Recv(ctx)
		if errors.Is(err, io.EOF) {
			return muxrpc.Errorf("the file ended early: nothing was sent")
		}
		if err != nil {
			return err
		}
		content = append(content, b...)
	}
	if int64(len(content)) > r.Size {
		return muxrpc.Errorf("the file has grown meanwhile: nothing was sent")
	}
	drafts, err := fileDrafts(r.Name, content)
	if err != nil {
		return muxrpc.Errorf("a file cannot be called %q", r.Name)
	}
	m, err := c.queue(ctx, to, drafts...)
	if err != nil {
		return ownersError(err)
	}
	return s.Send(ctx, m)
}

// fileDrafts cuts a file into messages.
func fileDrafts(name string, content []byte) ([]store.Draft, error) {
	info := envelope.FileInfo{Size: uint64(len(content)), Hash: sha256.Sum256(content), Name: name}
	_, _ = rand.Read(info.ID[:]) // never fails
	body, err := info.Body()
	if err != nil {
		return nil, err
	}
	drafts := []store.Draft{{Kind: envelope.File, Body: body}}
	for i := 0; len(content) > 0; i++ {
		n := min(len(content), envelope.ChunkSize)
		body, err := envelope.FileChunk{ID: info.ID, Index: uint32(i), Data: content[:n]}.Body()
		if err != nil {
			return nil, err
		}
		drafts, content = append(drafts, store.Draft{Kind: envelope.Chunk, Body: body}), content[n:]
	}
	return drafts, nil
}

// file gives a received file.
func (c *Courier) file(ctx context.Context, message int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		err := c.store.WriteFile(ctx, message, writerFunc(func(b []byte) error {
			if !yield(b, nil) {
				return errLeft
			}
			return nil
		}))
		if errors.Is(err, store.ErrNotFound) {
			err = muxrpc.Errorf("there is no file in message %d, or not all of it has come", message)
		}
		if err != nil && !errors.Is(err, errLeft) {
			yield(nil, ownersError(err))
		}
	}
}

var errLeft = errors.New("the reader has left")

type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) { return len(b), f(b) }

// messages gives what a query selects, and follows what changes if asked to.
func (c *Courier) messages(ctx context.Context, q Query) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		f := follower{c: c, q: q, yield: yield, shown: map[int64]int64{}}
		if err := f.run(ctx); err != nil && !errors.Is(err, errLeft) {
			yield(Message{}, ownersError(err))
		}
	}
}

// follower is one reader of messages.
type follower struct {
	c     *Courier
	q     Query
	yield func(Message, error) bool
	query store.Query
	shown map[int64]int64 // change by ID, of the history that has changed after it was begun
}

func (f *follower) run(ctx context.Context) error {
	if err := f.prepare(ctx); err != nil {
		return err
	}
	began, err := f.c.store.LastChange(ctx)
	if err != nil {
		return err
	}
	if err := f.history(ctx, began); err != nil || !f.q.Follow {
		return err
	}
	for {
		changed := f.c.store.Changed()
		if began, err = f.changes(ctx, began); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errLeft
		case <-f.c.closing:
			return errLeft
		}
	}
}

func (f *follower) prepare(ctx context.Context) error {
	f.query = store.Query{Since: f.q.Since, Until: f.q.Until}
	switch f.q.Direction {
	case "":
	case "received":
		f.query.Direction = store.Received
	case "sent":
		f.query.Direction = store.Sent
	default:
		return muxrpc.Errorf("a direction is received or sent, not %q", f.q.Direction)
	}
	if f.q.Contact == "" {
		return nil
	}
	contact, err := f.c.find(ctx, f.q.Contact)
	f.query.Contact = contact.ID
	return err
}

// history shows what is there.
func (f *follower) history(ctx context.Context, began int64) error {
	q := f.query
	if f.q.Last < 0 {
		return nil
	}
	q.Last, q.Limit = f.q.Last > 0, f.q.Last
	for {
		page, err := f.c.store.Messages(ctx, q)
		if err != nil {
			return err
		}
		for _, m := range page {
			if m.Change > began {
				f.shown[m.ID] = m.Change
			}
			if !f.yield(messageFrom(m), nil) {
				return errLeft
			}
			q.After = m.ID
		}
		if q.Last || len(page) < store.DefaultLimit {
			return nil
		}
	}
}

// changes shows what has changed after a change, and gives the last one.
func (f *follower) changes(ctx context.Context, after int64) (int64, error) {
	q := f.query
	for {
		q.Changed = after
		page, err := f.c.store.Changes(ctx, q)
		if err != nil {
			return after, err
		}
		for _, m := range page {
			after = m.Change
			if f.shown[m.ID] == m.Change {
				continue
			}
			if !f.yield(messageFrom(m), nil) {
				return after, errLeft
			}
		}
		if len(page) < store.DefaultLimit {
			return after, nil
		}
	}
}

func (c *Courier) contacts(ctx context.Context, _ muxrpc.None) ([]Contact, error) {
	all, err := c.store.Contacts(ctx)
	out := make([]Contact, len(all))
	for i, known := range all {
		out[i] = c.contactFrom(known)
	}
	return out, err
}

func (c *Courier) contactFrom(known store.Contact) Contact {
	out := Contact{
		Name: known.Name, Key: known.Key, Secrez: secrezKey(known.Key, known.Box), ID: known.Courier, Places: known.Places, Card: known.Card != nil,
		Blocked: known.Blocked, Alert: known.Alert, Online: len(c.app.PeersOf(known.Key)) > 0, Added: known.Added.UTC(), Trouble: known.Trouble,
	}
	if out.Places == nil {
		out.Places = []card.Place{}
	}
	if known.Trouble != "" {
		out.Retry = known.Next.UTC()
	}
	return out
}

func (c *Courier) renameContact(ctx context.Context, r contactRequest) (muxrpc.None, error) {
	known, err := c.find(ctx, r.Name)
	if err != nil {
		return muxrpc.None{}, err
	}
	return muxrpc.None{}, c.store.RenameContact(ctx, known.ID, r.NewName)
}

func (c *Courier) removeContact(ctx context.Context, r contactRequest) (muxrpc.None, error) {
	known, err := c.find(ctx, r.Name)
	if err != nil {
		return muxrpc.None{}, err
	}
	defer c.contactsChanged(ctx)
	return muxrpc.None{}, c.store.RemoveContact(ctx, known.ID)
}

func (c *Courier) blockContact(ctx context.Context, r contactRequest) (muxrpc.None, error) {
	known, err := c.find(ctx, r.Name)
	if err != nil {
		return muxrpc.None{}, err
	}
	defer c.contactsChanged(ctx)
	return muxrpc.None{}, c.store.BlockContact(ctx, known.ID, r.Block)
}

// seen takes back the alert of a contact.
func (c *Courier) seen(ctx context.Context, r contactRequest) (muxrpc.None, error) {
	known, err := c.find(ctx, r.Name)
	if err != nil {
		return muxrpc.None{}, err
	}
	return muxrpc.None{}, c.store.Alert(ctx, known.ID, "")
}

func (c *Courier) requests(ctx context.Context, _ muxrpc.None) ([]Request, error) {
	all, err := c.store.Requests(ctx)
	out := make([]Request, len(all))
	for i, r := range all {
		out[i] = Request{Key: r.Key, First: r.First.UTC()}
		for _, m := range r.Messages {
			out[i].Texts = append(out[i].Texts, string(m.Body))
		}
	}
	return out, err
}

// acceptRequest makes a stranger a contact.
func (c *Courier) acceptRequest(ctx context.Context, r contactRequest) (Contact, error) {
	all, err := c.store.Requests(ctx)
	if err != nil {
		return Contact{}, err
	}
	for _, request := range all {
		if request.Key.Equal(r.Key) {
			known, err := c.store.AddContact(ctx, store.Contact{Key: r.Key, Name: r.NewName})
			c.contactsChanged(ctx)
			c.engine.wake()
			return c.contactFrom(known), err
		}
	}
	return Contact{}, muxrpc.Errorf("nobody with this key is in the request box")
}

func (c *Courier) dropRequest(ctx context.Context, r contactRequest) (muxrpc.None, error) {
	err := c.store.DropRequest(ctx, r.Key, r.Block)
	if errors.Is(err, store.ErrNotFound) {
		err = muxrpc.Errorf("nobody with this key is in the request box")
	}
	return muxrpc.None{}, err
}
