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
func newChunk() []byte { return bytes.Repeat([]byte{0x5a, 1, 2, 0xa5}, chunkSize/4) }

// writeChunks writes until it fails.
func writeChunks(w io.Writer) error {
	for chunk := newChunk(); ; {
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
}

// readAll reads until it fails, tells count how much came, and looks at the first and last byte of each reading.
func readAll(r io.Reader, count func(int)) error {
	expect := newChunk()
	at := 0
	for buf := make([]byte, chunkSize); ; {
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
