package cluster

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// echoed sends something over a link and back.
func echoed(t *testing.T, from, to *Node, bare bool) {
	t.Helper()
	conn, _, err := from.Dial(t.Context(), to.place(), []byte("echo"), bare)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	said, got := []byte("there and back"), make([]byte, 14)
	if _, err := conn.Write(said); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, said) {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestTheFirstLinkShakesHandsForTheOthers(t *testing.T) {
	s := engine(t)
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, configOf(t, newBus(t, s), "b"))
	for range 3 {
		echoed(t, a, b, true)
		echoed(t, a, b, false)
	}
	if n := b.counts.resumed.Load(); n < 5 {
		t.Errorf("%d of 6 links were resumed", n)
	}
}

func TestATicketThatIsNotKnownAnyMoreCostsAHandshake(t *testing.T) {
	s := engine(t)
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, configOf(t, newBus(t, s), "b"))
	echoed(t, a, b, true)
	b.tickets.mu.Lock()
	clear(b.tickets.given) // as another process of the same node has it
	b.tickets.mu.Unlock()
	before := a.tickets.of(b.place().Key, time.Now())
	echoed(t, a, b, true)
	if now := a.tickets.of(b.place().Key, time.Now()); now == nil || now == before {
		t.Error("there is no new ticket")
	}
	echoed(t, a, b, true) // with the new one
	if b.counts.resumed.Load() == 0 {
		t.Error("the new ticket is of no use")
	}
}

func TestTicketsEnd(t *testing.T) {
	s := engine(t)
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, configOf(t, newBus(t, s), "b"))
	echoed(t, a, b, true)
	got := a.tickets.of(b.place().Key, time.Now())
	if got == nil || a.tickets.of(b.place().Key, time.Now().Add(ticketLife/2)) != nil {
		t.Error("the ticket's holder has none, or for too long")
	}
	if b.tickets.named(got.name, time.Now().Add(ticketLife-time.Minute)) == nil || b.tickets.named(got.name, time.Now().Add(ticketLife)) != nil {
		t.Error("who has given the ticket forgets it, or does not")
	}
	for range mostTickets {
		_ = b.tickets.give(a.place().Key, time.Now())
	}
	if b.tickets.give(a.place().Key, time.Now()) != nil {
		t.Error("there is no end of tickets")
	}
	if b.tickets.give(a.place().Key, time.Now().Add(ticketLife+time.Second)) == nil {
		t.Error("there is no room when the old ones have ended")
	}
}

// TestATicketIsOfNoUseWithoutItsSecret: nor is what was sent with it.
func TestATicketIsOfNoUseWithoutItsSecret(t *testing.T) {
	s := engine(t)
	cfg := configOf(t, newBus(t, s), "b")
	var served atomic.Int64 // nodes open links of their own to see whether others are there
	echo := cfg.Serve
	cfg.Serve = func(ctx context.Context, from keys.PublicKey, r []byte, accept func(error) (net.Conn, error)) {
		if string(r) == "echo" {
			served.Add(1)
		}
		echo(ctx, from, r, accept)
	}
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, cfg)
	echoed(t, a, b, true)

	// What a sends when it resumes is recorded on its way to b.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	recorded := make(chan []byte, 1)
	go func() {
		var sent bytes.Buffer
		defer func() { recorded <- sent.Bytes() }()
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		to, err := net.Dial("tcp", b.place().Address)
		if err != nil {
			return
		}
		defer func() { _ = to.Close() }()
		go func() { _, _ = io.Copy(conn, to); _ = conn.Close() }()
		_, _ = io.Copy(to, io.TeeReader(conn, &sent))
	}()
	by := b.place()
	by.Address = ln.Addr().String()
	conn, _, err := a.Dial(t.Context(), by, []byte("echo"), true)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	sent := <-recorded
	if !bytes.HasPrefix(sent, []byte(resumeMagic)) || served.Load() != 2 {
		t.Fatalf("the link was not resumed: it begins with %q, and %d were served", sent[:8], served.Load())
	}

	refused := func(what string, hello []byte) {
		t.Helper()
		conn, err := net.Dial("tcp", b.place().Address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write(hello); err != nil {
			t.Fatal(err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if said, _ := io.ReadAll(conn); len(said) > nonceSize {
			t.Errorf("%s: the node goes on: %d bytes", what, len(said))
		}
	}
	refused("what was recorded", sent)
	begin := len(resumeMagic) + ticketName + nonceSize
	refused("with no secret", append(bytes.Clone(sent[:begin]), bytes.Repeat([]byte{0}, 200)...))
	unknown := bytes.Clone(sent)
	unknown[len(resumeMagic)] ^= 1
	refused("with a name that nobody has", unknown)
	refused("cut off", sent[:20])
	if n := served.Load(); n != 2 {
		t.Errorf("%d links were served", n-2)
	}
}

// TestNobodyCanPlayTheNodeOfATicket: who does not have the secret cannot answer either.
func TestNobodyCanPlayTheNodeOfATicket(t *testing.T) {
	s := engine(t)
	a, b := open(t, configOf(t, newBus(t, s), "a")), open(t, configOf(t, newBus(t, s), "b"))
	echoed(t, a, b, true)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.CopyN(io.Discard, conn, int64(len(resumeMagic)+ticketName+nonceSize))
		_, _ = conn.Write(make([]byte, nonceSize+500))
		_, _ = io.Copy(io.Discard, conn)
	}()
	by := b.place()
	by.Address = ln.Addr().String()
	if conn, _, err := a.Dial(t.Context(), by, []byte("echo"), true); err == nil {
		_ = conn.Close()
		t.Error("a stranger was taken for the node")
	}
}
