package muxrpc_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/packetstream"
)

// flood sends a number of items of a stream and counts the bytes that it got rid of.
func (p *rawPeer) flood(items int, id int32, item []byte, sent *atomic.Int64) {
	packet := packetstream.AppendPacket(nil, packetstream.Header{ID: id, Stream: true}, item)
	for range items {
		n, err := p.conn.Write(packet)
		sent.Add(int64(n))
		if err != nil {
			return
		}
	}
}

const pipeBuffer = 256 << 10 // of muxrpctest.Conns

func TestFloodedStreamThatNobodyReadsEndsAloneAfterTheGrace(t *testing.T) {
	// A peer without windows, as JavaScript is.
	bubble(t, func(t *testing.T) {
		const budget = 256 << 10
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{StreamBuffer: budget, SlowReaderGrace: 5 * time.Second}})
		d, err := muxrpc.Duplex[[]byte, []byte](t.Context(), s, "unread")
		must(t, err)
		_, _, _ = peer.read()
		var sent atomic.Int64
		go peer.flood(10_000, -1, make([]byte, 1000), &sent)

		start := time.Now()
		synctest.Wait()
		if n := s.Stats().Buffered; n < budget || n > budget+2000 {
			t.Errorf("%d bytes buffered", n)
		}
		if n := sent.Load(); n > budget+2*pipeBuffer {
			t.Errorf("the peer got rid of %d bytes", n)
		}
		// A call meanwhile waits for the grace and no longer.
		go func() { _, _ = muxrpc.Call[int](context.Background(), s, "other") }()
		peer.want("020000001c00000002", `{"name":["other"],"args":[]}`)
		peer.wantError("0e", 1, "the reader of this stream was too slow")
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("ended after %v", took)
		}
		if _, err := d.Recv(t.Context()); !errors.Is(err, muxrpc.ErrSlowReader) {
			t.Errorf("reader: %v", err)
		}
		if err := d.Send(t.Context(), []byte("x")); !errors.Is(err, muxrpc.ErrSlowReader) {
			t.Errorf("writer: %v", err)
		}
		if n := s.Stats().Buffered; n != 0 {
			t.Errorf("%d bytes buffered", n)
		}
	})
}

func TestCallsGoOnBesideAStreamThatEndedForSlowness(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{StreamBuffer: 64 << 10, SlowReaderGrace: 5 * time.Second}})
		d, err := muxrpc.Duplex[[]byte, []byte](t.Context(), s, "unread")
		must(t, err)
		go func() {
			_, _, _ = peer.read()
			_, _, _ = peer.read()
			for range 2000 { // 2 MB, far over the budget, and then the answer
				peer.send(packetstream.Header{ID: -1, Stream: true}, strings.Repeat("x", 1000))
			}
			peer.request(-2, "7")
		}()
		start := time.Now()
		n, err := muxrpc.Call[int](t.Context(), s, "other")
		must(t, err)
		if n != 7 || time.Since(start) != 5*time.Second {
			t.Errorf("got %d after %v", n, time.Since(start))
		}
		if _, err := d.Recv(t.Context()); !errors.Is(err, muxrpc.ErrSlowReader) {
			t.Errorf("reader: %v", err)
		}
		peer.wantError("0e", 1, "the reader of this stream was too slow")
	})
}

func TestSlowReaderThatKeepsUpWithinTheGraceLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{StreamBuffer: 64 << 10, SlowReaderGrace: 5 * time.Second}})
		const items = 2000 // a hundred seconds of reading, nearly all of them with a full buffer
		go func() {
			_, _, _ = peer.read()
			for i := range items {
				peer.send(packetstream.Header{ID: -1, Stream: true, Type: packetstream.String}, fmt.Sprintf("%01000d", i))
			}
			peer.end(-1, "true")
		}()
		n := 0
		for item, err := range muxrpc.Source[string](t.Context(), s, "src") {
			must(t, err)
			if item != fmt.Sprintf("%01000d", n) {
				t.Fatalf("item %d is %.20s", n, item)
			}
			n++
			time.Sleep(50 * time.Millisecond) // 20 kB/s: half of the budget takes 1.6 s
		}
		if n != items {
			t.Errorf("%d items", n)
		}
	})
}

func TestReaderTooSlowForTheGraceInAllLosesItsStream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{StreamBuffer: 64 << 10, SlowReaderGrace: 5 * time.Second}})
		var sent atomic.Int64
		go func() {
			_, _, _ = peer.read()
			peer.flood(100, -1, make([]byte, 5000), &sent)
		}()
		var last error
		n := 0
		for _, err := range muxrpc.Source[[]byte](t.Context(), s, "src") {
			last = err
			n++
			time.Sleep(time.Second) // each item in time, all together not
		}
		if !errors.Is(last, muxrpc.ErrSlowReader) {
			t.Errorf("ended with %v after %d items", last, n)
		}
		_ = peer.conn.Close()
	})
}

