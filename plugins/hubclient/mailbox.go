package hubclient

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	// mailEvery is how often an app looks into its mailbox that has not been told to: a notice may have been lost.
	mailEvery = 10 * time.Minute
	// mailBatch and mailBatchBytes bound what is given out at a time, give or take one envelope.
	mailBatch      = 64
	mailBatchBytes = 1 << 20
	// mailSilence is how long a hub may take to send the next envelope.
	mailSilence = time.Minute
)

// Mail is an envelope in the app's mailbox at a hub.
type Mail struct {
	Hub      keys.PublicKey
	ID       string // names it in this mailbox
	Envelope []byte
	Time     time.Time // when it was left, by the hub's clock
	Request  bool      // by a stranger
}

// Deposit leaves a sealed envelope in somebody's mailbox at a hub, whose address must end with its key. It need not be one
// of the app's hubs: the app connects to it if it is not connected. Without an error the hub keeps it on disk.
//
// The error is a [*native.Error] when the hub has refused: with native.NoMailbox and native.NotAllowed, nothing can be left
// there for the recipient; with native.MailboxFull, native.SenderFull, native.HubFull, native.RateLimited and
// native.Unavailable, later it may. After other errors the envelope may be there nonetheless.
func (c *Client) Deposit(ctx context.Context, hub multiserver.Address, r native.DepositRequest) (native.Deposited, error) {
	key, ok := hub.Key()
	if !ok {
		return native.Deposited{}, fmt.Errorf("hubclient: %s does not say which key the hub has", hub.Redacted())
	}
	_, kept, err := ask[native.Deposited](ctx, c, key, hub.String(), native.MethodDeposit, r)
	if muxrpc.IsDenied(err) {
		err = &native.Error{Code: native.NoMailbox, Text: "the hub keeps no mailboxes"}
	}
	return kept, err
}

// AllowMail says who may leave mail for the app at its hubs, in place of what was said before. Each hub is told as soon as
// the app is connected to it; [Status.Mailbox] tells what it knows. When a hub does not take so many, the first keys and
// tokens count.
func (c *Client) AllowMail(r native.AllowRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allowed = &r
	close(c.allowing)
	c.allowing = make(chan struct{})
}

