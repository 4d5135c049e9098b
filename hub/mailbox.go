package hub

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	// longestDeposit and longestList bound the arguments of hub.deposit and hub.allow, in bytes.
	longestDeposit = mailbox.MaxSize/3*4 + 4<<10
	longestList    = 4096*64 + 4<<10

	// fullRetry is how long somebody waits for room who has found none.
	fullRetry = 5 * time.Minute

	// mostMailCalls is how many calls of one key read its mailbox at a time, and how many others acknowledge.
	mostMailCalls = 8
	// mailCallsRetry is how long it waits when it has so many.
	mailCallsRetry = time.Second

	// mailSecretLabel is what the secret of mailboxes is derived for.
	mailSecretLabel = "secretstack hub mailboxes 1"
)

// openMailboxes opens the mailboxes on the registry's engine.
func (h *Hub) openMailboxes(ctx context.Context) error {
	secret, err := hkdf.Key(sha256.New, h.identity.Seed(), nil, mailSecretLabel, mailbox.SecretSize)
	if err != nil {
		return err
	}
	h.mailboxes, err = mailbox.Open(ctx, mailbox.Config{
		Registry: h.registry, Secret: [mailbox.SecretSize]byte(secret), Limits: h.cfg.Limits.Mailboxes, Arrived: h.mailArrived,
		Logger: h.log,
	})
	return err
}

// mailMethods adds the methods of mailboxes, docs/PROTOCOL.md §14.
func (h *Hub) mailMethods(s *secretstack.Setup) error {
	return errors.Join(
		muxrpc.HandleAsync(s, "deposit", h.deposit),
		muxrpc.HandleAsync(s, "allow", h.allow),
		muxrpc.HandleSource(s, "mailbox", h.mailbox),
		muxrpc.HandleAsync(s, "acknowledge", asking(h.acknowledge)),
		muxrpc.HandleAsync(s, "mailboxStatus", h.mailboxStatus),
	)
}

// mailMethodNames are those that every peer may call. What they do for whom is for each to say.
func mailMethodNames() []string {
	return []string{"deposit", "allow", "mailbox", "acknowledge", "mailboxStatus"}
}

// deposit leaves an envelope for somebody. It is counted before anything is looked at.
func (h *Hub) deposit(ctx context.Context, args muxrpc.Args) (native.Deposited, error) {
	p := secretstack.PeerFrom(ctx)
	kept, err := h.deposited(ctx, p, args)
	if err != nil {
		h.refused(err, h.addrOf(p), p.Key(), "deposit")
		return native.Deposited{}, h.toldMail(err)
	}
	return native.Deposited{Expires: kept.Expires.UnixMilli(), Request: kept.Request}, nil
}

func (h *Hub) deposited(ctx context.Context, p *secretstack.Peer, args muxrpc.Args) (mailbox.Kept, error) {
	if err := h.admission.AllowKey(admission.Deposit, h.addrOf(p), p.Key()); err != nil {
		return mailbox.Kept{}, err
	}
	var r native.DepositRequest
	if err := decodeUpTo(longestDeposit, args, &r); err != nil {
		return mailbox.Kept{}, err
	}
	if len(r.Token) > native.MaxToken {
		return mailbox.Kept{}, refusal(native.BadRequest, "the token is too long")
	}
	if !h.keepsMailFor(r.Recipient, h.readerOf(r.Recipient)) {
		return mailbox.Kept{}, mailbox.ErrNoMailbox
	}
	return h.mailboxes.Deposit(ctx, mailbox.Deposit{Sender: p.Key(), Recipient: r.Recipient, Token: r.Token, Envelope: r.Envelope})
}

// decodeUpTo decodes an argument of bounded length.
func decodeUpTo(longest int, args muxrpc.Args, into any) error {
	switch {
	case len(args.At(0)) > longest:
		return refusal(native.BadRequest, "the request is too long")
	case args.At(0) == nil || json.Unmarshal(args.At(0), into) != nil:
		return refusal(native.BadRequest, "the request is not understood")
	}
	return nil
}

// mayHaveMailbox reports whether a key has an id here and is welcome.
func (h *Hub) mayHaveMailbox(key keys.PublicKey) bool { return h.keepsMailFor(key, key) }

