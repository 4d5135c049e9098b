package multiserver_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/multiserver"
)

// renamed is a connection with something of its own.
type renamed struct {
	net.Conn
	name string
}

func (renamed) Buffered() int          { return 0 }
func (c renamed) NetConn() net.Conn    { return c.Conn }
func (c renamed) RemoteAddr() net.Addr { return &net.UnixAddr{Name: c.name, Net: "unix"} }
func matchByte(b byte) multiserver.Matcher {
	return func(prefix []byte) multiserver.Match {
		if prefix[0] == b {
			return multiserver.MatchYes
		}
		return multiserver.MatchNo
	}
}

// skip takes n bytes away.
func skip(conn net.Conn, n int) error {
	_, err := io.ReadFull(conn, make([]byte, n))
	return err
}

func TestWhatIsOpenedFirstIsThenSorted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		s := multiserver.Split(ln, multiserver.SplitOptions{
			Open: func(_ context.Context, conn net.Conn) (net.Conn, error) {
				return renamed{conn, "visitor"}, skip(conn, 6)
			},
		}, matchByte('a'))
		client := ln.dial()
		send(client, "headerabc")
		c, err := s.Listener(0).Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != "visitor" {
			t.Error(c.RemoteAddr())
		}
		got := make([]byte, 3)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "abc" {
			t.Errorf("%q %v", got, err)
		}
		_, _ = client.Close(), s.Close()
	})
}

func TestConnectionsInsideOthersAreSortedAgain(t *testing.T) {
	const wrapped, a = 0, 1
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		inside := func(_ context.Context, conn net.Conn, kind int) (net.Conn, int, error) {
			if kind == wrapped {
				return conn, multiserver.Unsorted, skip(conn, 1)
			}
			return conn, kind, nil
		}
		s := multiserver.Split(ln, multiserver.SplitOptions{Inside: inside}, matchByte('w'), matchByte('a'))
		for text, want := range map[string]net.Listener{"wab": s.Listener(a), "wwax": s.Listener(a), "wb": s.Rest(), "ab": s.Listener(a)} {
			client := ln.dial()
			send(client, text)
			c, err := want.Accept()
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 1)
			if _, err := io.ReadFull(c, got); err != nil || got[0] == 'w' {
				t.Errorf("%s: %q %v", text, got, err)
			}
			_, _ = client.Close(), c.Close()
		}
		_ = s.Close()
	})
}

func TestHooksHaveTheTimeOfTheSplitterAndNotMore(t *testing.T) {
	hooks := map[string]multiserver.SplitOptions{
		"open": {Open: func(_ context.Context, conn net.Conn) (net.Conn, error) { return conn, skip(conn, 9) }},
		"inside": {Inside: func(_ context.Context, conn net.Conn, kind int) (net.Conn, int, error) {
			return conn, kind, skip(conn, 9)
		}},
		"inside, without end": {Inside: func(_ context.Context, conn net.Conn, kind int) (net.Conn, int, error) {
			return conn, multiserver.Unsorted, nil
		}},
		"inside, writing": {Inside: func(_ context.Context, conn net.Conn, kind int) (net.Conn, int, error) {
			_, err := conn.Write([]byte("nobody reads this"))
			return conn, kind, err
		}},
	}
	for name, opts := range hooks {
		t.Run(name, func(t *testing.T) {
			if name == "inside, without end" {
				opts.Timeout = 10 * time.Millisecond // it runs in circles all the time
				ln := newPipeListener()
				s := multiserver.Split(ln, opts)
				client := ln.dial()
				send(client, "a")
				_, err := client.Read(make([]byte, 1))
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				_, _ = client.Close(), s.Close()
				return
			}
			synctest.Test(t, func(t *testing.T) {
				ln := newPipeListener()
				s := multiserver.Split(ln, opts)
				client := ln.dial()
				send(client, "a")
				time.Sleep(5*time.Second - time.Millisecond)
				if name != "inside, writing" && isClosed(client) {
					t.Error("closed too early")
				}
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				if !isClosed(client) {
					t.Error("not closed")
				}
				_, _ = client.Close(), s.Close()
			})
		})
	}
}

func TestARefusedConnectionIsClosedWithWhatWasMadeOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipeListener()
		var opened, closed int
		s := multiserver.Split(ln, multiserver.SplitOptions{
			Open: func(_ context.Context, conn net.Conn) (net.Conn, error) {
				opened++
				return countClose{conn, &closed}, nil
			},
			Inside: func(_ context.Context, conn net.Conn, kind int) (net.Conn, int, error) {
				return nil, kind, errors.New("not you")
			},
		})
		client := ln.dial()
		send(client, "a")
		synctest.Wait()
		if !isClosed(client) || opened != 1 || closed != 1 {
			t.Errorf("opened %d, closed %d", opened, closed)
		}
		_, _ = client.Close(), s.Close()
	})
}

type countClose struct {
	net.Conn
	closed *int
}

func (c countClose) Close() error {
	*c.closed++
	return c.Conn.Close()
}

func TestTheTCPConnectionIsToBeHadOnceNothingWaitsAboveIt(t *testing.T) {
	testkit.LeakCheckOf(t, "secretstack/multiserver")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := multiserver.Split(ln, multiserver.SplitOptions{
		Open: func(_ context.Context, conn net.Conn) (net.Conn, error) { return renamed{conn, "visitor"}, nil },
	})
	defer func() { _ = s.Close() }()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	send(client, "first")
	c, err := s.Rest().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, ok := multiserver.TCPConn(c); ok {
		t.Error("bytes that wait above it would be lost")
	}
	if err := skip(c, 5); err != nil {
		t.Fatal(err)
	}
	tcp, ok := multiserver.TCPConn(c)
	if !ok || tcp.RemoteAddr().String() != client.LocalAddr().String() {
		t.Error("the TCP connection cannot be had")
	}
	if _, ok := multiserver.TCPConn(countClose{Conn: tcp}); ok {
		t.Error("a connection that may do anything was passed over")
	}
}
