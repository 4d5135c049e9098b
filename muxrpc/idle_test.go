package muxrpc_test

import (
	"context"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/packetstream"
)

// script is a connection that delivers some bytes, then nothing until it is closed, and takes all that is written.
type script struct {
	deliver []byte
	closed  chan struct{}
	late    chan struct{} // a deadline of reading has passed
}

func (c *script) Read(p []byte) (int, error) {
	if len(c.deliver) > 0 {
		n := copy(p, c.deliver)
		c.deliver = c.deliver[n:]
		return n, nil
	}
	select {
	case <-c.closed:
		return 0, io.EOF
	case <-c.late:
		return 0, os.ErrDeadlineExceeded
	}
}

func (c *script) ReadResumes() bool { return true }

func (c *script) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		c.late <- struct{}{}
	}
	return nil
}

func (c *script) Write(p []byte) (int, error) { return len(p), nil }
func (c *script) Close() error                { close(c.closed); return nil }

func TestIdleSessionTakesLittleMemory(t *testing.T) {
	// A hub holds thousands of sessions that do nothing. One takes about 4 KiB, half of it the stack of its
	// goroutine; the limit leaves room for the race detector and catches buffers that are kept.
	const sessions, limit = 2000, 12 << 10
	mux := vectorMux(t)
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	var all []*muxrpc.Session
	before := used()
	for range sessions {
		// Each has served a call and a stream before it fell silent.
		conn := &script{closed: make(chan struct{}), late: make(chan struct{}, 1)}
		conn.deliver = packetstream.AppendPacket(conn.deliver, packetstream.Header{ID: 1, Type: packetstream.JSON, Credit: true}, []byte(`{"name":["echo"],"args":["x"]}`))
		conn.deliver = packetstream.AppendPacket(conn.deliver, packetstream.Header{ID: 2, Stream: true, Type: packetstream.JSON}, []byte(`{"name":["srcEmpty"],"args":[],"type":"source"}`))
		s := muxrpc.New(context.Background(), conn, muxrpc.Options{Mux: mux})
		for stats := s.Stats(); stats.BytesWritten < 60 || stats.Handlers+stats.Streams+stats.Pending > 0; stats = s.Stats() {
			runtime.Gosched()
		}
		muxrpc.Rest(s)
		all = append(all, s)
	}
	for _, s := range all {
		muxrpc.Rest(s)
	}
	if each := (used() - before) / sessions; each > limit {
		t.Errorf("%d bytes a session", each)
	} else {
		t.Logf("%d bytes a session", each)
	}
	for _, s := range all {
		s.Abort(nil)
	}
	for _, s := range all {
		<-s.Done()
	}
}
