package main

import (
	"bytes"
	"fmt"
	"io"
)

// chunkSize is what is written at once in the rows about bulk.
const chunkSize = 64 << 10

const megabyte = 1e6

// newChunk is a chunk that is not all zeros.
func newChunk() []byte { return chunkOf(chunkSize) }

// chunkOf is one of another size, which 4 must divide.
func chunkOf(size int) []byte { return bytes.Repeat([]byte{0x5a, 1, 2, 0xa5}, size/4) }

// writeChunks writes so much at once until it fails.
func writeChunks(w io.Writer, size int) error {
	for chunk := chunkOf(size); ; {
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
}

// readAll reads up to so much at once until it fails, tells count how much came, and looks at the first and last byte of
// each reading.
func readAll(r io.Reader, size int, count func(int)) error {
	expect := chunkOf(4)
	at := 0
	for buf := make([]byte, size); ; {
		n, err := r.Read(buf)
		if n > 0 && (buf[0] != expect[at%4] || buf[n-1] != expect[(at+n-1)%4]) {
			return fmt.Errorf("wrong bytes at %d", at)
		}
		at += n
		count(n)
		if err != nil {
			return err
		}
	}
}
