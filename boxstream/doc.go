// Package boxstream encrypts and decrypts one direction of a byte stream in
// authenticated boxes, ended by an authenticated goodbye. See docs/PROTOCOL.md §2.
//
// [Writer] and [Reader] add framing to any io.Writer and io.Reader. They hold no
// large buffer while idle: what they need for a burst comes from a pool and goes
// back when the burst is over.
package boxstream

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/secretstack/secretstack/internal/secretbox"
)

const (
	// MaxBody is the largest number of bytes that a [Writer] puts into a box. A
	// [Reader] takes boxes of up to 65535 bytes, as other implementations do.
	MaxBody = 4096
	// HeaderSize is what a box adds to its body, in bytes, and the size of the
	// goodbye.
	HeaderSize = secretbox.TagSize + plainHeaderSize
	// KeySize is the length of a key in bytes.
	KeySize = secretbox.KeySize
	// NonceSize is the length of a nonce in bytes.
	NonceSize = secretbox.NonceSize

	// plainHeaderSize is a two-byte length and the body's tag.
	plainHeaderSize = 2 + secretbox.TagSize

	batchBoxes = 17 // how many full boxes go into one write: 64 KiB and the header of a packet around them
	smallSize  = HeaderSize + MaxBody
	// largeSize holds a batch, and also the body of the largest box there is.
	largeSize = batchBoxes * smallSize
)

var (
	// ErrInvalidHeader is the end of a stream in which a header, or the order of
	// the boxes, was changed on the way, or that was made with another key.
	ErrInvalidHeader = errors.New("boxstream: invalid header")

	// ErrInvalidPacket is the end of a stream in which a body was changed on the
	// way.
	ErrInvalidPacket = errors.New("boxstream: invalid packet")

	// ErrClosed is returned by writes after [Writer.Close].
	ErrClosed = errors.New("boxstream: write after close")
)

// TruncatedError says that a stream ended without the goodbye: somebody cut it.
// It is an [io.ErrUnexpectedEOF].
type TruncatedError struct {
	Got  int // bytes that arrived of what was being read
	Want int // bytes that it has
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("boxstream: stream ended with:%d but wanted:%d", e.Got, e.Want)
}

// Unwrap returns [io.ErrUnexpectedEOF].
func (e *TruncatedError) Unwrap() error { return io.ErrUnexpectedEOF }

// The pools are shared by all streams, because lending buffers between streams
// is what they are for. They hold no state that anybody can observe.
var (
	quietPool = sync.Pool{New: func() any { return new([quietSize]byte) }}
	smallPool = sync.Pool{New: func() any { return new([smallSize]byte) }}
	largePool = sync.Pool{New: func() any { return new([largeSize]byte) }}
)

// increment adds one to a nonce, a big-endian number of 24 bytes that wraps.
func increment(n *[NonceSize]byte) {
	for i := len(n) - 1; i >= 0; i-- {
		n[i]++
		if n[i] != 0 {
			return
		}
	}
}
