package boxstream

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzReader changes a good stream and cuts the reads in any way. Whatever is
// done, a prefix of the plaintext comes out, and io.EOF only if nothing before
// the end of the goodbye was touched.
func FuzzReader(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint16(0xffff), byte(64))
	f.Add([]byte{1}, uint16(40), uint16(0xffff), byte(1))
	f.Add([]byte{0, 0, 7}, uint16(3), uint16(77), byte(255))
	f.Fuzz(func(t *testing.T, change []byte, at, cut uint16, chunk byte) {
		key, nonce := testKey()
		plain := pattern(9000)
		good := encrypt(t, key, nonce, plain[:10], plain[10:5000], plain[5000:])
		bad := bytes.Clone(good)
		for i, x := range change {
			if j := int(at) + i; j < len(bad) {
				bad[j] ^= x
			}
		}
		bad = bad[:min(int(cut), len(bad))]
		r := NewReader(&chunked{bytes.NewReader(bad), int(chunk) + 1}, key, nonce)
		var got []byte
		p := make([]byte, int(chunk)*20+1)
		var err error
		for err == nil {
			var n int
			n, err = r.Read(p)
			got = append(got, p[:n]...)
		}
		if !bytes.HasPrefix(plain, got) {
			t.Fatal("bytes came out that were not put in")
		}
		switch untouched := bytes.Equal(bad, good); {
		case untouched != (err == io.EOF):
			t.Errorf("untouched %v and error %v", untouched, err)
		case untouched && len(got) != len(plain):
			t.Errorf("%d bytes came out of %d", len(got), len(plain))
		case !untouched && !errors.Is(err, ErrInvalidHeader) && !errors.Is(err, ErrInvalidPacket) && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Errorf("error %v", err)
		}
	})
}

// chunked reads at most n bytes at once.
type chunked struct {
	r io.Reader
	n int
}

func (c *chunked) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.n)]) }

// FuzzReaderRaw reads bytes that nobody sealed.
func FuzzReaderRaw(f *testing.F) {
	key, nonce := testKey()
	f.Add(encrypt(f, key, nonce))
	f.Add(encrypt(f, key, nonce, []byte("hello")))
	f.Add(make([]byte, 200))
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := readAll(NewReader(bytes.NewReader(b), key, nonce))
		if len(data) > len(b) || err == nil {
			t.Errorf("%d bytes and %v from %d bytes", len(data), err, len(b))
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{0, 1, 0x10, 0, 0x10, 1, 0xff, 0xff}, uint16(9))
	f.Fuzz(func(t *testing.T, sizes []byte, readSize uint16) {
		key, nonce := testKey()
		roundTrip(t, key, nonce, sizes[:min(len(sizes), 64)], int(readSize)+1)
	})
}
