package muxrpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/packetstream"
)

// The tests in this file are named after defects of other implementations in Go (TestDefect…) and of the JavaScript one
// (TestWart…). TestDefectB2… and TestDefectB7… are also in other files.

func TestDefectB1CompletedCallsLeaveNothingBehind(t *testing.T) {
	// Every completed async call stayed in a table on both sides, 10.7 KB each.
	var pushed atomic.Int64
	a, b := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: stalling(t, &pushed)})
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	calls := func(n int) {
		for i := range n {
			got, err := muxrpc.Call[string](t.Context(), a, "echo", "x")
			must(t, err)
			wantSame(t, got, "x")
			if i%10 == 0 {
				for _, err := range muxrpc.Source[int](t.Context(), a, "count", 3) {
					must(t, err)
				}
			}
		}
	}
	calls(1000)
	before := heap()
	calls(20_000)
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	for _, s := range []*muxrpc.Session{a, b} {
		testkit.Eventually(t, "nothing is open", func() bool { // the last handler may still be returning
			stats := s.Stats()
			return stats.Calls == 0 && stats.Streams == 0 && stats.Handlers == 0 && stats.Buffered == 0
		})
	}
}

func TestDefectB3EndOfAnUnknownRequestDoesNotDesynchronise(t *testing.T) {
	// The body of such a packet was left unread, and taken for the next header.
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		peer.send(packetstream.Header{ID: 9, End: true, Type: packetstream.JSON}, "true")
		peer.send(packetstream.Header{ID: -9, End: true, Type: packetstream.JSON}, "true")
		peer.end(-10, errBody)
		peer.end(10, errBody)
		peer.want("0e00000004fffffff6", "true")
		peer.request(11, `{"name":["echo"],"args":[1]}`)
		peer.want("0200000003fffffff5", "[1]")
	})
}

func TestDefectB4StreamsAreFreeOfRaces(t *testing.T) {
	// The tests of go-muxrpc failed under the race detector on every run; this is for ours.
	mux := muxrpc.NewMux()
	must(t, muxrpc.HandleDuplex(mux, "echo", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[[]byte, []byte]) error {
		for item, err := range s.All(ctx) {
			if err != nil {
				return err
			}
			if err := s.Send(ctx, item); err != nil {
				return err
			}
		}
		return nil
	}))
	a, b := muxrpctest.Pipe(t, muxrpc.Options{Mux: mux}, muxrpc.Options{Mux: mux})
	var wg sync.WaitGroup
	for i := range 16 {
		s := []*muxrpc.Session{a, b}[i%2]
		wg.Go(func() {
			d, err := muxrpc.Duplex[[]byte, []byte](context.Background(), s, "echo")
			if err != nil {
				t.Error(err)
				return
			}
			size := 1 << i
			wg.Go(func() {
				for n := range 50 {
					if err := d.Send(context.Background(), bytes.Repeat([]byte{byte(n + 1)}, size)); err != nil {
						t.Error(err)
					}
				}
				_ = d.CloseSend()
			})
			n := 0
			for item, err := range d.All(context.Background()) {
				if err != nil || len(item) != size || item[0] != byte(n+1) || item[size-1] != byte(n+1) {
					t.Errorf("item %d: %d bytes, %v", n, len(item), err)
					return
				}
				n++
			}
			if n != 50 {
				t.Errorf("%d items of %d bytes came back", n, size)
			}
		})
	}
	wg.Wait()
}

func TestDefectB5IDsOfFinishedStreamsTakeNoMemory(t *testing.T) {
	// The ids of all finished requests were remembered for as long as the connection lasted.
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		var before, after runtime.MemStats
		run := func(from, to int) {
			for id := from; id < to; id++ {
				peer.openStream(int32(id), `{"name":["srcEmpty"],"args":[],"type":"source"}`)
				_, body, err := peer.read()
				must(t, err)
				wantSame(t, body, "true")
				peer.end(int32(id), "true")
			}
			synctest.Wait()
			runtime.GC()
		}
		run(1, 1000)
		runtime.ReadMemStats(&before)
		run(1000, 30_000)
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 512<<10 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
	})
}

