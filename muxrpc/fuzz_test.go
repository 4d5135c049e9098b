package muxrpc_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/packetstream"
)

// fuzzBodies are bodies that random packets choose from, so that they get beyond the first check.
var fuzzBodies = []string{
	`{"name":["echo"],"args":["x"]}`, `{"name":"manifest","args":[]}`, `{"name":["src"],"args":[3],"type":"source"}`,
	`{"name":["sink"],"args":[],"type":"sink"}`, `{"name":["dup"],"args":[],"type":"duplex"}`, `{"name":["nope"],"args":[],"type":"source"}`,
	`true`, `null`, `false`, `5`, `"text"`, `{}`, `[]`, `{x`, errBody,
	`{"secretstack":{"credit":1,"window":1}}`, `{"secretstack":{"grant":[[1,99999],[-1,99999],[2,5]]}}`,
}

// packetsOf makes packets of any bytes: four for each, flags, id, and a body to choose or a length.
func packetsOf(data []byte) []byte {
	var out []byte
	for len(data) >= 4 {
		flags, id, choice, n := data[0], int8(data[1]), int(data[2]), int(data[3])
		data = data[4:]
		body := []byte(fuzzBodies[choice%len(fuzzBodies)])
		if choice >= 128 {
			n = min(n, len(data))
			body, data = data[:n], data[n:]
		}
		h := packetstream.ParseHeader([packetstream.HeaderSize]byte{flags})
		h.ID = int32(id)
		out = packetstream.AppendPacket(out, h, body)
	}
	return append(out, data...)
}

// FuzzSession feeds a session random packets, while it makes calls of its own. Whatever they are, the session must not
// panic, must end with the connection, and must leave no goroutine behind.
func FuzzSession(f *testing.F) {
	f.Add([]byte{0x02, 1, 0, 0, 0x0a, 2, 2, 0, 0x0a, 3, 3, 0, 0x0a, 3, 9, 0, 0x0e, 3, 6, 0, 0x0a, 4, 4, 0, 0x0a, 4, 10, 0, 0x0e, 4, 14, 0})
	f.Add([]byte{0x8a, 0, 15, 0, 0x0a, 0, 16, 0, 0x02, 0xff, 9, 0, 0x0a, 0xfe, 9, 0, 0x0e, 0xfe, 6, 0, 0x06, 0xfd, 14, 0})
	f.Add([]byte{0x0b, 1, 13, 0, 0x03, 1, 13, 0, 0x0e, 9, 6, 0, 0x08, 9, 200, 3, 'a', 'b', 'c', 0x0e, 9, 6, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			a, b := muxrpctest.Conns()
			mux := vectorMux(t)
			_ = muxrpc.HandleManifest(mux)
			s := muxrpc.New(context.Background(), a, muxrpc.Options{Mux: mux, Limits: muxrpc.Limits{MaxPacket: 1 << 16, MaxStreams: 8, MaxHandlers: 4}})
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			go func() { _, _ = io.Copy(io.Discard, b) }()
			go func() { _, _ = muxrpc.Call[any](ctx, s, "x") }()
			go func() {
				for range muxrpc.Source[any](ctx, s, "x") {
				}
			}()
			go func() {
				d, err := muxrpc.Duplex[any, any](ctx, s, "x")
				if err == nil {
					_ = d.Send(ctx, 1)
					_, _ = d.Recv(ctx)
					_ = d.Close(ctx)
				}
			}()
			if _, err := b.Write(packetsOf(data)); err != nil && s.Err() == nil {
				select {
				case <-s.Done():
				default:
					t.Errorf("writing: %v", err)
				}
			}
			synctest.Wait()
			if stats := s.Stats(); stats.Buffered > 2<<20 || stats.Handlers > 4 {
				t.Errorf("%+v", stats)
			}
			_ = b.Close()
			<-s.Done()
			_ = s.Close(context.Background())
			if stats := s.Stats(); stats.Calls != 0 || stats.Handlers != 0 || stats.Streams != 0 {
				t.Errorf("%+v", stats)
			}
		})
	})
}

// FuzzSessionBytes feeds a session random bytes.
func FuzzSessionBytes(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x1d\x00\x00\x00\x01{\"name\":\"manifest\",\"args\":[]}\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x0a\x00\x00\x00\x04\x00\x00\x00\x01null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			s, peer := raw(t, muxrpc.Options{Mux: vectorMux(t), Limits: muxrpc.Limits{MaxPacket: 1 << 16}})
			go func() { _, _ = io.Copy(io.Discard, peer.conn) }()
			_, _ = peer.conn.Write(data)
			_ = peer.conn.Close()
			<-s.Done()
		})
	})
}
