package muxrpc_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/packetstream"
)

// blocking serves an async method "block" that answers when release is closed.
func blocking(t *testing.T, release chan bool) *muxrpc.Mux {
	mux := muxrpc.NewMux()
	must(t, muxrpc.HandleAsync(mux, "block", func(ctx context.Context, _ muxrpc.None) (string, error) {
		select {
		case <-release:
			return "done", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}))
	return mux
}

func TestCloseWaitsForOpenCalls(t *testing.T) {
	for _, side := range []string{"caller", "callee"} {
		t.Run("by the "+side, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				release := make(chan bool)
				caller, callee := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: blocking(t, release)})
				closer := map[string]*muxrpc.Session{"caller": caller, "callee": callee}[side]
				answer := make(chan string, 1)
				go func() { answer <- outcome(muxrpc.Call[any](context.Background(), caller, "block")) }()
				synctest.Wait()
				time.AfterFunc(3*time.Second, func() { close(release) })
				start := time.Now()
				must(t, closer.Close(t.Context()))
				if took := time.Since(start); took != 3*time.Second {
					t.Errorf("close took %v", took)
				}
				wantSame(t, <-answer, `"done"`)
				<-caller.Done()
				<-callee.Done()
				if caller.Err() != nil || callee.Err() != nil {
					t.Errorf("ended with %v and %v", caller.Err(), callee.Err())
				}
			})
		})
	}
}

func TestCloseRefusesNewCallsOfBothSides(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan bool)
		s, peer := raw(t, muxrpc.Options{Mux: blocking(t, release)})
		peer.request(1, `{"name":["block"],"args":[]}`)
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- s.Close(context.Background()) }()
		synctest.Wait()
		if _, err := muxrpc.Call[int](t.Context(), s, "x"); !errors.Is(err, muxrpc.ErrClosing) {
			t.Errorf("call: %v", err)
		}
		if _, err := muxrpc.Duplex[int, int](t.Context(), s, "x"); !errors.Is(err, muxrpc.ErrClosing) {
			t.Errorf("duplex: %v", err)
		}
		peer.request(2, `{"name":["block"],"args":[]}`)
		peer.wantError("06", -2, "parent stream is closing")
		peer.openStream(3, `{"name":["block"],"args":[],"type":"source"}`)
		peer.wantError("0e", -3, "no source:block")
		close(release)
		peer.want("0100000004ffffffff", "done")
		peer.wantGoodbye()
		must(t, <-closed)
	})
}

func TestCloseCutsOffWhatDoesNotEnd(t *testing.T) {
	for name, c := range map[string]struct {
		deadline time.Duration // of Close's context; zero for none
		limit    time.Duration // Limits.CloseTimeout
		want     time.Duration
	}{
		"after CloseTimeout":           {0, 4 * time.Second, 4 * time.Second},
		"after its context's deadline": {7 * time.Second, 4 * time.Second, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				caller, callee := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: blocking(t, nil), Limits: muxrpc.Limits{CloseTimeout: c.limit}})
				answer := make(chan error, 1)
				go func() {
					_, err := muxrpc.Call[string](context.Background(), caller, "block")
					answer <- err
				}()
				synctest.Wait()
				ctx := context.Background()
				if c.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.deadline)
					defer cancel()
				}
				start := time.Now()
				if err := callee.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("close: %v", err)
				}
				if took := time.Since(start); took != c.want {
					t.Errorf("close took %v", took)
				}
				if err := <-answer; !errors.Is(err, muxrpc.ErrUnexpectedEnd) || !errors.Is(err, muxrpc.ErrSessionClosed) {
					t.Errorf("call: %v", err)
				}
				if !errors.Is(callee.Err(), muxrpc.ErrClosing) || caller.Err() != nil {
					t.Errorf("ended with %v and %v", callee.Err(), caller.Err())
				}
			})
		})
	}
}