func TestDefectB5IDsMayArriveSlightlyOutOfOrder(t *testing.T) {
	// go-muxrpc takes an id under a lock and writes the request after it has let go of it.
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		for _, id := range []int32{3, 1, 2, 7, 5, 6, 4} {
			peer.openStream(id, `{"name":["srcEmpty"],"args":[],"type":"source"}`)
			peer.want(fmt.Sprintf("0e00000004%08x", uint32(-id)), "true")
		}
	})
}

func TestDefectB6CallsAreServedByABoundedNumberOfGoroutines(t *testing.T) {
	// One goroutine for each call, without limit: about 9,000 when a connection was made.
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		release := make(chan bool)
		must(t, muxrpc.HandleAsync(mux, "block", func(context.Context, muxrpc.None) (bool, error) { <-release; return true, nil }))
		_, peer := raw(t, muxrpc.Options{Mux: mux, Limits: muxrpc.Limits{MaxHandlers: 50}})
		before := runtime.NumGoroutine()
		go func() {
			for i := range 2000 {
				peer.request(int32(i+1), `{"name":["block"],"args":[]}`)
			}
		}()
		synctest.Wait()
		if n := runtime.NumGoroutine() - before; n > 60 {
			t.Errorf("%d goroutines", n)
		}
		close(release)
		for range 2000 {
			_, body, err := peer.read()
			must(t, err)
			wantSame(t, body, "true")
		}
	})
}

func TestDefectB7HeaderOf4GiBEndsTheSessionAndNothingElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		peer.write("02ffffffff00000001", "")
		peer.want(goodbyeHead, "")
		<-s.Done()
		if !errors.Is(s.Err(), muxrpc.ErrTooLarge) {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

func TestDefectB8SessionStartsAtOnceAndAsksForNothing(t *testing.T) {
	// Handle blocked up to a minute for the remote manifest, and leaked a goroutine if Serve was not called after it.
	bubble(t, func(t *testing.T) {
		start := time.Now()
		s, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		peer.request(1, `{"name":["echo"],"args":[1]}`)
		peer.want("0200000003ffffffff", "[1]")
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
		if n := s.Stats().BytesWritten; n != 12 {
			t.Errorf("%d bytes were written", n)
		}
	})
}

func TestDefectB9SessionsEndWithAGoodbyeAndStreamsWithoutDelay(t *testing.T) {
	// The nine zero bytes were never sent, and each end of a sink left a goroutine that slept for ten seconds.
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		start := time.Now()
		w, err := muxrpc.Sink[int](t.Context(), s, "sink")
		must(t, err)
		w.Abort(nil)
		go func() { _ = s.Close(context.Background()) }()
		peer.want("0a0000002900000001", callSink)
		peer.wantError("0e", 1, "stream was aborted")
		peer.wantGoodbye()
		<-s.Done()
		synctest.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestDefectB10RequestsOfEveryKindAreAnsweredAndNoneEndsTheSession(t *testing.T) {
	// `type:"sync"` was refused and ended the session, as did every malformed request; bodies could be left half read.
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		for id, c := range map[int32][2]string{
			1: {`{"name":["syncOk"],"args":[5],"type":"sync"}`, `{"ok":5}`},
			2: {`{"name":["syncOk"],"args":[5],"type":"async"}`, `{"ok":5}`},
			3: {`{"name":["syncOk"],"args":[5],"type":"source"}`, `{"ok":5}`}, // ignored: only the flag counts
			4: {`{"name":["syncOk"],"args":[5]} trailing`, ``},
			5: {`{"name":`, ``},
			6: {`[]`, ``},
			7: {`{"name":["src"],"args":[]}`, ``},
		} {
			peer.request(id, c[0])
			head, body, err := peer.read()
			must(t, err)
			if c[1] == "" {
				if head[:2] != "06" {
					t.Errorf("%s: %s %s", c[0], head, body)
				}
			} else {
				wantSame(t, body, c[1])
			}
		}
	})
}

func TestDefectB10CallerNeedNotKnowHowTheAnswerIsEncoded(t *testing.T) {
	// The caller had to say beforehand whether the answer would be JSON, text or bytes.
	bubble(t, func(t *testing.T) {
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: vectorMux(t)})
		for name, want := range map[string]string{"buf": "bytes 010203", "that": `"function:@bob"`, "nul": "null", "empty": `""`} {
			wantSame(t, outcome(muxrpc.Call[any](t.Context(), a, name)), want)
		}
	})
}

