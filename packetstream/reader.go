package packetstream

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
)

const (
	// DefaultMaxBody is the limit of a Reader made with a limit of zero: 4 MiB.
	DefaultMaxBody = 4 << 20

	smallBuffer  = 48       // what an idle Reader holds: a header and a short body
	largeBuffer  = 32 << 10 // what it borrows for more
	busyRead     = 4 << 10  // a read of this size is a sign that more follow
	directBody   = 4 << 10  // a body over this that has not arrived yet is read into memory of its own
	firstBody    = 64 << 10 // most that is allocated for a body before any of it has arrived
	maxEmptyRead = 100      // reads without a byte or an error before io.ErrNoProgress
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// bodies holds memory for bodies that Recycle was given.
var bodies sync.Pool

// newBody returns memory for a body of n bytes, at most firstBody.
func newBody(n int) []byte {
	if n > firstBody/2 { // no more than half of it is left over
		if b, ok := bodies.Get().(*[firstBody]byte); ok {
			return b[:n]
		}
	}
	return make([]byte, n)
}

// Recycle takes back the memory of a body that Detach returned, for another body of any Reader. Nobody may use it, or
// what shares memory with it, after that. It spares those who read in bulk most of the garbage collector's work; nobody
// has to call it, and what it has no use for is left to the collector.
func Recycle(body []byte) {
	if cap(body) == firstBody {
		bodies.Put((*[firstBody]byte)(body[:firstBody]))
	}
}

// Reader reads packets from a byte stream. An idle Reader holds a quarter of a KiB; a busy one borrows 32 KiB. It is not
// safe for concurrent use.
type Reader struct {
	src io.Reader
	err error // sticky

	small    [smallBuffer]byte
	large    *[largeBuffer]byte // borrowed; nil while small is in use
	pos, end int                // the unread bytes are buffer()[pos:end]
	body     []byte             // what the latest Next returned

	max   uint32
	last  int32 // bytes the latest read of the buffer returned; decides between small and large
	owned bool  // body has memory of its own, it is no part of the buffer
}

// bodyGrower is what NewReader says of a source.
type bodyGrower interface{ GrowBody(n int) error }

// NewReader returns a Reader that reads packets from src and refuses bodies over max bytes. A max of zero means
// DefaultMaxBody. If src has a method GrowBody(n int) error, it is called before the memory for a body of which a part has
// arrived becomes larger than 64 KiB, with the new size. It may wait, and an error of it ends the Reader.
func NewReader(src io.Reader, max uint32) *Reader {
	if max == 0 {
		max = DefaultMaxBody
	}
	return &Reader{src: src, max: uint32(min(uint64(max), math.MaxInt))} // a body has the length of an int
}

// Next returns the next packet. The body is valid until the following call; Detach keeps it longer.
//
// The error is io.EOF only after the peer's goodbye. A stream that stops without one gives an error that wraps
// io.ErrUnexpectedEOF, and a body over the limit one that wraps ErrTooLarge. Errors are final. The memory used for a
// body grows with the bytes that arrive, whatever length its header claims.
func (r *Reader) Next() (Header, []byte, error) {
	if r.err != nil {
		return Header{}, nil, r.err
	}
	h, err := r.next()
	if err != nil {
		r.fail(err)
		return h, nil, r.err
	}
	return h, r.body, nil
}

// Wait waits until something of the next packet has arrived, unless it has already. It returns an error only when the
// source has run into a deadline ([os.ErrDeadlineExceeded]): nothing is lost then, nothing is borrowed any more, and Wait
// may be called again. Everything else that can go wrong is for Next to say.
func (r *Reader) Wait() error {
	if r.err != nil {
		return nil
	}
	r.body, r.owned = nil, false
	err := r.need(1)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		r.release()
		return err
	}
	r.fail(err)
	return nil
}

// Detach returns the body of the latest packet as memory that belongs to the caller. It copies only what shares memory
// with the Reader's buffer, which large bodies do not.
func (r *Reader) Detach() []byte {
	if !r.owned {
		r.body = append(make([]byte, 0, len(r.body)), r.body...)
		r.owned = true
	}
	return r.body
}

