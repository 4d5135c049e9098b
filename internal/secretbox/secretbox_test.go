package secretbox

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"
)

// material returns a key, a nonce and a message that are the same each time.
func material(n int) (key [KeySize]byte, nonce [NonceSize]byte, msg []byte) {
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	msg = make([]byte, n)
	_, _ = r.Read(key[:])
	_, _ = r.Read(nonce[:])
	_, _ = r.Read(msg)
	return key, nonce, msg
}

// checkAgainstNaCl seals and opens msg, in place and into another buffer, and
// compares with golang.org/x/crypto/nacl/secretbox.
func checkAgainstNaCl(t *testing.T, k *Key, key *[KeySize]byte, nonce *[NonceSize]byte, msg []byte) {
	t.Helper()
	want := secretbox.Seal(nil, msg, nonce, key)
	apart, same := make([]byte, len(msg)), bytes.Clone(msg)
	tag, tagSame := k.Seal(apart, msg, nonce), k.Seal(same, same, nonce)
	if tag != [TagSize]byte(want) || tagSame != tag {
		t.Errorf("tag of a box of %d bytes differs from NaCl's", len(msg))
	}
	if !bytes.Equal(apart, want[TagSize:]) || !bytes.Equal(same, want[TagSize:]) {
		t.Errorf("ciphertext of %d bytes differs from NaCl's", len(msg))
	}
	opened := make([]byte, len(msg))
	if !k.Open(opened, apart, &tag, nonce) || !k.Open(same, same, &tag, nonce) {
		t.Fatalf("box of %d bytes does not open", len(msg))
	}
	if !bytes.Equal(opened, msg) || !bytes.Equal(same, msg) {
		t.Errorf("box of %d bytes opens to something else", len(msg))
	}
}

func TestSealAgreesWithNaClAtEveryLength(t *testing.T) {
	for n := range 1200 {
		key, nonce, msg := material(n)
		var k Key
		k.Init(&key)
		checkAgainstNaCl(t, &k, &key, &nonce, msg)
	}
	for _, n := range []int{4095, 4096, 4097, 65535} {
		key, nonce, msg := material(n)
		var k Key
		k.Init(&key)
		checkAgainstNaCl(t, &k, &key, &nonce, msg)
	}
}

func TestSubkeyFollowsTheNonce(t *testing.T) {
	key, nonce, msg := material(100)
	var k Key
	k.Init(&key)
	for i := range NonceSize {
		nonce[i]++
		checkAgainstNaCl(t, &k, &key, &nonce, msg)
	}
}

func TestOpenRefusesAnyFlippedBit(t *testing.T) {
	key, nonce, msg := material(50)
	var k Key
	k.Init(&key)
	box := make([]byte, len(msg))
	tag := k.Seal(box, msg, &nonce)
	for i := range 8 * (len(box) + TagSize) {
		bad, badTag := bytes.Clone(box), tag
		if i < 8*len(box) {
			bad[i/8] ^= 1 << (i % 8)
		} else {
			badTag[i/8-len(box)] ^= 1 << (i % 8)
		}
		before := bytes.Clone(bad)
		if k.Open(bad, bad, &badTag, &nonce) {
			t.Fatalf("bit %d flipped and the box opened", i)
		}
		if !bytes.Equal(bad, before) {
			t.Fatalf("bit %d flipped and unauthenticated bytes were decrypted", i)
		}
	}
}

func TestSealAndOpenDoNotAllocate(t *testing.T) {
	for _, n := range []int{18, 4096} {
		key, nonce, msg := material(n)
		var k Key
		k.Init(&key)
		if got := testing.AllocsPerRun(100, func() {
			tag := k.Seal(msg, msg, &nonce)
			if !k.Open(msg, msg, &tag, &nonce) {
				t.Fatal("the box does not open")
			}
		}); got != 0 {
			t.Errorf("sealing and opening %d bytes allocates %v times", n, got)
		}
	}
}

func FuzzAgainstNaCl(f *testing.F) {
	f.Add([]byte("key"), []byte("nonce"), []byte("message"))
	f.Add([]byte{}, []byte{}, make([]byte, 300))
	f.Fuzz(func(t *testing.T, keyBytes, nonceBytes, msg []byte) {
		var key [KeySize]byte
		var nonce [NonceSize]byte
		copy(key[:], keyBytes)
		copy(nonce[:], nonceBytes)
		var k Key
		k.Init(&key)
		checkAgainstNaCl(t, &k, &key, &nonce, msg)
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, n := range []int{18, 100, 200, 1024, 4096} {
		key, nonce, msg := material(n)
		out := make([]byte, 0, n+TagSize)
		b.Run(fmt.Sprintf("bytes=%d/ours", n), func(b *testing.B) {
			var k Key
			k.Init(&key)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				k.Seal(out[:n], msg, &nonce)
			}
		})
		b.Run(fmt.Sprintf("bytes=%d/nacl", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				secretbox.Seal(out, msg, &nonce, &key)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{18, 100, 200, 1024, 4096} {
		key, nonce, msg := material(n)
		out := make([]byte, 0, n)
		b.Run(fmt.Sprintf("bytes=%d/ours", n), func(b *testing.B) {
			var k Key
			k.Init(&key)
			box := make([]byte, n)
			tag := k.Seal(box, msg, &nonce)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if !k.Open(out[:n], box, &tag, &nonce) {
					b.Fatal("the box does not open")
				}
			}
		})
		b.Run(fmt.Sprintf("bytes=%d/nacl", n), func(b *testing.B) {
			box := secretbox.Seal(nil, msg, &nonce, &key)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := secretbox.Open(out, box, &nonce, &key); !ok {
					b.Fatal("the box does not open")
				}
			}
		})
	}
}
