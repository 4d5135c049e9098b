package main

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// boxRow moves bytes through a box stream, the writer and the reader in two goroutines joined in memory.
func boxRow(node *nodeJS) row {
	return row{
		Key:   "2",
		Title: "box stream, 64 KiB writes",
		Unit:  "MB/s",
		Ours:  peer{Name: oursName, Note: "boxstream.Writer to boxstream.Reader; in memory", Start: stateless(measureBoxStream)},
		Peers: []peer{
			{
				Name: "secretbox, 4 KiB boxes",
				Note: "golang.org/x/crypto/nacl/secretbox: an 18-byte header and a 4 KiB body sealed on one core and " +
					"opened on another at the same time, the slower of the two",
				AtLeast: 0.8,
				Start:   stateless(measureSecretbox),
			},
			{
				Name:  "JS pull-box-stream, one process",
				Note:  "pull-box-stream 1.0.13 on sodium-native; both ends in one process, in memory",
				Start: node.start(script{processes: 1, args: []string{"boxstream.js", "memory"}}),
			},
			{
				Name:  "JS pull-box-stream, two processes",
				Note:  "the same with the ends in two processes, over loopback TCP",
				Start: node.start(script{processes: 1, args: []string{"boxstream.js", "tcp"}}),
			},
			{
				Name:  "libp2p noise + yamux",
				Note:  "ChaCha20-Poly1305 with AVX2, a cipher that the box stream cannot choose; in memory",
				Start: stateless(measureLibp2pInMemory),
			},
		},
		Gauges: []gauge{{Name: "allocations a box", AtMost: 0.01, Measure: countBoxAllocations}},
	}
}

// bulkPipe is the room on the way for rows about bulk.
const bulkPipe = 256 << 10

// measureInMemory measures a flow of bytes over a connection in memory; the connection ends with the measurement.
func measureInMemory(flow func(ctx context.Context, a, b net.Conn, count func(int)) error) measureFunc {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		a, b := memoryPair(bulkPipe)
		return measureBytes(ctx, d, a, b, flow)
	}
}

func measureBytes(ctx context.Context, d time.Duration, a, b net.Conn, flow func(ctx context.Context, a, b net.Conn, count func(int)) error) (float64, error) {
	rate, err := flowRate(ctx, d, func(ctx context.Context, moved *atomic.Int64) error {
		abandon := func() { drop(a, b) }
		defer abandon()
		defer context.AfterFunc(ctx, abandon)()
		return flow(ctx, a, b, func(n int) { moved.Add(int64(n)) })
	})
	return rate / megabyte, err
}
