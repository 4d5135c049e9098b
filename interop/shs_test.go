package interop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/boxstream"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/shs"
)

// shsOutcome is what js/shs.js tells of a handshake and of the stream after it.
type shsOutcome struct {
	End          ending `json:"end"`
	Stage        string `json:"stage"`
	Remote       string `json:"remote"`
	SendKey      string `json:"sendKey"`
	ReceiveKey   string `json:"receiveKey"`
	SendNonce    string `json:"sendNonce"`
	ReceiveNonce string `json:"receiveNonce"`
	Received     string `json:"received"`
	Bytes        int    `json:"bytes"`
}

func anyOutcome(shsOutcome) bool { return true }

// jsHandshakeServer starts a server named "bob" and returns its port.
func jsHandshakeServer(t *testing.T, n *node, extra map[string]any) int {
	t.Helper()
	options := map[string]any{"name": "bob", "appKey": encode64(appKey(t, "test_key").Bytes())}
	for k, v := range extra {
		options[k] = v
	}
	var addr struct {
		Port int    `json:"port"`
		Key  string `json:"key"`
	}
	n.do(t, "listen", options, &addr)
	if want := identity(t, "bob").Public().Base64(); addr.Key != want {
		t.Fatalf("bob of JavaScript is %s, ours %s", addr.Key, want)
	}
	return addr.Port
}

func shsConfig(t testing.TB, name, app string) shs.Config {
	t.Helper()
	return shs.Config{Identity: identity(t, name), AppKey: appKey(t, app)}
}

// dialSHS connects and shakes hands as the client.
func dialSHS(t *testing.T, port int, cfg shs.Config, remote keys.PublicKey) (net.Conn, *shs.Session, error) {
	t.Helper()
	conn := dialLoopback(t, port)
	_ = conn.SetDeadline(time.Now().Add(patience))
	s, err := shs.Client(conn, cfg, remote)
	return conn, s, err
}

// serveSHS accepts one connection, shakes hands as the server, and gives the outcome.
func serveSHS(t *testing.T, cfg shs.Config, authorize func(keys.PublicKey) error, after func(net.Conn, *shs.Session) error) (port int, result <-chan error) {
	t.Helper()
	l := listenLoopback(t)
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		s, err := shs.Server(conn, cfg, authorize)
		if err == nil && after != nil {
			err = after(conn, s)
		}
		done <- err
	}()
	return l.Addr().(*net.TCPAddr).Port, done
}

func welcome(keys.PublicKey) error { return nil }

// checkMirrored holds the two sides' secrets against each other.
func checkMirrored(t *testing.T, s *shs.Session, js shsOutcome, jsPeer string) {
	t.Helper()
	if !s.Remote.Equal(identity(t, jsPeer).Public()) {
		t.Errorf("Go speaks with %v, not with %s", s.Remote, jsPeer)
	}
	for _, p := range []struct{ what, ours, theirs string }{
		{"send key", encode64(s.SendKey[:]), js.ReceiveKey},
		{"receive key", encode64(s.ReceiveKey[:]), js.SendKey},
		{"send nonce", encode64(s.SendNonce[:]), js.ReceiveNonce},
		{"receive nonce", encode64(s.ReceiveNonce[:]), js.SendNonce},
	} {
		if p.ours != p.theirs {
			t.Errorf("%s: ours %s, theirs %s", p.what, p.ours, p.theirs)
		}
	}
}

// echoThrough sends data in one go, ends, and returns all that comes back.
func echoThrough(conn net.Conn, s *shs.Session, data []byte) ([]byte, error) {
	w := boxstream.NewWriter(conn, &s.SendKey, &s.SendNonce)
	r := boxstream.NewReader(conn, &s.ReceiveKey, &s.ReceiveNonce)
	sent := make(chan error, 1)
	go func() {
		_, err := w.Write(data)
		sent <- errors.Join(err, w.Close())
	}()
	got, err := io.ReadAll(r)
	return got, errors.Join(err, <-sent)
}