// countingConn counts writes.
type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestDefectB11HeaderAndBodyAreWrittenTogetherAndPacketsShareWrites(t *testing.T) {
	// A packet took two writes, so two boxes and four system calls; JavaScript's took 88 ms with Nagle's algorithm.
	bubble(t, func(t *testing.T) {
		x, y := muxrpctest.Conns()
		a, b := &countingConn{Conn: x}, &countingConn{Conn: y}
		var pushed atomic.Int64
		server := muxrpc.New(context.Background(), a, muxrpc.Options{Mux: stalling(t, &pushed)})
		client := muxrpc.New(context.Background(), b, muxrpc.Options{})
		_, err := muxrpc.Call[string](t.Context(), client, "echo", "x")
		must(t, err)
		synctest.Wait()
		if n := b.writes.Load(); n > 2 { // the request and the hello
			t.Errorf("%d writes for a call", n)
		}
		before := a.writes.Load()
		for _, err := range muxrpc.Source[int](t.Context(), client, "count", 10_000) {
			must(t, err)
		}
		if n := a.writes.Load() - before; n > 2000 {
			t.Errorf("%d writes for 10,000 items", n)
		}
		before = b.writes.Load()
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() { _, _ = muxrpc.Call[string](context.Background(), client, "echo", "x") })
		}
		wg.Wait()
		if n := b.writes.Load() - before; n > 100 {
			t.Errorf("%d writes for 200 calls at once", n)
		}
		must(t, client.Close(t.Context()))
		<-server.Done()
	})
}

func TestDefectDConsumerThatStopsBlocksNobody(t *testing.T) {
	// A lock was held while an item was handed to a consumer that did not come, and the end needed the same lock.
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		next, stop := iter.Pull2(muxrpc.Source[string](context.Background(), s, "src"))
		go func() {
			_, _, _ = peer.read()
			for range 1000 {
				peer.send(packetstream.Header{ID: -1, Stream: true, Type: packetstream.String}, "x")
			}
			_, _, _ = peer.read()
			peer.request(-2, "5")
		}()
		_, err, _ := next()
		must(t, err)
		n, err := muxrpc.Call[int](t.Context(), s, "other") // while nobody comes for the items
		must(t, err)
		if n != 5 {
			t.Error(n)
		}
		stop()
	})
}

func TestDefectDSinkCallsAreServed(t *testing.T) {
	// A packet for a sink ended the connection.
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		peer.openStream(1, `{"name":["sink"],"args":["x"],"type":"sink"}`)
		peer.item(1, "1")
		peer.end(1, "true")
		peer.want("0e00000004ffffffff", "true")
	})
}

func TestDefectDReaderEndsWithTheSession(t *testing.T) {
	// The goroutine that read the connection leaked when its consumer stopped. A bubble fails if one is left.
	bubble(t, func(t *testing.T) {
		a, b := muxrpctest.Conns()
		s := muxrpc.New(context.Background(), a, muxrpc.Options{Limits: muxrpc.Limits{StreamBuffer: 64 << 10}})
		peer := &rawPeer{t: t, conn: b, r: packetstream.NewReader(b, 0)}
		_, err := muxrpc.Duplex[int, int](t.Context(), s, "x")
		must(t, err)
		var sent atomic.Int64
		go peer.flood(500, -1, make([]byte, 1000), &sent) // reading pauses
		synctest.Wait()
		_ = s.Close(t.Context())
		_ = b.Close()
	})
}

func TestWartNullBodiesAreAnswered(t *testing.T) {
	// A request whose body is null kills a JavaScript process.
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		peer.request(1, "null")
		peer.wantError("06", -1, "invalid request, args should be array, was: null")
		peer.openStream(2, "null")
		peer.wantError("0e", -2, "invalid request, args should be array, was: null")
		peer.openStream(3, `{"name":["sink"],"args":[],"type":"sink"}`)
		peer.item(3, "null")
		peer.end(3, "null")
		peer.want("0e00000004fffffffd", "true")
		peer.item(3, "null") // after the end
		peer.request(-1, "null")
		peer.request(4, `{"name":["echo"],"args":[null]}`)
		peer.want("0200000006fffffffc", "[null]")
	})
}

