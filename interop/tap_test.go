package interop

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// tap keeps what the apps of a test say and hear inside their secret
// connections, in the order in which they do.
type tap struct {
	names map[[32]byte]string // of the peers

	mu      sync.Mutex
	packets []packet
}

func newTap(t testing.TB, peers ...string) *tap {
	t.Helper()
	tp := &tap{names: map[[32]byte]string{}}
	for _, name := range peers {
		tp.names[identity(t, name).Public().Array()] = name
	}
	return tp
}

// transcript is what was said so far.
func (tp *tap) transcript(note string, cut bool) transcript {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return transcript{Note: note, Cut: cut, Packets: slices.Clone(tp.packets)}
}

// keep takes the whole packets off the front of b.
func (tp *tap) keep(b *bytes.Buffer, conn, from string) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for {
		p, err := readPacket(bytes.NewReader(b.Bytes()), from)
		if err != nil {
			return
		}
		b.Next(len(p.bytes()))
		if p.Conn = conn; !p.extension() {
			tp.packets = append(tp.packets, p.plain())
		}
	}
}

// wrap listens to a secret connection.
func (tp *tap) wrap(c *multiserver.Conn) *multiserver.Conn {
	return multiserver.NewConn(multiserver.ConnConfig{
		Raw: &tappedConn{Conn: c, tap: tp, name: tp.names[c.Remote().Array()]}, Remote: c.Remote(), Auth: c.Auth(),
		Transform: "shs:" + c.Remote().Base64(),
	})
}

type tappedConn struct {
	*multiserver.Conn
	tap      *tap
	name     string
	in, out  bytes.Buffer
	outMutex sync.Mutex
}

func (c *tappedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in.Write(b[:n])
	c.tap.keep(&c.in, c.name, "js")
	return n, err
}

func (c *tappedConn) Write(b []byte) (int, error) {
	// Kept before it is sent: the answer comes later.
	c.outMutex.Lock()
	c.out.Write(b)
	c.tap.keep(&c.out, c.name, "go")
	c.outMutex.Unlock()
	return c.Conn.Write(b)
}

// tapped is a transform that listens to the connections of another.
type tapped struct {
	multiserver.Transform
	tap *tap
}

func (x tapped) Client(ctx context.Context, raw net.Conn, part multiserver.Part) (*multiserver.Conn, error) {
	c, err := x.Transform.Client(ctx, raw, part)
	if err != nil {
		return nil, err
	}
	return x.tap.wrap(c), nil
}

func (x tapped) Server(ctx context.Context, raw net.Conn) (*multiserver.Conn, error) {
	c, err := x.Transform.Server(ctx, raw)
	if err != nil {
		return nil, err
	}
	return x.tap.wrap(c), nil
}

// played is the transform "shs" without its handshake: who dials says its name
// in the first byte and as many more as that counts; who is dialled is believed.
type played struct {
	multiserver.Transform
	t         testing.TB
	authorize func(ctx context.Context, key keys.PublicKey, remote string) (any, error)
}

func (x played) Client(_ context.Context, raw net.Conn, part multiserver.Part) (*multiserver.Conn, error) {
	key, _, _, err := multiserver.ParseKeyPart(part, multiserver.Loose)
	return x.conn(raw, key, nil), err
}

func (x played) Server(ctx context.Context, raw net.Conn) (*multiserver.Conn, error) {
	var length [1]byte
	if _, err := io.ReadFull(raw, length[:]); err != nil {
		return nil, err
	}
	name := make([]byte, length[0])
	if _, err := io.ReadFull(raw, name); err != nil {
		return nil, err
	}
	key := identity(x.t, string(name)).Public()
	auth, err := x.authorize(ctx, key, "")
	return x.conn(raw, key, auth), err
}

func (x played) conn(raw net.Conn, key keys.PublicKey, auth any) *multiserver.Conn {
	return multiserver.NewConn(multiserver.ConnConfig{Raw: raw, Remote: key, Auth: auth, Transform: "shs:" + key.Base64()})
}

// dialPlayed connects to a played app as the named peer.
func dialPlayed(address, name string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(append([]byte{byte(len(name))}, name...))
	return conn, err
}

// shsTransform makes the transform of an app out of the genuine one.
type shsTransform func(genuine multiserver.Transform, s *secretstack.Setup) multiserver.Transform

func (tp *tap) transform(genuine multiserver.Transform, _ *secretstack.Setup) multiserver.Transform {
	return tapped{genuine, tp}
}

