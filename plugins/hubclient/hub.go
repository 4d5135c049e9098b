package hubclient

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/internal/stay"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

// hub is one hub that the app stays connected to.
type hub struct {
	c       *Client
	key     keys.PublicKey
	address string // as configured
	invite  string

	// Guarded by Client.mu.
	status  Status
	receipt *claim.Receipt    // the latest; nil: none
	stored  bool              // it is on the disk
	peer    *secretstack.Peer // the connection by which the app is reached; nil: it is not
	bell    chan struct{}     // closed, and replaced, when there is reason to look into the mailbox
	moved   string            // where the hub has said that it is; empty: where the configuration says
	second  bool              // that place is tried second, the next time
}

// session is a connection to a hub that we have made.
type session struct {
	hub      *hub
	peer     *secretstack.Peer
	conns    atomic.Int64 // for HTTP
	circuits atomic.Int64
	notices  chan native.Notice
}

func newHub(c *Client, key keys.PublicKey, cfg Hub) *hub {
	h := &hub{c: c, key: key, address: cfg.Address, invite: cfg.Invite, bell: make(chan struct{})}
	h.status = Status{Hub: key, Address: multiserver.Redacted(cfg.Address), Since: time.Now()}
	k, err := c.store.load(key, c.app.ID())
	if err != nil && (len(c.given) == 0 || !errors.Is(err, errOtherKey)) {
		c.log.Warn("hubclient: what a hub had signed cannot be read; it will be asked again", "hub", key.Short(), "err", err)
	}
	if k != nil {
		h.receipt, h.stored = &k.Receipt, true
		h.status.ID, h.status.Sequence, h.status.URL = k.Receipt.ID, k.Receipt.Sequence, k.URL
	}
	return h
}

// run stays connected to the hub until ctx ends.
func (h *hub) run(ctx context.Context) {
	stay.Connected(ctx, stay.Options{
		Dial:     h.dial,
		Use:      h.use,
		RetryMin: h.c.cfg.RetryMin,
		RetryMax: h.c.cfg.RetryMax,
		Lost: func(err error, pause time.Duration) {
			h.c.log.Info("hubclient: not connected to the hub", "hub", h.key.Short(), "err", err, "retry", pause)
			h.update(func(s *Status) {
				s.Retry = time.Now().Add(pause)
				if _, again := errors.AsType[*stay.Again](err); !again {
					s.Err = err
				}
			})
		},
	})
}

// dial connects to where the hub has said it is to be found, or else where the configuration says, until the app is published:
// the hub may not be able to do that at once in either place. It proves its key in both. They take turns in being the first.
func (h *hub) dial(ctx context.Context) (*secretstack.Peer, error) {
	h.c.mu.Lock()
	first, second := h.address, h.moved
	if second != "" && !h.second {
		first, second = second, first
	}
	h.second = !h.second
	h.c.mu.Unlock()
	h.update(func(s *Status) { s.Retry = time.Time{} })
	p, err := h.c.app.Connect(ctx, first)
	if err == nil || ctx.Err() != nil || second == "" {
		return p, err
	}
	h.c.log.Info("hubclient: the hub is not where it said it would be, or was", "hub", h.key.Short(), "err", err)
	return h.c.app.Connect(ctx, second)
}