func TestWartEmptyStringDoesNotCloseTheConnection(t *testing.T) {
	// JavaScript sends an empty string or buffer as a packet of length 0, which is the goodbye.
	bubble(t, func(t *testing.T) {
		mux := vectorMux(t)
		must(t, muxrpc.HandleAsync(mux, "emptyBuffer", func(context.Context, muxrpc.None) ([]byte, error) { return nil, nil }))
		must(t, muxrpc.HandleSource(mux, "empties", func(context.Context, muxrpc.None) iter.Seq2[any, error] {
			return func(yield func(any, error) bool) {
				_ = yield("", nil) && yield([]byte{}, nil) && yield("last", nil)
			}
		}))
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
		s, err := muxrpc.Call[string](t.Context(), a, "empty")
		must(t, err)
		b, err := muxrpc.Call[[]byte](t.Context(), a, "emptyBuffer")
		must(t, err)
		if s != "" || len(b) != 0 {
			t.Error(s, b)
		}
		var got []string
		for item, err := range muxrpc.Source[string](t.Context(), a, "empties") {
			must(t, err)
			got = append(got, item)
		}
		if len(got) != 2 || got[0] != "" || got[1] != "last" {
			t.Errorf("items %q", got)
		}
	})
}

func TestWartEveryErrorHasAMessage(t *testing.T) {
	// An error that is a string becomes {} in JavaScript: cb('no') tells the peer nothing.
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "x", func(context.Context, muxrpc.None) (int, error) { return 0, errors.New("") }))
		_, peer := raw(t, muxrpc.Options{Mux: mux})
		peer.request(1, `{"name":["x"],"args":[]}`)
		peer.wantError("06", -1, "internal error")
	})
}

func TestWartNoResultIsSentAsFalse(t *testing.T) {
	// JavaScript sends undefined as false. So do we for None, because peers expect it, but nothing else becomes false.
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "none", func(context.Context, muxrpc.None) (muxrpc.None, error) { return muxrpc.None{}, nil }))
		must(t, muxrpc.HandleAsync(mux, "nil", func(context.Context, muxrpc.None) (*int, error) { return nil, nil }))
		must(t, muxrpc.HandleAsync(mux, "zero", func(context.Context, muxrpc.None) (int, error) { return 0, nil }))
		a, peer := raw(t, muxrpc.Options{Mux: mux})
		for i, c := range [][2]string{{"none", "false"}, {"nil", "null"}, {"zero", "0"}} {
			peer.request(int32(i+1), `{"name":["`+c[0]+`"],"args":[]}`)
			_, body, err := peer.read()
			must(t, err)
			wantSame(t, body, c[1])
		}
		go func() {
			_, _, _ = peer.read()
			peer.request(-1, "false")
		}()
		if _, err := muxrpc.Call[muxrpc.None](t.Context(), a, "undef"); err != nil {
			t.Error(err)
		}
	})
}

func TestWartNoStackTravels(t *testing.T) {
	// JavaScript sends stack traces, which hold paths, with every error.
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "panic", func(context.Context, muxrpc.None) (int, error) { panic("x") })) //nolint:forbidigo // what is tested
		_, peer := raw(t, muxrpc.Options{Mux: mux, Permissions: muxrpc.Permissions{Deny: []string{"deny"}}})
		for i, name := range []string{"panic", "deny", "nope"} {
			peer.request(int32(i+1), `{"name":["`+name+`"],"args":[]}`)
			_, body, err := peer.read()
			must(t, err)
			if !strings.HasSuffix(body, `"stack":""}`) || strings.Contains(body, ".go") {
				t.Errorf("%s: %s", name, body)
			}
		}
	})
}

func TestWartDuplexEndIsAnsweredSoThatCloseEnds(t *testing.T) {
	// JavaScript does not always answer the end of a duplex, and then a graceful close never completes on either side.
	bubble(t, func(t *testing.T) {
		for _, end := range []string{"true", errBody} {
			done := make(chan handled, 1)
			s, peer := raw(t, muxrpc.Options{Mux: endless(t, done)})
			peer.openStream(1, callDup)
			peer.end(1, end)
			_, body, err := peer.read()
			must(t, err)
			wantSame(t, body, end)
			<-done
			start := time.Now()
			go peer.wantGoodbye()
			must(t, s.Close(t.Context()))
			if took := time.Since(start); took != 0 {
				t.Errorf("close took %v", took)
			}
		}
	})
}

