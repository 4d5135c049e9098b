package hub

import (
	"errors"
	"net/netip"
	"time"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

// ErrClosed is returned by what needs a hub that has been closed.
var ErrClosed = errors.New("hub: closed")

var (
	errDraining  = errors.New("hub: about to end")
	errUnwelcome = errors.New("hub: not welcome any more")
)

// retrySoon is when what cannot be written now may work again.
const retrySoon = 5 * time.Second

// refusal is an error that a courier can act on.
func refusal(code native.Code, text string) error {
	return (&native.Error{Code: code, Text: text}).ForPeer()
}

// told returns what a peer is told of an error. Texts are the hub's own: those of errors may name files.
func (h *Hub) told(err error) error {
	if _, ready := errors.AsType[*muxrpc.Error](err); ready {
		return err
	}
	if rate, ok := errors.AsType[*admission.RateError](err); ok {
		return (&native.Error{Code: native.RateLimited, Text: "too much at once", RetryAfter: rate.RetryAfter}).ForPeer()
	}
	for _, known := range []struct {
		err  error
		code native.Code
		text string
	}{
		{errDraining, native.Draining, "the hub is about to end"},
		{admission.ErrDenied, native.Denied, "this hub does not take you"},
		{admission.ErrInviteNeeded, native.InviteNeeded, "publishing here needs an invitation: ask whoever runs the hub"},
		{admission.ErrInvite, native.InviteBad, "the invitation is unknown, used up or expired: ask for another"},
		{registry.ErrEvidence, native.Evidence, "what you have signed does not prove it"},
		{registry.ErrBoxKey, native.BoxKey, "your key is registered with another box half"},
		{registry.ErrStale, native.Stale, "that is not your id and sequence: publish, and you learn both"},
		{registry.ErrGivenUp, native.GivenUp, "your key was given up for another, which has its id"},
		{registry.ErrClaim, native.Claim, "the id is not yours here: publish without it, and you get another"},
	} {
		if errors.Is(err, known.err) {
			return refusal(known.code, known.text)
		}
	}
	h.log.Warn("hub: a request could not be served", "err", err)
	return (&native.Error{Code: native.Unavailable, Text: "the hub cannot do that now", RetryAfter: retrySoon}).ForPeer()
}

func resultOf(err error) admin.Result {
	for _, failed := range []error{registry.ErrUnavailable, registry.ErrClosed, admission.ErrUnavailable} {
		if errors.Is(err, failed) {
			return admin.ResultFailed
		}
	}
	return admin.ResultRefused
}

// refused counts a refusal.
func (h *Hub) refused(err error, addr netip.Addr, key keys.PublicKey, what string) {
	h.observer.Refused(admin.Refusal{Reason: reasonOf(err), Addr: addr, Key: key, What: what})
}

func reasonOf(err error) admin.Reason {
	if _, ok := errors.AsType[*admission.RateError](err); ok {
		return admin.ReasonRate
	}
	for _, known := range []struct {
		err    error
		reason admin.Reason
	}{
		{admission.ErrDenied, admin.ReasonDenied},
		{errUnwelcome, admin.ReasonDenied},
		{admission.ErrInviteNeeded, admin.ReasonInvite},
		{admission.ErrInvite, admin.ReasonInvite},
		{admission.ErrFull, admin.ReasonFull},
		{admission.ErrCrowded, admin.ReasonFull},
		{circuits.ErrFull, admin.ReasonFull},
		{circuits.ErrVisitorLimit, admin.ReasonFull},
		{circuits.ErrTargetLimit, admin.ReasonFull},
		{registry.ErrEvidence, admin.ReasonUnproved},
		{registry.ErrBoxKey, admin.ReasonUnproved},
		{registry.ErrClaim, admin.ReasonUnproved},
		{registry.ErrStale, admin.ReasonUnproved},
		{registry.ErrGivenUp, admin.ReasonDenied},
		{registry.ErrUnavailable, admin.ReasonUnavailable},
		{admission.ErrUnavailable, admin.ReasonUnavailable},
		{registry.ErrClosed, admin.ReasonUnavailable},
		{circuits.ErrClosed, admin.ReasonUnavailable},
		{mailbox.ErrClosed, admin.ReasonUnavailable},
		{errDraining, admin.ReasonUnavailable},
		{mailbox.ErrNotAllowed, admin.ReasonDenied},
		{mailbox.ErrMailboxFull, admin.ReasonFull},
		{mailbox.ErrSenderFull, admin.ReasonFull},
		{mailbox.ErrHubFull, admin.ReasonFull},
		{mailbox.ErrSize, admin.ReasonMalformed},
		{mailbox.ErrList, admin.ReasonMalformed},
		{mailbox.ErrUnavailable, admin.ReasonUnavailable},
	} {
		if errors.Is(err, known.err) {
			return known.reason
		}
	}
	switch native.CodeOf(err) {
	case native.Evidence:
		return admin.ReasonUnproved
	case native.BadRequest:
		return admin.ReasonMalformed
	}
	return admin.ReasonOther
}
