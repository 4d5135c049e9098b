package packetstream_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/secretstack/secretstack/packetstream"
)

func FuzzHeader(f *testing.F) {
	for _, b := range []string{"\x02\x00\x00\x00\x2a\x00\x00\x00\x01", "\x0e\x00\x00\x00\x04\xff\xff\xff\xff", "\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < packetstream.HeaderSize {
			return
		}
		head := [packetstream.HeaderSize]byte(b)
		h := packetstream.ParseHeader(head)
		again := packetstream.AppendHeader(nil, h)
		head[0] &^= 0x70 // bits without a meaning are not kept
		if !bytes.Equal(again, head[:]) {
			t.Errorf("%x became %x", head, again)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x00\x00\x011\x00\x00\x00\x00\x00\x00\x00\x00\x00"), uint32(10))
	f.Add([]byte("\x02\x00\x00\xff\x01\x00\x00\x00\x011"), uint32(1<<20))
	f.Fuzz(func(t *testing.T, stream []byte, limit uint32) {
		limit %= 1 << 20
		whole, wholeErr := readAll(packetstream.NewReader(bytes.NewReader(stream), limit))
		cut, cutErr := readAll(packetstream.NewReader(iotest.OneByteReader(bytes.NewReader(stream)), limit))
		if !bytes.Equal(whole, cut) || wholeErr.Error() != cutErr.Error() {
			t.Errorf("at once: %x, %v; byte by byte: %x, %v", whole, wholeErr, cut, cutErr)
		}
		if !errors.Is(wholeErr, io.EOF) && !errors.Is(wholeErr, io.ErrUnexpectedEOF) && !errors.Is(wholeErr, packetstream.ErrTooLarge) {
			t.Errorf("ended with %v", wholeErr)
		}
	})
}

// readAll reads packets until the end and writes them again.
func readAll(r *packetstream.Reader) ([]byte, error) {
	var out []byte
	for {
		h, body, err := r.Next()
		if err != nil {
			return out, err
		}
		out = packetstream.AppendPacket(out, h, body)
	}
}
