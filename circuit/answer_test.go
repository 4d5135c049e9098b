package circuit

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// tcpPair returns the two ends of a TCP connection.
func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// hub takes one preamble and does with the connection as it is told.
func hub(t *testing.T, conn net.Conn, then func(conn net.Conn)) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		token, err := ReadPreamble(conn)
		if err != nil || token != counting() {
			t.Errorf("the hub read %x, %v", token[:], err)
		}
		then(conn)
	}()
}

func TestAnEndGetsTheConnectionWhenItIsJoined(t *testing.T) {
	near, far := tcpPair(t)
	hub(t, far, func(conn net.Conn) {
		_ = WriteAnswer(conn, Joined)
		_, _ = io.WriteString(conn, "the other end")
		conn.Close()
	})
	ctx, cancel := context.WithCancel(t.Context())
	if err := Enter(ctx, near, counting()); err != nil {
		t.Fatal(err)
	}
	cancel() // has no effect any more
	if got, err := io.ReadAll(near); string(got) != "the other end" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAnEndLearnsWhyItIsNotJoined(t *testing.T) {
	for _, answer := range []Answer{Unknown, Expired, Absent, Refused, Busy, Closing, Unwelcome, 0, 9, 255} {
		near, far := tcpPair(t)
		hub(t, far, func(conn net.Conn) { _ = WriteAnswer(conn, answer) })
		err := Enter(t.Context(), near, counting())
		got, ok := errors.AsType[*AnswerError](err)
		if !ok || got.Answer != answer || !strings.HasPrefix(err.Error(), "circuit: ") {
			t.Errorf("answer %d gives %v", answer, err)
		}
	}
	if err := Joined.Err(); err != nil {
		t.Error(err)
	}
}

func TestAHubThatHangsUpHasNotAnswered(t *testing.T) {
	near, far := tcpPair(t)
	hub(t, far, func(conn net.Conn) { conn.Close() })
	if err := Enter(t.Context(), near, counting()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestTheContextEndsTheWaitForTheOtherEnd(t *testing.T) {
	near, far := tcpPair(t)
	why := errors.New("tired of waiting")
	ctx, cancel := context.WithCancelCause(t.Context())
	hub(t, far, func(net.Conn) { cancel(why) })
	if err := Enter(ctx, near, counting()); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestEnteringLeavesNoDeadline(t *testing.T) {
	near, far := tcpPair(t)
	hub(t, far, func(conn net.Conn) { _ = WriteAnswer(conn, Joined) })
	conn := &deadlines{Conn: near}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := Enter(ctx, conn, counting()); err != nil {
		t.Fatal(err)
	}
	if conn.set {
		t.Error("a deadline was set, and is still there")
	}
}

// deadlines is a connection that notices whether deadlines are set.
type deadlines struct {
	net.Conn
	set bool
}

func (d *deadlines) SetDeadline(t time.Time) error {
	d.set = !t.IsZero()
	return d.Conn.SetDeadline(t)
}
