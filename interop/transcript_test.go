package interop

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

var record = flag.Bool("record", false, "record the transcripts of testdata again, with JavaScript peers")

// packet is one muxrpc packet of a transcript.
type packet struct {
	// From is "js" or "go".
	From   string `json:"from"`
	Header string `json:"header"`         // 9 bytes, hex
	Text   string `json:"text,omitempty"` // the body when it is UTF-8
	Hex    string `json:"hex,omitempty"`  // the body otherwise
}

func (p packet) header() []byte {
	h, _ := hex.DecodeString(p.Header)
	return h
}

func (p packet) bytes() []byte {
	body, _ := hex.DecodeString(p.Hex)
	return append(append(p.header(), p.Text...), body...)
}

func (p packet) id() int32 { return int32(binary.BigEndian.Uint32(p.header()[5:])) }

func (p packet) goodbye() bool { return binary.BigEndian.Uint32(p.header()[1:5]) == 0 }

// extension reports packets of id 0: JavaScript ignores them, and so do
// transcripts, because their number depends on timing.
func (p packet) extension() bool { return p.id() == 0 && !p.goodbye() }

// plain is p without the flag bits that JavaScript ignores, which are extensions too.
func (p packet) plain() packet {
	h := p.header()
	h[0] &= 0x0f
	p.Header = hex.EncodeToString(h)
	return p
}

// key is the call that a packet belongs to, as both sides see it: packets of
// one call keep their order, those of different calls need not.
func (p packet) key() int32 {
	if p.goodbye() {
		return 0
	}
	return p.id()
}

func (p packet) String() string {
	if p.Hex != "" {
		return p.From + " " + p.Header + " hex " + p.Hex
	}
	return p.From + " " + p.Header + " " + p.Text
}

// readPacket reads one packet from r.
func readPacket(r io.Reader, from string) (packet, error) {
	var h [9]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return packet{}, err
	}
	body := make([]byte, binary.BigEndian.Uint32(h[1:5]))
	if _, err := io.ReadFull(r, body); err != nil {
		return packet{}, err
	}
	p := packet{From: from, Header: hex.EncodeToString(h[:])}
	if utf8.Valid(body) {
		p.Text = string(body)
	} else {
		p.Hex = hex.EncodeToString(body)
	}
	return p, nil
}

// transcript is what the two sides of one connection said, in the order in
// which it passed between them.
type transcript struct {
	Note    string   `json:"note"`
	Packets []packet `json:"packets"`
}

func transcriptFile(name string) string { return filepath.Join("testdata", name+".json") }

func loadTranscript(t *testing.T, name string) transcript {
	t.Helper()
	b, err := os.ReadFile(transcriptFile(name))
	if err != nil {
		t.Fatal(err)
	}
	var tr transcript
	if err := json.Unmarshal(b, &tr); err != nil {
		t.Fatal(err)
	}
	return tr
}