// use publishes the app over a connection, and stays until it is of no use any more.
func (h *hub) use(ctx context.Context, p *secretstack.Peer) error {
	s := h.enter(p)
	keep := false // the connection ends by itself
	defer func() {
		h.leave(p)
		if !keep {
			p.Abort(errLeft)
		}
	}()
	err := h.publish(ctx, p)
	if err != nil {
		h.update(func(s *Status) { s.Err = err })
	}
	if err != nil && !errors.Is(err, ErrRoom) {
		return waiting(err)
	}
	watch, stop := context.WithCancel(ctx)
	defer stop()
	h.c.setup.Go(func(context.Context) { h.watch(watch, p) })
	if err == nil {
		h.c.setup.Go(func(context.Context) { h.keepAllowed(watch, p) })
		h.ring()
	}
	for {
		select {
		case <-p.Done():
			return lost(p)
		case n := <-s.notices:
			switch n.Type {
			case native.NoticeDrain:
				keep = true
				h.setAside(p)
				return h.move(n)
			case native.NoticeReplaced:
				keep = true
				h.setAside(p)
				h.update(func(s *Status) { s.Err = ErrReplaced })
				return &stay.Again{After: replacedPause * h.c.cfg.RetryMax}
			case native.NoticeMail:
				h.ring()
			default:
				h.c.log.Warn("hubclient: the hub says something", "hub", h.key.Short(), "text", n.Text)
			}
		case <-ctx.Done():
			keep = true // the app closes it, in order
			return ctx.Err()
		}
	}
}

// ErrRoom says that the hub is none but a room, such as those in JavaScript: it gives no ids and leads no circuits to the
// app. The app stays connected, so that the plugin tunnel can have it reached there.
var ErrRoom = errors.New("hubclient: it is a room, which gives no ids")

// ErrReplaced says that another connection with the app's key is published at the hub: a second app has the same key.
var ErrReplaced = errors.New("hubclient: another app with the same key is at the hub")

// replacedPause is how many times RetryMax an app stays away that another one with its key has replaced: if both came
// back at once, neither would be reachable.
const replacedPause = 5

// asideFor is how long a connection may live on that is no longer the one by which the app is reached, for what goes on
// over it.
const asideFor = time.Minute

var errLeft = errors.New("hubclient: the connection is of no use any more")

// enter makes the hub a caller of our methods over one connection, and over no other.
func (h *hub) enter(p *secretstack.Peer) *session {
	s := &session{hub: h, peer: p, notices: make(chan native.Notice, 4)}
	h.c.mu.Lock()
	h.c.sessions[p] = s
	h.c.mu.Unlock()
	allowed := h.c.app.Permissions("anonymous")
	allowed.Allow = append(slices.Clip(allowed.Allow), h.c.methods...)
	p.SetPermissions(allowed)
	select {
	case <-p.Done(): // maybe it was forgotten before it was known
		h.c.forget(p)
	default:
	}
	return s
}

// forget is called when a connection has ended.
func (c *Client) forget(p *secretstack.Peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, p)
}

// session returns the session of the hub that calls, or an error for whoever is none.
func (c *Client) session(ctx context.Context) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[secretstack.PeerFrom(ctx)]; s != nil {
		return s, nil
	}
	return nil, muxrpc.Errorf("only a hub that this app has connected to may call this")
}

// leave says that the app is not reached by a connection any more.
func (h *hub) leave(p *secretstack.Peer) {
	h.c.mu.Lock()
	was := h.peer == p
	if was {
		h.peer = nil
	}
	h.c.mu.Unlock()
	if was {
		h.update(func(s *Status) { s.Online = false })
	}
}

// setAside lets what goes on over a connection finish, for a while.
func (h *hub) setAside(p *secretstack.Peer) {
	h.c.setup.Go(func(ctx context.Context) {
		late := time.NewTimer(asideFor)
		defer late.Stop()
		select {
		case <-p.Done():
		case <-late.C:
			p.Abort(errLeft)
		case <-ctx.Done():
		}
	})
}

// connection returns the connection by which the app is reached, or nil.
func (h *hub) connection() *secretstack.Peer {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	return h.peer
}

// watch notices a hub that has gone silent within DeadAfter.
func (h *hub) watch(ctx context.Context, p *secretstack.Peer) {
	every := h.c.cfg.DeadAfter / 3
	stay.Watch(ctx, p, every, h.c.cfg.DeadAfter-every, errSilent, func(ctx context.Context) error {
		_, err := muxrpc.Call[muxrpc.None](ctx, p, native.MethodStatus)
		return err
	})
}

// lost says why a connection is over.
func lost(p *secretstack.Peer) error {
	if err := p.Err(); err != nil {
		return err
	}
	return errGoodbye
}

