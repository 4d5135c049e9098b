package hubclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

// TestAHubThatFallsSilentIsGivenUp stops the hub at every stage of a circuit's set-up: whoever waits for it is told when his
// time is up, and nothing is left of it.
func TestAHubThatFallsSilentIsGivenUp(t *testing.T) {
	stages := map[string]func(h *tcpHub, silent <-chan struct{}){
		"before it answers": func(h *tcpHub, silent <-chan struct{}) {
			h.connect = func(keys.PublicKey, native.ConnectRequest) (native.Connected, error) {
				<-silent
				return native.Connected{}, errors.New("too late")
			}
		},
		"before it takes the token": func(h *tcpHub, silent <-chan struct{}) {
			h.serve = func(conn net.Conn) { <-silent; conn.Close() }
		},
		"before it joins": func(h *tcpHub, silent <-chan struct{}) {
			h.serve = func(conn net.Conn) { _, _ = circuit.ReadPreamble(conn); <-silent; conn.Close() }
		},
		"before it passes anything on": func(h *tcpHub, silent <-chan struct{}) {
			h.serve = func(conn net.Conn) {
				_, _ = circuit.ReadPreamble(conn)
				_ = circuit.WriteAnswer(conn, circuit.Joined)
				<-silent
				conn.Close()
			}
		},
	}
	for name, stage := range stages {
		t.Run(name, func(t *testing.T) {
			hub := newTCPHub(t, "hub")
			newPerson(t, "alice", []*tcpHub{hub})
			bob := newPerson(t, "bob", nil)
			mustConnect(t, bob.app, hub.to(t, "alice"), "alice")
			before := runtime.NumGoroutine()
			silent := make(chan struct{})
			hub.set(func() { stage(hub, silent) })
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := bob.app.Connect(ctx, hub.to(t, "alice")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			close(silent)
			hub.set(func() { hub.connect, hub.serve = hub.honest, hub.table.Serve })
			mustConnect(t, bob.app, hub.to(t, "alice"), "alice")
			eventually(t, "nothing is left but what was there, and a connection more", func() bool {
				return runtime.NumGoroutine() <= before+12
			})
		})
	}
}

// TestCircuitsLeaveNothingBehind opens and ends streams and sessions in every way, and counts what is left.
func TestCircuitsLeaveNothingBehind(t *testing.T) {
	hub := newTCPHub(t, "hub")
	alice, bob := newPerson(t, "alice", []*tcpHub{hub}), newPerson(t, "bob", nil)
	err := alice.client.HandleStream(bytesProtocol, func(_ context.Context, conn *multiserver.Conn) {
		_, _ = io.CopyN(conn, conn, 4)
	})
	if err != nil {
		t.Fatal(err)
	}
	fates := []func(conn *multiserver.Conn){
		func(conn *multiserver.Conn) { conn.Close() },
		func(conn *multiserver.Conn) { _ = conn.Abort() },
		func(conn *multiserver.Conn) {
			_, _ = io.WriteString(conn, "ping")
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		},
		func(conn *multiserver.Conn) { _ = conn.CloseWrite(); _, _ = io.Copy(io.Discard, conn); conn.Close() },
	}
	run := func(n int) {
		var all sync.WaitGroup
		for w := range 4 {
			all.Go(func() {
				for i := range n {
					conn, err := bob.client.DialStream(t.Context(), hub.to(t, "alice"), bytesProtocol)
					if err != nil {
						t.Error(err)
						return
					}
					fates[(w+i)%len(fates)](conn)
				}
			})
		}
		all.Wait()
		eventually(t, "all circuits are over", func() bool { return hub.table.Stats().Open == 0 })
	}
	run(20) // what stays is made once
	goroutines, descriptors := runtime.NumGoroutine(), openFiles()
	run(60)
	const pipes = 16 // that the hub keeps for the next circuits
	eventually(t, "nothing is left", func() bool {
		return runtime.NumGoroutine() <= goroutines+2 && openFiles() <= descriptors+pipes
	})
}

// openFiles is how many descriptors the process has, as far as the system tells.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}
