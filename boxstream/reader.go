package boxstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/secretstack/secretstack/internal/secretbox"
)

const (
	// quietSize is the length of the buffer of a Reader whose stream is in use, in
	// bytes: enough for the packets of a quiet session.
	quietSize = 512

	// maxEmptyReads bounds how often in a row the underlying stream may return
	// neither bytes nor an error.
	maxEmptyReads = 100
)

// Reader decrypts a stream. A Reader is for one goroutine at a time.
type Reader struct {
	r     io.Reader
	key   secretbox.Key
	nonce [NonceSize]byte // of the next thing to open

	quiet  *[quietSize]byte // from the pool, or nil
	large  *[largeSize]byte // from the pool, or nil; there is one of the two at most
	lo, hi int              // buffer()[lo:hi] has arrived and is not opened
	plain  []byte           // opened and not yet handed out; lies in the buffer before lo
	filled bool             // the last read took all the room there was

	inBody bool   // the next thing to open is a body
	size   uint16 // of that body
	tag    [secretbox.TagSize]byte

	readErr error // from r; reported when buf[lo:hi] is used up
	err     error // the end of the stream

	idle [HeaderSize]byte // what waits for the first byte
}

// NewReader returns a Reader that decrypts from r. The nonce counts upwards from
// the given one; both are copied.
func NewReader(r io.Reader, key *[KeySize]byte, nonce *[NonceSize]byte) *Reader {
	br := &Reader{r: r, nonce: *nonce}
	br.key.Init(key)
	return br
}

// Format implements [fmt.Formatter]; it prints no key.
func (r *Reader) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "boxstream.Reader") }

// Read fills p with decrypted and authenticated bytes. It waits for at least one
// byte and then returns what it can without waiting.
//
// The error is [io.EOF] after the goodbye and only then. A stream that was cut
// is a [*TruncatedError], which is [io.ErrUnexpectedEOF]; one that was tampered
// with is [ErrInvalidHeader] or [ErrInvalidPacket]. Bytes that came before in
// good order are returned first. Other errors of the underlying stream, such as
// a deadline, are passed on, and reading may go on after them. A Reader that ran
// into a deadline between two boxes holds the least memory until more arrives.
func (r *Reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	for n < len(p) && r.err == nil {
		switch {
		case len(r.plain) > 0:
			n += r.takePlain(p[n:])
		case r.hi-r.lo >= r.wanted():
			n += r.open(p[n:])
		case n > 0:
			return n, nil
		default:
			if err := r.fill(); err != nil {
				return 0, err
			}
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

// takePlain hands out what an earlier Read had no room for.
func (r *Reader) takePlain(p []byte) int {
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n
}

// wanted says how many bytes the next thing to open has.
func (r *Reader) wanted() int {
	if r.inBody {
		return int(r.size)
	}
	return HeaderSize
}

// open opens the next header or body, which has arrived whole, and says how many
// bytes it put into p.
func (r *Reader) open(p []byte) int {
	box := r.buffer()[r.lo : r.lo+r.wanted()]
	if !r.inBody {
		r.openHeader(box)
		return 0
	}
	dst := box
	if len(box) <= len(p) {
		dst = p[:len(box)]
	}
	if !r.key.Open(dst, box, &r.tag, &r.nonce) {
		r.fail(ErrInvalidPacket)
		return 0
	}
	increment(&r.nonce)
	r.lo += len(box)
	r.inBody = false
	if len(box) > len(p) {
		r.plain = box
		return 0
	}
	return len(box)
}

// openHeader opens a header or the goodbye.
func (r *Reader) openHeader(box []byte) {
	var header [plainHeaderSize]byte
	tag := [secretbox.TagSize]byte(box)
	switch {
	case !r.key.Open(header[:], box[secretbox.TagSize:], &tag, &r.nonce):
		r.fail(ErrInvalidHeader)
		return
	case header == [plainHeaderSize]byte{}:
		r.fail(io.EOF)
		return
	}
	increment(&r.nonce)
	r.lo += HeaderSize
	r.inBody = true
	r.size = binary.BigEndian.Uint16(header[:])
	copy(r.tag[:], header[2:])
}

// fill reads once from the underlying stream. Nothing is left to hand out then.
func (r *Reader) fill() error {
	if err := r.readErr; err != nil {
		r.readErr = nil
		return r.readFailed(err)
	}
	r.makeRoom()
	for range maxEmptyReads {
		room := r.buffer()[r.hi:]
		n, err := r.r.Read(room)
		if n < 0 || n > len(room) {
			r.fail(errors.New("boxstream: the underlying reader returned an invalid count"))
			return r.err
		}
		r.hi += n
		r.filled = n == len(room)
		if n > 0 {
			r.readErr = err
			return nil
		}
		if err != nil {
			return r.readFailed(err)
		}
	}
	return io.ErrNoProgress
}

// readFailed makes of an end without goodbye an error that is not io.EOF.
func (r *Reader) readFailed(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		err = &TruncatedError{Got: r.hi - r.lo, Want: r.wanted()}
		r.fail(err)
	case errors.Is(err, os.ErrDeadlineExceeded) && r.lo == r.hi && !r.inBody:
		r.useIdle()
	}
	return err
}

// makeRoom moves what has arrived to the front of a buffer that is large enough
// for what is wanted. A header that breaks a long silence is read alone; the
// large buffer is kept only while reads fill it.
func (r *Reader) makeRoom() {
	left := r.buffer()[r.lo:r.hi]
	idle := r.large == nil && r.quiet == nil
	switch {
	case r.large == nil && (r.filled && !idle || r.wanted() > quietSize):
		r.useLarge(left)
	case idle && (len(left) > 0 || r.inBody):
		r.useQuiet(left)
	case r.large != nil && len(left) == 0 && !r.filled && r.wanted() <= quietSize:
		r.useQuiet(nil)
	case r.lo > 0:
		copy(r.buffer(), left)
	}
	r.lo, r.hi = 0, len(left)
}

// buffer returns the buffer in use.
func (r *Reader) buffer() []byte {
	switch {
	case r.large != nil:
		return r.large[:]
	case r.quiet != nil:
		return r.quiet[:]
	}
	return r.idle[:]
}

// useLarge moves what is left to the large buffer.
func (r *Reader) useLarge(left []byte) {
	large := largePool.Get().(*[largeSize]byte)
	copy(large[:], left)
	r.useIdle()
	r.large = large
}

// useQuiet moves what is left, which fits, to the buffer of a quiet stream.
func (r *Reader) useQuiet(left []byte) {
	quiet := quietPool.Get().(*[quietSize]byte)
	copy(quiet[:], left)
	r.useIdle()
	r.quiet = quiet
}

// useIdle gives the buffers back that are borrowed.
func (r *Reader) useIdle() {
	if r.large != nil {
		largePool.Put(r.large)
	}
	if r.quiet != nil {
		quietPool.Put(r.quiet)
	}
	r.large, r.quiet, r.plain = nil, nil, nil // plain may point to the end of a buffer
	r.lo, r.hi = 0, 0
}

// fail ends the stream, forgets the key and drops what no later Read can use.
func (r *Reader) fail(err error) {
	r.err = err
	r.key.Clear()
	r.useIdle()
}
