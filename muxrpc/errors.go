package muxrpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Errors that a caller can decide on with errors.Is.
var (
	// ErrSessionClosed is returned by everything that needs the session after it ended; ErrUnexpectedEnd matches it too.
	ErrSessionClosed error = &localError{"stream is closed"}
	// ErrClosing is returned by new calls while Close waits for the open ones.
	ErrClosing error = &localError{"parent stream is closing"}
	// ErrUnexpectedEnd is returned by calls and streams that were open when the session ended.
	ErrUnexpectedEnd error = &localError{"unexpected end of parent stream"}
	// ErrStreamClosed is returned by a stream that this side has closed.
	ErrStreamClosed error = &localError{"this stream is closed"}
	// ErrSlowReader ends a stream whose reader fell behind for longer than Limits.SlowReaderGrace.
	ErrSlowReader error = &localError{"the reader of this stream was too slow"}
	// ErrTooLarge is returned when a value is larger than Limits.MaxPacket, and by a session that the peer ended with
	// such a packet.
	ErrTooLarge error = &localError{"packet too large"}
	// ErrTooManyStreams refuses a stream over Limits.MaxStreams.
	ErrTooManyStreams error = &localError{"too many streams are open"}
	// ErrTooManyCalls refuses a call over Limits.MaxHandlers.
	ErrTooManyCalls error = &localError{"too many calls are being served"}
	// ErrPacketTimeout ends a session whose peer took longer than Limits.PacketTimeout to send the rest of a packet.
	ErrPacketTimeout error = &localError{"the rest of a packet did not come in time"}
	// ErrWriteTimeout ends a session whose peer took nothing for Limits.WriteTimeout.
	ErrWriteTimeout error = &localError{"the peer does not read"}
	// ErrNoMethod is returned by Mux.Hook for a method that is not registered.
	ErrNoMethod error = &localError{"no such method"}
	// ErrMethod is returned by Mux.Handle for a method that cannot be registered.
	ErrMethod error = &localError{"invalid method"}
)

// localError is an error of this package; its text without the prefix may be told to the peer.
type localError struct{ text string }

func (e *localError) Error() string { return "muxrpc: " + e.text }

// endError is what the calls of an ended session return: ErrUnexpectedEnd with the reason.
type endError struct {
	reason error // nil after an orderly end
}

func (e *endError) Error() string {
	if e.reason == nil {
		return ErrUnexpectedEnd.Error()
	}
	return ErrUnexpectedEnd.Error() + ": " + e.reason.Error()
}

func (e *endError) Is(target error) bool {
	return target == ErrUnexpectedEnd || target == ErrSessionClosed
}
func (e *endError) Unwrap() error { return e.reason }

// RemoteError is an error that the peer answered.
type RemoteError struct {
	Name    string          // "Error", "TypeError"…; empty if the peer sent none
	Message string          // empty if the peer sent none
	Value   json.RawMessage // what the peer sent, whole, as JSON
}

// Error says that the peer answered, and what.
func (e *RemoteError) Error() string {
	if e.Message != "" {
		return "muxrpc: the peer answered: " + e.Message
	}
	return "muxrpc: the peer answered an error without a message"
}

// Error is an error whose text is meant for the peer. Make one with Errorf.
type Error struct {
	Message string
	err     error
}

// Errorf returns an *Error: handlers return it to tell the peer what is wrong. It formats like fmt.Errorf, %w included.
func Errorf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Message: err.Error(), err: errors.Unwrap(err)}
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the error that was wrapped with %w, if any. It stays on this side.
func (e *Error) Unwrap() error { return e.err }

// internalError is all that a peer learns of an error that was not meant for it.
const internalError = "internal error"

// wireMessage returns the text of err that may go to the peer, and whether it says all there is to say.
func wireMessage(err error) (text string, complete bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Message, true
	}
	if e, ok := errors.AsType[*RemoteError](err); ok {
		if e.Message == "" {
			return "error without a message", true
		}
		return e.Message, true
	}
	if e, ok := errors.AsType[*localError](err); ok {
		return e.text, true
	}
	switch {
	case errors.Is(err, context.Canceled):
		return "call was cancelled", true
	case errors.Is(err, context.DeadlineExceeded):
		return "call timed out", true
	}
	return internalError, false
}

// parseRemoteError makes an error of whatever the peer sent as one.
func parseRemoteError(v Value) error {
	e := &RemoteError{Value: v.asJSON()}
	if v.Kind == KindString {
		e.Message = string(v.Bytes)
		return e
	}
	if v.Kind != KindJSON || json.Unmarshal(v.Bytes, &e.Message) == nil {
		return e
	}
	var fields struct{ Name, Message json.RawMessage }
	_ = json.Unmarshal(v.Bytes, &fields) // what cannot be decoded stays empty
	_ = json.Unmarshal(fields.Name, &e.Name)
	_ = json.Unmarshal(fields.Message, &e.Message)
	return e
}
