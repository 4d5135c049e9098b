package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/boxstream"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/shs"
)

// stranger is somebody who speaks the handshake and the box stream properly,
// and then says whatever the test wants.
type stranger struct {
	conn net.Conn
	w    *boxstream.Writer
	r    *boxstream.Reader
}

// hostPort takes apart an address of one net part.
func hostPort(t testing.TB, address string) (port int) {
	t.Helper()
	transport, _, _ := strings.Cut(address, "~")
	port, err := strconv.Atoi(transport[strings.LastIndexByte(transport, ':')+1:])
	if err != nil {
		t.Fatalf("no port in %s", address)
	}
	return port
}

func newStranger(t testing.TB, address string, remote keys.PublicKey) *stranger {
	t.Helper()
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", hostPort(t, address)), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	s, err := shs.Client(conn, shsConfig(t, "mallory", network), remote)
	if err != nil {
		t.Fatal(err)
	}
	return &stranger{
		conn: conn,
		w:    boxstream.NewWriter(conn, &s.SendKey, &s.SendNonce),
		r:    boxstream.NewReader(conn, &s.ReceiveKey, &s.ReceiveNonce),
	}
}

func (s *stranger) say(t testing.TB, flags byte, id int32, body string) {
	t.Helper()
	p := append([]byte{flags}, binary.BigEndian.AppendUint32(nil, uint32(len(body)))...)
	p = binary.BigEndian.AppendUint32(p, uint32(id))
	if _, err := s.w.Write(append(p, body...)); err != nil {
		t.Fatal(err)
	}
}

// answer is the next packet that is no extension: its flags and text, or
// "goodbye", or how the stream ended.
func (s *stranger) answer() string {
	for {
		p, err := readPacket(s.r, "them")
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return "end"
		case err != nil:
			return "error " + err.Error()
		case p.goodbye():
			return "goodbye"
		case !p.extension():
			return p.Header[1:2] + " " + bodyText(p.Text)
		}
	}
}

// bodyText is the message of an error, and other bodies as they are.
func bodyText(body string) string {
	var e struct{ Message *string }
	if json.Unmarshal([]byte(body), &e) == nil && e.Message != nil {
		return *e.Message
	}
	return body
}

// badPackets are what no peer of good will says, and what is answered: flags as
// one hexadecimal digit, then the message or the body. JavaScript ends the
// session where it cannot read a packet; we refuse the call and go on.
var badPackets = []struct {
	name    string
	flags   byte
	id      int32
	body    string
	answer  string // not looked at when empty
	ours    string // our answer where it differs
	crashes bool   // a JavaScript peer, as shipped
}{
	{name: "a request that is a string", flags: 1, id: 1, body: "hello", answer: `6 invalid request, args should be array, was: "hello"`},
	{name: "a request that is null", flags: 2, id: 1, body: "null", answer: `6 invalid request, args should be array, was: null`, crashes: true},
	{name: "a stream request that is null", flags: 0x0a, id: 1, body: "null", crashes: true},
	{name: "a request without args", flags: 2, id: 1, body: `{"name":["manifest"]}`, answer: `6 invalid request, args should be array, was: {"name":["manifest"]}`},
	{name: "args that are an object", flags: 2, id: 1, body: `{"name":["manifest"],"args":{}}`, answer: `6 invalid request, args should be array, was: {"name":["manifest"],"args":{}}`},
	{name: "a stream of an unknown type", flags: 0x0a, id: 1, body: `{"name":["test","count"],"args":[],"type":"async"}`, answer: `e unsupported stream type: async`},
	{name: "a stream without a name", flags: 0x0a, id: 1, body: `{"args":[],"type":"source"}`, answer: `e method: is not in list of allowed methods`},
	{name: "an empty name", flags: 2, id: 1, body: `{"name":[],"args":[]}`, answer: `6 method: is not in list of allowed methods`},
	{name: "a name of the prototype", flags: 2, id: 1, body: `{"name":["constructor","x"],"args":[]}`},
	{name: "emit", flags: 2, id: 1, body: `{"name":"emit","args":[]}`, answer: `6 method:emit is not in list of allowed methods`},
	{name: "a dotted name", flags: 2, id: 1, body: `{"name":"test.hello","args":["x"]}`, answer: `6 method:test.hello is not in list of allowed methods`},
	{name: "a name that is a number", flags: 2, id: 1, body: `{"name":5,"args":[]}`, answer: `6 method:5 is not in list of allowed methods`},
	{name: "an async call with a type", flags: 2, id: 1, body: `{"name":["test","echo"],"args":[{"still":"here"}],"type":"async"}`, answer: `2 {"still":"here"}`},
	{name: "an async call with a wrong type", flags: 2, id: 1, body: `{"name":["test","echo"],"args":[{"still":"here"}],"type":"source"}`, answer: `2 {"still":"here"}`},
	{name: "high flags", flags: 0xf2, id: 1, body: `{"name":["test","echo"],"args":[{"still":"here"}]}`, answer: `2 {"still":"here"}`},
	{name: "a source called as async", flags: 2, id: 1, body: `{"name":["test","count"],"args":[1]}`, answer: `6 no async:test,count`},
	{name: "an async method called as source", flags: 0x0a, id: 1, body: `{"name":["test","echo"],"args":[1],"type":"source"}`, answer: `e no source:test,echo`},
	{name: "bad JSON", flags: 2, id: 1, body: `{x`, answer: "goodbye", ours: `6 invalid request, args should be array, was: {x`},
	{name: "bad JSON in a stream", flags: 0x0a, id: 1, body: `{x`, answer: "goodbye", ours: `e invalid request, args should be array, was: {x`},
	{name: "type 3", flags: 3, id: 1, body: `{}`, answer: "goodbye", ours: `6 unknown message type`},
	{name: "an early goodbye", flags: 0, id: 0, body: "", answer: "goodbye"},
}