var errGoodbye = errors.New("hubclient: the hub has ended the connection")

// waiting makes a refusal that says how long to wait the reason to come back then.
func waiting(err error) error {
	if refusal, ok := errors.AsType[*native.Error](err); ok && refusal.RetryAfter > 0 {
		return errors.Join(err, &stay.Again{After: refusal.RetryAfter})
	}
	return err
}

// move follows a hub that has said where and when to find it.
func (h *hub) move(n native.Notice) error {
	address, err := elsewhere(n.Address, h.key)
	if err != nil {
		h.c.log.Warn("hubclient: the hub names an address that is none", "hub", h.key.Short(), "err", err)
	}
	h.c.mu.Lock()
	h.moved, h.second = address, false
	h.c.mu.Unlock()
	h.c.log.Info("hubclient: the hub is about to end", "hub", h.key.Short(), "elsewhere", multiserver.Redacted(address), "text", n.Text)
	return &stay.Again{After: n.Pause()}
}

// elsewhere returns an address that a hub names, with the key that it must prove there. It is empty when none is named.
func elsewhere(address string, key keys.PublicKey) (string, error) {
	var good []multiserver.Address
	for _, a := range multiserver.ParseLoose(address) {
		if len(a) > 0 && a.Transport().Name != "" {
			good = append(good, multiserver.Address{a.Transport(), multiserver.NewPart("shs", key.Base64())})
		}
	}
	text := multiserver.Join(good)
	if text == "" {
		return "", nil
	}
	_, err := multiserver.Parse(text)
	if err != nil {
		return "", err
	}
	return text, nil
}

// publish registers the app's key, and makes the connection the one by which it is reached. When the hub knows more than
// the statement says, it is signed again: the registry keeps what the owner has signed last as its evidence.
func (h *hub) publish(ctx context.Context, p *secretstack.Peer) error {
	for range 4 {
		held := h.held()
		answer, err := h.ask(ctx, p, held)
		if native.CodeOf(err) == native.Claim && held != nil {
			h.c.log.Warn("hubclient: the hub does not know the app's id any more, and gives another", "hub", h.key.Short(), "id", held.ID)
			h.drop(held)
			continue
		}
		if err != nil {
			return err
		}
		if err := h.take(answer); err != nil {
			return err
		}
		if held != nil && held.ID == answer.ID && held.Sequence == answer.Sequence {
			break
		}
	}
	h.c.mu.Lock()
	h.peer, h.moved = p, ""
	h.c.mu.Unlock()
	h.update(func(s *Status) { s.Online, s.Retry = true, time.Time{} })
	return nil
}

// drop forgets a receipt that the hub does not honour.
func (h *hub) drop(held *claim.Receipt) {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	if h.receipt == held {
		h.receipt, h.stored = nil, false
	}
}

// held returns the latest receipt.
func (h *hub) held() *claim.Receipt {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	return h.receipt
}

// ask publishes with a statement that names the id that is held.
func (h *hub) ask(ctx context.Context, p *secretstack.Peer, held *claim.Receipt) (native.Published, error) {
	s := claim.Statement{Action: claim.Register}
	if held != nil {
		s.ID, s.Sequence = held.ID, held.Sequence
	}
	signed, err := h.sign(s)
	if err != nil {
		return native.Published{}, err
	}
	request := native.PublishRequest{Signed: signed, Receipt: held, Rotations: h.c.given, Serves: h.c.serves}
	if h.c.circuits != nil {
		request.Addresses = h.c.circuits.signed
	}
	answer, err := call[native.Published](ctx, h.c.cfg.AnswerTimeout, p, native.MethodPublish, request)
	if native.CodeOf(err) == native.InviteNeeded && h.invite != "" {
		request.Invite = h.invite
		answer, err = call[native.Published](ctx, h.c.cfg.AnswerTimeout, p, native.MethodPublish, request)
	}
	if remote, ok := errors.AsType[*muxrpc.RemoteError](err); ok { // a hub's refusals are of another type
		err = fmt.Errorf("%w: %s", ErrRoom, printable(remote.Message))
	}
	return answer, err
}

