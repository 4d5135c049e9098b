package boxstream

import (
	"fmt"
	"io"
	"testing"

	nacl "golang.org/x/crypto/nacl/secretbox"

	"github.com/secretstack/secretstack/internal/secretbox"
)

// BenchmarkSecretbox is the yardstick for the benchmarks below: one box of
// MaxBody bytes, by x/crypto and by internal/secretbox.
func BenchmarkSecretbox(b *testing.B) {
	key, nonce := testKey()
	msg, out := pattern(MaxBody), make([]byte, MaxBody+nacl.Overhead)
	b.Run("seal/x-crypto", func(b *testing.B) {
		b.SetBytes(MaxBody)
		for b.Loop() {
			nacl.Seal(out[:0], msg, nonce, key)
		}
	})
	b.Run("seal/internal", func(b *testing.B) {
		var k secretbox.Key
		k.Init(key)
		b.SetBytes(MaxBody)
		for b.Loop() {
			k.Seal(out[:MaxBody], msg, nonce)
		}
	})
	box := nacl.Seal(nil, msg, nonce, key)
	b.Run("open/x-crypto", func(b *testing.B) {
		b.SetBytes(MaxBody)
		for b.Loop() {
			if _, ok := nacl.Open(out[:0], box, nonce, key); !ok {
				b.Fatal("the box does not open")
			}
		}
	})
	b.Run("open/internal", func(b *testing.B) {
		var k secretbox.Key
		k.Init(key)
		tag := [secretbox.TagSize]byte(box)
		b.SetBytes(MaxBody)
		for b.Loop() {
			if !k.Open(out[:MaxBody], box[secretbox.TagSize:], &tag, nonce) {
				b.Fatal("the box does not open")
			}
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	key, nonce := testKey()
	for _, size := range []int{100, MaxBody, 64 << 10} {
		b.Run(fmt.Sprint("bytes=", size), func(b *testing.B) {
			plain := pattern(size)
			w := NewWriter(io.Discard, key, nonce)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Write(plain); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	key, nonce := testKey()
	for _, size := range []int{100, MaxBody, 64 << 10} {
		b.Run(fmt.Sprint("bytes=", size), func(b *testing.B) {
			pieces := make([][]byte, (8<<20)/size)
			for i := range pieces {
				pieces[i] = pattern(size)
			}
			src := &stream{sealed: encrypt(b, key, nonce, pieces...)}
			src.sealed = src.sealed[:len(src.sealed)-HeaderSize]
			r := NewReader(src, key, nonce)
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if src.off == len(src.sealed) && r.lo == r.hi && len(r.plain) == 0 {
					src.off, r.nonce = 0, *nonce // once more from the start
				}
				if _, err := io.ReadFull(r, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
