package native

import (
	"errors"
	"regexp"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
)

// Code says what kind of refusal an [Error] is.
type Code string

// The codes. What is not in this list is treated as Unavailable.
const (
	BadRequest   Code = "bad-request"   // the request is malformed, or says what its signer may not say
	Evidence     Code = "evidence"      // the statement or the receipt does not prove what it is for
	BoxKey       Code = "box-key"       // the key is registered with another box half
	Stale        Code = "stale"         // the reset is not for the current id: publishing tells which that is
	Claim        Code = "claim"         // the id named is not the courier's here: publishing without one gives a new one
	GivenUp      Code = "given-up"      // the key was given up for another, which has its id
	Denied       Code = "denied"        // the hub does not take this courier
	InviteNeeded Code = "invite-needed" // the hub asks for an invitation
	InviteBad    Code = "invite-bad"    // the invitation is unknown, used up or expired
	RateLimited  Code = "rate-limited"  // too much at once; RetryAfter says how long to wait
	Unavailable  Code = "unavailable"   // the hub cannot do it now; later it may
	Draining     Code = "draining"      // the hub is about to end
	Unknown      Code = "unknown"       // there is no such id, or no such key
	Offline      Code = "offline"       // it is known, but not here now
)

// Error is a hub's refusal. It travels as the message of a muxrpc error: "CODE: TEXT", or "CODE (retry in 12s): TEXT".
type Error struct {
	Code Code
	// Text is for people.
	Text string
	// RetryAfter is how long to wait before trying again. Zero: nothing is said about it.
	RetryAfter time.Duration
}

// Error returns what travels.
func (e *Error) Error() string {
	if e.RetryAfter > 0 {
		return string(e.Code) + " (retry in " + roundUp(e.RetryAfter).String() + "): " + e.Text
	}
	return string(e.Code) + ": " + e.Text
}

// roundUp rounds up to whole seconds, so that nobody comes too early.
func roundUp(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// ForPeer returns the error in the form that muxrpc passes on.
func (e *Error) ForPeer() error { return muxrpc.Errorf("%w", e) }

// mostRetry bounds what a hub can make a courier wait.
const mostRetry = 24 * time.Hour

var onWire = regexp.MustCompile(`^([a-z][a-z-]{0,31})(?: \(retry in ([0-9hms.]{1,16})\))?: `)

// FromPeer returns the refusal that an error of a call holds. It reports false for what the hub has not said in this way:
// that the connection broke, that there is no such method.
func FromPeer(err error) (*Error, bool) {
	remote, ok := errors.AsType[*muxrpc.RemoteError](err)
	if !ok {
		return nil, false
	}
	m := onWire.FindStringSubmatch(remote.Message)
	if m == nil {
		return nil, false
	}
	e := &Error{Code: Code(m[1]), Text: remote.Message[len(m[0]):]}
	if d, err := time.ParseDuration(m[2]); err == nil && d > 0 {
		e.RetryAfter = min(d, mostRetry)
	}
	return e, true
}

// CodeOf returns the code of a refusal, or "".
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if e, ok := FromPeer(err); ok {
		return e.Code
	}
	return ""
}
