package hub_test

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/plugins/hubclient"
)

// copied is how many bytes this process has moved by system calls that copy them into or out of it.
func copied(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name != "rchar" && name != "wchar" {
			continue
		}
		count, err := strconv.Atoi(value)
		if err != nil {
			t.Fatal(err)
		}
		n += count
	}
	return n
}

// TestBothNodesOfACircuitLeaveItsBytesToTheKernel counts copies. The ends, which are in this process too, copy each byte four
// times on its way there and back; each node that copied would add four.
func TestBothNodesOfACircuitLeaveItsBytesToTheKernel(t *testing.T) {
	nodes := startNodes(t, 3)
	a, b := nodes[0], nodes[1]
	alice := newCourier(t, "alice", a, hubclient.Config{})
	alice.online(t)
	rings(t, alice)
	say := bytes.Repeat([]byte("around "), 2<<20)
	times := func(visitor, at string) float64 {
		t.Helper()
		bob := newVisitor(t, visitor)
		var conn io.ReadWriteCloser
		eventually(t, "alice is reached from the other node", func() bool {
			var err error
			conn, err = bob.DialStream(t.Context(), b.to(t, at, "alice"), ring)
			return err == nil
		})
		defer func() { _ = conn.Close() }()
		before := copied(t)
		sent := make(chan error, 1)
		go func() {
			_, err := conn.Write(say)
			sent <- err
		}()
		got := make([]byte, len(say))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, say) {
			t.Fatalf("what comes back is not what was sent: %v", err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		return float64(copied(t)-before) / float64(len(say))
	}
	if n := times("bob", b.address()); n > 6 {
		t.Errorf("each byte was copied %.1f times", n)
	}
	if n := times("carol", b.wsAddress()); n < 6 { // a WebSocket's bytes have to be copied where it ends
		t.Errorf("the measure measures nothing: %.1f copies", n)
	}
}