func TestDefectB2ConsumerInANestedCallMakesProgress(t *testing.T) {
	// go-muxrpc either buffers without bound or deadlocks: its consumer waits for a call whose answer is behind its items.
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{StreamBuffer: 64 << 10, SlowReaderGrace: 5 * time.Second}})
		go func() {
			_, _, _ = peer.read()
			for range 100 {
				peer.send(packetstream.Header{ID: -1, Stream: true}, strings.Repeat("x", 1000))
			}
			head, _, err := peer.read()
			if err == nil && strings.HasSuffix(head, "00000002") {
				peer.request(-2, "7")
			}
		}()
		start := time.Now()
		var last error
		for _, err := range muxrpc.Source[[]byte](t.Context(), s, "src") {
			if last = err; err != nil {
				break
			}
			n, err := muxrpc.Call[int](t.Context(), s, "nested")
			must(t, err)
			if n != 7 {
				t.Errorf("got %d", n)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the nested call took %v", took)
			}
			time.Sleep(time.Minute)
			break
		}
		must(t, last)
	})
}

func TestDefectB2MemoryStaysWithinTheSessionsBudget(t *testing.T) {
	// A peer pushed 256 MiB into a stream that nobody read in 1.4 s, and go-muxrpc's heap grew by 512 MiB.
	bubble(t, func(t *testing.T) {
		const streams = 40
		limits := muxrpc.Limits{StreamBuffer: 256 << 10, SessionBuffer: 2 << 20, SlowReaderGrace: 5 * time.Second}
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleSink(mux, "unread", func(ctx context.Context, _ muxrpc.None, _ iter.Seq2[[]byte, error]) error {
			<-ctx.Done()
			return nil
		}))
		s, peer := raw(t, muxrpc.Options{Mux: mux, Limits: limits})
		for i := range streams {
			peer.openStream(int32(i+1), `{"name":["unread"],"args":[],"type":"sink"}`)
		}
		go func() { // the ends of streams must be read, or they would pile up
			for {
				if _, _, err := peer.read(); err != nil {
					return
				}
			}
		}()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var sent atomic.Int64
		for i := range streams { // 300 kB for each, 12 MB in all
			for range 300 {
				packet := packetstream.AppendPacket(nil, packetstream.Header{ID: int32(i + 1), Stream: true}, make([]byte, 1000))
				n, err := peer.conn.Write(packet)
				must(t, err)
				sent.Add(int64(n))
				if held := s.Stats().Buffered; held > limits.SessionBuffer+2000 {
					t.Fatalf("%d bytes buffered", held)
				}
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4*int64(limits.SessionBuffer) {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		if n := s.Stats().Streams; n >= streams {
			t.Errorf("no stream was ended")
		}
		_ = peer.conn.Close()
	})
}

func TestFullSessionEndsTheStreamThatHoldsMost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limits := muxrpc.Limits{StreamBuffer: 64 << 10, SessionBuffer: 100 << 10, SlowReaderGrace: 5 * time.Second}
		s, peer := raw(t, muxrpc.Options{Limits: limits})
		var streams []*muxrpc.Stream[[]byte, []byte]
		for range 3 {
			d, err := muxrpc.Duplex[[]byte, []byte](t.Context(), s, "x")
			must(t, err)
			streams = append(streams, d)
		}
		for i, n := range []int{30, 60, 11} { // KiB; the last goes over the budget of the session
			for range n {
				peer.send(packetstream.Header{ID: int32(-i - 1), Stream: true}, strings.Repeat("x", 1015))
			}
		}
		synctest.Wait()
		if n := s.Stats().Streams; n != 3 {
			t.Errorf("%d streams before the grace is over", n)
		}
		time.Sleep(6 * time.Second)
		for i, want := range []bool{true, false, true} {
			_, err := streams[i].Recv(t.Context())
			if (err == nil) != want {
				t.Errorf("stream %d: %v", i+1, err)
			}
		}
	})
}