func TestCloseEndsWhenThePeerSaysNoGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{CloseTimeout: 4 * time.Second}})
		start := time.Now()
		must(t, s.Close(t.Context()))
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("close took %v", took)
		}
		peer.want(goodbyeHead, "")
		if s.Err() != nil {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

func TestCloseIsIdempotentAndConcurrent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{})
		errs := make(chan error)
		for range 5 {
			go func() { errs <- a.Close(context.Background()) }()
			go func() { errs <- b.Close(context.Background()) }()
		}
		for range 10 {
			must(t, <-errs)
		}
		must(t, a.Close(context.Background()))
		a.Abort(errors.New("too late to matter"))
		if a.Err() != nil {
			t.Errorf("ended with %v", a.Err())
		}
	})
}

func TestCloseWithACancelledContextHangsUpAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _ := raw(t, muxrpc.Options{})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		start := time.Now()
		_ = s.Close(ctx)
		if took := time.Since(start); took != 0 {
			t.Errorf("close took %v", took)
		}
		select {
		case <-s.Done():
		default:
			t.Error("the session goes on")
		}
	})
}

func TestAbortSaysGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T) {
		done := make(chan handled, 1)
		s, peer := raw(t, muxrpc.Options{Mux: endless(t, done)})
		peer.openStream(1, callDup)
		d, err := muxrpc.Duplex[int, int](t.Context(), s, "x")
		must(t, err)
		synctest.Wait()
		reason := errors.New("kicked out")
		start := time.Now()
		s.Abort(reason)
		_, recvErr := d.Recv(t.Context())
		sendErr := d.Send(t.Context(), 1)
		_, callErr := muxrpc.Call[int](t.Context(), s, "x")
		for _, err := range []error{recvErr, sendErr, callErr, s.Err()} {
			if !errors.Is(err, reason) {
				t.Errorf("got %v", err)
			}
		}
		if !errors.Is(recvErr, muxrpc.ErrUnexpectedEnd) || !errors.Is(callErr, muxrpc.ErrSessionClosed) {
			t.Errorf("got %v and %v", recvErr, callErr)
		}
		if h := <-done; !errors.Is(h.err, reason) && !errors.Is(h.err, context.Canceled) {
			t.Errorf("handler: %v", h.err)
		}
		peer.want("0a0000002800000001", `{"name":["x"],"args":[],"type":"duplex"}`)
		peer.wantGoodbye()
		<-s.Done()
		if took := time.Since(start); took != 0 {
			t.Errorf("the end took %v", took)
		}
	})
}

func TestAbortDoesNotWaitLongForAPeerThatIsSilent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _ := raw(t, muxrpc.Options{})
		start := time.Now()
		s.Abort(nil)
		<-s.Done()
		if took := time.Since(start); took != time.Second {
			t.Errorf("the end took %v", took)
		}
		if !errors.Is(s.Err(), muxrpc.ErrSessionClosed) {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

func TestGoodbyeOfThePeerIsAnsweredAndEndsOpenCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		done := make(chan handled, 1)
		s, peer := raw(t, muxrpc.Options{Mux: endless(t, done)})
		answer := make(chan error, 1)
		go func() {
			_, err := muxrpc.Call[int](context.Background(), s, "x")
			answer <- err
		}()
		peer.openStream(1, callSink)
		synctest.Wait()
		peer.goodbye()
		err := <-answer
		wantSame(t, err.Error(), "muxrpc: unexpected end of parent stream")
		if !errors.Is(err, muxrpc.ErrUnexpectedEnd) || !errors.Is(err, muxrpc.ErrSessionClosed) {
			t.Errorf("call: %v", err)
		}
		if h := <-done; !errors.Is(h.err, muxrpc.ErrUnexpectedEnd) {
			t.Errorf("handler: %v", h.err)
		}
		peer.want("0200000018"+"00000001", `{"name":["x"],"args":[]}`)
		peer.want(goodbyeHead, "")
		<-s.Done()
		if s.Err() != nil {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

// TestEveryWayOfLeavingOfAPeerIsAccepted plays the combinations of spec §3.5.
func TestEveryWayOfLeavingOfAPeerIsAccepted(t *testing.T) {
	for name, c := range map[string]struct {
		leave func(p *rawPeer)
		clean bool
	}{
		"goodbye and silence":                        {func(p *rawPeer) { p.goodbye() }, true},
		"goodbye and close":                          {func(p *rawPeer) { p.goodbye(); _ = p.conn.Close() }, true},
		"goodbye and garbage":                        {func(p *rawPeer) { p.goodbye(); p.writeBytes([]byte("what?")); _ = p.conn.Close() }, true},
		"empty string":                               {func(p *rawPeer) { p.write("0100000000ffffffff", "") }, true},
		"close without goodbye, as after inactivity": {func(p *rawPeer) { _ = p.conn.Close() }, false},
		"half a packet":                              {func(p *rawPeer) { p.write("0200000010", ""); _ = p.conn.Close() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, peer := raw(t, muxrpc.Options{})
				start := time.Now()
				c.leave(peer)
				<-s.Done()
				if took := time.Since(start); took > time.Second {
					t.Errorf("the end took %v", took)
				}
				if c.clean && s.Err() != nil || !c.clean && !errors.Is(s.Err(), io.ErrUnexpectedEOF) {
					t.Errorf("ended with %v", s.Err())
				}
				if _, err := muxrpc.Call[int](t.Context(), s, "x"); !errors.Is(err, muxrpc.ErrSessionClosed) {
					t.Errorf("call: %v", err)
				}
			})
		})
	}
}

func TestSessionEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := muxrpctest.Conns()
		ctx, cancel := context.WithCancelCause(context.Background())
		done := make(chan handled, 1)
		s := muxrpc.New(ctx, a, muxrpc.Options{Mux: endless(t, done)})
		peer := &rawPeer{t: t, conn: b, r: packetstream.NewReader(b, 0)}
		peer.openStream(1, callSink)
		synctest.Wait()
		reason := errors.New("going home")
		cancel(reason)
		<-done
		peer.wantGoodbye()
		<-s.Done()
		if !errors.Is(s.Err(), reason) {
			t.Errorf("ended with %v", s.Err())
		}
		ended, cancelled := context.WithCancel(context.Background())
		cancelled()
		a, b = muxrpctest.Conns()
		s = muxrpc.New(ended, a, muxrpc.Options{})
		_ = b.Close()
		<-s.Done()
		if !errors.Is(s.Err(), context.Canceled) && !errors.Is(s.Err(), io.ErrUnexpectedEOF) {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

func TestPacketOverTheLimitEndsTheSessionWithAReason(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{Limits: muxrpc.Limits{MaxPacket: 1000}})
		peer.write("02000003e900000001", "")
		peer.want(goodbyeHead, "")
		<-s.Done()
		if !errors.Is(s.Err(), muxrpc.ErrTooLarge) || !strings.Contains(s.Err().Error(), "1001 bytes, the limit is 1000") {
			t.Errorf("ended with %v", s.Err())
		}
	})
}

// connections are the two kinds of connection, as far as writing is concerned.
var connections = map[string]func(net.Conn) io.ReadWriteCloser{
	"connection with deadlines":    func(c net.Conn) io.ReadWriteCloser { return c },
	"connection without deadlines": func(c net.Conn) io.ReadWriteCloser { return struct{ io.ReadWriteCloser }{c} },
}

func TestPeerThatTakesNothingLosesTheSession(t *testing.T) {
	for name, wrap := range connections {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a, b := muxrpctest.Conns()
				s := muxrpc.New(context.Background(), wrap(a), muxrpc.Options{Limits: muxrpc.Limits{WriteTimeout: 20 * time.Second}})
				start := time.Now()
				w, err := muxrpc.Sink[[]byte](t.Context(), s, "sink")
				must(t, err)
				peer := &rawPeer{t: t, conn: b}
				peer.request(-99, "1") // it knows no windows
				chunk := make([]byte, 64<<10)
				for err == nil {
					err = w.Send(t.Context(), chunk)
				}
				if !errors.Is(err, muxrpc.ErrWriteTimeout) {
					t.Errorf("sending: %v", err)
				}
				<-s.Done()
				if took := time.Since(start); took < 17*time.Second || took > 20100*time.Millisecond {
					t.Errorf("ended after %v", took)
				}
				if !errors.Is(s.Err(), muxrpc.ErrWriteTimeout) {
					t.Errorf("ended with %v", s.Err())
				}
				_ = b.Close()
			})
		})
	}
}

