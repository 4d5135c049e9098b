package packetstream

import (
	"errors"
	"io"
	"math"
)

// errClosed is returned by a Writer that has said goodbye.
var errClosed = errors.New("packetstream: writer is closed")

// Writer writes packets to a byte stream, one Write a packet. A Writer whose sink failed stays failed. It is not safe
// for concurrent use.
type Writer struct {
	dst io.Writer
	buf []byte
	err error
}

// NewWriter returns a Writer that writes packets to dst.
func NewWriter(dst io.Writer) *Writer { return &Writer{dst: dst} }

// WritePacket writes one packet; h.Length is ignored. An empty body is refused with ErrEmptyBody.
func (w *Writer) WritePacket(h Header, body []byte) error {
	switch {
	case w.err != nil:
		return w.err
	case len(body) == 0:
		return ErrEmptyBody
	case uint64(len(body)) > math.MaxUint32:
		return ErrTooLarge
	}
	w.buf = AppendPacket(w.buf[:0], h, body)
	return w.write()
}

// Close writes the goodbye. It does not close the sink. Closing twice is harmless.
func (w *Writer) Close() error {
	if w.err == errClosed {
		return nil
	}
	if w.err != nil {
		return w.err
	}
	w.buf = AppendGoodbye(w.buf[:0])
	if err := w.write(); err != nil {
		return err
	}
	w.err = errClosed
	return nil
}

func (w *Writer) write() error {
	n, err := w.dst.Write(w.buf)
	if err == nil && n < len(w.buf) {
		err = io.ErrShortWrite
	}
	w.err = err
	return err
}