func TestWhatWasNotReadOfAnEndedStreamCountsUntilItIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limits := muxrpc.Limits{StreamBuffer: 64 << 10, SessionBuffer: 64 << 10, SlowReaderGrace: 5 * time.Second}
		s, peer := raw(t, muxrpc.Options{Limits: limits})
		next := make(chan bool)
		result := make(chan error, 1)
		go func() {
			var last error
			for _, err := range muxrpc.Source[[]byte](context.Background(), s, "over") {
				last = err
				<-next
			}
			result <- last
		}()
		synctest.Wait()
		for range 60 {
			peer.send(packetstream.Header{ID: -1, Stream: true}, strings.Repeat("x", 1000))
		}
		peer.end(-1, "true")
		synctest.Wait()
		if n := s.Stats().Buffered; n < 59_000 {
			t.Fatalf("%d bytes buffered", n)
		}
		// Another stream cannot have the room that the first still takes.
		d, err := muxrpc.Duplex[[]byte, []byte](t.Context(), s, "other")
		must(t, err)
		for range 10 {
			peer.send(packetstream.Header{ID: -2, Stream: true}, strings.Repeat("y", 1000))
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		close(next)
		if err := <-result; !errors.Is(err, muxrpc.ErrSlowReader) {
			t.Errorf("first stream ended with %v: items are missing and nobody says so", err)
		}
		if _, err := d.Recv(t.Context()); err != nil {
			t.Errorf("second stream: %v", err)
		}
	})
}

func TestTinyItemsTakeNoMoreMemoryThanTheyCost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const budget = 1 << 20
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{StreamBuffer: budget}})
		_, err := muxrpc.Duplex[[]byte, []byte](t.Context(), s, "unread")
		must(t, err)
		packets := []byte{}
		for range 1000 {
			packets = packetstream.AppendPacket(packets, packetstream.Header{ID: -1, Stream: true}, []byte{1})
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range budget / len(packets) {
			peer.writeBytes(packets)
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4*budget {
			t.Errorf("the heap grew by %d bytes", grown)
		}
	})
}

func TestPeerThatAsksAndNeverListensCannotMakeAnswersPileUp(t *testing.T) {
	for name, packet := range map[string][]byte{
		"requests that are refused": packetstream.AppendPacket(nil, packetstream.Header{ID: 5, Type: packetstream.JSON}, []byte(`{"name":["nope"],"args":[]}`)),
		"requests that are garbage": packetstream.AppendPacket(nil, packetstream.Header{ID: 5, Type: packetstream.JSON}, []byte(`garbage`)),
		"requests that are served":  packetstream.AppendPacket(nil, packetstream.Header{ID: 5, Type: packetstream.JSON}, []byte(`{"name":["echo"],"args":["`+strings.Repeat("x", 500)+`"]}`)),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, peer := raw(t, muxrpc.Options{Mux: vectorMux(t), Limits: muxrpc.Limits{WriteTimeout: 20 * time.Second}})
				many := []byte{}
				for range 1000 {
					many = append(many, packet...)
				}
				var sent, most int
				start := time.Now()
				for {
					_ = peer.conn.SetWriteDeadline(time.Now().Add(time.Minute))
					n, err := peer.conn.Write(many)
					sent += n
					most = max(most, s.Stats().Pending)
					if err != nil {
						break
					}
				}
				if most > 1<<20 {
					t.Errorf("%d bytes were pending", most)
				}
				if sent > 8<<20 {
					t.Errorf("%d bytes of requests were read", sent)
				}
				<-s.Done()
				if !errors.Is(s.Err(), muxrpc.ErrWriteTimeout) || time.Since(start) > 30*time.Second {
					t.Errorf("ended with %v after %v", s.Err(), time.Since(start))
				}
			})
		})
	}
}

func TestTwoSessionsThatSendLargeItemsToEachOtherDoNotDeadlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		big := make([]byte, 3<<20)
		must(t, muxrpc.HandleDuplex(mux, "big", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[[]byte, []byte]) error {
			for range 5 {
				must(t, s.Send(ctx, big))
			}
			for _, err := range s.All(ctx) {
				must(t, err)
			}
			return nil
		}))
		a, b := muxrpctest.Pipe(t, muxrpc.Options{Mux: mux}, muxrpc.Options{Mux: mux})
		results := make(chan error)
		for _, s := range []*muxrpc.Session{a, b} {
			go func() {
				d, err := muxrpc.Duplex[[]byte, []byte](context.Background(), s, "big")
				if err != nil {
					results <- err
					return
				}
				go func() {
					for range 5 {
						_ = d.Send(context.Background(), big)
					}
					_ = d.CloseSend()
				}()
				n := 0
				for item, err := range d.All(context.Background()) {
					if err != nil || len(item) != len(big) {
						results <- fmt.Errorf("item of %d bytes, %w", len(item), err)
						return
					}
					n++
				}
				if n != 5 {
					err = fmt.Errorf("%d items", n)
				}
				results <- err
			}()
		}
		start := time.Now()
		must(t, <-results)
		must(t, <-results)
		if took := time.Since(start); took != 0 {
			t.Errorf("something waited for %v", took)
		}
	})
}
