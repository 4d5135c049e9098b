package admission

import (
	"errors"
	"fmt"
	"time"
)

// The errors of this package. All but ErrUnavailable, ErrRule and ErrNotFound have texts that may be shown to the peer they
// are about.
var (
	// ErrDenied says that somebody is not welcome. Asking again does not help.
	ErrDenied = errors.New("admission: not welcome here")

	// ErrInviteNeeded says that the key cannot publish without an invite.
	ErrInviteNeeded = errors.New("admission: publishing here needs an invite")

	// ErrInvite says that an invite does not work: it is not written as one, unknown, used up, expired or revoked.
	ErrInvite = errors.New("admission: the invite does not work")

	// ErrUnavailable says that what would have to be written cannot be for now. Asking again later may work. It wraps the
	// registry's error, whose text may name files of this machine.
	ErrUnavailable = errors.New("admission: cannot write now")

	// ErrFull says that there are as many connections as there may be in all.
	ErrFull = errors.New("admission: too many connections")

	// ErrCrowded says that there are as many connections as there may be from one address.
	ErrCrowded = errors.New("admission: too many connections from one address")

	// ErrRule says that a rule, a subject, a rate, a mode or the terms of an invite are not written as they must be, or make no
	// sense. The text says what is wrong, for the person who wrote it.
	ErrRule = errors.New("admission: not understood")

	// ErrNotFound says that there is no such rule or invite.
	ErrNotFound = errors.New("admission: not found")

	// ErrListFull says that there are as many rules or invites as there may be.
	ErrListFull = errors.New("admission: the list is full")

	// ErrStored says that the stored lists hold something that this version cannot read. It is left as it is.
	ErrStored = errors.New("admission: stored lists cannot be read")
)

// RateError says that somebody asks too often.
type RateError struct {
	Kind       Kind
	RetryAfter time.Duration // from when on asking again may work; more than zero
}

// Error says what there was too much of and how long to wait, in whole seconds.
func (e *RateError) Error() string {
	return fmt.Sprintf("admission: too many %ss, try again in %d s", e.Kind, (e.RetryAfter+time.Second-1)/time.Second)
}
