package multiserver_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha512"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// zeroKeyChallenge is a first message, soundly tagged, whose key is of low
// order.
func zeroKeyChallenge(t *testing.T) []byte {
	t.Helper()
	key := make([]byte, 32)
	appKey := keys.MainNet()
	mac := hmac.New(sha512.New, appKey.Bytes())
	mac.Write(key)
	return append(mac.Sum(nil)[:32], key...)
}

// pair returns two connected ends over what wrap makes of a pipe.
func pair(t *testing.T, wrap func(net.Conn) net.Conn) (client, server *multiserver.Conn) {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan *multiserver.Conn)
	go func() {
		c, err := shsFor(t, "bob").Server(t.Context(), b)
		if err != nil {
			t.Error(err)
		}
		done <- c
	}()
	client, err := shsFor(t, "alice").Client(t.Context(), wrap(a), multiserver.NewPart("shs", identity(t, "bob").Public().Base64()))
	if err != nil {
		t.Fatal(err)
	}
	return client, <-done
}

func plain(c net.Conn) net.Conn { return c }

func drain(c net.Conn) { go func() { _, _ = io.Copy(io.Discard, c) }() }

func TestEndOfAConnectionIsAuthenticated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, plain)
		go func() {
			_, _ = io.WriteString(a, "last words")
			_ = a.Close()
		}()
		got, err := io.ReadAll(b)
		if err != nil || string(got) != "last words" {
			t.Errorf("%q %v", got, err)
		}
		_ = b.Close()
	})
}

// Defect A3: a cut connection looks like an orderly end.
func TestDefectA3CutConnectionIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, plain)
		go func() {
			_, _ = io.WriteString(a, "last words")
			_ = a.Abort()
		}()
		got, err := io.ReadAll(b)
		if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || string(got) != "last words" {
			t.Errorf("%q %v", got, err)
		}
		_ = b.Close()
		_ = a.Close()
	})
}

// failing is a connection whose writes fail, or hang, from some moment on.
type failing struct {
	net.Conn
	mu     sync.Mutex
	broken error
	closed int
}

func (f *failing) Write(p []byte) (int, error) {
	f.mu.Lock()
	err := f.broken
	f.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return f.Conn.Write(p)
}

func (f *failing) Close() error {
	f.mu.Lock()
	f.closed++
	f.mu.Unlock()
	return f.Conn.Close()
}

// Defect A4: Close leaves the socket open if the goodbye cannot be written.
func TestDefectA4CloseClosesTheSocketWhenTheGoodbyeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{}
		a, b := pair(t, func(c net.Conn) net.Conn {
			f.Conn = c
			return f
		})
		f.mu.Lock()
		f.broken = errors.New("broken pipe")
		f.mu.Unlock()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if f.closed == 0 {
			t.Error("the socket is open")
		}
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
		_ = b.Close()
	})
}

func TestCloseOfAConnectionToAPeerThatHangsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, plain)
		start := time.Now()
		if err := a.Close(); err != nil { // nobody reads at the other end
			t.Error(err)
		}
		if took := time.Since(start); took != multiserver.DefaultCloseTimeout {
			t.Errorf("Close took %v", took)
		}
		_ = b.Abort()
	})
}

// deaf is a connection without deadlines.
type deaf struct{ net.Conn }

func (deaf) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (deaf) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (deaf) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

func TestCloseIsBoundedWithoutDeadlinesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, func(c net.Conn) net.Conn { return deaf{c} })
		start := time.Now()
		_ = a.Close()
		if took := time.Since(start); took != multiserver.DefaultCloseTimeout {
			t.Errorf("Close took %v", took)
		}
		_ = b.Abort()
	})
}

func TestHandshakeEndsWithItsContextWithoutDeadlinesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer func() { _ = b.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := shsFor(t, "alice").Server(ctx, deaf{a}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestCloseEndsAWriteThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, plain)
		written := make(chan error)
		go func() {
			_, err := a.Write(make([]byte, 100))
			written <- err
		}()
		synctest.Wait()
		start := time.Now()
		closed := make(chan struct{})
		for range 3 {
			go func() {
				_ = a.Close()
				closed <- struct{}{}
			}()
		}
		if err := <-written; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		for range 3 {
			<-closed
		}
		if took := time.Since(start); took != multiserver.DefaultCloseTimeout {
			t.Errorf("it took %v", took)
		}
		_ = b.Abort()
	})
}

func TestClosedConnectionSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, plain)
		drain(b)
		read := make(chan error)
		go func() {
			_, err := a.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("reading: %v", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("writing: %v", err)
		}
		if err := a.CloseWrite(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("half-closing: %v", err)
		}
		if err := a.SetDeadline(time.Now()); err == nil {
			t.Error("a deadline could be set")
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		_ = b.Close()
	})
}

func TestHalfCloseEndsOneDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, plain)
		go func() {
			_, _ = io.WriteString(a, "question")
			_ = a.CloseWrite()
		}()
		got, err := io.ReadAll(b)
		if err != nil || string(got) != "question" {
			t.Fatalf("%q %v", got, err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("writing after the goodbye: %v", err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Errorf("the second time: %v", err)
		}
		go func() {
			_, _ = io.WriteString(b, "answer")
			_ = b.Close()
		}()
		got, err = io.ReadAll(a)
		if err != nil || string(got) != "answer" {
			t.Errorf("%q %v", got, err)
		}
		_ = a.Close()
	})
}

func TestDeadlinesPassThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, plain)
		_ = a.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		_ = a.SetReadDeadline(time.Time{})
		go func() { _, _ = b.Write([]byte("x")) }()
		if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("reading after the deadline: %d %v", n, err)
		}
		_ = a.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := a.Write(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if a.LocalAddr() == nil || a.RemoteAddr() == nil {
			t.Error("addresses are missing")
		}
		_ = a.Abort()
		_ = b.Abort()
	})
}

// The wart that an authorize hook that takes its time leaves the timer of the
// handshake running.
func TestWartNoTimerOutlivesTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		config := shsConfig(t, "alice")
		config.Authorize = func(context.Context, keys.PublicKey, string) (any, error) {
			time.Sleep(time.Second)
			return true, nil
		}
		opts := memoryOptions(t, m, "alice")
		opts.Transforms = []multiserver.Transform{multiserver.SHS(config)}
		opts.OnConn = echo
		listening(t, opts)
		c, err := must(t, memoryOptions(t, m, "bob")).Dial(t.Context(), addressOf(t, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		checkEcho(t, c)
		_ = c.Close()
	})
}

func TestWritesOfManyTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, plain)
		const writers, size = 20, 100_000
		var writing sync.WaitGroup
		for i := range writers {
			writing.Go(func() {
				if n, err := a.Write(bytes.Repeat([]byte{byte(i)}, size)); n != size || err != nil {
					t.Errorf("wrote %d, %v", n, err)
				}
			})
		}
		seen := map[byte]bool{}
		for block := make([]byte, size); len(seen) < writers; {
			if _, err := io.ReadFull(b, block); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(block, bytes.Repeat(block[:1], size)) || seen[block[0]] {
				t.Fatal("two writes got mixed up")
			}
			seen[block[0]] = true
		}
		writing.Wait()
		_ = a.Abort()
		_ = b.Abort()
	})
}

// inside hides what kind of connection it is.
type inside struct{ net.Conn }

func TestReadingResumesAfterADeadlineWhereTheSocketAllowsIt(t *testing.T) {
	for name, c := range map[string]struct {
		wrap func(net.Conn) net.Conn
		want bool
	}{
		"a socket":            {plain, true},
		"an unknown kind":     {func(c net.Conn) net.Conn { return inside{c} }, false},
		"one that knows":      {func(c net.Conn) net.Conn { return resuming{c} }, true},
		"one that hides none": {func(c net.Conn) net.Conn { return transparent{c} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ln.Close() }()
			served := make(chan *multiserver.Conn, 1)
			go func() {
				raw, err := ln.Accept()
				if err != nil {
					return
				}
				conn, _ := shsFor(t, "bob").Server(t.Context(), c.wrap(raw))
				served <- conn
			}()
			raw, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			client, err := shsFor(t, "alice").Client(t.Context(), raw, multiserver.NewPart("shs", identity(t, "bob").Public().Base64()))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = client.Close() }()
			server := <-served
			defer func() { _ = server.Abort() }()
			if server.ReadResumes() != c.want {
				t.Fatalf("ReadResumes is %v", !c.want)
			}
			if !c.want {
				return
			}
			for range 3 {
				_ = server.SetReadDeadline(time.Unix(1, 0))
				if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
				_ = server.SetReadDeadline(time.Time{})
				if _, err := io.WriteString(client, "hello"); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, 5)
				if _, err := io.ReadFull(server, got); err != nil || string(got) != "hello" {
					t.Fatalf("%q, %v", got, err)
				}
			}
		})
	}
}

type resuming struct{ net.Conn }

func (resuming) ReadResumes() bool { return true }

type transparent struct{ net.Conn }

func (c transparent) NetConn() net.Conn { return c.Conn }
func (transparent) Buffered() int       { return 0 }