// saveJSON writes a transcript in a form that people can read.
func saveJSON(t *testing.T, name string, tr any) {
	t.Helper()
	if t.Failed() {
		t.Fatal("not recorded")
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(tr); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(transcriptFile(name), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// relay copies packets between our side and the JavaScript side, and keeps
// them in the order in which it saw them. A packet is kept before it is passed
// on, so each side had seen all that stands before its own packets, at most.
type relay struct {
	mu      sync.Mutex
	packets []packet
}

func (r *relay) copy(to, from net.Conn, side string) {
	defer func() {
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	}()
	for {
		p, err := readPacket(from, side)
		if err != nil {
			return
		}
		r.mu.Lock()
		if !p.extension() {
			r.packets = append(r.packets, p.plain())
		}
		r.mu.Unlock()
		if _, err := to.Write(p.bytes()); err != nil {
			return
		}
	}
}

// run relays until both directions have ended.
func (r *relay) run(goSide, jsSide net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { r.copy(jsSide, goSide, "go") })
	wg.Go(func() { r.copy(goSide, jsSide, "js") })
	wg.Wait()
	goSide.Close()
	jsSide.Close()
}

// replay plays the JavaScript side of a transcript on conn, which leads to our
// side. Each packet of JavaScript waits for the packets of ours that stood
// before it; ours must be, call by call, those of the transcript.
func (tr transcript) replay(conn net.Conn) error {
	defer conn.Close()
	want := map[int32][]packet{} // of ours, not yet seen, by call
	left := 0
	for _, p := range tr.Packets {
		if p.From == "go" {
			want[p.key()] = append(want[p.key()], p)
			left++
		}
	}
	seen := map[int32]int{}
	need := map[int32]int{}
	next := func() error {
		p, err := readPacket(conn, "go")
		if err != nil {
			return fmt.Errorf("after %d of our packets were right, %d left: %w", sum(seen), left, err)
		}
		if p.extension() {
			return nil
		}
		p = p.plain()
		queue := want[p.key()]
		if len(queue) == 0 {
			return fmt.Errorf("unexpected packet: %v", p)
		}
		if queue[0] != p {
			return fmt.Errorf("packet differs:\n got %v\nwant %v", p, queue[0])
		}
		want[p.key()] = queue[1:]
		seen[p.key()]++
		left--
		return nil
	}
	for _, p := range tr.Packets {
		if p.From == "go" {
			need[p.key()]++
			for seen[p.key()] < need[p.key()] {
				if err := next(); err != nil {
					return err
				}
			}
			continue
		}
		if _, err := conn.Write(p.bytes()); err != nil {
			return err
		}
	}
	return waitEOF(conn)
}

// waitEOF reads what our side may still say (extensions) until it hangs up.
func waitEOF(conn net.Conn) error {
	for {
		p, err := readPacket(conn, "go")
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if !p.extension() {
			return fmt.Errorf("unexpected packet after the last: %v", p)
		}
	}
}

func sum(m map[int32]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}

// exchange is a scenario that runs against a live JavaScript peer and against
// the transcript of one.
type exchange struct {
	name string
	note string
	// jsDials: the connection is made by JavaScript, to us.
	jsDials bool
	// start makes the JavaScript side. When it dials, it is given the port to
	// dial; when it listens, it returns its port. The returned function plays
	// the side's part (nil when it only answers).
	start func(t *testing.T, port int) (listening int, play func(t *testing.T))
	// run is our side.
	run func(t *testing.T, conn net.Conn)
}

// live runs the exchange with node and returns what was said.
func (x exchange) live(t *testing.T) transcript {
	var r relay
	l := listenLoopback(t)
	port := l.Addr().(*net.TCPAddr).Port
	if !x.jsDials {
		jsPort, _ := x.start(t, 0)
		goSide, relaySide := loopbackPair(t)
		jsSide := dialLoopback(t, jsPort)
		x.between(t, &r, goSide, relaySide, jsSide, nil)
		return transcript{x.note, r.packets}
	}
	type started struct{ play func(*testing.T) }
	ready := make(chan started, 1)
	go func() {
		_, play := x.start(t, port)
		ready <- started{play}
	}()
	jsSide := acceptOne(t, l)
	goSide, relaySide := loopbackPair(t)
	x.between(t, &r, goSide, relaySide, jsSide, func(t *testing.T) {
		if s := <-ready; s.play != nil {
			s.play(t)
		}
	})
	return transcript{x.note, r.packets}
}

func (x exchange) between(t *testing.T, r *relay, goSide, relaySide, jsSide net.Conn, play func(*testing.T)) {
	var wg sync.WaitGroup
	wg.Go(func() { r.run(relaySide, jsSide) })
	if play != nil {
		wg.Go(func() { play(t) })
	}
	x.run(t, goSide)
	wg.Wait()
}

// replayed runs our side against the transcript.
func (x exchange) replayed(t *testing.T) {
	tr := loadTranscript(t, x.name)
	goSide, jsSide := loopbackPair(t)
	_ = jsSide.SetDeadline(time.Now().Add(patience))
	result := make(chan error, 1)
	go func() { result <- tr.replay(jsSide) }()
	x.run(t, goSide)
	if err := <-result; err != nil {
		t.Errorf("transcript %s: %v", x.name, err)
	}
}

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func acceptOne(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func dialLoopback(t *testing.T, port int) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// loopbackPair is two ends of one TCP connection.
func loopbackPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l := listenLoopback(t)
	a = dialLoopback(t, l.Addr().(*net.TCPAddr).Port)
	return a, acceptOne(t, l)
}