func (h *hub) sign(s claim.Statement) (claim.Signed, error) {
	s.Hub, s.Key, s.Box, s.Time = h.key, h.c.app.ID(), h.c.cfg.Box, time.Now()
	return s.Sign(h.c.self)
}

// take checks what the hub has answered, and keeps it.
func (h *hub) take(a native.Published) error {
	before := h.held()
	if err := h.check(a, before); err != nil {
		return fmt.Errorf("hubclient: the hub's answer is not to be trusted: %w", err)
	}
	web := webURL(a.URL)
	h.c.mu.Lock()
	known := h.stored && before.ID == a.ID && before.Sequence == a.Sequence && web == h.status.URL
	h.c.mu.Unlock()
	var err error
	if !known {
		err = h.c.store.save(h.key, kept{URL: web, Receipt: a.Receipt})
	}
	if err != nil {
		h.c.log.Error("hubclient: what the hub has signed cannot be kept", "hub", h.key.Short(), "err", err)
		err = fmt.Errorf("hubclient: what the hub has signed cannot be kept: %w", err)
	}
	h.c.mu.Lock()
	h.receipt, h.stored = &a.Receipt, err == nil
	h.c.mu.Unlock()
	h.update(func(s *Status) {
		s.ID, s.Sequence, s.URL, s.Name, s.Err = a.ID, a.Sequence, web, printable(a.Hub), err
	})
	return nil
}

// check compares an answer with what the hub has signed, and with what the app knows.
func (h *hub) check(a native.Published, held *claim.Receipt) error {
	r := a.Receipt
	switch err := r.Verify(h.key); {
	case err != nil:
		return err
	case !r.Key.Equal(h.c.app.ID()):
		return errors.New("the receipt is for another key")
	case r.ID != a.ID || a.ID.IsZero() || r.Sequence != a.Sequence:
		return errors.New("the receipt is for another id")
	case held != nil && r.Sequence < held.Sequence, held != nil && r.Sequence == held.Sequence && r.ID != held.ID:
		return errors.New("it goes back behind what the hub has signed before")
	case !a.PublicKey.Identity().Equal(h.c.app.ID()) || !h.c.sameBox(a.PublicKey):
		return errors.New("it holds another public key")
	}
	return nil
}

// longestText bounds what a hub may say in one place, in bytes.
const longestText = 1 << 10

// webURL returns the URL that a hub gives, or "" for what is none.
func webURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || len(text) > longestText || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return ""
	}
	return u.String()
}

// printable makes a hub's text fit for people's eyes.
func printable(text string) string {
	if len(text) > longestText {
		text = text[:longestText]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
}

// reset asks for a new id, and signs for it.
func (h *hub) reset(ctx context.Context) error {
	p, held := h.connection(), h.held()
	if p == nil || held == nil {
		return ErrOffline
	}
	signed, err := h.sign(claim.Statement{Action: claim.Reset, ID: held.ID, Sequence: held.Sequence + 1})
	if err != nil {
		return err
	}
	request := native.ResetRequest{Signed: signed, Receipt: held}
	answer, err := call[native.Published](ctx, h.c.cfg.AnswerTimeout, p, native.MethodReset, request)
	if err != nil {
		return err
	}
	if answer.ID == held.ID {
		return errors.New("hubclient: the hub has not given a new id")
	}
	if err := h.take(answer); err != nil {
		return err
	}
	return h.publish(ctx, p)
}

// notice serves hubclient.notice.
func (c *Client) notice(ctx context.Context, n native.Notice) (muxrpc.None, error) {
	s, err := c.session(ctx)
	if err != nil {
		return muxrpc.None{}, err
	}
	n.Text = printable(n.Text)
	select {
	case s.notices <- n:
		return muxrpc.None{}, nil
	default:
		return muxrpc.None{}, muxrpc.Errorf("too many notices")
	}
}
