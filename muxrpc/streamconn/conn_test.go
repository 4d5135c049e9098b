package streamconn_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/muxrpc/streamconn"
)

// pair returns both ends of a duplex call as connections. The handler's end is the second.
func pair(t testing.TB) (near, far *streamconn.Conn) {
	t.Helper()
	served := make(chan *streamconn.Conn, 1)
	mux := muxrpc.NewMux()
	err := muxrpc.HandleDuplex(mux, "connect", func(_ context.Context, _ muxrpc.None, s *muxrpc.Stream[[]byte, []byte]) error {
		c := streamconn.New(s, streamconn.Options{})
		served <- c
		<-c.Done()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
	s, err := muxrpc.Duplex[[]byte, []byte](context.Background(), a, "connect")
	if err != nil {
		t.Fatal(err)
	}
	near = streamconn.New(s, streamconn.Options{})
	far = <-served
	t.Cleanup(func() {
		_ = near.Close()
		_ = far.Close()
	})
	return near, far
}

// TestStreamsAreConnections holds both ends to what net.Conn promises.
func TestStreamsAreConnections(t *testing.T) {
	nettest.TestConn(t, func() (near, far net.Conn, stop func(), err error) {
		a, b := pair(t)
		return a, b, func() { _, _ = a.Close(), b.Close() }, nil
	})
}

func TestManyBytesArriveWholeWhicheverWayTheyAreCopied(t *testing.T) {
	sent := bytes.Repeat([]byte("0123456789abcdef"), 300<<10/16*5) // more than a window, and no multiple of an item
	for name, copying := range map[string]struct {
		send func(c *streamconn.Conn) error
		read func(c *streamconn.Conn) ([]byte, error)
	}{
		"Write and Read": {
			func(c *streamconn.Conn) error { _, err := c.Write(sent); return err },
			func(c *streamconn.Conn) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{c}) },
		},
		"ReadFrom and WriteTo": {
			func(c *streamconn.Conn) error {
				n, err := c.ReadFrom(iotest.HalfReader(bytes.NewReader(sent)))
				if n != int64(len(sent)) {
					t.Errorf("ReadFrom says %d", n)
				}
				return err
			},
			func(c *streamconn.Conn) ([]byte, error) {
				var b bytes.Buffer
				n, err := c.WriteTo(&b)
				if n != int64(b.Len()) {
					t.Errorf("WriteTo says %d of %d", n, b.Len())
				}
				return b.Bytes(), err
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t)
			failed := make(chan error, 1)
			go func() {
				err := copying.send(near)
				_ = near.Close()
				failed <- err
			}()
			got, err := copying.read(far)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d of %d bytes arrived, %v", len(got), len(sent), err)
			}
			if err := <-failed; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestEndsAreToldApart(t *testing.T) {
	near, far := pair(t)
	if _, err := near.Write([]byte("last")); err != nil {
		t.Fatal(err)
	}
	_ = near.Close()
	if b, err := io.ReadAll(far); string(b) != "last" || err != nil {
		t.Errorf("after Close: %q, %v", b, err)
	}
	if _, err := far.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("writing to who has closed: %v", err)
	}
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading from what was closed: %v", err)
	}
	if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to what was closed: %v", err)
	}

	near, far = pair(t)
	far.Abort(muxrpc.Errorf("no luck"))
	_, err := near.Read(make([]byte, 1))
	if remote, ok := errors.AsType[*muxrpc.RemoteError](err); !ok || remote.Message != "no luck" {
		t.Errorf("after Abort: %v", err)
	}
	_ = far.Close() // changes nothing
	if n, err := near.WriteTo(io.Discard); n != 0 || err == nil {
		t.Errorf("copying from an aborted stream: %d, %v", n, err)
	}
}

func TestErrorsOfTheOtherSideOfACopyArePassedOn(t *testing.T) {
	near, far := pair(t)
	broken := errors.New("broken")
	if n, err := near.ReadFrom(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken))); n != 3 || !errors.Is(err, broken) {
		t.Errorf("ReadFrom: %d, %v", n, err)
	}
	r, w := io.Pipe()
	_ = r.CloseWithError(broken)
	if n, err := far.WriteTo(w); n != 0 || !errors.Is(err, broken) {
		t.Errorf("WriteTo: %d, %v", n, err)
	}
	// What was not written is not lost.
	b := make([]byte, 8)
	if n, err := far.Read(b); string(b[:n]) != "abc" || err != nil {
		t.Errorf("then %q, %v", b[:n], err)
	}
}

