package cluster

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// echoes reports whether a link still carries what is sent.
func echoes(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, err := io.WriteString(conn, "x")
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, 1))
	}
	return err == nil
}

func ends(t *testing.T, life context.Context) {
	t.Helper()
	select {
	case <-life.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("nobody notices that the node has gone")
	}
}

// TestLinksLiveAsLongAsTheProcessAtTheOtherEnd, whatever the bus says, and no longer, whatever shows on them.
func TestLinksLiveAsLongAsTheProcessAtTheOtherEnd(t *testing.T) {
	s := engine(t)
	a := open(t, configOf(t, newBus(t, s), "a"))
	theirs := newBus(t, s)
	cfg := configOf(t, theirs, "b")
	address := cfg.Listener.Addr().String()
	again := func() net.Listener {
		t.Helper()
		var ln net.Listener
		eventually(t, "the port is free again", func() (ok bool) {
			var err error
			ln, err = net.Listen("tcp", address)
			return err == nil
		})
		return ln
	}
	seen := func(n *Node, there bool) {
		t.Helper()
		eventually(t, "the nodes have heard of each other, or not", func() bool { return (len(n.Members()) == 2) == there })
	}
	b := open(t, cfg)
	seen(a, true)
	seen(b, true)
	conn, life, err := a.Dial(t.Context(), b.place(), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if !echoes(conn) {
		t.Fatal("nothing comes back")
	}

	theirs.cut()
	seen(a, false)
	visited := b.Stats().LinksTaken
	eventually(t, "the node is asked again and again", func() bool { return b.Stats().LinksTaken > visited+2 })
	if life.Err() != nil || !echoes(conn) {
		t.Error("a link has ended because the bus has")
	}
	theirs.connect()
	seen(a, true)

	// Another process of the node is there so soon that nothing is missed.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Bus, cfg.Listener = newBus(t, s), again()
	b = open(t, cfg)
	ends(t, life)

	// It falls silent: it is connected to, and says nothing.
	hasty := configOf(t, newBus(t, s), "c")
	hasty.Limits.LinkTimeout = time.Second
	c := open(t, hasty)
	eventually(t, "a link is opened", func() bool {
		if conn, life, err = c.Dial(t.Context(), b.place(), nil, true); err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	silent := again()
	defer func() { _ = silent.Close() }()
	ends(t, life)
}

// TestANodeThatWasConnectedToNoticesThatTheOtherHasGone, though it has never connected to it.
func TestANodeThatWasConnectedToNoticesThatTheOtherHasGone(t *testing.T) {
	s := engine(t)
	a := open(t, configOf(t, newBus(t, s), "a"))
	cfg := configOf(t, newBus(t, s), "b")
	lives := make(chan context.Context, 1)
	cfg.Serve = func(ctx context.Context, _ keys.PublicKey, _ []byte, accept func(error) (net.Conn, error)) {
		if conn, err := accept(nil); err == nil {
			defer func() { _ = conn.Close() }()
			lives <- ctx
			<-ctx.Done()
		}
	}
	b := open(t, cfg)
	conn, _, err := a.Dial(t.Context(), b.place(), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	life := <-lives
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	ends(t, life)
	if b.life.Err() != nil {
		t.Error("this node has ended, too")
	}
}