// quiet packets get no answer, and the session goes on.
var quietPackets = []struct {
	name  string
	flags byte
	id    int32
	body  string
}{
	{"a message", 2, 0, `["x",1]`},
	{"a message in a stream", 0x0a, 0, `{"name":"x"}`},
	{"an answer to nothing", 2, -7, `"x"`},
	{"an error to nothing", 6, -7, `{"message":"x"}`},
	{"data for no stream of ours", 0x0a, -9, `1`},
	{"an end for no stream of ours", 0x0e, -9, `true`},
}

// checkBadInput says all of it to the peer at address; alive is called after each.
func checkBadInput(t *testing.T, address string, remote keys.PublicKey, javaScript bool, alive func(t *testing.T)) {
	for _, b := range badPackets {
		if b.crashes && javaScript {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			s := newStranger(t, address, remote)
			s.say(t, b.flags, b.id, b.body)
			want := b.answer
			if !javaScript && b.ours != "" {
				want = b.ours
			}
			if got := s.answer(); want != "" && got != want {
				t.Errorf("the answer is %q, want %q", got, want)
			}
			alive(t)
		})
	}
	for _, q := range quietPackets {
		t.Run(q.name, func(t *testing.T) {
			s := newStranger(t, address, remote)
			s.say(t, q.flags, q.id, q.body)
			s.say(t, 2, 1, `{"name":["test","echo"],"args":[{"still":"here"}]}`)
			if got := s.answer(); got != `2 {"still":"here"}` {
				t.Errorf("afterwards the answer is %q", got)
			}
			alive(t)
		})
	}
	t.Run("an end for a call that never was", func(t *testing.T) {
		s := newStranger(t, address, remote)
		s.say(t, 0x0e, 5, `true`)
		s.say(t, 2, 6, `{"name":["test","echo"],"args":[{"still":"here"}]}`)
		got := s.answer()
		if strings.HasPrefix(got, "e ") {
			got = s.answer()
		}
		if got != `2 {"still":"here"}` {
			t.Errorf("afterwards the answer is %q", got)
		}
		alive(t)
	})
	t.Run("a header of 4 GiB, and then nothing", func(t *testing.T) {
		s := newStranger(t, address, remote)
		if _, err := s.w.Write([]byte{2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}); err != nil {
			t.Fatal(err)
		}
		s.conn.Close()
		alive(t)
	})
	t.Run("boxes that are none", func(t *testing.T) {
		s := newStranger(t, address, remote)
		if _, err := s.conn.Write(bytes.Repeat([]byte{0xa5}, 5000)); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, s.conn)
		alive(t)
	})
	t.Run("no handshake at all", func(t *testing.T) {
		for _, garbage := range []string{
			"", "x", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", strings.Repeat("\xa5", 64), strings.Repeat("\xa5", 100_000),
		} {
			conn := dialLoopback(t, hostPort(t, address))
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(conn, garbage)
			conn.Close()
		}
		alive(t)
	})
}

func TestJavaScriptAnswersBadInputAsWeBelieve(t *testing.T) {
	for _, version := range []int{8, 6} {
		t.Run(fmt.Sprintf("secret-stack %d", version), func(t *testing.T) {
			t.Parallel()
			bob := startJS(t, "bob", jsOptions{version: version, incoming: netIn(t)})
			peer := startGo(t, "alice", goOptions{}).connect(t, bob.address(t))
			checkBadInput(t, bob.address(t), identity(t, "bob").Public(), true, func(t *testing.T) {
				bob.mustLive(t)
				if _, err := muxrpc.Call[string](t.Context(), peer, "test.hello", "x"); err != nil {
					t.Errorf("another peer's call: %v", err)
				}
			})
		})
	}
}

func TestWeAnswerBadInputAsJavaScriptDoes(t *testing.T) {
	bob := startGo(t, "bob", goOptions{incoming: netIn(t)})
	address := bob.Address(multiserver.Device)
	peer := startGo(t, "alice", goOptions{}).connect(t, address)
	checkBadInput(t, address, bob.ID(), false, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := muxrpc.Call[string](ctx, peer, "test.hello", "x"); err != nil {
			t.Errorf("another peer's call: %v", err)
		}
	})
}
