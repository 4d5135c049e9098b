package boxstream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"unsafe"
)

// stall gives its bytes and then reports that the reader waits for more.
type stall struct {
	data    io.Reader
	waiting func()
}

func (s *stall) Read(p []byte) (int, error) {
	if n, err := s.data.Read(p); err == nil {
		return n, nil
	}
	s.waiting()
	return 0, io.ErrClosedPipe
}

func TestIdleReaderHoldsLittleMemory(t *testing.T) {
	const limit = 512
	if n := unsafe.Sizeof(Reader{}); n > limit {
		t.Errorf("a Reader has %d bytes, want at most %d", n, limit)
	}
	key, nonce := testKey()
	for name, pieces := range map[string][][]byte{
		"fresh":              nil,
		"after a few bytes":  {pattern(100)},
		"after a batch":      {pattern(batchBoxes * MaxBody)},
		"after a burst":      {pattern(1 << 20), pattern(10)},
		"after odd sizes":    {pattern(70001), pattern(513), pattern(478), pattern(512)},
		"after a large call": {pattern(5000)},
	} {
		t.Run(name, func(t *testing.T) {
			sealed := encrypt(t, key, nonce, pieces...)
			sealed = sealed[:len(sealed)-HeaderSize]
			waited := false
			var r *Reader
			r = NewReader(&stall{bytes.NewReader(sealed), func() {
				waited = true
				if r.large != nil || cap(r.plain) > quietSize {
					t.Error("the reader waits with a large buffer")
				}
			}}, key, nonce)
			if _, err := io.Copy(io.Discard, r); err != io.ErrClosedPipe {
				t.Fatal(err)
			}
			if !waited {
				t.Error("the reader never waited")
			}
		})
	}
}

// hesitant runs into a deadline before every read.
type hesitant struct {
	r    io.Reader
	size int // of a read at most
	late bool
}

func (h *hesitant) Read(p []byte) (int, error) {
	if h.late = !h.late; h.late {
		return 0, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	}
	return h.r.Read(p[:min(h.size, len(p))])
}

func TestReaderGoesOnAfterDeadlinesAndHoldsNothingBetweenBoxes(t *testing.T) {
	key, nonce := testKey()
	plain := pattern(100_000)
	sealed := encrypt(t, key, nonce, plain[:10], plain[10:600], plain[600:70_000], plain[70_000:])
	for _, size := range []int{1, 7, HeaderSize, 500, 1 << 20} {
		r := NewReader(&hesitant{r: bytes.NewReader(sealed), size: size}, key, nonce)
		var got []byte
		for p := make([]byte, 300+size%1000*20); ; {
			n, err := r.Read(p)
			got = append(got, p[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			if borrowed := r.large != nil || r.quiet != nil || r.plain != nil; err != nil && borrowed && r.lo == r.hi && !r.inBody {
				t.Fatalf("reads of %d: a buffer is held after a deadline between two boxes", size)
			}
		}
		if !bytes.Equal(got, plain) {
			t.Errorf("reads of %d: %d bytes arrived, and not those that were sent", size, len(got))
		}
	}
}

func TestEndedReaderGivesItsBufferBack(t *testing.T) {
	key, nonce := testKey()
	sealed := encrypt(t, key, nonce, pattern(100000))
	sealed[90000] ^= 1
	for _, b := range [][]byte{encrypt(t, key, nonce, pattern(100000)), sealed, sealed[:50000]} {
		r := NewReader(bytes.NewReader(b), key, nonce)
		_, _ = io.Copy(io.Discard, r)
		if r.large != nil || r.quiet != nil {
			t.Error("a buffer is held after the end")
		}
	}
}

func TestIdleWriterHoldsLittleMemory(t *testing.T) {
	if n := unsafe.Sizeof(Writer{}); n > 256 {
		t.Errorf("a Writer has %d bytes", n)
	}
}

func TestIdleStreamsHoldLittleHeap(t *testing.T) {
	const streams, limit = 500, 1280 // a Reader and a Writer
	key, nonce := testKey()
	sealed := encrypt(t, key, nonce, pattern(300000))
	sealed = sealed[:len(sealed)-HeaderSize]
	src := bytes.NewReader(sealed)
	idle := make([]*Reader, 0, streams)
	writers := make([]*Writer, 0, streams)
	plain, p := pattern(70000), make([]byte, 100000)
	before := heap()
	for range streams {
		src.Reset(sealed)
		r, w := NewReader(src, key, nonce), NewWriter(io.Discard, key, nonce)
		for n := 0; n < 300000; {
			k, err := r.Read(p)
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
		if _, err := r.Read(p); err == nil { // the stream is cut here, so this ends it
			t.Fatal("read on")
		}
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		idle, writers = append(idle, r), append(writers, w)
	}
	if each := (heap() - before) / streams; each > limit {
		t.Errorf("an idle Reader and Writer hold %d bytes of heap, want at most %d", each, limit)
	}
	runtime.KeepAlive(idle)
	runtime.KeepAlive(writers)
}

// heap returns the bytes of live heap.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they have for one cycle
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
