package muxrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/packetstream"
)

// bubble runs a test with a clock of its own, which fails when a goroutine is left over.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// handled is what became of a handler.
type handled struct {
	items []string
	err   error // what reading or sending ended with
	cause error // of the context's end, if it had ended when the handler returned
}

// endless serves a source "src" that sends numbers until it cannot, a sink "sink" and a duplex "dup" that collect what
// they get, and reports what became of them.
func endless(t *testing.T, done chan handled) *muxrpc.Mux {
	mux := muxrpc.NewMux()
	must(t, muxrpc.HandleSource(mux, "src", func(ctx context.Context, wait bool) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			defer func() { done <- handled{cause: context.Cause(ctx)} }()
			for i := 0; yield(i, nil); i++ {
				if wait {
					<-ctx.Done()
				}
			}
		}
	}))
	collect := func(ctx context.Context, items iter.Seq2[string, error]) (h handled) {
		for item, err := range items {
			if h.err = err; err == nil {
				h.items = append(h.items, item)
			}
		}
		h.cause = context.Cause(ctx)
		return h
	}
	must(t, muxrpc.HandleSink(mux, "sink", func(ctx context.Context, _ muxrpc.None, items iter.Seq2[string, error]) error {
		h := collect(ctx, items)
		done <- h
		return h.err
	}))
	must(t, muxrpc.HandleDuplex(mux, "dup", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[string, string]) error {
		h := collect(ctx, s.All(ctx))
		done <- h
		return h.err
	}))
	must(t, muxrpc.HandleDuplex(mux, "deaf", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[string, string]) error {
		<-ctx.Done()
		done <- handled{err: s.Send(context.Background(), "late"), cause: context.Cause(ctx)}
		return nil
	}))
	return mux
}

const (
	callSrc  = `{"name":["src"],"args":[true],"type":"source"}`
	callSink = `{"name":["sink"],"args":[],"type":"sink"}`
	callDup  = `{"name":["dup"],"args":[],"type":"duplex"}`
	callDeaf = `{"name":["deaf"],"args":[],"type":"duplex"}`
	errBody  = `{"message":"away","name":"Error","stack":""}`
)

func TestAbortedSourceIsAnsweredOnceAndItsHandlerCancelled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		done := make(chan handled, 1)
		_, peer := raw(t, muxrpc.Options{Mux: endless(t, done)})
		peer.openStream(1, callSrc)
		peer.want("0a00000001ffffffff", "0")
		peer.end(1, "true")
		peer.want("0e00000004ffffffff", "true")
		if h := <-done; !errors.Is(h.cause, io.EOF) {
			t.Errorf("context ended with %v", h.cause)
		}
		peer.end(1, "true") // once more: not answered
		peer.request(2, `{"name":["nope"],"args":[]}`)
		peer.wantError("06", -2, "no async:nope")
	})
}

func TestErrorEndIsEchoedAndGivenToTheHandler(t *testing.T) {
	for name, call := range map[string]string{"sink": callSink, "dup": callDup} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				done := make(chan handled, 1)
				_, peer := raw(t, muxrpc.Options{Mux: endless(t, done)})
				peer.openStream(1, call)
				synctest.Wait()
				peer.item(1, `"a"`)
				synctest.Wait()
				peer.end(1, errBody)
				peer.want("0e0000002cffffffff", errBody)
				h := <-done
				if e, ok := errors.AsType[*muxrpc.RemoteError](h.err); !ok || e.Message != "away" || !slices.Equal(h.items, []string{"a"}) {
					t.Errorf("handler got %q, %v", h.items, h.err)
				}
				if _, ok := errors.AsType[*muxrpc.RemoteError](h.cause); !ok {
					t.Errorf("context ended with %v", h.cause)
				}
			})
		})
	}
}

func TestErrorOfAnEndKeepsWhatThePeerSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		w, err := muxrpc.Sink[int](t.Context(), s, "sink")
		must(t, err)
		peer.end(-1, `{"message":"away","code":7}`)
		peer.request(-9, `{"message":"what comes after it must not show"}`)
		synctest.Wait()
		err = w.Close(t.Context())
		if e, ok := errors.AsType[*muxrpc.RemoteError](err); !ok || string(e.Value) != `{"message":"away","code":7}` {
			t.Errorf("got %v", err)
		}
	})
}

