package muxrpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/secretstack/secretstack/boxstream"
	"github.com/secretstack/secretstack/muxrpc"
)

// boxConn is a TCP connection with a box stream on it, keyed without a handshake.
type boxConn struct {
	net.Conn
	r *boxstream.Reader
	w *boxstream.Writer
}

func newBoxConn(c net.Conn) *boxConn {
	key, nonce := new([boxstream.KeySize]byte), new([boxstream.NonceSize]byte)
	return &boxConn{c, boxstream.NewReader(c, key, nonce), boxstream.NewWriter(c, key, nonce)}
}

func (c *boxConn) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c *boxConn) Write(p []byte) (int, error) { return c.w.Write(p) }

// loopback returns two sessions connected by TCP and box stream, as two peers on one machine are.
func loopback(b *testing.B, server muxrpc.Options) (*muxrpc.Session, *muxrpc.Session) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	must(b, err)
	accepted, err := l.Accept()
	must(b, err)
	client := muxrpc.New(context.Background(), newBoxConn(dialled), muxrpc.Options{})
	s := muxrpc.New(context.Background(), newBoxConn(accepted), server)
	b.Cleanup(func() { _ = client.Close(context.Background()) })
	return client, s
}

type benchItem struct {
	Author   string `json:"author"`
	Sequence int    `json:"sequence"`
	Content  string `json:"content"`
}

// item is 100 bytes of JSON.
var item = benchItem{"@1b9KP8znF7A4i8wnSevBSK2ZabI=", 1234, "hello there, how are you"}

func benchMux(b *testing.B) *muxrpc.Mux {
	mux := muxrpc.NewMux()
	must(b, muxrpc.HandleAsync(mux, "echo", func(_ context.Context, s string) (string, error) { return s, nil }))
	must(b, muxrpc.HandleSource(mux, "items", func(_ context.Context, n int) iter.Seq2[*benchItem, error] {
		return func(yield func(*benchItem, error) bool) {
			for range n {
				if !yield(&item, nil) {
					return
				}
			}
		}
	}))
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	must(b, muxrpc.HandleSource(mux, "chunks", func(_ context.Context, n int) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) {
			for range n {
				if !yield(chunk, nil) {
					return
				}
			}
		}
	}))
	return mux
}

func BenchmarkAsyncSequential(b *testing.B) {
	client, _ := loopback(b, muxrpc.Options{Mux: benchMux(b)})
	ctx := context.Background()
	b.ReportAllocs()
	cpu := reportCPU(b)
	for b.Loop() {
		_, err := muxrpc.Call[string](ctx, client, "echo", "hello")
		must(b, err)
	}
	cpu()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

func BenchmarkAsync64InFlight(b *testing.B) {
	client, _ := loopback(b, muxrpc.Options{Mux: benchMux(b)})
	ctx := context.Background()
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	cpu := reportCPU(b)
	for range 64 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := muxrpc.Call[string](ctx, client, "echo", "hello"); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	cpu()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

func BenchmarkSourceOf100ByteItems(b *testing.B) {
	client, _ := loopback(b, muxrpc.Options{Mux: benchMux(b)})
	b.ReportAllocs()
	b.ResetTimer()
	cpu := reportCPU(b)
	for got, err := range muxrpc.Source[benchItem](context.Background(), client, "items", b.N) {
		if err != nil || got != item {
			b.Fatalf("%+v, %v", got, err)
		}
	}
	cpu()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
}

func BenchmarkSourceOf100ByteItemsUndecoded(b *testing.B) {
	client, _ := loopback(b, muxrpc.Options{Mux: benchMux(b)})
	b.ReportAllocs()
	b.ResetTimer()
	cpu := reportCPU(b)
	for _, err := range muxrpc.Source[muxrpc.Value](context.Background(), client, "items", b.N) {
		must(b, err)
	}
	cpu()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
}

func BenchmarkSourceOf64KiBChunks(b *testing.B) {
	client, _ := loopback(b, muxrpc.Options{Mux: benchMux(b)})
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	b.ResetTimer()
	cpu := reportCPU(b)
	for chunk, err := range muxrpc.Source[[]byte](context.Background(), client, "chunks", b.N) {
		must(b, err)
		muxrpc.Recycle(chunk)
	}
	cpu()
}

// BenchmarkBoxStreamAlone is what BenchmarkSourceOf64KiBChunks compares with.
func BenchmarkBoxStreamAlone(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	must(b, err)
	accepted, err := l.Accept()
	must(b, err)
	w, r := newBoxConn(dialled), newBoxConn(accepted)
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	b.SetBytes(int64(len(chunk)))
	b.ResetTimer()
	cpu := reportCPU(b)
	go func() {
		for range b.N {
			if _, err := w.Write(chunk); err != nil {
				b.Error(err)
			}
		}
		_ = w.w.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		if _, err := r.Read(buf); err != nil {
			if !errors.Is(err, io.EOF) {
				b.Fatal(err)
			}
			cpu()
			return
		}
	}
}
