package muxrpc_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/packetstream"
)

// watchedConn counts how often reading is interrupted, and allows it if resumes is true.
type watchedConn struct {
	net.Conn
	resumes    bool
	interrupts atomic.Int32
}

func (c *watchedConn) ReadResumes() bool { return c.resumes }

func (c *watchedConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		c.interrupts.Add(1)
	}
	return c.Conn.SetReadDeadline(t)
}

// watchedPair returns a session and the one it is connected to, which serves.
func watchedPair(t *testing.T, resumes bool) (*watchedConn, *muxrpc.Session, *muxrpc.Session) {
	a, b := muxrpctest.Conns()
	conn := &watchedConn{Conn: a, resumes: resumes}
	mux := vectorMux(t)
	client := muxrpc.New(context.Background(), conn, muxrpc.Options{Mux: mux})
	server := muxrpc.New(context.Background(), b, muxrpc.Options{Mux: mux})
	t.Cleanup(func() {
		for _, s := range []*muxrpc.Session{client, server} {
			s.Abort(nil)
			_ = s.Close(context.Background())
		}
	})
	return conn, client, server
}

func TestSilentSessionIsInterruptedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conn, client, server := watchedPair(t, true)
		for i := range int32(5) {
			time.Sleep(time.Hour)
			synctest.Wait()
			if n := conn.interrupts.Load(); n != i+1 {
				t.Fatalf("interrupted %d times in %d silent hours", n, i+1)
			}
			if _, err := muxrpc.Call[muxrpc.Value](t.Context(), server, "echo", "x"); err != nil {
				t.Fatal(err)
			}
		}
		must(t, client.Close(t.Context()))
	})
}

func TestBusySessionIsNotInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conn, client, _ := watchedPair(t, true)
		for range 1000 {
			time.Sleep(900 * time.Millisecond)
			if _, err := muxrpc.Call[muxrpc.Value](t.Context(), client, "echo", "x"); err != nil {
				t.Fatal(err)
			}
		}
		if n := conn.interrupts.Load(); n != 0 {
			t.Errorf("interrupted %d times", n)
		}
	})
}

func TestConnectionThatCannotResumeIsNotInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conn, client, _ := watchedPair(t, false)
		for range 10 {
			time.Sleep(time.Hour)
			if _, err := muxrpc.Call[muxrpc.Value](t.Context(), client, "echo", "x"); err != nil {
				t.Fatal(err)
			}
		}
		if n := conn.interrupts.Load(); n != 0 {
			t.Errorf("interrupted %d times", n)
		}
	})
}

func TestNothingIsLostAroundAnInterruption(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		body := `{"name":["echo"],"args":["x"]}`
		for i := range int32(60) {
			// Packets come whole or in two halves, before, when and after the session is interrupted.
			time.Sleep(time.Duration(i) * 50 * time.Millisecond)
			packet := packetstream.AppendPacket(nil, packetstream.Header{ID: i + 1, Type: packetstream.JSON}, []byte(body))
			cut := int(i) % len(packet)
			peer.writeBytes(packet[:cut])
			time.Sleep(time.Duration(i%7) * 500 * time.Millisecond)
			peer.writeBytes(packet[cut:])
			head := packetstream.AppendHeader(nil, packetstream.Header{ID: -i - 1, Type: packetstream.JSON, Length: 5})
			peer.want(hex.EncodeToString(head), `["x"]`)
		}
		peer.goodbye()
		<-s.Done()
		must(t, s.Err())
	})
}

func TestSilentSessionEndsAsOthersDo(t *testing.T) {
	for name, end := range map[string]func(s *muxrpc.Session, peer *rawPeer){
		"by the peer": func(_ *muxrpc.Session, peer *rawPeer) { peer.goodbye() },
		"by a cut":    func(_ *muxrpc.Session, peer *rawPeer) { _ = peer.conn.Close() },
		"by abort":    func(s *muxrpc.Session, _ *rawPeer) { s.Abort(nil) },
		"by closing":  func(s *muxrpc.Session, peer *rawPeer) { go peer.wantGoodbye(); _ = s.Close(context.Background()) },
	} {
		for _, silence := range []time.Duration{0, time.Second, 2 * time.Second, time.Hour} {
			t.Run(fmt.Sprint(name, " after ", silence), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s, peer := raw(t, muxrpc.Options{})
					time.Sleep(silence)
					end(s, peer)
					<-s.Done()
				})
			})
		}
	}
}

func TestPacketThatDoesNotEndLosesTheSession(t *testing.T) {
	whole := packetstream.AppendPacket(nil, packetstream.Header{ID: 1, Type: packetstream.JSON}, []byte(strings.Repeat("x", 100_000)))
	for name, c := range map[string]struct{ begin, step int }{
		"nothing more comes":        {begin: 50_000},
		"only a part of a header":   {begin: 1},
		"a byte comes now and then": {begin: 20, step: 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, peer := raw(t, muxrpc.Options{})
				peer.over.Store(true) // writing may fail
				time.Sleep(time.Hour)
				start := time.Now()
				peer.writeBytes(whole[:c.begin])
				for at := c.begin; s.Err() == nil && time.Since(start) < time.Hour; at += c.step {
					peer.writeBytes(whole[at : at+c.step])
					time.Sleep(time.Second)
				}
				<-s.Done()
				if took := time.Since(start); !errors.Is(s.Err(), muxrpc.ErrPacketTimeout) || took < 2*time.Minute || took > 2*time.Minute+5*time.Second {
					t.Errorf("ended by %v after %v", s.Err(), took)
				}
			})
		})
	}
}

func TestSlowPacketsArriveInTheirTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const limit = 10 * time.Second
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{PacketTimeout: limit}})
		packet := packetstream.AppendPacket(nil, packetstream.Header{ID: -7, Type: packetstream.JSON}, []byte(strings.Repeat(" ", 70_000)+"1"))
		for i := range 50 {
			for part := range 4 { // the last comes just in time
				peer.writeBytes(packet[part*len(packet)/4 : (part+1)*len(packet)/4])
				time.Sleep(limit/3 - time.Millisecond)
			}
			time.Sleep(time.Duration(i%3) * limit)
			if err := s.Err(); err != nil {
				t.Fatalf("ended with packet %d: %v", i, err)
			}
		}
		peer.goodbye()
		<-s.Done()
		must(t, s.Err())
	})
}