func TestDeadlinesCanBeMovedWhileSomebodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pair(t)
		began := time.Now()
		_ = near.SetReadDeadline(began.Add(time.Minute))
		failed := make(chan error)
		go func() {
			_, err := near.Read(make([]byte, 1))
			failed <- err
		}()
		synctest.Wait()
		_ = near.SetReadDeadline(began.Add(time.Second))
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if ne, ok := errors.AsType[net.Error](error(os.ErrDeadlineExceeded)); !ok || !ne.Timeout() {
			t.Error("the error is no timeout")
		}
		_ = near.SetDeadline(time.Time{})
		if _, err := far.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := near.Read(make([]byte, 1)); err != nil {
			t.Errorf("after the deadline was taken off: %v", err)
		}
	})
}

func TestAWriterThatNobodyReadsFromMeetsItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := pair(t)
		_ = near.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := near.Write(make([]byte, 8<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n%streamconn.MaxItem != 0 {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

func TestConnectionsSayWhatTheyAreToldTo(t *testing.T) {
	a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{})
	s, err := muxrpc.Duplex[[]byte, []byte](t.Context(), a, "nothing")
	if err != nil {
		t.Fatal(err)
	}
	closed := 0
	local, remote := &net.UnixAddr{Name: "here"}, &net.UnixAddr{Name: "there"}
	c := streamconn.New(s, streamconn.Options{Local: local, Remote: remote, OnClose: func() { closed++ }})
	if c.LocalAddr() != local || c.RemoteAddr() != remote {
		t.Errorf("addresses %v, %v", c.LocalAddr(), c.RemoteAddr())
	}
	select {
	case <-c.Done():
		t.Error("closed already")
	default:
	}
	for range 2 {
		_ = c.Close()
	}
	<-c.Done()
	if closed != 1 {
		t.Errorf("OnClose was called %d times", closed)
	}
	if a := streamconn.New(s, streamconn.Options{}).RemoteAddr(); a.Network() != "muxrpc" || a.String() != "" {
		t.Errorf("without options: %v", a)
	}
}

func BenchmarkBulk(b *testing.B) {
	near, far := pair(b)
	go func() { _, _ = far.WriteTo(io.Discard) }()
	chunk := make([]byte, streamconn.MaxItem)
	b.SetBytes(int64(len(chunk)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := near.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}

func TestLingeringLastsAsLongAsTheConnectionOrALittleLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pair(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		start := time.Now()
		near.Linger(ctx, 5*time.Second)
		if took := time.Since(start); took != time.Minute+5*time.Second {
			t.Errorf("lingered for %v", took)
		}
		time.AfterFunc(time.Second, func() { _ = near.Close() })
		near.Linger(ctx, 5*time.Second)
		if took := time.Since(start); took != time.Minute+6*time.Second {
			t.Errorf("lingered after the end for %v", took)
		}
		time.AfterFunc(time.Second, func() { _ = far.Close() })
		far.Linger(t.Context(), 0)
		if took := time.Since(start); took != time.Minute+7*time.Second {
			t.Errorf("lingered before the end for %v", took)
		}
	})
}

func TestReadingResumesAfterEveryDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pair(t)
		sent := bytes.Repeat([]byte("0123456789"), 50_000)
		go func() { _, _ = near.Write(sent) }()
		var got []byte
		for buf := make([]byte, 777); len(got) < len(sent); {
			_ = far.SetReadDeadline(time.Unix(1, 0))
			n, err := far.Read(buf) // what is left of an item comes all the same
			if err != nil && (n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
				t.Fatalf("%d, %v", n, err)
			}
			if got = append(got, buf[:n]...); len(got) == len(sent) {
				break
			}
			_ = far.SetReadDeadline(time.Time{})
			if n, err = far.Read(buf); err != nil {
				t.Fatal(err)
			}
			got = append(got, buf[:n]...)
		}
		if !far.ReadResumes() || !bytes.Equal(got, sent) {
			t.Error("something was lost")
		}
	})
}