func TestWartCloseAlwaysEnds(t *testing.T) {
	// JavaScript's close waits for open calls for ever.
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Mux: endless(t, make(chan handled, 9)), Limits: muxrpc.Limits{CloseTimeout: 5 * time.Second}})
		peer.openStream(1, callSrc)
		peer.openStream(2, callSink)
		peer.openStream(3, callDup)
		_, err := muxrpc.Duplex[int, int](t.Context(), s, "x")
		must(t, err)
		start := time.Now()
		if err := s.Close(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		if took := time.Since(start); took > 7*time.Second {
			t.Errorf("close took %v", took)
		}
	})
}

func TestWartClosingTwiceIsNoCrash(t *testing.T) {
	// ssbc/muxrpc#49: an end for a stream that was gone crashed a server.
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		d, err := muxrpc.Duplex[int, int](t.Context(), s, "x")
		must(t, err)
		peer.end(-1, "true")
		peer.end(-1, "true")
		if _, err := d.Recv(t.Context()); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		must(t, d.Close(t.Context()))
		must(t, d.Close(t.Context()))
		d.Abort(nil)
		peer.end(-1, "true")
		peer.want("0a0000002800000001", `{"name":["x"],"args":[],"type":"duplex"}`)
		peer.want("0e0000000400000001", "true")
		go peer.wantGoodbye()
		must(t, s.Close(t.Context()))
		must(t, s.Close(t.Context()))
	})
}

func TestWartSourceIsNotProducedAheadOfItsReader(t *testing.T) {
	// ssbc/muxrpc#61: a source of 20,000 items was produced to its end while the consumer had read one.
	bubble(t, func(t *testing.T) {
		var pushed atomic.Int64
		a, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: stalling(t, &pushed)})
		next, stop := iter.Pull2(muxrpc.Source[[]byte](context.Background(), a, "push", 1000))
		_, err, _ := next()
		must(t, err)
		synctest.Wait()
		if n := pushed.Load(); n > 128<<10 {
			t.Errorf("%d bytes were produced", n)
		}
		stop()
	})
}

func TestWartManifestIsAskedForByStringName(t *testing.T) {
	// JavaScript clients send {"name":"manifest"}, a string, and so do we; servers must take both forms.
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleManifest(mux))
		s, peer := raw(t, muxrpc.Options{Mux: mux})
		for i, name := range []string{`"manifest"`, `["manifest"]`} {
			peer.request(int32(i+1), `{"name":`+name+`,"args":[]}`)
			_, body, err := peer.read()
			must(t, err)
			wantSame(t, body, `{"manifest":"sync"}`)
		}
		go func() {
			_, _, _ = peer.read()
			peer.request(-1, `{"a":"async","odd":5}`)
		}()
		m, err := s.Manifest(t.Context())
		must(t, err)
		if m.Lookup("a") != muxrpc.TypeAsync || len(m) != 1 {
			t.Errorf("%v", m)
		}
	})
}

func TestWartEmitIsRefusedOnlyToThoseWhoMayKnow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Mux: vectorMux(t)})
		peer.request(1, `{"name":"emit","args":["x"]}`)
		peer.wantError("06", -1, "emit has been removed")
		peer.request(2, `{"name":["emit"],"args":["x"]}`)
		peer.wantError("06", -2, "no async:emit")
		s.SetPermissions(muxrpc.Permissions{Allow: []string{"x"}})
		peer.request(3, `{"name":"emit","args":["x"]}`)
		peer.wantError("06", -3, "method:emit is not in list of allowed methods")
	})
}

func TestWartPermissionsAreCheckedBeforeTheManifest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: vectorMux(t), Permissions: muxrpc.Permissions{Allow: []string{"echo"}}})
		for i, name := range []string{`["src"]`, `["nope"]`, `["nested","deep","nope"]`} {
			peer.request(int32(i+1), `{"name":`+name+`,"args":[]}`)
			_, body, err := peer.read()
			must(t, err)
			if !strings.Contains(body, "is not in list of allowed methods") {
				t.Errorf("%s: %s", name, body)
			}
		}
	})
}