func TestLongErrorEndIsAnsweredBriefly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: endless(t, make(chan handled, 1))})
		peer.openStream(1, callSink)
		peer.end(1, `{"message":"`+strings.Repeat("x", 1<<20)+`"}`)
		peer.want("0e00000004ffffffff", "true")
	})
}

func TestCleanEndOfASinkDoesNotCancelItsHandler(t *testing.T) {
	bubble(t, func(t *testing.T) {
		done := make(chan handled, 1)
		_, peer := raw(t, muxrpc.Options{Mux: endless(t, done)})
		peer.openStream(1, callSink)
		peer.item(1, `"a"`)
		peer.item(1, `"b"`)
		peer.end(1, "true")
		if h := <-done; h.err != nil || h.cause != nil || !slices.Equal(h.items, []string{"a", "b"}) {
			t.Errorf("%+v", h)
		}
		peer.want("0e00000004ffffffff", "true")
	})
}

func TestEveryCleanEndOfOtherPeersIsOne(t *testing.T) {
	for _, body := range []string{"true", " true ", "null", "false"} {
		bubble(t, func(t *testing.T) {
			done := make(chan handled, 1)
			_, peer := raw(t, muxrpc.Options{Mux: endless(t, done)})
			peer.openStream(1, callSink)
			peer.end(1, body)
			if h := <-done; h.err != nil {
				t.Errorf("end %s: %v", body, h.err)
			}
		})
	}
}

func TestItemsBeforeTheEndOfADuplexCanBeReadAndAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		result := make(chan error, 1)
		must(t, muxrpc.HandleDuplex(mux, "echo", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[int, int]) error {
			time.Sleep(3 * time.Second) // all has come, the end too
			for item, err := range s.All(ctx) {
				if err != nil {
					return err
				}
				time.Sleep(3 * time.Second) // longer than the grace in all
				must(t, s.Send(ctx, item))
			}
			result <- s.Send(context.Background(), 99)
			return nil
		}))
		_, peer := raw(t, muxrpc.Options{Mux: mux})
		peer.openStream(1, `{"name":["echo"],"args":[],"type":"duplex"}`)
		for range 3 {
			peer.item(1, "7")
		}
		peer.end(1, "true")
		peer.want("0a00000001ffffffff", "7")
		peer.want("0a00000001ffffffff", "7")
		peer.want("0a00000001ffffffff", "7")
		peer.want("0e00000004ffffffff", "true")
		if err := <-result; !errors.Is(err, io.EOF) {
			t.Errorf("sending after the end: %v", err)
		}
	})
}

func TestDuplexWhoseReaderDoesNotComeEndsAfterTheGrace(t *testing.T) {
	for _, items := range []int{0, 1} {
		t.Run(fmt.Sprint(items, " items unread"), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				done := make(chan handled, 1)
				s, peer := raw(t, muxrpc.Options{Mux: endless(t, done), Limits: muxrpc.Limits{SlowReaderGrace: 7 * time.Second}})
				peer.openStream(1, callDeaf)
				for range items {
					peer.item(1, `"x"`)
				}
				start := time.Now()
				peer.end(1, "true")
				peer.want("0e00000004ffffffff", "true")
				if took := time.Since(start); took != 7*time.Second {
					t.Errorf("ended after %v", took)
				}
				if items > 0 {
					// It may still come for what it has not read, until the session ends.
					synctest.Wait()
					if len(done) != 0 {
						t.Error("handler was cancelled before it read")
					}
					s.Abort(nil)
				}
				if h := <-done; h.err == nil {
					t.Error("sending after the end worked")
				}
			})
		})
	}
}