// Mail gives what is in the app's mailbox at a hub, and then what comes, in order and in batches, until ctx ends or the loop
// is left. What is not acknowledged comes again, when the app has connected again or something else has come. For a key
// that is none of the app's hubs there is nothing.
func (c *Client) Mail(ctx context.Context, hub keys.PublicKey) iter.Seq[[]Mail] {
	return func(yield func([]Mail) bool) {
		h, err := c.hub(hub)
		if err != nil {
			return
		}
		for retry := c.cfg.RetryMin; ctx.Err() == nil; {
			p, bell := h.mailbox()
			wait := pause.Jitter(mailEvery)
			if p != nil {
				left, err := h.fetch(ctx, p, yield)
				if left {
					return
				}
				wait, retry = h.nextLook(err, wait, retry)
			}
			timer := time.NewTimer(wait)
			select {
			case <-bell:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
		}
	}
}

// nextLook says when to look into a mailbox again that has been looked into, unless something comes before.
func (h *hub) nextLook(err error, usual, retry time.Duration) (wait, next time.Duration) {
	switch refusal, refused := errors.AsType[*native.Error](err); {
	case err == nil, muxrpc.IsDenied(err):
		return usual, h.c.cfg.RetryMin
	case refused && refusal.RetryAfter > 0:
		return refusal.RetryAfter, retry
	}
	h.c.log.Info("hubclient: the mailbox at the hub cannot be read", "hub", h.key.Short(), "err", err, "retry", retry)
	return pause.Jitter(retry), min(2*retry, h.c.cfg.RetryMax)
}

// Acknowledge lets the hub forget mail that the app has. All must be from the same hub.
func (c *Client) Acknowledge(ctx context.Context, mail ...Mail) error {
	for len(mail) > 0 {
		some := mail[:min(len(mail), native.MaxAcknowledged)]
		mail = mail[len(some):]
		h, err := c.hub(some[0].Hub)
		if err != nil {
			return err
		}
		p := h.connection()
		if p == nil {
			return ErrOffline
		}
		var r native.AcknowledgeRequest
		for _, m := range some {
			r.IDs = append(r.IDs, m.ID)
		}
		if _, err := call[muxrpc.None](ctx, c.cfg.AnswerTimeout, p, native.MethodAcknowledge, r); err != nil {
			return err
		}
	}
	return nil
}

// mailbox returns the connection by which the mailbox is reached, or nil, and a channel that is closed when there is reason
// to look into it.
func (h *hub) mailbox() (*secretstack.Peer, <-chan struct{}) {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	return h.peer, h.bell
}

// ring says that there is reason to look into the mailbox.
func (h *hub) ring() {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	close(h.bell)
	h.bell = make(chan struct{})
}

// fetch gives out what waits in the mailbox, and reports whether the loop was left.
func (h *hub) fetch(ctx context.Context, p *secretstack.Peer, yield func([]Mail) bool) (left bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(mailSilence, func() { cancel(errSilent) })
	defer silent.Stop()
	var batch []Mail
	size := 0
	give := func() bool {
		silent.Stop() // the hub waits for us
		defer silent.Reset(mailSilence)
		full := batch
		batch, size = nil, 0
		return len(full) == 0 || yield(full)
	}
	for w, err := range muxrpc.Source[native.Waiting](ctx, p, native.MethodMailbox, native.MailboxRequest{}) {
		if err != nil {
			left = !give()
			return left, said(ctx, err)
		}
		silent.Reset(mailSilence)
		batch = append(batch, Mail{Hub: h.key, ID: w.ID, Envelope: w.Envelope, Time: time.UnixMilli(w.Time), Request: w.Request})
		if size += len(w.Envelope); (len(batch) >= mailBatch || size >= mailBatchBytes) && !give() {
			return true, nil
		}
	}
	return !give(), nil
}

// said makes a refusal of a hub's error, and names what has ended ctx.
func said(ctx context.Context, err error) error {
	if refusal, ok := native.FromPeer(err); ok {
		return refusal
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// keepAllowed tells the hub who may leave mail, whenever that changes, as long as the connection is used.
func (h *hub) keepAllowed(ctx context.Context, p *secretstack.Peer) {
	for retry := h.c.cfg.RetryMin; ctx.Err() == nil; {
		h.c.mu.Lock()
		wanted, changed := h.c.allowed, h.c.allowing
		h.c.mu.Unlock()
		var again <-chan time.Time
		if wanted != nil {
			err := h.tellAllowed(ctx, p, *wanted)
			switch {
			case muxrpc.IsDenied(err):
				return // it knows nothing of mailboxes
			case err == nil:
				retry = h.c.cfg.RetryMin
			case ctx.Err() == nil:
				h.c.log.Warn("hubclient: the hub does not take the list of who may leave mail", "hub", h.key.Short(), "err", err)
				again = time.After(max(pause.Jitter(retry), retryAfter(err)))
				retry = min(2*retry, h.c.cfg.RetryMax)
			}
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
		}
	}
}

func retryAfter(err error) time.Duration {
	if refusal, ok := errors.AsType[*native.Error](err); ok {
		return refusal.RetryAfter
	}
	return 0
}

// tellAllowed compares what the hub knows with what is wanted, and tells it if they differ.
func (h *hub) tellAllowed(ctx context.Context, p *secretstack.Peer, wanted native.AllowRequest) error {
	status, err := call[native.MailboxStatus](ctx, h.c.cfg.AnswerTimeout, p, native.MethodMailboxStatus, nil)
	if err != nil {
		return err
	}
	wanted = fitting(wanted, status.MaxAllowed)
	if status.Open == wanted.Close || status.Open && string(status.Digest) != string(wanted.Digest()) {
		status, err = call[native.MailboxStatus](ctx, h.c.cfg.AnswerTimeout, p, native.MethodAllow, wanted)
		if err != nil {
			return err
		}
	}
	h.update(func(s *Status) { s.Mailbox = status })
	return nil
}

// fitting cuts a list to so many entries.
func fitting(r native.AllowRequest, most int) native.AllowRequest {
	most = max(most, 0)
	if len(r.Keys)+len(r.Tokens) > most {
		r.Keys = r.Keys[:min(len(r.Keys), most)]
		r.Tokens = r.Tokens[:min(len(r.Tokens), most-len(r.Keys))]
	}
	return r
}

// ask calls a method of a hub, over the connection that there is or, when that turns out to be dead, over a new one.
func ask[R any](ctx context.Context, c *Client, hub keys.PublicKey, address, method string, arg any) (
	*secretstack.Peer, R, error,
) {
	if p := c.connectionTo(hub); p != nil {
		answer, err := call[R](ctx, min(oldTimeout, c.cfg.AnswerTimeout), p, method, arg)
		if _, said := errors.AsType[*muxrpc.RemoteError](err); err == nil || said || native.CodeOf(err) != "" || ctx.Err() != nil {
			return p, answer, err
		}
	}
	p, err := c.app.Connect(ctx, address)
	if err != nil {
		var none R
		return nil, none, err
	}
	answer, err := call[R](ctx, c.cfg.AnswerTimeout, p, method, arg)
	return p, answer, err
}
