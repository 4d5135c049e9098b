package muxrpc_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/packetstream"
)

// stalling serves what the tests of windows need: a source and a duplex that push as much as they can, and a sink and
// a duplex that read nothing.
func stalling(t *testing.T, pushed *atomic.Int64) *muxrpc.Mux {
	mux := muxrpc.NewMux()
	must(t, muxrpc.HandleSource(mux, "push", func(ctx context.Context, size int) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) {
			for yield(make([]byte, size), nil) {
				pushed.Add(int64(size))
			}
		}
	}))
	must(t, muxrpc.HandleSink(mux, "unread", func(ctx context.Context, _ muxrpc.None, _ iter.Seq2[[]byte, error]) error {
		<-ctx.Done()
		return nil
	}))
	must(t, muxrpc.HandleAsync(mux, "echo", func(_ context.Context, s string) (string, error) { return s, nil }))
	must(t, muxrpc.HandleSource(mux, "count", func(_ context.Context, n int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := 0; i < n && yield(i, nil); i++ {
			}
		}
	}))
	return mux
}

func TestStalledStreamDelaysNothingElseBetweenOwnPeers(t *testing.T) {
	for name, size := range map[string]int{"small items": 100, "large items": 64 << 10, "items larger than a window": 500 << 10} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var pushed atomic.Int64
				a, b := muxrpctest.Pipe(t, muxrpc.Options{Mux: stalling(t, &pushed)}, muxrpc.Options{Mux: stalling(t, &pushed)})
				start := time.Now()
				// Streams that stall from their very first byte, in both directions, before anything is known of the peer.
				blocked := make(chan bool, 9)
				ctx, cancel := context.WithCancel(context.Background())
				next, stop := iter.Pull2(muxrpc.Source[[]byte](ctx, a, "push", size))
				_, err, _ := next()
				must(t, err)
				w, err := muxrpc.Sink[[]byte](ctx, a, "unread")
				must(t, err)
				go func() {
					for w.Send(ctx, make([]byte, size)) == nil {
					}
					blocked <- true
				}()
				for i := range 100 {
					got, err := muxrpc.Call[string](t.Context(), a, "echo", fmt.Sprint(i))
					must(t, err)
					wantSame(t, got, fmt.Sprint(i))
					got, err = muxrpc.Call[string](t.Context(), b, "echo", fmt.Sprint(i))
					must(t, err)
					wantSame(t, got, fmt.Sprint(i))
				}
				n := 0
				for item, err := range muxrpc.Source[int](t.Context(), a, "count", 50_000) { // far more than a window
					must(t, err)
					if item != n {
						t.Fatalf("item %d is %d", n, item)
					}
					n++
				}
				if n != 50_000 || time.Since(start) != 0 {
					t.Errorf("%d items, and something waited for %v", n, time.Since(start))
				}
				synctest.Wait()
				for _, s := range []*muxrpc.Session{a, b} {
					if stats := s.Stats(); !stats.Credit || stats.Buffered > 200<<10+2*size {
						t.Errorf("%+v", stats)
					}
				}
				time.Sleep(time.Minute) // a stalled stream may stall as long as it likes
				if _, err := muxrpc.Call[string](t.Context(), a, "echo", "x"); err != nil {
					t.Error(err)
				}
				if _, err, ok := next(); err != nil || !ok {
					t.Errorf("the stalled stream is gone: %v", err)
				}
				stop()
				cancel()
				<-blocked
			})
		})
	}
}

func TestWindowGrowsForAReaderThatKeepsUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var pushed atomic.Int64
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: stalling(t, &pushed)})
		n := 0
		for item, err := range muxrpc.Source[[]byte](t.Context(), a, "push", 10_000) {
			must(t, err)
			n += len(item)
			if n == 20_000_000 {
				synctest.Wait() // the sender fills the window
				if held := a.Stats().Buffered; held < 512<<10 || held > 1<<20+10_100 {
					t.Errorf("%d bytes buffered", held)
				}
				break
			}
		}
	})
}

