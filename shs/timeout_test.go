package shs

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// mute answers with the given bytes, then says nothing, and takes all it is told.
func mute(t *testing.T, conn net.Conn, says []byte) {
	t.Helper()
	go func() {
		_, _ = conn.Write(says)
	}()
	go func() {
		b := make([]byte, 256)
		for {
			if _, err := conn.Read(b); err != nil {
				return
			}
		}
	}()
}

// One deadline ends the handshake whatever the other side does, and the error
// says in which phase that was.
func TestDeadlinesAreTimeouts(t *testing.T) {
	var v handshakeVector
	loadJSON(t, "testdata/handshake.json", &v)
	for _, tt := range []struct {
		name   string
		server bool
		says   string
		text   string
	}{
		{"server never answers", false, "", textClientNoChallenge},
		{"server answers half", false, v.Wire[1].Hex[:64], textClientNoChallenge},
		{"server never accepts", false, v.Wire[1].Hex, textClientHungUp},
		{"server accepts half", false, v.Wire[1].Hex + v.Wire[3].Hex[:64], textClientHungUp},
		{"client never speaks", true, "", "shs.server: read exceeded timeout (phase 1)"},
		{"client speaks half", true, v.Wire[0].Hex[:64], "shs.server: read exceeded timeout (phase 1)"},
		{"client never says hello", true, v.Wire[0].Hex, "shs.server: read exceeded timeout (phase 3)"},
		{"client says half a hello", true, v.Wire[0].Hex + v.Wire[2].Hex[:64], "shs.server: read exceeded timeout (phase 3)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			says := unhex(t, tt.says)
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer near.Close()
				defer far.Close()
				mute(t, far, says)
				start := time.Now()
				if err := near.SetDeadline(start.Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				var err error
				if tt.server {
					_, err = Server(near, config(t, "bob"), func(keys.PublicKey) error {
						t.Error("asked to authorize")
						return nil
					})
				} else {
					_, err = Client(near, config(t, "alice"), identity(t, "bob").Public())
				}
				if took := time.Since(start); took != 5*time.Second {
					t.Errorf("it took %v", took)
				}
				checkTimeout(t, err, tt.text)
			})
		})
	}
}

func checkTimeout(t *testing.T, err error, text string) {
	t.Helper()
	if !errors.Is(err, ErrTimeout) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v is no timeout", err)
	}
	if err.Error() != text {
		t.Errorf("text %q, want %q", err, text)
	}
	if n, ok := errors.AsType[net.Error](err); !ok || !n.Timeout() {
		t.Errorf("%T is no net.Error with Timeout", err)
	}
	for _, reason := range []error{ErrAppKey, ErrServerKey, ErrNotAuthorized, ErrRefused} {
		if errors.Is(err, reason) {
			t.Errorf("the timeout is also %v", reason)
		}
	}
}

// ownTimeout is the timeout of a connection that is not of package net.
type ownTimeout struct{}

func (ownTimeout) Error() string { return "too slow" }
func (ownTimeout) Timeout() bool { return true }

func TestTimeoutsOfOtherConnectionsAreTimeouts(t *testing.T) {
	_, err := Client(&script{Reader: brokenReader{ownTimeout{}}}, config(t, "alice"), identity(t, "bob").Public())
	if !errors.Is(err, ErrTimeout) || !errors.Is(err, ownTimeout{}) {
		t.Errorf("client: %v", err)
	}
	_, err = Server(&script{Reader: brokenReader{ownTimeout{}}}, config(t, "bob"), nil)
	if !errors.Is(err, ErrTimeout) {
		t.Errorf("server: %v", err)
	}
}

// Defect A2: a handshake that timed out left a goroutine behind. The bubble of
// synctest fails the test if one is left.
func TestDefectA2TimeoutLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		if err := near.SetDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := Server(near, config(t, "bob"), nil); !errors.Is(err, ErrTimeout) {
			t.Error(err)
		}
		if err := near.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Defect: the timeout was for each read, so a peer that sent a byte now and then
// kept a handshake open without end.
func TestWartTricklingPeerMeetsTheDeadline(t *testing.T) {
	var v handshakeVector
	loadJSON(t, "testdata/handshake.json", &v)
	says := unhex(t, v.Wire[0].Hex)
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		done := make(chan struct{})
		defer func() {
			_ = far.Close()
			<-done // the bubble must not end while it sleeps
		}()
		go func() {
			defer close(done)
			for i := range says {
				time.Sleep(time.Second)
				if _, err := far.Write(says[i : i+1]); err != nil {
					return
				}
			}
		}()
		start := time.Now()
		if err := near.SetDeadline(start.Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := Server(near, config(t, "bob"), nil)
		checkTimeout(t, err, "shs.server: read exceeded timeout (phase 1)")
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
