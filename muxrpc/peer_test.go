package muxrpc_test

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/packetstream"
)

// rawPeer is the other end of a session's connection, on which a test reads and writes packets by hand, as a JavaScript
// peer would: it knows no windows.
type rawPeer struct {
	t    testing.TB
	conn net.Conn
	r    *packetstream.Reader
	seen bool        // a packet was read
	over atomic.Bool // the test has ended: what fails now does not matter
}

// raw returns a session with the given options and the raw peer that it is connected to.
func raw(t testing.TB, opts muxrpc.Options) (*muxrpc.Session, *rawPeer) {
	t.Helper()
	a, b := muxrpctest.Conns()
	s := muxrpc.New(context.Background(), a, opts)
	peer := &rawPeer{t: t, conn: b, r: packetstream.NewReader(b, 1<<30)}
	t.Cleanup(func() {
		peer.over.Store(true)
		_ = b.Close()
		s.Abort(nil)
		_ = s.Close(context.Background())
	})
	return s, peer
}

// write sends bytes given in hex, with spaces, and any text after a quote as it is.
func (p *rawPeer) write(head string, body string) {
	p.t.Helper()
	b, err := hex.DecodeString(head)
	must(p.t, err)
	p.writeBytes(append(b, body...))
}

func (p *rawPeer) writeBytes(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil && !p.over.Load() {
		p.t.Fatalf("raw peer: %v", err)
	}
}

// send sends a packet.
func (p *rawPeer) send(h packetstream.Header, body string) {
	p.t.Helper()
	p.writeBytes(packetstream.AppendPacket(nil, h, []byte(body)))
}

// request sends an async request.
func (p *rawPeer) request(id int32, body string) {
	p.t.Helper()
	p.send(packetstream.Header{ID: id, Type: packetstream.JSON}, body)
}

// openStream sends a request for a stream.
func (p *rawPeer) openStream(id int32, body string) {
	p.t.Helper()
	p.send(packetstream.Header{ID: id, Stream: true, Type: packetstream.JSON}, body)
}

// item sends a JSON item of a stream.
func (p *rawPeer) item(id int32, body string) {
	p.t.Helper()
	p.send(packetstream.Header{ID: id, Stream: true, Type: packetstream.JSON}, body)
}

// end sends the end of a stream.
func (p *rawPeer) end(id int32, body string) {
	p.t.Helper()
	p.send(packetstream.Header{ID: id, Stream: true, End: true, Type: packetstream.JSON}, body)
}

func (p *rawPeer) goodbye() {
	p.t.Helper()
	p.writeBytes(packetstream.AppendGoodbye(nil))
}

// read returns the next packet as its header in hex and its body. The goodbye is nine zero bytes, the end of the
// connection an error.
func (p *rawPeer) read() (head, body string, err error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(time.Minute))
	h, b, err := p.r.Next()
	if errors.Is(err, io.EOF) {
		return strings.Repeat("0", 18), "", nil
	}
	if err != nil {
		return "", "", err
	}
	if h.Credit && p.seen {
		p.t.Error("a packet that is not the first has the mark")
	}
	p.seen, h.Credit = true, false
	return hex.EncodeToString(packetstream.AppendHeader(nil, h)), string(b), nil
}

// want reads one packet and compares it, byte for byte.
func (p *rawPeer) want(head, body string) {
	p.t.Helper()
	gotHead, gotBody, err := p.read()
	if p.over.Load() {
		return
	}
	if err != nil {
		p.t.Fatalf("want %s %s, got %v", head, body, err)
	}
	if gotHead != head || gotBody != body {
		p.t.Fatalf("got %s %s, want %s %s", gotHead, gotBody, head, body)
	}
}

// wantGoodbye reads the goodbye and answers it.
func (p *rawPeer) wantGoodbye() {
	p.t.Helper()
	p.want(strings.Repeat("0", 18), "")
	p.goodbye()
}

// wantError reads an answer or an end with an error and compares its message.
func (p *rawPeer) wantError(flags string, id int32, message string) {
	p.t.Helper()
	body := `{"message":"` + message + `","name":"Error","stack":""}`
	h := packetstream.ParseHeader([9]byte(must1(hex.DecodeString(flags + "0000000000000000"))))
	h.ID, h.Length = id, uint32(len(body))
	p.want(hex.EncodeToString(packetstream.AppendHeader(nil, h)), body)
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err) //nolint:forbidigo // a helper of tests
	}
	return v
}