// Buffered returns how many bytes have been read from the source and not yet been returned.
func (r *Reader) Buffered() int { return r.end - r.pos }

func (r *Reader) next() (Header, error) {
	r.body, r.owned = nil, false
	if err := r.need(HeaderSize); err != nil {
		return Header{}, err
	}
	h := ParseHeader([HeaderSize]byte(r.buffer()[r.pos:]))
	r.pos += HeaderSize
	if h.Goodbye() {
		return h, io.EOF
	}
	if h.Length > r.max {
		return h, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, h.Length, r.max)
	}
	return h, r.readBody(int(h.Length))
}

// readBody sets r.body to the next n bytes.
func (r *Reader) readBody(n int) error {
	if n > r.Buffered() && n > directBody {
		return r.readDirect(n)
	}
	if err := r.need(n); err != nil {
		return err
	}
	r.body = r.buffer()[r.pos : r.pos+n : r.pos+n]
	r.pos += n
	return nil
}

// readDirect reads a large body into memory of its own, which doubles as the bytes arrive.
func (r *Reader) readDirect(n int) error {
	body := newBody(min(n, firstBody))
	have := copy(body, r.buffer()[r.pos:r.end])
	r.pos += have
	r.last = 0 // large bodies do not need the large buffer
	for {
		m, err := io.ReadFull(r.src, body[have:])
		have += m
		if err != nil {
			return unexpected(err)
		}
		if have == n {
			r.body, r.owned = body, true
			return nil
		}
		size := min(n, 2*have)
		if g, ok := r.src.(bodyGrower); ok {
			if err := g.GrowBody(size); err != nil {
				return err
			}
		}
		grown := make([]byte, size)
		copy(grown, body)
		Recycle(body)
		body = grown
	}
}

// need reads until n bytes are buffered; n is at most directBody.
func (r *Reader) need(n int) error {
	for empty := 0; r.Buffered() < n; {
		r.prepare()
		m, err := r.src.Read(r.buffer()[r.end:])
		r.end += m
		r.last = int32(m)
		if m == 0 {
			empty++
		}
		switch {
		case r.Buffered() >= n:
			return nil // an error, if there was one, comes back with the next read
		case err != nil:
			return unexpected(err)
		case empty == maxEmptyRead:
			return io.ErrNoProgress
		}
	}
	return nil
}

// prepare makes room at the end of the buffer and picks the buffer for the next read: the large one after a read that
// filled the small one, the small one when nothing is left over and the latest read was not that of a busy connection. So
// one that falls silent holds the small one.
func (r *Reader) prepare() {
	rest := r.buffer()[r.pos:r.end]
	switch {
	case r.large == nil && r.end == len(r.small):
		large := largeBuffers.Get().(*[largeBuffer]byte)
		r.pos, r.end = 0, copy(large[:], rest)
		r.large = large
	case r.large != nil && len(rest) == 0 && r.last < busyRead:
		r.release()
	case len(rest) == 0:
		r.pos, r.end = 0, 0
	case r.pos > 0:
		r.pos, r.end = 0, copy(r.buffer(), rest)
	}
}

func (r *Reader) buffer() []byte {
	if r.large != nil {
		return r.large[:]
	}
	return r.small[:]
}

// release gives the large buffer back; whatever it held is gone.
func (r *Reader) release() {
	if r.large != nil {
		largeBuffers.Put(r.large)
		r.large = nil
	}
	r.pos, r.end = 0, 0
}

// fail makes err final and drops the buffers.
func (r *Reader) fail(err error) {
	if !errors.Is(err, io.EOF) && !errors.Is(err, ErrTooLarge) {
		err = fmt.Errorf("packetstream: %w", err)
	}
	r.err = err
	r.body, r.owned = nil, false
	r.release()
}

// errCut says that the stream stopped before its goodbye.
var errCut = fmt.Errorf("stream ended without a goodbye: %w", io.ErrUnexpectedEOF)

// unexpected returns the error for a read that failed. No end of the source is an io.EOF of ours, and an error that
// knows more than io.ErrUnexpectedEOF itself is kept.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) || err == io.ErrUnexpectedEOF { //nolint:errorlint // see above
		return errCut
	}
	return err
}
