package circuits

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

var eventually = testkit.Eventually

func key(t testing.TB, name string) keys.PublicKey {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	return id.Public()
}

// recorder keeps what a table says about circuits.
type recorder struct {
	mu     sync.Mutex
	joined []Circuit
	ended  chan Circuit
}

func record(cfg *Config) *recorder {
	r := &recorder{ended: make(chan Circuit, 1024)}
	cfg.Joined = func(c Circuit) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.joined = append(r.joined, c)
	}
	cfg.Ended = func(c Circuit) { r.ended <- c }
	return r
}

func newTable(t testing.TB, cfg Config) *Table {
	t.Helper()
	table := New(cfg)
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		_ = table.Close(now)
	})
	return table
}

func offer(t testing.TB, table *Table, visitor, target string) *Offer {
	t.Helper()
	o, err := table.Offer(key(t, visitor), key(t, target))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// serve accepts connections as a hub does: the first bytes say that they are for the table.
func serve(t testing.TB, table *Table) (address string) {
	t.Helper()
	address, stop := listen(t, table)
	t.Cleanup(stop)
	return address
}

func listen(t testing.TB, table *Table) (address string, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	split := multiserver.Split(ln, multiserver.SplitOptions{}, circuit.Match)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := split.Listener(0).Accept()
			if err != nil {
				return
			}
			go table.Serve(conn)
		}
	})
	return ln.Addr().String(), func() {
		split.Close()
		accepting.Wait()
	}
}

func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// enter presents both tokens of an offer, and returns the ends once they are joined.
func enter(t testing.TB, address string, o *Offer) (visitor, target *net.TCPConn) {
	t.Helper()
	visitor, target = dial(t, address), dial(t, address)
	entered := make(chan error, 1)
	go func() { entered <- circuit.Enter(t.Context(), visitor, o.Visitor) }()
	if err := errors.Join(circuit.Enter(t.Context(), target, o.Target), <-entered); err != nil {
		t.Fatal(err)
	}
	return visitor, target
}

// pipeEnd gives the table a connection in memory and returns its other end.
func pipeEnd(table *Table) net.Conn {
	end, atHub := net.Pipe()
	go table.Serve(atHub)
	return end
}

// wantAnswer presents a token and expects to be turned away.
func wantAnswer(t testing.TB, conn net.Conn, token circuit.Token, want circuit.Answer) {
	t.Helper()
	err := circuit.Enter(t.Context(), conn, token)
	got, ok := errors.AsType[*circuit.AnswerError](err)
	if !ok || got.Answer != want {
		t.Errorf("answered %v, want: %v", err, want)
	}
	if n, _ := io.Copy(io.Discard, conn); n > 0 {
		t.Errorf("%d bytes came behind the answer", n)
	}
}

// wantPassed sends bytes from one end to the other.
func wantPassed(t testing.TB, from, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, []byte(text)) {
		t.Fatalf("got %q, %v; want %q", got, err, text)
	}
}