func TestDuplexOfAPeerThatNeverAnswersAnEndIsOver(t *testing.T) {
	// JavaScript answers the end of a duplex only if its writer happens to end synchronously.
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{CloseTimeout: 4 * time.Second}})
		d, err := muxrpc.Duplex[int, int](t.Context(), s, "dup")
		must(t, err)
		peer.want("0a0000002a00000001", callDup)
		must(t, d.Send(t.Context(), 1))
		must(t, d.CloseSend())
		must(t, d.CloseSend())
		peer.want("0a0000000100000001", "1")
		peer.want("0e0000000400000001", "true")
		if err := d.Send(t.Context(), 2); !errors.Is(err, muxrpc.ErrStreamClosed) {
			t.Errorf("sending after CloseSend: %v", err)
		}
		time.Sleep(3 * time.Second)
		peer.item(-1, "5") // it is still alive
		start := time.Now()
		item, err := d.Recv(t.Context())
		if item != 5 || err != nil {
			t.Errorf("%v, %v", item, err)
		}
		if _, err := d.Recv(t.Context()); !errors.Is(err, io.EOF) {
			t.Errorf("at the end: %v", err)
		}
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("ended after %v", took)
		}
		start = time.Now()
		go func() { // closing the session does not wait for the peer's end
			peer.wantGoodbye()
		}()
		must(t, s.Close(t.Context()))
		if took := time.Since(start); took != 0 {
			t.Errorf("close took %v", took)
		}
	})
}

func TestCloseOfADuplexDropsWhatWasNotRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		d, err := muxrpc.Duplex[int, int](t.Context(), s, "dup")
		must(t, err)
		for i := range 10 {
			peer.item(-1, fmt.Sprint(i))
		}
		synctest.Wait()
		go func() {
			time.Sleep(time.Second)
			peer.item(-1, "11")
			peer.end(-1, errBody)
		}()
		err = d.Close(t.Context())
		if e, ok := errors.AsType[*muxrpc.RemoteError](err); !ok || e.Message != "away" {
			t.Errorf("close: %v", err)
		}
		if stats := s.Stats(); stats.Buffered != 0 || stats.Streams != 0 {
			t.Errorf("%+v", stats)
		}
		if err := d.Close(t.Context()); err == nil {
			t.Error("closing again forgets the error")
		}
	})
}

func TestLatePacketsOfAFinishedStreamAreDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		calls := 0
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleDuplex(mux, "refuse", func(context.Context, muxrpc.None, *muxrpc.Stream[any, any]) error {
			calls++
			return muxrpc.Errorf("no")
		}))
		_, peer := raw(t, muxrpc.Options{Mux: mux})
		const call = `{"name":["refuse"],"args":[],"type":"duplex"}`
		peer.openStream(1, call)
		peer.wantError("0e", -1, "no")
		peer.send(packetstream.Header{ID: 1, Stream: true}, "bytes that were on their way")
		peer.item(1, "null")
		peer.item(1, call) // not even this is a new call
		peer.end(1, "true")
		peer.openStream(2, call)
		peer.wantError("0e", -2, "no")
		if calls != 2 {
			t.Errorf("%d calls", calls)
		}
	})
}

func TestLatePacketsForOurFinishedCallsAreDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		go func() {
			peer.want("0a0000002e00000001", callSrc)
			peer.item(-1, "1")
			peer.want("0e0000000400000001", "true")
			peer.item(-1, "2")
			peer.item(-1, "3")
			peer.end(-1, "true")
			peer.item(-1, "4")
			peer.end(-5, "true") // never was
			peer.request(-9, "1")
			peer.want("020000001c00000002", `{"name":["after"],"args":[]}`)
			peer.request(-2, "5")
			peer.request(-2, "6")
		}()
		for item, err := range muxrpc.Source[int](t.Context(), s, "src", true) {
			must(t, err)
			if item == 1 {
				break
			}
		}
		got, err := muxrpc.Call[int](t.Context(), s, "after")
		must(t, err)
		if got != 5 {
			t.Errorf("got %d", got)
		}
	})
}

func TestEndOfAStreamThatNeverWasIsAnsweredOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{})
		peer.end(7, errBody)
		peer.want("0e00000004fffffff9", "true")
		peer.end(7, "true")
		peer.end(8, "true")
		peer.want("0e00000004fffffff8", "true")
	})
}