// keepsMailFor reports whether the mail of a recipient is read by a key that has an id here, when both are welcome.
func (h *Hub) keepsMailFor(recipient, key keys.PublicKey) bool {
	rec, known := h.registry.LookupKey(key)
	return known && h.admission.Reach(rec.ID, key) == nil && (recipient.Equal(key) || h.admission.Reach(rec.ID, recipient) == nil)
}

var errNotPublished = refusal(native.BadRequest, "publish first: mailboxes are for keys that have an id here")

// allow opens the mailbox of the caller and says who may use it, or closes it.
func (h *Hub) allow(ctx context.Context, args muxrpc.Args) (native.MailboxStatus, error) {
	p := secretstack.PeerFrom(ctx)
	if !h.mayHaveMailbox(p.Key()) {
		return native.MailboxStatus{}, errNotPublished
	}
	err := h.allowed(ctx, p, args)
	if err != nil {
		h.refused(err, h.addrOf(p), p.Key(), "mailbox")
		return native.MailboxStatus{}, h.toldMail(err)
	}
	return h.mailboxStatus(ctx, muxrpc.None{})
}

func (h *Hub) allowed(ctx context.Context, p *secretstack.Peer, args muxrpc.Args) error {
	if err := h.admission.AllowKey(admission.Deposit, h.addrOf(p), p.Key()); err != nil { // it is a write as well
		return err
	}
	var r native.AllowRequest
	if err := decodeUpTo(longestList, args, &r); err != nil {
		return err
	}
	if r.Close {
		return h.mailboxes.Remove(ctx, p.Key())
	}
	policy := mailbox.Policy{Keys: r.Keys, Tokens: r.Tokens, Strangers: r.Strangers, Digest: r.Digest()}
	return h.mailboxes.Allow(ctx, p.Key(), policy)
}

// mailbox sends what waits for the caller.
func (h *Hub) mailbox(ctx context.Context, r native.MailboxRequest) iter.Seq2[native.Waiting, error] {
	return func(yield func(native.Waiting, error) bool) {
		p := secretstack.PeerFrom(ctx)
		if !h.mayHaveMailbox(p.Key()) {
			yield(native.Waiting{}, errNotPublished)
			return
		}
		leave, ok := h.mailReaders.enter(p.Key(), mostMailCalls)
		if !ok {
			yield(native.Waiting{}, errMailCalls())
			return
		}
		defer leave()
		h.directory.mailLooked(p.Key())
		for _, key := range h.mailboxesOf(p.Key()) {
			if !h.sendMail(h.mailboxes.Waiting(ctx, key, r.Live && key.Equal(p.Key())), yield) {
				return
			}
		}
	}
}

// sendMail sends what waits in one mailbox, and reports whether that has worked.
func (h *Hub) sendMail(waiting iter.Seq2[mailbox.Envelope, error], yield func(native.Waiting, error) bool) bool {
	for e, err := range waiting {
		if err != nil {
			yield(native.Waiting{}, h.toldMail(err))
			return false
		}
		item := native.Waiting{ID: e.ID.String(), Envelope: e.Envelope, Time: e.Time.UnixMilli(), Request: e.Request}
		if !yield(item, nil) {
			return false
		}
	}
	return true
}

// acknowledge forgets what the caller has.
func (h *Hub) acknowledge(ctx context.Context, p *secretstack.Peer, r native.AcknowledgeRequest) (muxrpc.None, error) {
	if len(r.IDs) > native.MaxAcknowledged {
		return muxrpc.None{}, refusal(native.BadRequest, fmt.Sprintf("at most %d at a time", native.MaxAcknowledged))
	}
	leave, ok := h.mailKeepers.enter(p.Key(), mostMailCalls)
	if !ok {
		return muxrpc.None{}, errMailCalls()
	}
	defer leave()
	ids := make([]mailbox.ID, 0, len(r.IDs))
	for _, text := range r.IDs {
		if id, ok := mailbox.ParseID(text); ok {
			ids = append(ids, id)
		}
	}
	for _, key := range h.mailboxesOf(p.Key()) {
		if err := h.mailboxes.Acknowledge(ctx, key, ids...); err != nil {
			return muxrpc.None{}, h.toldMail(err)
		}
	}
	return muxrpc.None{}, nil
}

