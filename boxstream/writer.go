package boxstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/secretstack/secretstack/internal/secretbox"
)

// Writer encrypts what is written to it. Each Write goes out in boxes of its own,
// several boxes to one write of the underlying stream. A Writer is for one
// goroutine at a time.
type Writer struct {
	w      io.Writer
	key    secretbox.Key
	nonce  [NonceSize]byte // of the next header
	closed bool            // Close has written the goodbye, or tried to
	err    error           // the first failure, which ends the stream; once closed, what Close returned
}

// NewWriter returns a Writer that encrypts to w. The nonce counts upwards from
// the given one; both are copied.
func NewWriter(w io.Writer, key *[KeySize]byte, nonce *[NonceSize]byte) *Writer {
	bw := &Writer{w: w, nonce: *nonce}
	bw.key.Init(key)
	return bw
}

// Format implements [fmt.Formatter]; it prints no key.
func (w *Writer) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "boxstream.Writer") }

// Write encrypts p and writes it in batches of up to 68 KiB. An empty p writes
// nothing. After an error n is the number of bytes whose boxes were written
// whole, and the Writer stays failed: the other side could not follow it.
func (w *Writer) Write(p []byte) (n int, err error) {
	switch {
	case w.closed:
		return 0, ErrClosed
	case w.err != nil:
		return 0, w.err
	case len(p) == 0:
		return 0, nil
	case len(p) <= MaxBody:
		buf := smallPool.Get().(*[smallSize]byte)
		defer smallPool.Put(buf)
		return w.writeBatch(buf[:], p)
	}
	buf := largePool.Get().(*[largeSize]byte)
	defer largePool.Put(buf)
	for n < len(p) {
		batch := p[n:min(n+batchBoxes*MaxBody, len(p))]
		done, err := w.writeBatch(buf[:], batch)
		n += done
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// writeBatch seals p into buf, which has room for it, and writes it at once.
func (w *Writer) writeBatch(buf, p []byte) (n int, err error) {
	size := 0
	for rest := p; len(rest) > 0; {
		body := rest[:min(len(rest), MaxBody)]
		rest = rest[len(body):]
		w.seal(buf[size:], body)
		size += HeaderSize + len(body)
	}
	written, err := w.write(buf[:size])
	if err != nil {
		return wholeBoxes(written, len(p)), err
	}
	return len(p), nil
}

// seal puts a box into dst.
func (w *Writer) seal(dst, body []byte) {
	headerNonce := w.nonce
	increment(&w.nonce)
	tag := w.key.Seal(dst[HeaderSize:HeaderSize+len(body)], body, &w.nonce)
	increment(&w.nonce)
	w.sealHeader(dst, uint16(len(body)), &tag, &headerNonce)
}

// sealHeader puts a header into dst.
func (w *Writer) sealHeader(dst []byte, size uint16, tag *[secretbox.TagSize]byte, nonce *[NonceSize]byte) {
	header := dst[secretbox.TagSize:HeaderSize]
	binary.BigEndian.PutUint16(header, size)
	copy(header[2:], tag[:])
	headerTag := w.key.Seal(header, header, nonce)
	copy(dst, headerTag[:])
}

// write writes sealed bytes and remembers a failure.
func (w *Writer) write(sealed []byte) (n int, err error) {
	n, err = w.w.Write(sealed)
	if n < 0 || n > len(sealed) {
		n, err = 0, errors.New("boxstream: the underlying writer returned an invalid count")
	}
	if err == nil && n < len(sealed) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.fail(err)
	}
	return n, err
}

// fail ends the stream and forgets the key.
func (w *Writer) fail(err error) {
	w.err = err
	w.key.Clear()
}

// wholeBoxes says how many of size plaintext bytes are in boxes that lie wholly
// in the first n bytes of the batch.
func wholeBoxes(n, size int) int {
	const full = HeaderSize + MaxBody
	plain := n / full * MaxBody
	if last := size - plain; n%full >= HeaderSize+last {
		plain += last // the last box is a short one
	}
	return plain
}

// Close writes the goodbye, which tells the other side that nothing is missing.
// It does not close the underlying stream. Only the first call writes; the
// others return what the first returned. A Writer that failed writes no goodbye
// and Close returns the failure.
func (w *Writer) Close() error {
	if w.closed || w.err != nil {
		return w.err
	}
	var goodbye [HeaderSize]byte
	w.sealHeader(goodbye[:], 0, new([secretbox.TagSize]byte), &w.nonce)
	_, err := w.write(goodbye[:])
	w.fail(err)
	w.closed = true
	return err
}
