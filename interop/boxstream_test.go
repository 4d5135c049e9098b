package interop

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/secretstack/secretstack/boxstream"
)

// sealed is what js/boxstream.js gives back.
type sealed struct {
	Chunks []string `json:"chunks"`
	End    ending   `json:"end"`
}

func (s sealed) bytes(t testing.TB) []byte {
	t.Helper()
	var all []byte
	for _, c := range s.Chunks {
		all = append(all, decode64(t, c)...)
	}
	return all
}

// boxKeys are a key and a nonce; wrap makes the nonce overflow after two boxes.
func boxKeys(wrap bool) (key [32]byte, nonce [24]byte) {
	key = sha256.Sum256([]byte("boxstream key"))
	full := sha256.Sum256([]byte("boxstream nonce"))
	copy(nonce[:], full[:])
	if wrap {
		copy(nonce[:], bytes.Repeat([]byte{0xff}, 24))
		nonce[23] = 0xfd
	}
	return key, nonce
}

// boxArgs splits data in chunks, encoded for the script.
func boxArgs(key [32]byte, nonce [24]byte, chunks ...[]byte) map[string]any {
	encoded := []string{}
	for _, c := range chunks {
		encoded = append(encoded, encode64(c))
	}
	return map[string]any{"key": encode64(key[:]), "nonce": encode64(nonce[:]), "chunks": encoded}
}

// pattern is bytes 0,1,2…250,0,1…, as js/lib/plugin.js makes them.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func boxSizes() [][]byte {
	var chunks [][]byte
	for _, n := range []int{1, 17, 4095, 4096, 4097, 8192, 10000, 65536} {
		chunks = append(chunks, pattern(n))
	}
	return chunks
}

func sealInGo(t *testing.T, key [32]byte, nonce [24]byte, chunks [][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := boxstream.NewWriter(&out, &key, &nonce)
	for _, c := range chunks {
		if _, err := w.Write(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBoxesAreTheSameBytesInBothDirections(t *testing.T) {
	n := startNode(t, "boxstream.js")
	for _, tt := range []struct {
		name   string
		wrap   bool
		chunks [][]byte
	}{
		{name: "empty session"},
		{name: "all sizes", chunks: boxSizes()},
		{name: "nonce that overflows", wrap: true, chunks: boxSizes()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key, nonce := boxKeys(tt.wrap)
			plain := slices.Concat(tt.chunks...)

			var js sealed
			n.do(t, "seal", boxArgs(key, nonce, tt.chunks...), &js)
			got, err := io.ReadAll(boxstream.NewReader(bytes.NewReader(js.bytes(t)), &key, &nonce))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("Go opens %d bytes of %d, %v", len(got), len(plain), err)
			}

			own := sealInGo(t, key, nonce, tt.chunks)
			var opened sealed
			n.do(t, "open", boxArgs(key, nonce, own), &opened)
			if opened.End.String() != "well" || !bytes.Equal(opened.bytes(t), plain) {
				t.Errorf("JavaScript opens %d bytes of %d, ends %v", len(opened.bytes(t)), len(plain), opened.End)
			}
			if !bytes.Equal(own, js.bytes(t)) {
				t.Errorf("sealed bytes differ: Go %d, JavaScript %d", len(own), len(js.bytes(t)))
			}
		})
	}
}

func TestACutBoxStreamIsNoEndOnEitherSide(t *testing.T) {
	n := startNode(t, "boxstream.js")
	key, nonce := boxKeys(false)
	var js sealed
	n.do(t, "seal", boxArgs(key, nonce, []byte("hello")), &js)
	whole := js.bytes(t)
	for _, cut := range []int{1, 33, 34, 36, 39, len(whole) - 1} {
		_, err := io.ReadAll(boxstream.NewReader(bytes.NewReader(whole[:cut]), &key, &nonce))
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d of what JavaScript sealed: %v", cut, err)
		}
		var opened sealed
		n.do(t, "open", boxArgs(key, nonce, sealInGo(t, key, nonce, [][]byte{[]byte("hello")})[:cut]), &opened)
		// Between a header and its body pull-box-stream takes a cut for an end.
		if opened.End.Err == nil && cut != 34 {
			t.Errorf("cut at %d of what Go sealed: JavaScript ends %v", cut, opened.End)
		}
	}
}

func TestAFlippedBitIsRefusedOnEitherSide(t *testing.T) {
	n := startNode(t, "boxstream.js")
	key, nonce := boxKeys(false)
	own := sealInGo(t, key, nonce, [][]byte{[]byte("hello")})
	for i := range own {
		bad := bytes.Clone(own)
		bad[i] ^= 0x10
		_, err := io.ReadAll(boxstream.NewReader(bytes.NewReader(bad), &key, &nonce))
		if err == nil {
			t.Errorf("Go accepts a flipped bit at %d", i)
		}
		var opened sealed
		n.do(t, "open", boxArgs(key, nonce, bad), &opened)
		if opened.End.Err == nil {
			t.Errorf("JavaScript accepts a flipped bit at %d", i)
		}
	}
}
