package packetstream_test

import (
	"testing"

	"github.com/secretstack/secretstack/packetstream"
)

func benchmarkRead(b *testing.B, size int, recycle bool) {
	stream := packetstream.AppendPacket(nil, packetstream.Header{ID: -1, Stream: true, Type: packetstream.JSON}, make([]byte, size))
	r := packetstream.NewReader(&repeating{data: stream}, 0)
	b.SetBytes(int64(len(stream)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
		if recycle {
			packetstream.Recycle(r.Detach())
		}
	}
}

func BenchmarkRead100Bytes(b *testing.B)   { benchmarkRead(b, 100, false) }
func BenchmarkRead64KiB(b *testing.B)      { benchmarkRead(b, 64<<10, false) }
func BenchmarkRead64KiBAgain(b *testing.B) { benchmarkRead(b, 64<<10, true) }

func BenchmarkAppend100Bytes(b *testing.B) {
	body := make([]byte, 100)
	var packet []byte
	b.ReportAllocs()
	for b.Loop() {
		packet = packetstream.AppendPacket(packet[:0], packetstream.Header{ID: 1, Type: packetstream.JSON}, body)
	}
}