func TestSlowPeerThatTakesSomethingKeepsTheSession(t *testing.T) {
	for name, wrap := range connections {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a, b := muxrpctest.Conns()
				s := muxrpc.New(context.Background(), wrap(a), muxrpc.Options{Limits: muxrpc.Limits{WriteTimeout: 20 * time.Second}})
				peer := &rawPeer{t: t, conn: b}
				peer.request(-99, "1") // it knows no windows
				left := make(chan bool)
				go func() {
					defer close(left)
					buf := make([]byte, 64<<10)
					for {
						time.Sleep(10 * time.Second)
						if _, err := io.ReadFull(b, buf); err != nil {
							return
						}
					}
				}()
				w, err := muxrpc.Sink[[]byte](t.Context(), s, "sink")
				must(t, err)
				start := time.Now()
				for range 10 {
					must(t, w.Send(t.Context(), make([]byte, 256<<10)))
				}
				if time.Since(start) < time.Minute {
					t.Error("it was not slow at all")
				}
				s.Abort(nil)
				<-s.Done()
				<-left
			})
		})
	}
}

func TestClosingFromAHandlerDoesNotHang(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "bye", func(ctx context.Context, _ muxrpc.None) (bool, error) {
			go func() { _ = muxrpc.SessionFrom(ctx).Close(context.Background()) }()
			return true, nil
		}))
		must(t, muxrpc.HandleAsync(mux, "wrong", func(ctx context.Context, _ muxrpc.None) (bool, error) {
			return true, muxrpc.SessionFrom(ctx).Close(context.Background())
		}))
		a, b := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
		_, err := muxrpc.Call[bool](t.Context(), a, "bye")
		must(t, err)
		<-b.Done()
		must(t, b.Err())

		a, b = muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
		_, err = muxrpc.Call[bool](t.Context(), a, "wrong")
		if !errors.Is(err, muxrpc.ErrUnexpectedEnd) {
			t.Errorf("call: %v", err)
		}
		<-b.Done()
	})
}

func TestPendingPacketsLeaveBeforeTheGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, peer := raw(t, muxrpc.Options{})
		w, err := muxrpc.Sink[int](t.Context(), s, "sink")
		must(t, err)
		for i := range 1000 {
			must(t, w.Send(t.Context(), i%10))
		}
		s.Abort(nil)
		peer.want("0a0000002900000001", callSink)
		for i := range 1000 {
			peer.want("0a0000000100000001", string(rune('0'+i%10)))
		}
		peer.wantGoodbye()
	})
}

func TestHandlersThatIgnoreTheirContextDoNotKeepTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan bool)
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleSource(mux, "stubborn", func(context.Context, muxrpc.None) iter.Seq2[int, error] {
			return func(func(int, error) bool) { <-release }
		}))
		s, peer := raw(t, muxrpc.Options{Mux: mux})
		peer.openStream(1, `{"name":["stubborn"],"args":[],"type":"source"}`)
		synctest.Wait()
		_ = peer.conn.Close()
		<-s.Done()
		if n := s.Stats().Streams; n != 1 {
			t.Errorf("%d streams", n)
		}
		if err := s.Close(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		close(release)
		must(t, s.Close(t.Context()))
	})
}

func TestStatsSayWhatASessionIsDoing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan bool)
		a, b := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: blocking(t, release)})
		born := time.Now()
		if got := a.Activity(); !got.Equal(born) {
			t.Errorf("activity at %v", got)
		}
		time.Sleep(time.Minute)
		go func() { _, _ = muxrpc.Call[string](context.Background(), a, "block") }()
		synctest.Wait()
		sa, sb := a.Stats(), b.Stats()
		if sa.Calls != 1 || sb.Handlers != 1 || sa.BytesWritten == 0 || sa.BytesWritten != sb.BytesRead || !sb.LastActivity.Equal(born.Add(time.Minute)) {
			t.Errorf("%+v\n%+v", sa, sb)
		}
		time.Sleep(time.Minute)
		close(release)
		synctest.Wait()
		if got := a.Activity(); !got.Equal(born.Add(2 * time.Minute)) {
			t.Errorf("activity at %v", got)
		}
		if sa = a.Stats(); sa.Calls != 0 || !sa.Credit {
			t.Errorf("%+v", sa)
		}
	})
}
