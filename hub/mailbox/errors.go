package mailbox

import "errors"

// The errors of this package. All but ErrUnavailable have texts that may be shown to the peer they are about.
var (
	// ErrNoMailbox says that the recipient has no mailbox here.
	ErrNoMailbox = errors.New("mailbox: the recipient has no mailbox here")

	// ErrNotAllowed says that the recipient does not let this sender deposit anything.
	ErrNotAllowed = errors.New("mailbox: the recipient takes nothing from this sender")

	// ErrSize says that the envelope has not the length of a size class, or not of one that strangers may use.
	ErrSize = errors.New("mailbox: an envelope cannot have this length")

	// ErrMailboxFull says that so much waits for the recipient, or so much of strangers, that nothing more can be taken before
	// some of it has been fetched.
	ErrMailboxFull = errors.New("mailbox: too much waits for the recipient")

	// ErrSenderFull says that so much of this sender waits, for the recipient or for all together, that nothing more can be
	// taken before some of it has been fetched.
	ErrSenderFull = errors.New("mailbox: too much of this sender waits")

	// ErrHubFull says that the hub keeps as much as it may.
	ErrHubFull = errors.New("mailbox: the hub keeps as much as it can")

	// ErrList says that a list of senders is too long, or that there is something in it that cannot be.
	ErrList = errors.New("mailbox: not a list of senders")

	// ErrUnavailable says that the disk cannot be used for now. Asking again later may work. It wraps the registry's error,
	// whose text may name files of this machine.
	ErrUnavailable = errors.New("mailbox: cannot be used now")

	// ErrClosed says that Close has been called.
	ErrClosed = errors.New("mailbox: closed")
)
