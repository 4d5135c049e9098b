package shs

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
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

// sha returns the SHA-256 of a text, from which the vectors make their keys.
func sha(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

func identity(t testing.TB, name string) *keys.Identity {
	t.Helper()
	id, err := keys.FromSeed(sha(name))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func appKey(t testing.TB, name string) keys.AppKey {
	t.Helper()
	k, err := keys.NewAppKey(sha(name))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// config returns the configuration of "alice" or "bob" in the vectors. It serves
// one handshake, because its randomness is used up then.
func config(t testing.TB, name string) Config {
	t.Helper()
	return Config{
		Identity: identity(t, name),
		AppKey:   appKey(t, "app_key"),
		Rand:     bytes.NewReader(sha(name + " ephemeral")),
	}
}

// end is one end of a connection in memory; change sees each message written
// (counted from 1) before it goes out, and nil closes the connection instead.
type end struct {
	net.Conn
	change  func(n int, msg []byte) []byte
	written [][]byte
}

func (e *end) Write(p []byte) (int, error) {
	msg := bytes.Clone(p)
	if e.change != nil {
		if msg = e.change(len(e.written)+1, msg); msg == nil {
			_ = e.Close()
			return len(p), nil
		}
	}
	e.written = append(e.written, msg)
	if _, err := e.Conn.Write(msg); err != nil {
		return 0, err
	}
	if len(msg) < len(p) {
		_ = e.Close() // cut
	}
	return len(p), nil
}

// sizes returns the lengths of the messages written.
func (e *end) sizes() []int {
	var out []int
	for _, m := range e.written {
		out = append(out, len(m))
	}
	return out
}

// exchange is a handshake between two ends and its outcome.
type exchange struct {
	client, server           end
	clientConfig, serverConf Config
	remote                   keys.PublicKey
	authorize                func(keys.PublicKey) error

	clientSession, serverSession *Session
	clientErr, serverErr         error
}

// newExchange is that of the vectors.
func newExchange(t testing.TB) *exchange {
	t.Helper()
	return &exchange{
		clientConfig: config(t, "alice"),
		serverConf:   config(t, "bob"),
		remote:       identity(t, "bob").Public(),
	}
}

// run runs both sides. A side that fails hangs up.
func (x *exchange) run() {
	x.client.Conn, x.server.Conn = net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if x.serverSession, x.serverErr = Server(&x.server, x.serverConf, x.authorize); x.serverErr != nil {
			_ = x.server.Close()
		}
	}()
	if x.clientSession, x.clientErr = Client(&x.client, x.clientConfig, x.remote); x.clientErr != nil {
		_ = x.client.Close()
	}
	<-done
	_ = x.client.Close()
	_ = x.server.Close()
}

// handshakeVector is a handshake that the JavaScript implementation recorded.
type handshakeVector struct {
	Client struct{ Crypto cryptoVector } `json:"client_result"`
	Server struct{ Crypto cryptoVector } `json:"server_result"`
	// Names in it differ only by case, which a struct cannot tell apart.
	Snap []map[string]string `json:"snapshots"`
	Wire []struct{ Dir, Hex string }
}

type cryptoVector struct{ EncryptKey, DecryptKey, EncryptNonce, DecryptNonce string }

func loadJSON(t testing.TB, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkSession compares a session with the recorded one.
func checkSession(t *testing.T, s *Session, remote keys.PublicKey, want cryptoVector) {
	t.Helper()
	got := cryptoVector{
		hex.EncodeToString(s.SendKey[:]), hex.EncodeToString(s.ReceiveKey[:]),
		hex.EncodeToString(s.SendNonce[:]), hex.EncodeToString(s.ReceiveNonce[:]),
	}
	if got != want {
		t.Errorf("session %+v, want %+v", got, want)
	}
	if !s.Remote.Equal(remote) {
		t.Errorf("remote %v, want %v", s.Remote, remote)
	}
}

func TestHandshakeIsThatOfTheVectors(t *testing.T) {
	var v handshakeVector
	loadJSON(t, "testdata/handshake.json", &v)
	x := newExchange(t)
	x.run()
	if x.clientErr != nil || x.serverErr != nil {
		t.Fatal(x.clientErr, x.serverErr)
	}
	var c, s int
	for i, w := range v.Wire[:4] {
		var got []byte
		if w.Dir == "c>s" {
			got, c = x.client.written[c], c+1
		} else {
			got, s = x.server.written[s], s+1
		}
		if hex.EncodeToString(got) != w.Hex {
			t.Errorf("message %d is %x, want %s", i+1, got, w.Hex)
		}
	}
	checkSession(t, x.clientSession, identity(t, "bob").Public(), v.Client.Crypto)
	checkSession(t, x.serverSession, identity(t, "alice").Public(), v.Server.Crypto)
}

// script is a peer that was recorded: it says its lines whatever it is told.
type script struct {
	io.Reader
	bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) { return s.Reader.Read(p) }

func TestRecordedPeersAreUnderstoodInBothRoles(t *testing.T) {
	var v handshakeVector
	loadJSON(t, "testdata/handshake.json", &v)
	said := map[string][]byte{}
	for _, w := range v.Wire {
		said[w.Dir] = append(said[w.Dir], unhex(t, w.Hex)...)
	}
	const clientSays, serverSays = ChallengeSize + HelloSize, ChallengeSize + AcceptSize

	server := bytes.NewReader(said["s>c"])
	toServer := &script{Reader: server}
	session, err := Client(toServer, config(t, "alice"), identity(t, "bob").Public())
	if err != nil {
		t.Fatal(err)
	}
	checkSession(t, session, identity(t, "bob").Public(), v.Client.Crypto)
	if !bytes.Equal(toServer.Bytes(), said["c>s"][:clientSays]) {
		t.Error("the client says something else than the recorded one")
	}
	if rest, _ := io.ReadAll(server); !bytes.Equal(rest, said["s>c"][serverSays:]) {
		t.Error("the client consumed bytes of the box stream")
	}

	client := bytes.NewReader(said["c>s"])
	toClient := &script{Reader: client}
	session, err = Server(toClient, config(t, "bob"), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkSession(t, session, identity(t, "alice").Public(), v.Server.Crypto)
	if !bytes.Equal(toClient.Bytes(), said["s>c"][:serverSays]) {
		t.Error("the server says something else than the recorded one")
	}
	if rest, _ := io.ReadAll(client); !bytes.Equal(rest, said["c>s"][clientSays:]) {
		t.Error("the server consumed bytes of the box stream")
	}
}

func TestSecretsAreThoseOfTheVectors(t *testing.T) {
	var v handshakeVector
	loadJSON(t, "testdata/handshake.json", &v)
	client, server := upToHello(t)
	for _, snap := range v.Snap {
		s := &client.state
		if snap["local_pk"] == hex.EncodeToString(identity(t, "bob").Public().Bytes()) {
			s = &server.state
		}
		k2, k3 := s.helloKey(), s.acceptKey()
		for name, pair := range map[string][2]string{
			"ab": {hex.EncodeToString(s.ab[:]), snap["secret_ab"]}, "abHash": {hex.EncodeToString(s.abHash[:]), snap["shash"]},
			"aB": {hex.EncodeToString(s.aB[:]), snap["secret_aB"]},
			"Ab": {hex.EncodeToString(s.Ab[:]), snap["secret_Ab"]}, "k2": {hex.EncodeToString(k2[:]), snap["secret2"]},
			"k3": {hex.EncodeToString(k3[:]), snap["secret3"]},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s is %s, want %s", name, pair[0], pair[1])
			}
		}
	}
}

// upToChallenge returns a server that waits for the hello.
func upToChallenge(t testing.TB) *ServerState {
	t.Helper()
	server, err := NewServerState(config(t, "bob"))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.ReadChallenge(newVectorChallenge(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Challenge(); err != nil {
		t.Fatal(err)
	}
	return server
}

// upToHello runs the states until the server has read the hello.
func upToHello(t testing.TB) (*ClientState, *ServerState) {
	t.Helper()
	client, err := NewClientState(config(t, "alice"), identity(t, "bob").Public())
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServerState(config(t, "bob"))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.ReadChallenge(client.Challenge()); err != nil {
		t.Fatal(err)
	}
	msg, err := server.Challenge()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.ReadChallenge(msg); err != nil {
		t.Fatal(err)
	}
	if msg, err = client.Hello(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.ReadHello(msg); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestSessionsOfTheTwoSidesFitTogether(t *testing.T) {
	x := newExchange(t)
	x.clientConfig.Rand, x.serverConf.Rand = nil, nil
	x.run()
	if x.clientErr != nil || x.serverErr != nil {
		t.Fatal(x.clientErr, x.serverErr)
	}
	c, s := x.clientSession, x.serverSession
	if c.SendKey != s.ReceiveKey || c.ReceiveKey != s.SendKey || c.SendNonce != s.ReceiveNonce || c.ReceiveNonce != s.SendNonce {
		t.Error("what one side sends the other cannot read")
	}
	if c.SendKey == c.ReceiveKey || c.SendNonce == c.ReceiveNonce {
		t.Error("the two directions have the same key or nonce")
	}
	if got := x.client.written[0]; bytes.Equal(got, newVectorChallenge(t)) {
		t.Error("the ephemeral key is not random")
	}
}

// newVectorChallenge returns message 1 of the vectors.
func newVectorChallenge(t testing.TB) []byte {
	t.Helper()
	c, err := NewClientState(config(t, "alice"), identity(t, "bob").Public())
	if err != nil {
		t.Fatal(err)
	}
	return c.Challenge()
}

func TestPeersMayTalkToThemselves(t *testing.T) {
	x := newExchange(t)
	x.clientConfig.Identity = identity(t, "bob")
	x.run()
	if x.clientErr != nil || x.serverErr != nil {
		t.Error(x.clientErr, x.serverErr)
	}
}

// failureVector is what the JavaScript implementation did when things went wrong.
type failureVector struct {
	Results []struct {
		Name   string
		Wire   []struct{ Dir, Hex string }
		Server []struct {
			OK  bool
			Err *struct{ Message string }
		} `json:"server_cb"`
		Client []struct {
			OK  bool
			Err *struct{ Message string }
		} `json:"client_cb"`
	}
}

// flipByte returns a change that flips a bit of byte i of message n.
func flipByte(n, i int) func(int, []byte) []byte {
	return func(m int, msg []byte) []byte {
		if m == n {
			msg[i] ^= 1
		}
		return msg
	}
}

// zeroEphemeral replaces the ephemeral key of a challenge by zeros, with the tag
// that belongs to it.
func zeroEphemeral(cfg Config) func(int, []byte) []byte {
	return func(n int, msg []byte) []byte {
		if n != 1 {
			return msg
		}
		return challengeFor(cfg, make([]byte, 32))
	}
}

// challengeFor makes the challenge for any ephemeral key.
func challengeFor(cfg Config, key []byte) []byte {
	s := &state{appKey: [keys.AppKeySize]byte(cfg.AppKey.Bytes())}
	tag := s.auth(key)
	return append(tag[:], key...)
}

// offCurve returns 32 bytes that are no point of the curve.
func offCurve(t *testing.T) keys.PublicKey {
	t.Helper()
	for i := range byte(100) {
		k, err := keys.NewPublicKey(bytes.Repeat([]byte{i + 2}, 32))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.X25519(); err != nil {
			return k
		}
	}
	t.Fatal("every key is on the curve")
	return keys.PublicKey{}
}

// TestFailuresAreThoseOfTheVectors repeats each recorded failure: the same bytes
// are written before the hang-up, and the side that notices says the same.
func TestFailuresAreThoseOfTheVectors(t *testing.T) {
	var v failureVector
	loadJSON(t, "testdata/failures.json", &v)
	dbDown := errors.New("db down")
	refuse := func(err error) func(*testing.T, *exchange) {
		return func(_ *testing.T, x *exchange) { x.authorize = func(keys.PublicKey) error { return err } }
	}
	clientFlip := func(n, i int) func(*testing.T, *exchange) {
		return func(_ *testing.T, x *exchange) { x.client.change = flipByte(n, i) }
	}
	serverFlip := func(n, i int) func(*testing.T, *exchange) {
		return func(_ *testing.T, x *exchange) { x.server.change = flipByte(n, i) }
	}
	cases := map[string]struct {
		set            func(*testing.T, *exchange)
		client, server error // reasons
		clientText     string
		serverText     string
	}{
		"ok": {set: func(*testing.T, *exchange) {}},
		"wrong app key (client != server)": {
			set:    func(t *testing.T, x *exchange) { x.clientConfig.AppKey = appKey(t, "another") },
			client: ErrAppKey, clientText: textClientNoChallenge, server: ErrAppKey, serverText: textServerBadChallenge,
		},
		"wrong server public key (wally)": {
			set:    func(t *testing.T, x *exchange) { x.remote = identity(t, "wally").Public() },
			client: ErrRefused, clientText: textClientHungUp, server: ErrServerKey, serverText: textServerBadHello,
		},
		"server does not authorize: authorize cb(null, false)": {
			set: refuse(ErrNotAuthorized), client: ErrRefused, clientText: textClientHungUp, server: ErrNotAuthorized, serverText: textServerNotAuthorized,
		},
		"server does not authorize: authorize cb()": {
			set: refuse(ErrNotAuthorized), client: ErrRefused, clientText: textClientHungUp, server: ErrNotAuthorized, serverText: textServerNotAuthorized,
		},
		"authorize error": {
			set: refuse(dbDown), client: ErrRefused, clientText: textClientHungUp, server: dbDown, serverText: "db down",
		},
		"bit flip c>s msg 1 byte 0": {
			set: clientFlip(1, 0), client: ErrAppKey, clientText: textClientNoChallenge, server: ErrAppKey, serverText: textServerBadChallenge,
		},
		"bit flip c>s msg 1 byte 63": {
			set: clientFlip(1, 63), client: ErrAppKey, clientText: textClientNoChallenge, server: ErrAppKey, serverText: textServerBadChallenge,
		},
		"bit flip s>c msg 1 byte 0":  {set: serverFlip(1, 0), client: ErrAppKey, clientText: textClientBadChallenge, server: io.ErrUnexpectedEOF, serverText: hungUpText(3, HelloSize)},
		"bit flip s>c msg 1 byte 40": {set: serverFlip(1, 40), client: ErrAppKey, clientText: textClientBadChallenge, server: io.ErrUnexpectedEOF, serverText: hungUpText(3, HelloSize)},
		"bit flip c>s msg 2 byte 0": {
			set: clientFlip(2, 0), client: ErrRefused, clientText: textClientHungUp, server: ErrServerKey, serverText: textServerBadHello,
		},
		"bit flip c>s msg 2 byte 111": {
			set: clientFlip(2, 111), client: ErrRefused, clientText: textClientHungUp, server: ErrServerKey, serverText: textServerBadHello,
		},
		"bit flip s>c msg 2 byte 0":  {set: serverFlip(2, 0), client: ErrServerKey, clientText: textClientBadAccept},
		"bit flip s>c msg 2 byte 79": {set: serverFlip(2, 79), client: ErrServerKey, clientText: textClientBadAccept},
		"invalid target pk (not on curve)": {
			set:    func(t *testing.T, x *exchange) { x.remote = offCurve(t) },
			client: ErrServerKey, clientText: textClientBadChallenge, server: io.ErrUnexpectedEOF, serverText: hungUpText(3, HelloSize),
		},
		"low order ephemeral from client (kx_pk = 0) with valid mac": {
			set:    func(_ *testing.T, x *exchange) { x.client.change = zeroEphemeral(x.clientConfig) },
			client: ErrAppKey, clientText: textClientNoChallenge, server: ErrAppKey, serverText: textServerBadChallenge,
		},
		"low order ephemeral from server (kx_pk = 0) with valid mac": {
			set:    func(_ *testing.T, x *exchange) { x.server.change = zeroEphemeral(x.serverConf) },
			client: ErrAppKey, clientText: textClientBadChallenge, server: io.ErrUnexpectedEOF, serverText: hungUpText(3, HelloSize),
		},
	}
	for _, r := range v.Results {
		tt, ok := cases[r.Name]
		if !ok {
			if !strings.Contains(r.Name, "timeout") { // those are in TestDeadlinesAreTimeouts
				t.Errorf("there is no test for %q", r.Name)
			}
			continue
		}
		t.Run(r.Name, func(t *testing.T) {
			x := newExchange(t)
			tt.set(t, x)
			x.run()
			checkFailure(t, "client", x.clientErr, tt.client, tt.clientText)
			checkFailure(t, "server", x.serverErr, tt.server, tt.serverText)
			// In one process the JavaScript sides see each other's error, so only
			// the first to fail has said what its peer says over a wire.
			for _, cb := range r.Server {
				if cb.Err != nil && strings.HasPrefix(cb.Err.Message, "shs.server") && x.serverErr.Error() != cb.Err.Message {
					t.Errorf("server says %q, recorded is %q", x.serverErr, cb.Err.Message)
				}
			}
			for _, cb := range r.Client {
				if cb.Err != nil && strings.HasPrefix(cb.Err.Message, "shs.client") && x.clientErr.Error() != cb.Err.Message {
					t.Errorf("client says %q, recorded is %q", x.clientErr, cb.Err.Message)
				}
			}
			checkWire(t, x, r.Wire)
		})
	}
}

// hungUpText is what the server says of a client that went away.
func hungUpText(phase, want int) string {
	return fmt.Sprintf("shs.server: stream ended with:0 but wanted:%d (phase %d)", want, phase)
}

func checkFailure(t *testing.T, side string, err, reason error, text string) {
	t.Helper()
	if !errors.Is(err, reason) {
		t.Errorf("%s: reason %v, want %v", side, err, reason)
	}
	if reason != nil && err != nil && err.Error() != text {
		t.Errorf("%s: text %q, want %q", side, err, text)
	}
}

// checkWire compares the number and lengths of the messages written.
func checkWire(t *testing.T, x *exchange, wire []struct{ Dir, Hex string }) {
	t.Helper()
	want := map[string][]int{}
	total := 0
	for _, w := range wire {
		if total++; total <= 4 {
			want[w.Dir] = append(want[w.Dir], len(w.Hex)/2)
		}
	}
	if got := x.client.sizes(); !reflect.DeepEqual(got, want["c>s"]) {
		t.Errorf("the client wrote messages of %v bytes, recorded are %v", got, want["c>s"])
	}
	if got := x.server.sizes(); !reflect.DeepEqual(got, want["s>c"]) {
		t.Errorf("the server wrote messages of %v bytes, recorded are %v", got, want["s>c"])
	}
}

// messages names the four messages by sender and number.
var messages = []struct {
	client bool
	n      int
	size   int
}{{true, 1, ChallengeSize}, {false, 1, ChallengeSize}, {true, 2, HelloSize}, {false, 2, AcceptSize}}

// set makes the sender of message m change it.
func (x *exchange) set(m int, change func(int, []byte) []byte) {
	if messages[m].client {
		x.client.change = change
	} else {
		x.server.change = change
	}
}

// checkBothFail checks that nobody got a session, except that the server has
// one when the fault lies in the last message, after which it hears nothing.
func (x *exchange) checkBothFail(t *testing.T, m int, what string) {
	t.Helper()
	if x.clientErr == nil || x.clientSession != nil {
		t.Errorf("message %d %s: the client has a session", m+1, what)
	}
	if m < 3 && (x.serverErr == nil || x.serverSession != nil) {
		t.Errorf("message %d %s: the server has a session", m+1, what)
	}
	for _, err := range []error{x.clientErr, x.serverErr} {
		if errors.Is(err, io.EOF) {
			t.Errorf("message %d %s: %v looks like an end in good order", m+1, what, err)
		}
	}
}

func TestFlippedBitAtEveryByteFails(t *testing.T) {
	for m, msg := range messages {
		for i := range msg.size {
			x := newExchange(t)
			x.set(m, func(n int, b []byte) []byte {
				if n == msg.n {
					b[i] ^= 1 << (i % 8)
				}
				return b
			})
			x.run()
			x.checkBothFail(t, m, fmt.Sprint("with a bit flipped in byte ", i))
		}
	}
}

func TestTruncationAtEveryByteFails(t *testing.T) {
	for m, msg := range messages {
		for i := range msg.size {
			x := newExchange(t)
			x.set(m, func(n int, b []byte) []byte {
				if n == msg.n && i == 0 {
					return nil
				}
				if n == msg.n {
					return b[:i]
				}
				return b
			})
			x.run()
			x.checkBothFail(t, m, fmt.Sprint("cut after ", i))
		}
	}
}

func TestStatesRefuseMessagesOfTheWrongLength(t *testing.T) {
	for _, n := range []int{0, 1, 31, 32, 63, 65, 79, 81, 111, 113, 1000} {
		b := make([]byte, n)
		client, _ := upToHello(t)
		if _, err := client.ReadAccept(b); err == nil {
			t.Errorf("accept of %d bytes taken", n)
		}
		fresh, _ := NewServerState(config(t, "bob"))
		if err := fresh.ReadChallenge(b); err == nil {
			t.Errorf("challenge of %d bytes taken", n)
		}
		server := upToChallenge(t)
		if _, err := server.ReadHello(b); err == nil {
			t.Errorf("hello of %d bytes taken", n)
		}
	}
}

// lowOrderU returns the u coordinates, canonical or not, that give a shared
// secret of zeros with any key.
func lowOrderU(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for _, s := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		b := unhex(t, s)
		out = append(out, b)
		high := bytes.Clone(b)
		high[31] |= 0x80 // ignored by X25519
		out = append(out, high)
	}
	return out
}

// Defect: 32 zero bytes as ephemeral key, with a valid tag, crashed the process.
func TestWartLowOrderEphemeralKeyIsRefused(t *testing.T) {
	for _, u := range lowOrderU(t) {
		x := newExchange(t)
		x.client.change = func(int, []byte) []byte { return challengeFor(x.clientConfig, u) }
		x.run()
		checkFailure(t, "server", x.serverErr, ErrAppKey, textServerBadChallenge)
		if n := len(x.server.written); n != 0 {
			t.Errorf("%x: the server answered with %d messages", u, n)
		}

		x = newExchange(t)
		x.server.change = func(int, []byte) []byte { return challengeFor(x.serverConf, u) }
		x.run()
		checkFailure(t, "client", x.clientErr, ErrAppKey, textClientBadChallenge)
		if n := len(x.client.written); n != 1 {
			t.Errorf("%x: the client wrote %d messages", u, n)
		}
	}
}

// smallOrderKeys are Ed25519 points of small order.
func smallOrderKeys(t testing.TB) []keys.PublicKey {
	t.Helper()
	var out []keys.PublicKey
	for _, s := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	} {
		k, err := keys.NewPublicKey(unhex(t, s))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, k)
	}
	return out
}

// Defects A5 and A6: dialling such a key panicked, or went unnoticed.
func TestDefectA5A6DiallingALowOrderKeyFails(t *testing.T) {
	for _, k := range append(smallOrderKeys(t), offCurve(t)) {
		x := newExchange(t)
		x.remote = k
		x.run()
		checkFailure(t, "client", x.clientErr, ErrServerKey, textClientBadChallenge)
		if n := len(x.client.written); n != 1 {
			t.Errorf("%v: the client wrote %d messages", k, n)
		}
	}
}

// Defect A6: a client whose long-term key has small order needs no secret to
// sign with it.
func TestDefectA6ClientWithALowOrderKeyIsRefused(t *testing.T) {
	for _, k := range smallOrderKeys(t) {
		x := newExchange(t)
		asked := false
		x.authorize = func(keys.PublicKey) error { asked = true; return nil }
		x.client.change = func(n int, msg []byte) []byte {
			if n == 1 {
				return msg
			}
			forged, err := forgeHello(x, k)
			if err != nil {
				t.Error(err)
			}
			return forged
		}
		x.run()
		checkFailure(t, "server", x.serverErr, ErrServerKey, textServerBadHello)
		if asked {
			t.Errorf("%v: the key counted as proven", k)
		}
	}
}

// forgeHello makes a hello for a key of small order: R neutral, S zero.
func forgeHello(x *exchange, k keys.PublicKey) ([]byte, error) {
	c, err := NewClientState(Config{
		Identity: x.clientConfig.Identity, AppKey: x.clientConfig.AppKey, Rand: bytes.NewReader(sha("alice ephemeral")),
	}, x.remote)
	if err != nil {
		return nil, err
	}
	if err := c.ReadChallenge(x.server.written[0]); err != nil {
		return nil, err
	}
	var hello [helloPlain]byte
	hello[0] = 1
	copy(hello[signatureSize:], k.Bytes())
	key := c.helloKey()
	msg := make([]byte, HelloSize)
	sealBox(msg, hello[:], &key)
	return msg, nil
}

func TestHelloOfAnotherIdentityIsRefused(t *testing.T) {
	x := newExchange(t)
	x.client.change = func(n int, msg []byte) []byte {
		if n == 1 {
			return msg
		}
		// The right shared keys, but bob's name over alice's signature.
		c, _ := NewClientState(Config{
			Identity: identity(t, "alice"), AppKey: x.clientConfig.AppKey, Rand: bytes.NewReader(sha("alice ephemeral")),
		}, x.remote)
		_ = c.ReadChallenge(x.server.written[0])
		_, _ = c.Hello()
		copy(c.hello[signatureSize:], identity(t, "carol").Public().Bytes())
		key := c.helloKey()
		sealBox(msg, c.hello[:], &key)
		return msg
	}
	x.run()
	checkFailure(t, "server", x.serverErr, ErrServerKey, textServerBadHello)
}

func TestAuthorizeDecides(t *testing.T) {
	custom := errors.New("db down")
	wrapped := fmt.Errorf("blocked: %w", ErrNotAuthorized)
	for _, tt := range []struct {
		name string
		err  error
		text string
	}{
		{"welcome", nil, ""},
		{"not authorized", ErrNotAuthorized, textServerNotAuthorized},
		{"own error", custom, "db down"},
		{"own error for not authorized", wrapped, wrapped.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newExchange(t)
			asked := 0
			x.authorize = func(k keys.PublicKey) error {
				asked++
				if !k.Equal(identity(t, "alice").Public()) {
					t.Errorf("asked about %v", k)
				}
				return tt.err
			}
			x.run()
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
			if tt.err == nil {
				if x.serverErr != nil || x.clientErr != nil {
					t.Error(x.serverErr, x.clientErr)
				}
				return
			}
			checkFailure(t, "server", x.serverErr, tt.err, tt.text)
			checkFailure(t, "client", x.clientErr, ErrRefused, textClientHungUp)
			if tt.err != ErrNotAuthorized && x.serverErr != tt.err {
				t.Errorf("the error of authorize was changed to %v", x.serverErr)
			}
		})
	}
}

func TestAuthorizeMayTakeItsTime(t *testing.T) {
	x := newExchange(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	x.authorize = func(keys.PublicKey) error {
		close(asked)
		<-answer
		return nil
	}
	go func() {
		<-asked
		close(answer)
	}()
	x.run()
	if x.serverErr != nil || x.clientErr != nil {
		t.Error(x.serverErr, x.clientErr)
	}
}

func TestAuthorizeIsAskedOnlyAboutProvenKeys(t *testing.T) {
	for m, msg := range messages[:3] {
		x := newExchange(t)
		x.authorize = func(k keys.PublicKey) error {
			t.Errorf("message %d was bad and authorize was asked about %v", m+1, k)
			return nil
		}
		x.set(m, flipByte(msg.n, 50))
		x.run()
	}
}

// Defect A9: a failing random source was asked once more and then trusted.
func TestDefectA9FailingRandomSourceIsReported(t *testing.T) {
	broken := errors.New("no entropy")
	for _, r := range []io.Reader{brokenReader{broken}, bytes.NewReader(make([]byte, 31))} {
		cfg := config(t, "alice")
		cfg.Rand = r
		var rw script
		if _, err := Client(&rw, cfg, identity(t, "bob").Public()); err == nil {
			t.Error("the client went on")
		}
		if _, err := Server(&rw, cfg, nil); err == nil {
			t.Error("the server went on")
		}
		if rw.Len() != 0 {
			t.Errorf("%d bytes were written", rw.Len())
		}
	}
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

func TestMissingConfigurationIsReported(t *testing.T) {
	full := config(t, "alice")
	bob := identity(t, "bob").Public()
	for _, cfg := range []Config{{}, {Identity: full.Identity}, {AppKey: full.AppKey}, {Identity: &keys.Identity{}, AppKey: full.AppKey}} {
		if _, err := Client(&script{}, cfg, bob); err == nil {
			t.Error("a client started without all it needs")
		}
		if _, err := Server(&script{}, cfg, nil); err == nil {
			t.Error("a server started without all it needs")
		}
	}
	var rw script
	if _, err := Client(&rw, full, keys.PublicKey{}); err == nil || rw.Len() != 0 {
		t.Errorf("without a server key: %v, %d bytes written", err, rw.Len())
	}
}

func TestStepsOutOfOrderAreRefused(t *testing.T) {
	client, err := NewClientState(config(t, "alice"), identity(t, "bob").Public())
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServerState(config(t, "bob"))
	if err != nil {
		t.Fatal(err)
	}
	_, e1 := client.Hello()
	_, e2 := client.ReadAccept(make([]byte, AcceptSize))
	_, e3 := server.Challenge()
	_, e4 := server.ReadHello(make([]byte, HelloSize))
	_, _, e5 := server.Accept()
	client2, server2 := upToHello(t)
	e6 := client2.ReadChallenge(make([]byte, ChallengeSize))
	e7 := server2.ReadChallenge(make([]byte, ChallengeSize))
	if _, _, err := server2.Accept(); err != nil {
		t.Fatal(err)
	}
	_, _, e8 := server2.Accept()
	for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8} {
		if !errors.Is(err, errStep) {
			t.Errorf("step %d: %v", i+1, err)
		}
	}
}

func TestNothingGoesOnAfterAFailure(t *testing.T) {
	server, err := NewServerState(config(t, "bob"))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.ReadChallenge(make([]byte, ChallengeSize)); !errors.Is(err, ErrAppKey) {
		t.Fatal(err)
	}
	if err := server.ReadChallenge(newVectorChallenge(t)); !errors.Is(err, errStep) {
		t.Errorf("a second challenge: %v", err)
	}
	client, _ := upToHello(t)
	if _, err := client.ReadAccept(make([]byte, AcceptSize)); !errors.Is(err, ErrServerKey) {
		t.Fatal(err)
	}
	if _, err := client.ReadAccept(make([]byte, AcceptSize)); !errors.Is(err, errStep) {
		t.Errorf("a second accept: %v", err)
	}
}

// failing fails at the nth read or write.
type failing struct {
	script
	err       error
	failWrite int
	short     bool
}

func (f *failing) Write(p []byte) (int, error) {
	if f.failWrite--; f.failWrite < 0 {
		if f.short {
			return len(p) / 2, nil
		}
		return 0, f.err
	}
	return f.script.Write(p)
}

// Defect A8: callers could not tell one failure from another.
func TestDefectA8ConnectionErrorsCanBeTold(t *testing.T) {
	var v handshakeVector
	loadJSON(t, "testdata/handshake.json", &v)
	gone := errors.New("cable cut")
	for _, tt := range []struct {
		name   string
		says   string
		server bool
		writes int
		err    error
		short  bool
		reason error
	}{
		{name: "client cannot write its challenge", err: gone, reason: gone},
		{name: "client cannot write its hello", says: v.Wire[1].Hex, writes: 1, err: gone, reason: gone},
		{name: "client writes half", short: true, reason: io.ErrShortWrite},
		{name: "server cannot write its challenge", server: true, says: v.Wire[0].Hex, err: gone, reason: gone},
		{name: "server cannot write its accept", server: true, says: v.Wire[0].Hex + v.Wire[2].Hex, writes: 1, err: gone, reason: gone},
		{name: "server writes half", server: true, says: v.Wire[0].Hex, short: true, reason: io.ErrShortWrite},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rw := &failing{failWrite: tt.writes, err: tt.err, short: tt.short}
			rw.Reader = bytes.NewReader(unhex(t, tt.says))
			var err error
			if tt.server {
				_, err = Server(rw, config(t, "bob"), nil)
			} else {
				_, err = Client(rw, config(t, "alice"), identity(t, "bob").Public())
			}
			if !errors.Is(err, tt.reason) {
				t.Errorf("error %v, want %v", err, tt.reason)
			}
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("error of type %T", err)
			}
			for _, reason := range []error{ErrAppKey, ErrServerKey, ErrNotAuthorized, ErrRefused, ErrTimeout} {
				if errors.Is(err, reason) {
					t.Errorf("%v is also %v", err, reason)
				}
			}
		})
	}
}

func TestReadErrorsKeepTheirCause(t *testing.T) {
	gone := errors.New("cable cut")
	_, err := Client(&script{Reader: brokenReader{gone}}, config(t, "alice"), identity(t, "bob").Public())
	if !errors.Is(err, gone) || errors.Is(err, ErrAppKey) || err.Error() != textClientNoChallenge {
		t.Errorf("client: %v", err)
	}
	_, err = Server(&script{Reader: brokenReader{gone}}, config(t, "bob"), nil)
	if !errors.Is(err, gone) || err.Error() != "shs.server: could not read from the client (phase 1): cable cut" {
		t.Errorf("server: %v", err)
	}
	_, err = Client(&script{Reader: brokenReader{syscall.ECONNRESET}}, config(t, "alice"), identity(t, "bob").Public())
	if !errors.Is(err, syscall.ECONNRESET) || !errors.Is(err, ErrAppKey) {
		t.Errorf("client after a reset: %v", err)
	}
}

func TestSessionKeysAreNotPrinted(t *testing.T) {
	x := newExchange(t)
	x.run()
	if x.clientErr != nil {
		t.Fatal(x.clientErr)
	}
	s := x.clientSession
	for _, v := range []any{s, *s, struct{ S *Session }{s}} {
		var texts []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
			texts = append(texts, fmt.Sprintf(verb, v))
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range append(texts, string(b)) {
			for _, secret := range [][]byte{s.SendKey[:], s.ReceiveKey[:]} {
				if strings.Contains(text, hex.EncodeToString(secret[:4])) || strings.Contains(text, strings.Trim(fmt.Sprint(secret[:4]), "[]")) {
					t.Errorf("%T shows a key: %s", v, text)
				}
			}
		}
	}
	if reflect.TypeOf(*s).Comparable() {
		t.Error("sessions can be compared with ==")
	}
}
