package muxrpc_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
	"github.com/secretstack/secretstack/packetstream"
)

// hog returns a session with a stream that nobody reads and whose peer sends as much as it gets rid of, up to 4 MiB.
func hog(t *testing.T, opts muxrpc.Options, item []byte) *muxrpc.Session {
	t.Helper()
	s, peer := raw(t, opts)
	_, err := muxrpc.Duplex[[]byte, []byte](t.Context(), s, "unread")
	must(t, err)
	_, _, err = peer.read()
	must(t, err)
	go func() {
		packet := packetstream.AppendPacket(nil, packetstream.Header{ID: -1, Stream: true}, item)
		for range 4 * mebibyte / len(packet) {
			if _, err := peer.conn.Write(packet); err != nil {
				return
			}
		}
	}()
	return s
}

const mebibyte = 1 << 20

func TestSessionsWithABudgetHoldNoMoreThanThatTogether(t *testing.T) {
	for name, size := range map[string]int{"small items": 1000, "items": 50_000, "large items": 300_000} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const sessions, own = 20, 64<<10 + 256<<10 // a share of its own, and a packet whose memory has doubled
				opts := muxrpc.Options{Budget: muxrpc.NewBudget(4 * mebibyte), Limits: muxrpc.Limits{MaxPacket: mebibyte, SlowReaderGrace: time.Minute}}
				var all []*muxrpc.Session
				for range sessions {
					all = append(all, hog(t, opts, make([]byte, size)))
				}
				time.Sleep(time.Second)
				synctest.Wait()
				held := 0
				for _, s := range all {
					held += s.Stats().Buffered
				}
				if held > 4*mebibyte+sessions*own || held < 2*mebibyte {
					t.Errorf("%d bytes are held", held)
				}
				if used := opts.Budget.Used(); used > 5*mebibyte || used < 2*mebibyte {
					t.Errorf("%d bytes of the budget are used", used)
				}
				for _, s := range all {
					s.Abort(nil)
					<-s.Done()
				}
				if n := opts.Budget.Used(); n != 0 {
					t.Errorf("%d bytes were not given back", n)
				}
			})
		})
	}
}

func TestReadersThatKeepUpAreNotHeldUpByOthersOfTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		budget := muxrpc.NewBudget(mebibyte)
		limits := muxrpc.Limits{MaxPacket: mebibyte / 4, SlowReaderGrace: time.Hour}
		for range 50 {
			hog(t, muxrpc.Options{Budget: budget, Limits: limits}, make([]byte, 10_000))
		}
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleSource(mux, "chunks", func(context.Context, muxrpc.None) iter.Seq2[[]byte, error] {
			return func(yield func([]byte, error) bool) {
				for range 1000 {
					if !yield(make([]byte, 50_000), nil) {
						return
					}
				}
			}
		}))
		synctest.Wait()
		start := time.Now()
		c, _ := muxrpctest.Pipe(t, muxrpc.Options{Budget: budget, Limits: limits}, muxrpc.Options{Mux: mux})
		n := 0
		for _, err := range muxrpc.Source[[]byte](t.Context(), c, "chunks") {
			must(t, err)
			n++
		}
		if took := time.Since(start); n != 1000 || took > 10*time.Second {
			t.Errorf("%d items in %v", n, took)
		}
	})
}

func TestLargePacketsThatArriveInPartCountForTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const sessions = 20
		budget := muxrpc.NewBudget(8 * mebibyte)
		limits := muxrpc.Limits{MaxPacket: 2 * mebibyte}
		whole := packetstream.AppendPacket(nil, packetstream.Header{ID: -1, Type: packetstream.JSON}, bytes.Repeat([]byte(" "), 2*mebibyte))
		var all []*muxrpc.Session
		for range sessions {
			s, peer := raw(t, muxrpc.Options{Budget: budget, Limits: limits})
			go func() { _, _ = peer.conn.Write(whole[:len(whole)-1]) }()
			all = append(all, s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := budget.Used(); n > 8*mebibyte+sessions*(128<<10) || n < 4*mebibyte {
			t.Errorf("%d bytes of the budget are used", n)
		}
		time.Sleep(3 * time.Minute)
		for _, s := range all {
			<-s.Done()
			if !errors.Is(s.Err(), muxrpc.ErrPacketTimeout) {
				t.Errorf("ended with %v", s.Err())
			}
		}
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes were not given back", n)
		}
	})
}

func TestSmallBudgetsHaveRoomForLargePackets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		budget := muxrpc.NewBudget(1)
		mux := muxrpc.NewMux()
		must(t, muxrpc.HandleAsync(mux, "length", func(_ context.Context, text string) (int, error) { return len(text), nil }))
		c, _ := muxrpctest.Pipe(t, muxrpc.Options{Budget: budget}, muxrpc.Options{Mux: mux, Budget: budget})
		text := string(bytes.Repeat([]byte("x"), 3*mebibyte))
		for range 10 {
			n, err := muxrpc.Call[int](t.Context(), c, "length", text)
			if must(t, err); n != len(text) {
				t.Errorf("%d bytes arrived", n)
			}
		}
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes were not given back", n)
		}
	})
}

func TestArgumentsCountForTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		budget := muxrpc.NewBudget(mebibyte)
		mux := muxrpc.NewMux()
		release := make(chan struct{})
		must(t, muxrpc.HandleAsync(mux, "wait", func(context.Context, string) (bool, error) { <-release; return true, nil }))
		request := append([]byte(`{"name":["wait"],"args":["`), bytes.Repeat([]byte("x"), 30_000)...)
		request = append(request, `"]}`...)
		for range 10 {
			_, peer := raw(t, muxrpc.Options{Mux: mux, Budget: budget, Limits: muxrpc.Limits{MaxPacket: mebibyte / 4, SlowReaderGrace: time.Hour}})
			go func() {
				for id := int32(1); id <= 100; id++ {
					packet := packetstream.AppendPacket(nil, packetstream.Header{ID: id, Type: packetstream.JSON}, request)
					if _, err := peer.conn.Write(packet); err != nil {
						return
					}
				}
			}()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := budget.Used(); n > mebibyte || n < mebibyte/2 {
			t.Errorf("%d bytes of the budget are used", n)
		}
		close(release)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes were not given back", n)
		}
	})
}
