package hubclient_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/streamconn"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

func hexOf(b []byte) string { return hex.EncodeToString(b) }

// open opens a connection for HTTP to a courier, as a hub does.
func open(t *testing.T, p *secretstack.Peer) *streamconn.Conn {
	t.Helper()
	s, err := muxrpc.Duplex[[]byte, []byte](context.Background(), p, native.MethodHTTP)
	if err != nil {
		t.Fatal(err)
	}
	c := streamconn.New(s, streamconn.Options{})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// get sends a request and returns the body of the answer.
func get(t *testing.T, c *streamconn.Conn, path string) string {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func echo() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path, " ", r.RemoteAddr) })
}

func TestAHubReachesTheHandlerOverItsConnection(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub")), Handler: echo()})
		await(t, c, "online", online)
		if got := hub.requests[0].Serves; !slices.Contains(got, native.ServesHTTP) {
			t.Errorf("it says that it serves %q", got)
		}
		conn := open(t, hub.peer(identity(t, "alice").Public()))
		for _, path := range []string{"/one", "/two"} { // over one connection
			if got, want := get(t, conn, path), path+" "+hub.id.Public().Ref(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
	})
}

func TestOtherPeersDoNotReachTheHandler(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		app, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub")), Handler: echo()})
		await(t, c, "online", online)
		p, err := hub.app.Connect(t.Context(), app.Address("device"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = open(t, p).Read(make([]byte, 1))
		if remote, ok := errors.AsType[*muxrpc.RemoteError](err); !ok || !strings.Contains(remote.Message, "allowed") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAHubMayHaveSoManyConnectionsOpen(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub")), Handler: echo(), MaxConns: 2})
		await(t, c, "online", online)
		p := hub.peer(identity(t, "alice").Public())
		first, second := open(t, p), open(t, p)
		get(t, first, "/")
		get(t, second, "/")
		_, err := open(t, p).Read(make([]byte, 1))
		if remote, ok := errors.AsType[*muxrpc.RemoteError](err); !ok || remote.Message != "too many connections are open" {
			t.Errorf("got %v", err)
		}
		_ = first.Close()
		time.Sleep(time.Second)
		get(t, open(t, p), "/")
	})
}

func TestConnectionsThatSayNothingAreClosed(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub")), Handler: echo()})
		await(t, c, "online", online)
		began := time.Now()
		if _, err := open(t, hub.peer(identity(t, "alice").Public())).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

// TestAnAppThatClosesFinishesRequestsAndDoesNotWaitForIdleConnections: in order, and soon.
func TestAnAppThatClosesFinishesRequestsAndDoesNotWaitForIdleConnections(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		began := make(chan struct{})
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(began)
				time.Sleep(time.Second)
			}
			fmt.Fprint(w, "done")
		})
		app, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub")), Handler: handler})
		await(t, c, "online", online)
		p := hub.peer(identity(t, "alice").Public())
		get(t, open(t, p), "/idle")
		got := make(chan string)
		go func() { got <- get(t, open(t, p), "/slow") }()
		<-began
		start := time.Now()
		closed := make(chan error)
		go func() { closed <- app.Close(context.Background()) }()
		if body := <-got; body != "done" {
			t.Errorf("the request that ran got %q", body)
		}
		if err := <-closed; err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
