package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"runtime"
	"time"

	"github.com/secretstack/secretstack/boxstream"
)

func measureBoxStream(ctx context.Context, d time.Duration) (float64, error) {
	return measureInMemory(boxFlow)(ctx, d)
}

func measureBoxStreamOverTCP(ctx context.Context, d time.Duration) (float64, error) {
	return measureOverTCP(boxFlow)(ctx, d)
}

// boxFlow sends chunks through a box stream from a to b and tells count of the bytes that arrived.
func boxFlow(_ context.Context, a, b net.Conn, count func(int)) error {
	writer, reader := newBoxStream(a, b)
	return together(func() { drop(a, b) },
		func() error { return writeChunks(writer, chunkSize) },
		func() error { return readAll(reader, chunkSize, count) },
	)
}

func newBoxStream(w io.Writer, r io.Reader) (*boxstream.Writer, *boxstream.Reader) {
	key, nonce := [boxstream.KeySize]byte{1}, [boxstream.NonceSize]byte{2}
	return boxstream.NewWriter(w, &key, &nonce), boxstream.NewReader(r, &key, &nonce)
}

// countBoxAllocations writes and reads chunks in turn, in this goroutine, and returns the allocations of both sides
// for each box of 4 KiB.
func countBoxAllocations(context.Context) (float64, error) {
	const warmUp, chunks = 16, 1024
	var wire bytes.Buffer
	writer, reader := newBoxStream(&wire, &wire)
	chunk, got := newChunk(), make([]byte, chunkSize)
	var before, after runtime.MemStats
	for i := range warmUp + chunks {
		if i == warmUp {
			runtime.ReadMemStats(&before)
		}
		if _, err := writer.Write(chunk); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(reader, got); err != nil {
			return 0, err
		}
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / (chunks * chunkSize / boxstream.MaxBody), nil
}
