package secrez

import "errors"

// The errors of this package. Returned errors wrap one of them and add what was wrong; none repeats its input, so each
// may be shown to the peer that caused it.
var (
	// ErrEncoding says that a text is not base32 or base58 as Secrez writes it, or is too long to be decoded.
	ErrEncoding = errors.New("secrez: wrong encoding")

	// ErrPublicKey says that a public key is absent, is not written as it must be, or is a point nobody may use.
	ErrPublicKey = errors.New("secrez: wrong public key")

	// ErrSecret says that the secret halves of an account have the wrong length or contradict their public halves.
	ErrSecret = errors.New("secrez: wrong account secret")

	// ErrPayload says that a payload is no JSON object, is too long, or has a member of the wrong type.
	ErrPayload = errors.New("secrez: wrong payload")

	// ErrSignature says that a signature is absent, is not written as it must be, or does not verify.
	ErrSignature = errors.New("secrez: wrong signature")

	// ErrExpired says that a payload was signed too long ago, or too far in the future. Signing again helps.
	ErrExpired = errors.New("secrez: payload outside its time window")

	// ErrReplayed says that a payload was admitted before.
	ErrReplayed = errors.New("secrez: payload used before")

	// ErrReplayFull says that a replay cache can remember no more for now and therefore admits nothing.
	ErrReplayFull = errors.New("secrez: replay cache full")

	// ErrSealed says that a sealed message is malformed, was altered, or is not between these two accounts.
	ErrSealed = errors.New("secrez: could not open message")

	// ErrID says that a text is not an id, or holds none.
	ErrID = errors.New("secrez: wrong id")
)
