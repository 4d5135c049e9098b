package circuit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Answer is the one byte that the hub sends to an end that has presented a token.
type Answer byte

// The answers. Every other byte counts as a refusal.
const (
	// Joined: all bytes from here on are the other end's.
	Joined Answer = 1
	// Unknown: there is no such token; it may have been used.
	Unknown Answer = 2
	// Expired: the token was good, but came too late.
	Expired Answer = 3
	// Absent: the other end did not come in time.
	Absent Answer = 4
	// Refused: the other end does not want this circuit.
	Refused Answer = 5
	// Busy: the hub has no room for it.
	Busy Answer = 6
	// Closing: the hub is about to end.
	Closing Answer = 7
	// Unwelcome: the hub does not serve one of the two ends any more.
	Unwelcome Answer = 8
)

// String says for a person what the answer means.
func (a Answer) String() string {
	texts := [...]string{
		Joined:    "joined",
		Unknown:   "the hub does not know the token, or it has been used",
		Expired:   "the token came too late",
		Absent:    "the other end did not come",
		Refused:   "the other end has refused",
		Busy:      "the hub has no room for another circuit",
		Closing:   "the hub is closing",
		Unwelcome: "the hub does not serve one of the two any more",
	}
	if int(a) < len(texts) && texts[a] != "" {
		return texts[a]
	}
	return fmt.Sprintf("the hub refused with code %d", byte(a))
}

// Err returns nil for [Joined], and otherwise an [*AnswerError].
func (a Answer) Err() error {
	if a == Joined {
		return nil
	}
	return &AnswerError{a}
}

// AnswerError is an answer other than [Joined].
type AnswerError struct{ Answer Answer }

// Error says what the hub answered.
func (e *AnswerError) Error() string { return "circuit: " + e.Answer.String() }

// Enter presents a token on a fresh connection to a hub and waits until the other end is there. When it returns nil,
// conn leads to the other end. An error leaves conn unfit for anything but closing: it is an [*AnswerError] when the hub
// said why, and the cause of ctx when that has ended. conn must take deadlines, and has none afterwards.
func Enter(ctx context.Context, conn net.Conn, t Token) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := enter(conn, t)
	if !stop() { // the deadline is set, or about to be
		return context.Cause(ctx)
	}
	return err
}

func enter(conn net.Conn, t Token) error {
	if _, err := conn.Write(AppendPreamble(nil, t)); err != nil {
		return fmt.Errorf("circuit: presenting the token: %w", err)
	}
	var b [1]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = errNoAnswer
		}
		return fmt.Errorf("circuit: waiting for the other end: %w", err)
	}
	return Answer(b[0]).Err()
}

// errNoAnswer is the end of a connection on which a hub ought to have answered.
var errNoAnswer = fmt.Errorf("the hub hung up: %w", io.ErrUnexpectedEOF)

// WriteAnswer sends an answer.
func WriteAnswer(w io.Writer, a Answer) error {
	_, err := w.Write([]byte{byte(a)})
	return err
}
