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
	// Conn names the connection where a transcript has several: by its peer.
	Conn string `json:"conn,omitempty"`
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

// thread is the call that a packet belongs to: packets of one call keep their
// order, those of different calls need not.
type thread struct {
	conn string
	id   int32 // 0: the goodbye
}

func (p packet) thread() thread {
	if p.goodbye() {
		return thread{conn: p.Conn}
	}
	return thread{p.Conn, p.id()}
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
	Note string `json:"note"`
	// Cut is set when the connections went on after the last packet.
	Cut     bool     `json:"cut,omitempty"`
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

// replay plays the JavaScript side of a transcript, on connections to our side
// that open makes. Each packet of JavaScript waits for the packets of ours that
// stood before it; ours must be, call by call, those of the transcript.
func (tr transcript) replay(open func(conn string) (net.Conn, error)) error {
	r := replayer{
		open: open, conns: map[string]net.Conn{}, arrived: make(chan arrival), stopped: make(chan struct{}),
		want: map[thread][]packet{}, seen: map[thread]int{},
	}
	defer r.stop()
	for _, p := range tr.Packets {
		if p.From == "go" {
			r.want[p.thread()] = append(r.want[p.thread()], p)
		}
	}
	need := map[thread]int{}
	for i, p := range tr.Packets {
		conn, err := r.conn(p.Conn)
		if err != nil {
			return err
		}
		if p.From == "js" {
			if _, err := conn.Write(p.bytes()); err != nil {
				return fmt.Errorf("packet %d: %w", i, err)
			}
			continue
		}
		need[p.thread()]++
		for r.seen[p.thread()] < need[p.thread()] {
			if err := r.next(); err != nil {
				return fmt.Errorf("waiting for packet %d (%v): %w", i, p, err)
			}
		}
	}
	if tr.Cut {
		return nil
	}
	return r.untilEnd()
}

// replayer is the state of replay.
type replayer struct {
	open    func(conn string) (net.Conn, error)
	conns   map[string]net.Conn
	arrived chan arrival
	stopped chan struct{}
	want    map[thread][]packet // of ours, not yet seen
	seen    map[thread]int
}

type arrival struct {
	p   packet
	err error
}

func (r *replayer) stop() {
	close(r.stopped)
	for _, c := range r.conns {
		c.Close()
	}
}

// conn opens a connection when it is first spoken of, and reads from it from then on.
func (r *replayer) conn(name string) (net.Conn, error) {
	if c := r.conns[name]; c != nil {
		return c, nil
	}
	c, err := r.open(name)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	r.conns[name] = c
	go func() {
		for {
			p, err := readPacket(c, "go")
			p.Conn = name
			select {
			case r.arrived <- arrival{p, err}:
			case <-r.stopped:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return c, nil
}

// next takes one packet of ours and holds it against the transcript.
func (r *replayer) next() error {
	a := <-r.arrived
	if a.err != nil {
		return a.err
	}
	if a.p.extension() {
		return nil
	}
	p := a.p.plain()
	queue := r.want[p.thread()]
	if len(queue) == 0 {
		return fmt.Errorf("unexpected packet: %v", p)
	}
	if queue[0] != p {
		return fmt.Errorf("packet differs:\n got %v\nwant %v", p, queue[0])
	}
	r.want[p.thread()] = queue[1:]
	r.seen[p.thread()]++
	return nil
}

// untilEnd waits until our side hangs up; it has nothing left to say.
func (r *replayer) untilEnd() error {
	for {
		switch err := r.next(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
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
		return transcript{Note: x.note, Packets: r.packets}
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
	return transcript{Note: x.note, Packets: r.packets}
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
	result := make(chan error, 1)
	go func() { result <- tr.replay(func(string) (net.Conn, error) { return jsSide, nil }) }()
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