func TestWindowsGrowOnlyWhileTheyFitTheSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var pushed atomic.Int64
		limits := muxrpc.Limits{SessionBuffer: 2 << 20, MaxStreams: 128} // windows of 16 KiB at first
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{Limits: limits}, muxrpc.Options{Mux: stalling(t, &pushed)})
		const streams = 20
		var stops []func()
		for range streams {
			next, stop := iter.Pull2(muxrpc.Source[[]byte](context.Background(), a, "push", 1000))
			stops = append(stops, stop)
			for range 2000 {
				_, err, _ := next()
				must(t, err)
			}
		}
		start := time.Now()
		synctest.Wait()
		if held := a.Stats().Buffered; held > limits.SessionBuffer {
			t.Errorf("%d bytes buffered", held)
		}
		if time.Since(start) != 0 {
			t.Error("reading paused")
		}
		for _, stop := range stops {
			stop()
		}
	})
}

// marked plays one of our own peers by hand: its first packet has the mark.
func marked(t *testing.T, opts muxrpc.Options) (*muxrpc.Session, *rawPeer) {
	s, peer := raw(t, opts)
	peer.send(packetstream.Header{ID: 1, Type: packetstream.JSON, Credit: true}, `{"name":["nope"],"args":[]}`)
	peer.want("020000002b00000000", `{"secretstack":{"credit":1,"window":16384}}`)
	peer.wantError("06", -1, "no async:nope")
	return s, peer
}

func (p *rawPeer) extension(body string) {
	p.t.Helper()
	p.send(packetstream.Header{Type: packetstream.JSON}, body)
}

func TestFirstPacketIsMarkedAndNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := muxrpctest.Conns()
		s := muxrpc.New(context.Background(), a, muxrpc.Options{})
		for i, want := range []string{"820000001800000001", "020000001800000002", "020000001800000003"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, _ = muxrpc.Call[int](ctx, s, "x")
			cancel()
			got := make([]byte, 9+24)
			if _, err := io.ReadFull(b, got); err != nil || hex.EncodeToString(got[:9]) != want {
				t.Errorf("packet %d: %x, %v", i+1, got[:9], err)
			}
		}
		_ = b.Close()
		<-s.Done()
	})
}

func TestPeerThatShowedNoMarkIsSentNoExtensions(t *testing.T) {
	// Go's other implementation ends the session when a packet has the id 0.
	bubble(t, func(t *testing.T) {
		var pushed atomic.Int64
		s, peer := raw(t, muxrpc.Options{Mux: stalling(t, &pushed)})
		next, stop := iter.Pull2(muxrpc.Source[[]byte](context.Background(), s, "src"))
		defer stop()
		go func() {
			for range 1000 {
				peer.item(-1, `{"type":"Buffer","data":[1,2,3]}`)
			}
			for i := range 100 {
				peer.request(int32(i+1), `{"name":["echo"],"args":["x"]}`)
			}
		}()
		for range 1000 {
			_, err, _ := next()
			must(t, err)
		}
		for range 101 {
			head, _, err := peer.read()
			must(t, err)
			if strings.HasSuffix(head, "00000000") {
				t.Fatalf("got %s", head)
			}
		}
	})
}

func TestExtensionsThatAreNotOursAreIgnored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{})
		for _, body := range []string{`["event",{"okay":true}]`, `null`, `{x`, `"text"`, `{"secretstack":5}`, `{"secretstack":{"credit":2,"window":1}}`,
			`{"secretstack":{"credit":1,"window":-5}}`, `{"secretstack":{"credit":1,"window":1e30}}`, `{"secretstack":{"grant":[[1]]}}`, `{"secretstack":{"grant":[[-2147483648,5],[0,5],[99,5],[1,-5],[-99,9007199254740993],[4294967297,1]]}}`,
			`{"secretstack":{"grant":"` + strings.Repeat("x", 100<<10) + `"}}`} {
			peer.extension(body)
			peer.send(packetstream.Header{Stream: true, Type: packetstream.JSON}, body)
			peer.send(packetstream.Header{End: true, Type: packetstream.JSON}, body)
			peer.send(packetstream.Header{Type: packetstream.Buffer}, body)
		}
		peer.request(1, `{"name":["nope"],"args":[]}`)
		peer.wantError("06", -1, "no async:nope")
	})
}

