package port_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/hub/port"
)

// serve serves HTTP on a port until the test ends.
func serve(t *testing.T, p *port.Port, handler http.HandlerFunc) {
	t.Helper()
	s := p.Server(handler)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(p.HTTP())
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
}

func describe(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, "%s %s tls=%t", r.RemoteAddr, r.Proto, r.TLS != nil && r.TLS.HandshakeComplete)
}

func TestOneServerSpeaksHTTP1AndHTTP2(t *testing.T) {
	server, client := certificate(t)
	ln := local(t)
	serve(t, open(t, port.Options{TLS: server}, ln), describe)
	for _, c := range []struct {
		scheme, want string
		protocols    []string
		h2           bool
	}{
		{scheme: "http", want: "HTTP/1.1 tls=false"},
		{scheme: "https", want: "HTTP/1.1 tls=true"}, // without ALPN
		{scheme: "https", want: "HTTP/1.1 tls=true", protocols: []string{"http/1.1"}},
		{scheme: "https", want: "HTTP/2.0 tls=true", h2: true},
	} {
		config := client.Clone()
		config.NextProtos = c.protocols
		transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: c.h2}
		if !c.h2 {
			transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		response, err := (&http.Client{Transport: transport}).Get(c.scheme + "://" + ln.Addr().String())
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || !strings.HasPrefix(string(body), "127.0.0.1:") || !strings.HasSuffix(string(body), " "+c.want) {
			t.Errorf("%q %v, want %q", body, err, c.want)
		}
		_ = response.Body.Close()
		transport.CloseIdleConnections()
	}
}

func TestTheServerBoundsWhatARequestMayCost(t *testing.T) {
	exchange := func(t *testing.T, sends string) (answer string, after time.Duration) {
		t.Helper()
		ln := newNetwork()
		serve(t, open(t, port.Options{}, ln), describe)
		client := ln.dial(t, "192.0.2.1:1")
		send(client, sends)
		begun := time.Now()
		read, _ := io.ReadAll(client)
		return string(read), time.Since(begun)
	}
	t.Run("a header that does not end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if answer, after := exchange(t, "GET / HTTP/1.1\r\nHost: x"); after != port.HeaderTimeout {
				t.Errorf("%q after %s", answer, after)
			}
		})
	})
	t.Run("a connection kept for nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			answer, after := exchange(t, request)
			if !strings.HasPrefix(answer, "HTTP/1.1 200 OK") || after != port.IdleTimeout {
				t.Errorf("%q after %s", answer, after)
			}
		})
	})
	t.Run("a header too large", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			large := "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", port.MaxHeaderBytes+8<<10) + "\r\n\r\n"
			if answer, _ := exchange(t, large); !strings.HasPrefix(answer, "HTTP/1.1 431 ") {
				t.Errorf("%q", answer)
			}
		})
	})
}

func TestRequestsThatAreServedNeedNotMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newNetwork()
		p := open(t, port.Options{MaxUnproved: 3}, ln)
		finish := map[string]chan struct{}{"/one": make(chan struct{}), "/two": make(chan struct{})}
		serve(t, p, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/one", "/two":
				<-finish[r.URL.Path]
			case "/upgrade":
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				context.AfterFunc(t.Context(), func() { _ = c.Close() })
			}
		})
		ask := func(from, path string) net.Conn {
			client := ln.dial(t, from)
			send(client, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
			synctest.Wait()
			return client
		}
		served, upgraded := ask("192.0.2.1:1", "/one"), ask("192.0.2.2:1", "/upgrade")
		first, second := ask("192.0.2.3:1", "/two"), ask("192.0.2.4:1", "/")
		if !isOpen(served) || !isOpen(upgraded) || !isOpen(first) {
			t.Error("a request that is served was broken off")
		}
		if isOpen(second) || p.Stats().Crowded != 1 {
			t.Error("a fourth was let in")
		}
		end := func(path string, c net.Conn) {
			close(finish[path])
			if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
				t.Error(err)
			}
			synctest.Wait() // for the server to wait for another request
		}
		end("/one", served)
		end("/two", first)
		last := ask("192.0.2.5:1", "/")
		if isOpen(served) || !isOpen(upgraded) || !isOpen(first) {
			t.Error("the one that has waited for longest should have made room, and no other")
		}
		if response, err := http.ReadResponse(bufio.NewReader(last), nil); err != nil || response.StatusCode != http.StatusOK {
			t.Errorf("%v %v", response, err)
		}
	})
}