// echoBack returns what it gets until the peer says goodbye, and says goodbye.
func echoBack(conn net.Conn, s *shs.Session) error {
	w := boxstream.NewWriter(conn, &s.SendKey, &s.SendNonce)
	_, err := io.Copy(w, boxstream.NewReader(conn, &s.ReceiveKey, &s.ReceiveNonce))
	return errors.Join(err, w.Close())
}

func TestGoShakesHandsWithAJavaScriptServer(t *testing.T) {
	n := startNode(t, "shs.js")
	port := jsHandshakeServer(t, n, nil)
	conn, s, err := dialSHS(t, port, shsConfig(t, "alice", "test_key"), identity(t, "bob").Public())
	if err != nil {
		t.Fatal(err)
	}
	js := waitEvent(t, n, "handshake", anyOutcome)
	checkMirrored(t, s, js, "bob")
	if js.Remote != identity(t, "alice").Public().Base64() {
		t.Errorf("JavaScript speaks with %s", js.Remote)
	}
	data := pattern(1 << 20)
	got, err := echoThrough(conn, s, data)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d of %d bytes came back, %v", len(got), len(data), err)
	}
	if e := waitEvent(t, n, "ended", anyOutcome); e.End.String() != "well" || e.Bytes != len(data) {
		t.Errorf("JavaScript saw %d bytes and ended %v", e.Bytes, e.End)
	}
}

func TestAJavaScriptClientShakesHandsWithGo(t *testing.T) {
	for _, useSeed := range []bool{false, true} {
		n := startNode(t, "shs.js")
		var session *shs.Session
		port, result := serveSHS(t, shsConfig(t, "bob", "test_key"), welcome, func(conn net.Conn, s *shs.Session) error {
			session = s
			return echoBack(conn, s)
		})
		data := pattern(300_000)
		var js shsOutcome
		n.do(t, "dial", map[string]any{
			"port": port, "name": "alice", "appKey": encode64(appKey(t, "test_key").Bytes()), "useSeed": useSeed,
			"remote": identity(t, "bob").Public().Base64(), "chunks": []string{encode64(data[:5]), encode64(data[5:])},
		}, &js)
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		checkMirrored(t, session, js, "alice")
		if js.End.String() != "well" || js.Received != encode64(data) {
			t.Errorf("%s: %v, %d characters came back", js.Stage, js.End, len(js.Received))
		}
	}
}

func TestWrongAppKeyIsToldApart(t *testing.T) {
	n := startNode(t, "shs.js")
	t.Run("Go dials", func(t *testing.T) {
		port := jsHandshakeServer(t, n, nil)
		_, _, err := dialSHS(t, port, shsConfig(t, "alice", "another"), identity(t, "bob").Public())
		if !errors.Is(err, shs.ErrAppKey) || !strings.Contains(err.Error(), "error when expecting server to accept challenge (phase 1)") {
			t.Errorf("got %v", err)
		}
		if js := waitEvent(t, n, "handshake", anyOutcome); !strings.HasPrefix(js.End.String(), "shs.server: client sent invalid challenge (phase 1)") {
			t.Errorf("JavaScript says %v", js.End)
		}
	})
	t.Run("JavaScript dials", func(t *testing.T) {
		port, result := serveSHS(t, shsConfig(t, "bob", "another"), welcome, nil)
		js := jsDial(t, n, port, "bob")
		if err := <-result; !errors.Is(err, shs.ErrAppKey) || !strings.Contains(err.Error(), "client sent invalid challenge (phase 1)") {
			t.Errorf("got %v", err)
		}
		if !strings.HasPrefix(js.End.String(), "shs.client: error when expecting server to accept challenge (phase 1)") {
			t.Errorf("JavaScript says %v", js.End)
		}
	})
}