func TestSenderStopsAtTheWindowAndGoesOnWithAGrant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := marked(t, muxrpc.Options{})
		peer.extension(`{"secretstack":{"credit":1,"window":100}}`)
		synctest.Wait()
		w, err := muxrpc.Sink[[]byte](t.Context(), s, "sink")
		must(t, err)
		var sent atomic.Int64
		go func() {
			for w.Send(context.Background(), make([]byte, 31)) == nil { // costs 40
				sent.Add(1)
			}
		}()
		for _, step := range []struct {
			extension string
			want      int64
		}{
			{``, 3}, // 120: one packet over the window
			{`{"secretstack":{"grant":[[-1,120]]}}`, 3},
			{`{"secretstack":{"grant":[[-1,121]]}}`, 4},
			{`{"secretstack":{"grant":[[-1,100]]}}`, 4},           // late
			{`{"secretstack":{"grant":[[1,9999]]}}`, 4},           // of another stream
			{`{"secretstack":{"grant":[[-1,200],[-1,400]]}}`, 10}, // merged
			{`{"secretstack":{"grant":[[-1,400]]}}`, 10},          // repeated
			{`{"secretstack":{"credit":1,"window":500}}`, 13},
		} {
			if step.extension != "" {
				peer.extension(step.extension)
			}
			synctest.Wait()
			if n := sent.Load(); n != step.want {
				t.Errorf("after %s: %d items", step.extension, n)
			}
		}
		w.Abort(nil)
	})
}

func TestSenderThatWaitsForAWindowHeedsItsContextAndTheStreamsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := marked(t, muxrpc.Options{})
		peer.extension(`{"secretstack":{"credit":1,"window":1}}`)
		synctest.Wait()
		w, err := muxrpc.Sink[string](t.Context(), s, "sink")
		must(t, err)
		must(t, w.Send(t.Context(), "x"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Send(ctx, "y"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.AfterFunc(time.Second, func() { peer.end(-1, "true") })
		if err := w.Send(t.Context(), "y"); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
}

func TestReceiverGrantsWhatWasReadAndWidensTheWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := marked(t, muxrpc.Options{})
		d, err := muxrpc.Duplex[[]byte, []byte](t.Context(), s, "dup")
		must(t, err)
		peer.want("0a0000002a00000001", callDup)
		item := packetstream.AppendPacket(nil, packetstream.Header{ID: -1, Stream: true}, make([]byte, 1015)) // costs 1 KiB
		read := func(n int) {
			t.Helper()
			peer.writeBytes(bytes.Repeat(item, n))
			synctest.Wait()
			for range n {
				_, err := d.Recv(t.Context())
				must(t, err)
			}
			go func() { _, _ = d.Recv(context.Background()) }() // comes for more, and so releases what it has read
			synctest.Wait()
		}
		grant := func(limit int) {
			t.Helper()
			body := fmt.Sprintf(`{"secretstack":{"grant":[[1,%d]]}}`, limit)
			peer.want(fmt.Sprintf("02%08x00000000", len(body)), body)
		}
		read(7) // less than half of the window: no grant
		peer.writeBytes(item)
		synctest.Wait()
		go func() { _, _ = d.Recv(context.Background()) }()
		synctest.Wait()
		grant(8<<10 + 32<<10) // half of 16 KiB was read, and the window has doubled
		must(t, d.CloseSend())
		peer.want("0e0000000400000001", "true")
		peer.end(-1, "true")
	})
}

func TestNoGrantForAStreamThatEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := marked(t, muxrpc.Options{})
		synctest.Wait()
		next, stop := iter.Pull2(muxrpc.Source[[]byte](context.Background(), s, "src"))
		go func() {
			_, _, _ = peer.read()
			for range 100 {
				peer.send(packetstream.Header{ID: -1, Stream: true}, strings.Repeat("x", 1000))
			}
			peer.end(-1, "true")
		}()
		_, err, _ := next()
		must(t, err)
		synctest.Wait()
		for range 99 {
			_, err, _ = next()
			must(t, err)
		}
		if _, _, ok := next(); ok {
			t.Error("one more")
		}
		stop()
		go func() { _ = s.Close(context.Background()) }()
		peer.want("0e0000000400000001", "true")
		peer.want(goodbyeHead, "")
		_ = peer.conn.Close()
	})
}

func TestSenderWaitsOnceForTheFirstWordOfThePeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		drained := make(chan bool)
		go func() {
			_, _ = io.Copy(io.Discard, peer.conn)
			close(drained)
		}()
		chunk := make([]byte, 16<<10)
		start := time.Now()
		for i := range 2 {
			w, err := muxrpc.Sink[[]byte](t.Context(), s, "sink")
			must(t, err)
			for range 4 {
				must(t, w.Send(t.Context(), chunk))
			}
			if took := time.Since(start); i == 0 && took != 0 {
				t.Errorf("the first 64 KiB took %v", took)
			}
			for range 100 {
				must(t, w.Send(t.Context(), chunk))
			}
			if took := time.Since(start); took != 500*time.Millisecond {
				t.Errorf("stream %d: waited for %v", i+1, took)
			}
		}
		s.Abort(nil)
		<-s.Done()
		<-drained
	})
}

func TestFirstPacketOfAPeerWithoutWindowsEndsTheWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		time.AfterFunc(100*time.Millisecond, func() { peer.request(-9, "1") })
		drained := make(chan bool)
		go func() {
			_, _ = io.Copy(io.Discard, peer.conn)
			close(drained)
		}()
		w, err := muxrpc.Sink[[]byte](t.Context(), s, "sink")
		must(t, err)
		start := time.Now()
		for range 100 {
			must(t, w.Send(t.Context(), make([]byte, 16<<10)))
		}
		if took := time.Since(start); took != 100*time.Millisecond {
			t.Errorf("waited for %v", took)
		}
		s.Abort(nil)
		<-drained
	})
}

func TestHelloThatComesLateAppliesToOpenStreams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		go func() { _, _ = io.Copy(io.Discard, peer.conn) }()
		w, err := muxrpc.Sink[[]byte](t.Context(), s, "sink")
		must(t, err)
		for range 100 {
			must(t, w.Send(t.Context(), make([]byte, 1015)))
		}
		time.Sleep(time.Second) // by now it counts as a peer without windows
		peer.send(packetstream.Header{Credit: true, Type: packetstream.JSON}, `{"secretstack":{"credit":1,"window":16384}}`)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.Send(ctx, []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("went on: %v", err)
		}
		peer.extension(fmt.Sprintf(`{"secretstack":{"grant":[[-1,%d]]}}`, 100<<10+1))
		must(t, w.Send(t.Context(), []byte("x")))
		_ = peer.conn.Close()
		<-s.Done()
	})
}

func TestPeerThatBreaksItsWindowIsHeldBackLikeAnyOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := marked(t, muxrpc.Options{Limits: muxrpc.Limits{MaxStreams: 1024, SlowReaderGrace: 5 * time.Second}})
		d, err := muxrpc.Duplex[[]byte, []byte](t.Context(), s, "dup")
		must(t, err)
		peer.want("0a0000002a00000001", callDup)
		start := time.Now()
		var sent atomic.Int64
		go peer.flood(3000, -1, make([]byte, 1015), &sent)
		peer.wantError("0e", 1, "the reader of this stream was too slow")
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("ended after %v", took)
		}
		if _, err := d.Recv(t.Context()); err == nil {
			t.Error("the stream goes on")
		}
	})
}
