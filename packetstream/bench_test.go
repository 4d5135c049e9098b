package packetstream_test

import (
	"io"
	"testing"

	"github.com/secretstack/secretstack/packetstream"
)

func benchmarkRead(b *testing.B, size int) {
	stream := packetstream.AppendPacket(nil, packetstream.Header{ID: -1, Stream: true, Type: packetstream.JSON}, make([]byte, size))
	r := packetstream.NewReader(&repeating{data: stream}, 0)
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead100Bytes(b *testing.B) { benchmarkRead(b, 100) }
func BenchmarkRead64KiB(b *testing.B)    { benchmarkRead(b, 64<<10) }

func BenchmarkWrite100Bytes(b *testing.B) {
	w := packetstream.NewWriter(io.Discard)
	body := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.WritePacket(packetstream.Header{ID: 1, Type: packetstream.JSON}, body); err != nil {
			b.Fatal(err)
		}
	}
}
