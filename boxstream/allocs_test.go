//go:build !race

// The race detector makes sync.Pool forget buffers, so that these counts mean
// nothing with it.

package boxstream

import (
	"io"
	"testing"
)

// Defect A7: three allocations a box.
func TestDefectA7BoxesDoNotAllocate(t *testing.T) {
	key, nonce := testKey()
	for _, size := range []int{9, 100, MaxBody, 64 << 10} {
		plain := pattern(size)
		w := NewWriter(io.Discard, key, nonce)
		if n := testing.AllocsPerRun(200, func() {
			if _, err := w.Write(plain); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("a write of %d bytes allocates %v times", size, n)
		}

		pieces := make([][]byte, 202)
		for i := range pieces {
			pieces[i] = plain
		}
		r := NewReader(&stream{sealed: encrypt(t, key, nonce, pieces...)}, key, nonce)
		p := make([]byte, size)
		if n := testing.AllocsPerRun(200, func() {
			if _, err := io.ReadFull(r, p); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("a read of %d bytes allocates %v times", size, n)
		}
	}
}