func TestWrongServerKeyIsToldApart(t *testing.T) {
	n := startNode(t, "shs.js")
	t.Run("Go dials", func(t *testing.T) {
		port := jsHandshakeServer(t, n, nil)
		_, _, err := dialSHS(t, port, shsConfig(t, "alice", "test_key"), identity(t, "carol").Public())
		if !errors.Is(err, shs.ErrRefused) || !strings.Contains(err.Error(), "server hung up when we sent hello (phase 3)") {
			t.Errorf("got %v", err)
		}
		if js := waitEvent(t, n, "handshake", anyOutcome); !strings.HasPrefix(js.End.String(), "shs.server: client hello invalid (phase 3)") {
			t.Errorf("JavaScript says %v", js.End)
		}
	})
	t.Run("JavaScript dials", func(t *testing.T) {
		port, result := serveSHS(t, shsConfig(t, "bob", "test_key"), welcome, nil)
		js := jsDial(t, n, port, "carol")
		if err := <-result; !errors.Is(err, shs.ErrServerKey) || !strings.Contains(err.Error(), "client hello invalid (phase 3)") {
			t.Errorf("got %v", err)
		}
		if !strings.HasPrefix(js.End.String(), "shs.client: server hung up when we sent hello (phase 3)") {
			t.Errorf("JavaScript says %v", js.End)
		}
	})
}

func TestARefusedClientIsToldApart(t *testing.T) {
	n := startNode(t, "shs.js")
	t.Run("Go dials", func(t *testing.T) {
		port := jsHandshakeServer(t, n, map[string]any{"authorize": false})
		_, _, err := dialSHS(t, port, shsConfig(t, "alice", "test_key"), identity(t, "bob").Public())
		if !errors.Is(err, shs.ErrRefused) || !strings.Contains(err.Error(), "server hung up when we sent hello (phase 3)") {
			t.Errorf("got %v", err)
		}
		if js := waitEvent(t, n, "handshake", anyOutcome); js.End.String() != "shs.server: we did not authorize the client (phase 4), so we hung up." {
			t.Errorf("JavaScript says %v", js.End)
		}
	})
	t.Run("JavaScript dials", func(t *testing.T) {
		var asked keys.PublicKey
		port, result := serveSHS(t, shsConfig(t, "bob", "test_key"), func(k keys.PublicKey) error {
			asked = k
			return shs.ErrNotAuthorized
		}, nil)
		js := jsDial(t, n, port, "bob")
		if err := <-result; !errors.Is(err, shs.ErrNotAuthorized) {
			t.Errorf("got %v", err)
		}
		if !asked.Equal(identity(t, "alice").Public()) {
			t.Errorf("asked for %v", asked)
		}
		if !strings.HasPrefix(js.End.String(), "shs.client: server hung up when we sent hello (phase 3)") {
			t.Errorf("JavaScript says %v", js.End)
		}
	})
}

// jsDial makes JavaScript's alice dial the server it believes to be named remote.
func jsDial(t *testing.T, n *node, port int, remote string) (js shsOutcome) {
	t.Helper()
	n.do(t, "dial", map[string]any{
		"port": port, "name": "alice", "appKey": encode64(appKey(t, "test_key").Bytes()),
		"remote": identity(t, remote).Public().Base64(),
	}, &js)
	return js
}

func TestASocketCutAfterTheHandshakeIsNoEnd(t *testing.T) {
	n := startNode(t, "shs.js")
	port := jsHandshakeServer(t, n, map[string]any{"quiet": true})
	conn, s, err := dialSHS(t, port, shsConfig(t, "alice", "test_key"), identity(t, "bob").Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := boxstream.NewWriter(conn, &s.SendKey, &s.SendNonce).Write([]byte("no goodbye follows")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if e := waitEvent(t, n, "ended", anyOutcome); e.End.Err == nil {
		t.Errorf("JavaScript takes a cut for an end: %v", e.End)
	}
}

func TestAKilledJavaScriptPeerIsNoEnd(t *testing.T) {
	n := startNode(t, "shs.js")
	port := jsHandshakeServer(t, n, map[string]any{"quiet": true})
	conn, s, err := dialSHS(t, port, shsConfig(t, "alice", "test_key"), identity(t, "bob").Public())
	if err != nil {
		t.Fatal(err)
	}
	n.stdin.Close()
	_, err = io.ReadAll(boxstream.NewReader(conn, &s.ReceiveKey, &s.ReceiveNonce))
	if !errors.Is(err, io.ErrUnexpectedEOF) && !isReset(err) {
		t.Errorf("got %v", err)
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}
