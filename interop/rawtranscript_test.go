package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/boxstream"
	"github.com/secretstack/secretstack/shs"
)

// rawTranscript is the bytes of a connection, encrypted as they were. They can
// be replayed because the keys of both sides, the ephemeral ones too, are fixed.
type rawTranscript struct {
	Note   string     `json:"note"`
	Chunks []rawChunk `json:"chunks"`
}

type rawChunk struct {
	From string `json:"from"` // "js" or "go"
	Hex  string `json:"hex"`
}

// rawRelay copies bytes between the two sides and keeps them in order.
type rawRelay struct {
	mu     sync.Mutex
	chunks []rawChunk
}

func (r *rawRelay) copy(to, from net.Conn, side string) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			r.keep(side, buf[:n])
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
	}
}

// keep adds to the last chunk when it came from the same side.
func (r *rawRelay) keep(side string, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := len(r.chunks) - 1; last >= 0 && r.chunks[last].From == side {
		r.chunks[last].Hex += hex.EncodeToString(b)
		return
	}
	r.chunks = append(r.chunks, rawChunk{side, hex.EncodeToString(b)})
}

func (r *rawRelay) run(goSide, jsSide net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { r.copy(jsSide, goSide, "go") })
	wg.Go(func() { r.copy(goSide, jsSide, "js") })
	wg.Wait()
}

// replay plays JavaScript's bytes; ours must be those of the transcript.
func (tr rawTranscript) replay(conn net.Conn) error {
	defer conn.Close()
	for i, c := range tr.Chunks {
		b, err := hex.DecodeString(c.Hex)
		if err != nil {
			return err
		}
		if c.From == "js" {
			if _, err := conn.Write(b); err != nil {
				return err
			}
			continue
		}
		got := make([]byte, len(b))
		if n, err := io.ReadFull(conn, got); err != nil {
			return fmt.Errorf("chunk %d: %d of our %d bytes: %w", i, n, len(b), err)
		}
		if !bytes.Equal(got, b) {
			return fmt.Errorf("chunk %d differs:\n got %x\nwant %x", i, got, b)
		}
	}
	return nil
}

// ephemeral gives the k-th ephemeral seed of a name, as js/lib/seeds.js does.
type ephemeral struct {
	name string
	k    int
}

func (e *ephemeral) Read(p []byte) (int, error) {
	b := sha256.Sum256(fmt.Appendf(nil, "%s ephemeral %d", e.name, e.k))
	e.k++
	return copy(p, b[:]), nil
}

func fixedSHS(t *testing.T, name string) shs.Config {
	t.Helper()
	cfg := shsConfig(t, name, "test_key")
	cfg.Rand = &ephemeral{name: name}
	return cfg
}

// rawExchange is a handshake and an echo over the box stream.
type rawExchange struct {
	name    string
	note    string
	jsDials bool
}

var rawExchanges = []rawExchange{
	{name: "shs-go-dials", note: "raw TCP bytes: our alice dials bob of secret-handshake 1.1.21, who sends back what he gets"},
	{name: "shs-js-dials", note: "raw TCP bytes: alice of secret-handshake 1.1.21 dials our bob, who sends back what he gets", jsDials: true},
}

// run is our side of the exchange on a connected socket.
func (x rawExchange) run(t *testing.T, conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	defer conn.Close()
	if x.jsDials {
		s, err := shs.Server(conn, fixedSHS(t, "bob"), welcome)
		if err == nil {
			err = echoBack(conn, s)
		}
		if err != nil {
			t.Error(err)
		}
		return
	}
	s, err := shs.Client(conn, fixedSHS(t, "alice"), identity(t, "bob").Public())
	if err != nil {
		t.Error(err)
		return
	}
	if err := pingPong(conn, s); err != nil {
		t.Error(err)
	}
}

// pingPong sends three pieces, each after the one before came back, and ends.
func pingPong(conn net.Conn, s *shs.Session) error {
	w := boxstream.NewWriter(conn, &s.SendKey, &s.SendNonce)
	r := boxstream.NewReader(conn, &s.ReceiveKey, &s.ReceiveNonce)
	for _, n := range []int{5, 1, 4097} {
		if _, err := w.Write(pattern(n)); err != nil {
			return err
		}
		got := make([]byte, n)
		if _, err := io.ReadFull(r, got); err != nil {
			return err
		}
		if !bytes.Equal(got, pattern(n)) {
			return errors.New("something else came back")
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("after the goodbye: %d bytes, %w", n, err)
	}
	return nil
}

// record runs the exchange with node behind a relay.
func (x rawExchange) record(t *testing.T) rawTranscript {
	var r rawRelay
	goSide, relayGo := loopbackPair(t)
	if !x.jsDials {
		n := startNode(t, "shs.js", "INTEROP_RANDOM=bob")
		relayJS := dialLoopback(t, jsHandshakeServer(t, n, nil))
		var wg sync.WaitGroup
		wg.Go(func() { r.run(relayGo, relayJS) })
		x.run(t, goSide)
		wg.Wait()
		return rawTranscript{x.note, r.chunks}
	}
	n := startNode(t, "shs.js", "INTEROP_RANDOM=alice")
	l := listenLoopback(t)
	var wg sync.WaitGroup
	wg.Go(func() { x.run(t, goSide) })
	wg.Go(func() { r.run(relayGo, acceptOne(t, l)) })
	var js shsOutcome
	n.do(t, "dial", map[string]any{
		"port": l.Addr().(*net.TCPAddr).Port, "name": "alice", "appKey": encode64(appKey(t, "test_key").Bytes()),
		"remote": identity(t, "bob").Public().Base64(), "chunks": []string{encode64(pattern(5)), encode64(pattern(4097))},
	}, &js)
	wg.Wait()
	if js.End.String() != "well" || js.Received != encode64(append(pattern(5), pattern(4097)...)) {
		t.Errorf("JavaScript ended %v", js.End)
	}
	return rawTranscript{x.note, r.chunks}
}

func (x rawExchange) replayed(t *testing.T) {
	b, err := os.ReadFile(transcriptFile(x.name))
	if err != nil {
		t.Fatal(err)
	}
	var tr rawTranscript
	if err := json.Unmarshal(b, &tr); err != nil {
		t.Fatal(err)
	}
	goSide, jsSide := loopbackPair(t)
	_ = jsSide.SetDeadline(time.Now().Add(patience))
	result := make(chan error, 1)
	go func() { result <- tr.replay(jsSide) }()
	x.run(t, goSide)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestTranscriptsOfHandshakesReplay(t *testing.T) {
	for _, x := range rawExchanges {
		t.Run(x.name, func(t *testing.T) {
			if *record {
				saveJSON(t, x.name, x.record(t))
			}
			x.replayed(t)
		})
	}
}