func TestAPacketOfAnUnknownStreamIsACallOnlyIfItsBodyIsOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, peer := raw(t, muxrpc.Options{Mux: endless(t, make(chan handled, 9))})
		peer.send(packetstream.Header{ID: 3, Stream: true}, "bytes")
		peer.wantError("0e", -3, `invalid request, args should be array, was: {\"type\":\"Buffer\",\"data\":[98,121,116,101,115]}`)
		peer.item(4, "null")
		peer.wantError("0e", -4, "invalid request, args should be array, was: null")
		peer.item(4, callSrc) // too late for a call
		peer.openStream(2, callSrc)
		peer.want("0a00000001fffffffe", "0") // ids may arrive out of order
	})
}

func TestSinkThatStopsEarlyTellsItsCaller(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleSink(mux, "one", func(_ context.Context, _ muxrpc.None, items iter.Seq2[int, error]) error {
			for range items {
				break
			}
			return nil
		}))
		_, peer := raw(t, muxrpc.Options{Mux: mux})
		peer.openStream(1, `{"name":["one"],"args":[],"type":"sink"}`)
		peer.item(1, "1")
		peer.want("0e00000004ffffffff", "true")
		peer.item(1, "2")
		peer.end(1, "true")
	})
}

func TestSendingToAStreamThatThePeerEndedSaysHowItEnded(t *testing.T) {
	for body, want := range map[string]string{"true": "EOF", errBody: "muxrpc: the peer answered: away"} {
		bubble(t, func(t *testing.T) {
			s, peer := raw(t, muxrpc.Options{})
			w, err := muxrpc.Sink[int](t.Context(), s, "sink")
			must(t, err)
			peer.end(-1, body)
			synctest.Wait()
			if err := w.Send(t.Context(), 1); err == nil || err.Error() != want {
				t.Errorf("%s: %v", body, err)
			}
			if err := w.Close(t.Context()); (err == nil) != (body == "true") {
				t.Errorf("%s: close: %v", body, err)
			}
		})
	}
}

func TestCancellingACallGivesItUpOnThisSide(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := muxrpc.Call[int](ctx, s, "slow")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		peer.want("020000001b00000001", `{"name":["slow"],"args":[]}`)
		peer.request(-1, "1") // late
		synctest.Wait()
		if n := s.Stats().Calls; n != 0 {
			t.Errorf("%d calls left", n)
		}
	})
}

func TestCancellingAStreamEndsItOnTheWire(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		w, err := muxrpc.Sink[int](ctx, s, "sink")
		must(t, err)
		d, err := muxrpc.Duplex[int, int](ctx, s, "dup")
		must(t, err)
		var sourceErr error
		source := make(chan bool)
		go func() {
			defer close(source)
			for _, err := range muxrpc.Source[int](ctx, s, "src", true) {
				sourceErr = err
			}
		}()
		synctest.Wait()
		cancel()
		<-source
		synctest.Wait()
		if !errors.Is(sourceErr, context.Canceled) {
			t.Errorf("source: %v", sourceErr)
		}
		if err := w.Send(t.Context(), 1); !errors.Is(err, context.Canceled) {
			t.Errorf("sink: %v", err)
		}
		if _, err := d.Recv(t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("duplex: %v", err)
		}
		ends := map[string]string{}
		for range 6 {
			head, body, err := peer.read()
			must(t, err)
			if head[:2] == "0e" {
				ends[head[10:]] = body
			}
		}
		const cancelled = `{"message":"call was cancelled","name":"Error","stack":""}`
		if ends["00000001"] != cancelled || ends["00000002"] != cancelled || ends["00000003"] != "true" {
			t.Errorf("ends %v", ends)
		}
		if n := s.Stats().Streams; n != 0 {
			t.Errorf("%d streams left", n)
		}
	})
}

