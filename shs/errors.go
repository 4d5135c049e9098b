package shs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Reasons for which a handshake fails. Use [errors.Is]; the error itself is an
// [*Error] with a longer text.
var (
	// ErrAppKey: the other side has another app key or speaks something else.
	ErrAppKey = errors.New("wrong app key, or the other side does not speak the secret handshake")

	// ErrServerKey: the client dialled a key that is not the server's.
	ErrServerKey = errors.New("wrong server key")

	// ErrNotAuthorized: the server does not want to talk to this client. On the
	// server, an authorize function may return it to say just that.
	ErrNotAuthorized = errors.New("not authorized")

	// ErrRefused, on the client: the server hung up when it knew who asks for
	// whom. It has another key than the one dialled, or it did not authorize this
	// client; the protocol does not tell which.
	ErrRefused = errors.New("refused by the server")

	// ErrTimeout: a deadline of the connection passed.
	ErrTimeout = errors.New("handshake timed out")
)

// The texts are those of the JavaScript implementation, spelling included: they
// are known to people and matched by programs.
const (
	textClientNoChallenge = "shs.client: error when expecting server to accept challenge (phase 1).\n" +
		"possibly the server is busy, does not speak shs or uses a different application cap"
	textClientBadChallenge = "shs.client: server responded with invalid challenge (phase 2). possibly server does not speak shs"
	textClientHungUp       = "shs.client: server hung up when we sent hello (phase 3).\n" +
		"Possibly we dailed a wrong number, or the server does not wish to talk to us."
	textClientBadAccept    = "shs.client: the server's response accepting us our hello (phase 5) was invalid, so we hung up"
	textServerBadChallenge = "shs.server: client sent invalid challenge (phase 1), " +
		"possibly they tried to speak a different protocol or had wrong application cap"
	textServerBadHello      = "shs.server: client hello invalid (phase 3). they dailed a wrong number - they didn't have our public key"
	textServerNotAuthorized = "shs.server: we did not authorize the client (phase 4), so we hung up."
)

// Error is a handshake that failed. Its text says what the protocol saw. It
// wraps one of the reasons above, if there is one, and the error of the
// connection, if there is one.
type Error struct {
	text   string
	reason error
	cause  error
}

// Error returns the text of the JavaScript implementation, where it has one.
func (e *Error) Error() string { return e.text }

// Unwrap returns the reason and the cause, as far as there are any.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.reason, e.cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Timeout reports whether a deadline passed; with it an Error is a net.Error.
func (e *Error) Timeout() bool { return errors.Is(e.reason, ErrTimeout) }

// Temporary returns what Timeout returns. It is there for net.Error.
func (e *Error) Temporary() bool { return e.Timeout() }

// fail makes an error for a message that was wrong.
func fail(text string, reason error) error { return &Error{text: text, reason: reason} }

// failIO makes an error for a message that did not come, or could not go. The
// reason is given for the case that the other side hung up.
func failIO(text string, hungUp, cause error) error {
	e := &Error{text: text, cause: cause}
	switch {
	case isTimeout(cause):
		e.reason = ErrTimeout
	case errors.Is(cause, io.EOF), errors.Is(cause, io.ErrUnexpectedEOF):
		e.reason = hungUp
		e.cause = io.ErrUnexpectedEOF // io.EOF is for ends in good order
	case errors.Is(cause, syscall.ECONNRESET):
		e.reason = hungUp // so it looks if the other side had not read all we sent
	}
	return e
}

// isTimeout reports whether err is that of a deadline.
func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// textServerRead is the text for a client that stopped talking. The error of
// the connection is in it only if nothing else says what happened.
func textServerRead(phase, got, want int, cause error) string {
	switch {
	case isTimeout(cause):
		return fmt.Sprintf("shs.server: read exceeded timeout (phase %d)", phase)
	case !errors.Is(cause, io.EOF) && !errors.Is(cause, io.ErrUnexpectedEOF):
		return fmt.Sprintf("shs.server: could not read from the client (phase %d): %v", phase, cause)
	}
	return fmt.Sprintf("shs.server: stream ended with:%d but wanted:%d (phase %d)", got, want, phase)
}

// textServerWrite is the text for a client that went away.
func textServerWrite(phase int) string {
	return fmt.Sprintf("shs.server: could not answer the client (phase %d)", phase)
}