func playedTransform(t testing.TB) shsTransform {
	return func(genuine multiserver.Transform, s *secretstack.Setup) multiserver.Transform {
		return played{genuine, t, s.Authorize}
	}
}

// appExchange is a scenario of an app of ours and JavaScript peers.
type appExchange struct {
	name string
	note string
	// live runs it with JavaScript, and returns what was said.
	live func(t *testing.T, note string) transcript
	// replayed runs our side against it.
	replayed func(t *testing.T, tr transcript)
}

var appExchanges = []appExchange{
	{
		name: "stack8-go-calls",
		note: "inside the secret connection: our app dials secret-stack 8.1.0, calls and closes",
		live: func(t *testing.T, note string) transcript {
			bob := startJS(t, "bob", jsOptions{incoming: netIn(t), env: noStack})
			tp := newTap(t, "bob")
			alice := startGo(t, "alice", goOptions{shs: tp.transform})
			callAndClose(t, alice, bob.address(t))
			return tp.transcript(note, false)
		},
		replayed: func(t *testing.T, tr transcript) {
			l := listenLoopback(t)
			result := make(chan error, 1)
			go func() { result <- tr.replay(func(string) (net.Conn, error) { return l.Accept() }) }()
			alice := startGo(t, "alice", goOptions{shs: playedTransform(t)})
			callAndClose(t, alice, fmt.Sprintf("net:%s~shs:%s", l.Addr(), identity(t, "bob").Public().Base64()))
			if err := <-result; err != nil {
				t.Error(err)
			}
		},
	},
	{
		name: "stack8-js-calls",
		note: "inside the secret connection: secret-stack 8.1.0 dials our app, calls and closes",
		live: func(t *testing.T, note string) transcript {
			tp := newTap(t, "alice")
			bob := startGo(t, "bob", goOptions{incoming: netIn(t), shs: tp.transform})
			alice := startJS(t, "alice", jsOptions{env: noStack})
			s := alice.connect(t, bob.Address(multiserver.Device))
			callFromJS(t, alice.node, s.Session, steadyJSCases)
			alice.do(t, "closeSession", map[string]any{"session": s.Session, "hard": true}, nil)
			waitDone(t, bob.nextPeer(t).Session)
			return tp.transcript(note, false)
		},
		replayed: func(t *testing.T, tr transcript) {
			bob := startGo(t, "bob", goOptions{incoming: netIn(t), shs: playedTransform(t)})
			replayInto(t, tr, bob)
			waitDone(t, bob.nextPeer(t).Session)
		},
	},
	{
		name: "room-two-js-peers",
		note: "inside the secret connections of our room: bob and alice, of ssb-room-client 2.0.2, join, and alice calls bob " +
			"through a tunnel, whose own encryption nobody but them can open",
		live: func(t *testing.T, note string) transcript {
			tp := newTap(t, "alice", "bob")
			room := startRoom(t, tp.transform)
			portal := portal{room.ID(), room.Address(multiserver.Device)}
			bob := joinJS(t, "bob", 8, portal)
			waitEvent(t, bob.node, "room", func(any) bool { return true })
			alice := joinJS(t, "alice", 8, portal)
			s := alice.tunnel(t, alice.sees(t, bob.id))
			callFromJS(t, alice.node, s.Session, some(jsCallCases, everyType))
			return tp.transcript(note, true)
		},
		replayed: func(t *testing.T, tr transcript) {
			replayInto(t, tr, startRoom(t, playedTransform(t)))
		},
	},
}

func callAndClose(t *testing.T, alice goPeer, address string) {
	t.Helper()
	peer := alice.connect(t, address)
	callFromGo(t, peer, without(steadyGoCases, "unknown"))
	closeWell(t, peer.Session)
}

// replayInto dials our app as each peer of the transcript.
func replayInto(t *testing.T, tr transcript, app goPeer) {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", hostPort(t, app.Address(multiserver.Device)))
	if err := tr.replay(func(name string) (net.Conn, error) { return dialPlayed(address, name) }); err != nil {
		t.Error(err)
	}
}

func TestTranscriptsOfAppsReplay(t *testing.T) {
	for _, x := range appExchanges {
		t.Run(x.name, func(t *testing.T) {
			if *record {
				saveJSON(t, x.name, x.live(t, x.note))
			}
			x.replayed(t, loadTranscript(t, x.name))
		})
	}
}