// mailboxStatus tells the caller about its mailbox.
func (h *Hub) mailboxStatus(ctx context.Context, _ muxrpc.None) (native.MailboxStatus, error) {
	p := secretstack.PeerFrom(ctx)
	if !h.mayHaveMailbox(p.Key()) {
		return native.MailboxStatus{}, errNotPublished
	}
	s, err := h.mailboxes.Status(ctx, p.Key())
	if err != nil {
		return native.MailboxStatus{}, h.toldMail(err)
	}
	l := h.mailboxes.Limits()
	return native.MailboxStatus{
		Open: s.Open, Digest: s.Digest, Mail: native.Amount(s.Mail), Requests: native.Amount(s.Requests), MaxAllowed: l.MaxAllowed,
		MaxMail:     native.Amount{Count: l.MaxMessages, Bytes: l.MaxBytes},
		MaxRequests: native.Amount{Count: l.MaxRequests, Bytes: l.MaxRequestBytes},
	}, nil
}

func errMailCalls() error {
	return (&native.Error{Code: native.RateLimited, Text: "too many calls at once", RetryAfter: mailCallsRetry}).ForPeer()
}

// toldMail returns what a peer is told of an error of mailboxes.
func (h *Hub) toldMail(err error) error {
	for _, known := range []struct {
		err   error
		code  native.Code
		text  string
		retry time.Duration
	}{
		{mailbox.ErrNoMailbox, native.NoMailbox, "the recipient has no mailbox here", 0},
		{mailbox.ErrNotAllowed, native.NotAllowed, "the recipient takes nothing from you", 0},
		{mailbox.ErrMailboxFull, native.MailboxFull, "too much waits for the recipient", fullRetry},
		{mailbox.ErrSenderFull, native.SenderFull, "too much of yours waits to be fetched", fullRetry},
		{mailbox.ErrHubFull, native.HubFull, "the hub keeps as much as it can", fullRetry},
	} {
		if errors.Is(err, known.err) {
			return (&native.Error{Code: known.code, Text: known.text, RetryAfter: known.retry}).ForPeer()
		}
	}
	switch {
	case errors.Is(err, mailbox.ErrSize):
		return refusal(native.BadRequest, "the envelope has none of the sizes that envelopes have")
	case errors.Is(err, mailbox.ErrList):
		return refusal(native.BadRequest, "the list of senders is too long or malformed")
	case errors.Is(err, mailbox.ErrClosed):
		err = errDraining
	}
	return h.told(err)
}

// mailArrived tells a recipient that is here, unless it knows and has not looked yet.
func (h *Hub) mailArrived(recipient keys.PublicKey) {
	recipient = h.readerOf(recipient)
	s := h.directory.mailWaits(recipient)
	if s == nil {
		return
	}
	_ = h.background(func() {
		if h.notify(s.peer, native.Notice{Type: native.NoticeMail}) != nil {
			h.directory.mailLooked(recipient) // it does not know
		}
	})
}

// mailWaits returns the connection on which a courier is to be told that it has mail, or nil.
func (d *directory) mailWaits(key keys.PublicKey) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.couriers[key.Array()]
	if s == nil || s.toldMail {
		return nil
	}
	s.toldMail = true
	return s
}

// mailLooked says that a courier looks into its mailbox, and does not know what comes from now on.
func (d *directory) mailLooked(key keys.PublicKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.couriers[key.Array()]; s != nil {
		s.toldMail = false
	}
}

// turns bounds how many calls of one key run at a time.
type turns struct {
	mu   sync.Mutex
	busy map[[keys.PublicKeySize]byte]int // guarded by mu
}

// enter counts one call, unless there are as many as there may be. leave must be called once.
func (t *turns) enter(key keys.PublicKey, most int) (leave func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy == nil {
		t.busy = map[[keys.PublicKeySize]byte]int{}
	}
	k := key.Array()
	if t.busy[k] >= most {
		return nil, false
	}
	t.busy[k]++
	return func() { t.leave(k) }, true
}

func (t *turns) leave(key [keys.PublicKeySize]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy[key]--; t.busy[key] == 0 {
		delete(t.busy, key)
	}
}
