package ws_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/multiserver/ws"
)

// dialHTTP connects to a listener with a deadline that no test should meet.
func dialHTTP(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	return c
}

func TestABodyThatNeverComesHoldsNoConnection(t *testing.T) {
	l := listen(t, ws.Options{HeaderTimeout: 100 * time.Millisecond, RequestTimeout: 100 * time.Millisecond}, entry(t, nil))
	for _, head := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		c := dialHTTP(t, strings.TrimPrefix(address(l), "ws://"))
		_, _ = io.WriteString(c, head)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.40q: the connection stays open", head)
		}
	}
}

func TestAClientThatTakesNoAnswerIsCutOff(t *testing.T) {
	l := listen(t, ws.Options{RequestTimeout: 200 * time.Millisecond}, entry(t, nil))
	c := dialHTTP(t, strings.TrimPrefix(address(l), "ws://"))
	request := strings.Repeat("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
	for {
		if _, err := io.WriteString(c, request); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection stays open")
			}
			return
		}
	}
}

func TestClientsThatWaitBetweenRequestsMakeRoomForOthers(t *testing.T) {
	const most = 2
	l := listen(t, ws.Options{MaxPending: most}, entry(t, nil))
	var waiting []net.Conn
	for range most {
		c := dialHTTP(t, strings.TrimPrefix(address(l), "ws://"))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		waiting = append(waiting, c)
	}
	// The server may not have noticed yet that both are done with their requests.
	testkit.Eventually(t, "a new one is served", func() bool { return answers(t, strings.TrimPrefix(address(l), "ws://")) })
	count := func(wait time.Duration) (open int) {
		for _, c := range waiting {
			_ = c.SetReadDeadline(time.Now().Add(wait))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open++
			}
		}
		return open
	}
	testkit.Eventually(t, "one of those that waited is closed", func() bool { return count(time.Millisecond) < most })
	if open := count(200 * time.Millisecond); open != most-1 {
		t.Errorf("%d of %d that waited are still connected, want all but one", open, most)
	}
}

// answers reports whether a new connection gets an answer to a request.
func answers(t *testing.T, addr string) bool {
	t.Helper()
	c := dialHTTP(t, addr)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	_, err := http.ReadResponse(bufio.NewReader(c), nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return err == nil
}