func TestAbortTellsThePeerOnlyWhatWasMeantForIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		for i, c := range []struct {
			err  error
			want string
		}{
			{muxrpc.Errorf("for you"), "for you"},
			{fmt.Errorf("wrapped: %w", muxrpc.Errorf("for you")), "for you"},
			{errors.New("/home/alice/secret"), "internal error"},
			{nil, "stream was aborted"},
		} {
			w, err := muxrpc.Sink[int](t.Context(), s, "sink")
			must(t, err)
			w.Abort(c.err)
			w.Abort(errors.New("again"))
			_, _, err = peer.read()
			must(t, err)
			peer.wantError("0e", int32(i+1), c.want)
		}
	})
}

func TestAContextThatHasEndedOpensNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _ := raw(t, muxrpc.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, callErr := muxrpc.Call[int](ctx, s, "x")
		_, sinkErr := muxrpc.Sink[int](ctx, s, "x")
		_, dupErr := muxrpc.Duplex[int, int](ctx, s, "x")
		for _, srcErr := range muxrpc.Source[int](ctx, s, "x") {
			for _, err := range []error{callErr, sinkErr, dupErr, srcErr} {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			}
		}
		synctest.Wait()
		if n := s.Stats().BytesWritten; n != 0 {
			t.Errorf("%d bytes were written", n)
		}
	})
}

func TestItemsThatCannotBeDecodedEndTheSource(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		go func() {
			_, _, _ = peer.read()
			peer.item(-1, "1")
			peer.item(-1, `"two"`)
			peer.item(-1, "3")
		}()
		var got []string
		for item, err := range muxrpc.Source[int](t.Context(), s, "src") {
			got = append(got, fmt.Sprint(item, err))
		}
		if want := []string{"1 <nil>", "0 item is invalid: unexpected string"}; !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		peer.want("0e0000000400000001", "true")
	})
}

func TestItemsOfAnUnknownTypeEndTheirStreamAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		done := make(chan handled, 1)
		_, peer := raw(t, muxrpc.Options{Mux: endless(t, done)})
		peer.openStream(1, callSink)
		peer.send(packetstream.Header{ID: 1, Stream: true, Type: 3}, "?")
		peer.wantError("0e", -1, "unknown message type")
		if h := <-done; h.err == nil {
			t.Error("the handler was told nothing")
		}
		peer.request(2, `{"name":["nope"],"args":[]}`)
		peer.wantError("06", -2, "no async:nope")
	})
}

func TestEmptyBytesAreNotSentAndEmptyStringsAre(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		w, err := muxrpc.Sink[any](t.Context(), s, "sink")
		must(t, err)
		for _, item := range []any{[]byte{}, "", muxrpc.Value{}, muxrpc.Value{Kind: muxrpc.KindString}, nil, "x"} {
			must(t, w.Send(t.Context(), item))
		}
		peer.want("0a0000002900000001", callSink)
		peer.want("0a0000000200000001", `""`)
		peer.want("0a0000000200000001", `""`)
		peer.want("0a0000000400000001", "null")
		peer.want("090000000100000001", "x")
	})
}

func TestValuesOverTheLimitAreNotSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "big", func(context.Context, muxrpc.None) (string, error) { return strings.Repeat("x", 101), nil }))
		s, peer := raw(t, muxrpc.Options{Mux: mux, Limits: muxrpc.Limits{MaxPacket: 100}})
		big := strings.Repeat("x", 101)
		if _, err := muxrpc.Call[int](t.Context(), s, "x", big); !errors.Is(err, muxrpc.ErrTooLarge) {
			t.Errorf("call: %v", err)
		}
		w, err := muxrpc.Sink[string](t.Context(), s, "sink")
		must(t, err)
		if err := w.Send(t.Context(), big); !errors.Is(err, muxrpc.ErrTooLarge) {
			t.Errorf("item: %v", err)
		}
		must(t, w.Send(t.Context(), "the stream goes on"))
		peer.want("0a0000002900000001", callSink)
		peer.want("090000001200000001", "the stream goes on")
		peer.request(1, `{"name":["big"],"args":[]}`)
		peer.wantError("06", -1, "packet too large")
	})
}
