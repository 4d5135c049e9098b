package registry

import "errors"

// The errors of this package. Returned errors wrap one of them where a caller has something to decide. Their texts may name
// files of this machine: what a peer is told is for the hub to say.
var (
	// ErrClosed says that the registry has been closed.
	ErrClosed = errors.New("registry: closed")

	// ErrUnavailable says that nothing can be written for now: the disk is full or read-only, the engine is down and being
	// restarted, or too much waits to be written. Everything that was acknowledged is safe and look-ups work. Asking again
	// later may work.
	ErrUnavailable = errors.New("registry: cannot write now")

	// ErrUntried comes with ErrUnavailable from a queue when the engine was not even asked: nothing has changed.
	ErrUntried = errors.New("registry: not tried")

	// ErrLocked says that another process has the data folder.
	ErrLocked = errors.New("registry: the data folder is in use")

	// ErrDamaged says that files in the data folder are damaged or missing. They are left as they are. The text says what
	// can be done.
	ErrDamaged = errors.New("registry: the data folder is damaged")

	// ErrEvidence says that a registration does not prove what it asks for: a wrong signature, another hub's statement, too
	// much of it.
	ErrEvidence = errors.New("registry: registration is not proved")

	// ErrBoxKey says that the sign key is registered with another box half.
	ErrBoxKey = errors.New("registry: the key is registered with another box half")

	// ErrStale says that a reset does not name the id that the key has now, or not the next sequence. Registering tells both.
	ErrStale = errors.New("registry: the reset is not for the current id")

	// ErrClaim says that an id is claimed of which the registry knows nothing and for which there is no receipt, or that has
	// become another key's. Registering without naming an id gives a new one.
	ErrClaim = errors.New("registry: the claim to the id cannot be honoured")

	// ErrGivenUp says that the key has been given up for another, which has its id. It never gets one again.
	ErrGivenUp = errors.New("registry: the key has been given up for another")

	// ErrNotFound says that there is no such record, or no such key in a bucket.
	ErrNotFound = errors.New("registry: not found")

	// ErrExists says that a key to be created in a bucket is there already.
	ErrExists = errors.New("registry: exists already")

	// ErrConflict says that a key in a bucket has changed since the revision named.
	ErrConflict = errors.New("registry: changed in the meantime")

	// ErrName says that the name of a bucket, a key or a value's size is not allowed.
	ErrName = errors.New("registry: name or size not allowed")

	// ErrArchive says that an archive is cut short, altered, or not one.
	ErrArchive = errors.New("registry: not a sound archive")

	// ErrNotEmpty says that a folder in which an archive is to be restored has something in it.
	ErrNotEmpty = errors.New("registry: the folder is not empty")
)
