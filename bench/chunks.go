package main

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// chunksRow moves bulk through one source.
func chunksRow(node *nodeJS) row {
	return row{
		Key:   "5",
		Title: "source of 64 KiB chunks",
		Unit:  "MB/s",
		Ours:  peer{Name: oursName, Note: oursNote + "; each chunk is given back with muxrpc.Recycle", Start: startChunks},
		Peers: []peer{
			{
				Name:    "our box stream alone",
				Note:    "boxstream.Writer to boxstream.Reader, 64 KiB at a time, on loopback TCP",
				AtLeast: 0.8,
				Start:   stateless(measureBoxStreamOverTCP),
			},
			{Name: "libp2p stream", Note: "noise and yamux with libp2p's settings on loopback TCP, 64 KiB writes", Start: stateless(measureLibp2pOverTCP)},
			{Name: "grpc-go", Note: grpcNote + "; one chunk a message", Start: startGRPCChunks},
			{
				Name: "JS muxrpc as shipped", Note: jsStackNote,
				Start: node.start(script{processes: 1, args: []string{"source.js", "chunks"}}),
			},
		},
	}
}

// measureOverTCP measures a flow of bytes over a loopback connection that ends with the measurement.
func measureOverTCP(flow func(ctx context.Context, a, b net.Conn, count func(int)) error) measureFunc {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		a, b, err := loopbackPair(ctx)
		if err != nil {
			return 0, err
		}
		return measureBytes(ctx, d, a, b, flow)
	}
}

func measureLibp2pOverTCP(ctx context.Context, d time.Duration) (float64, error) {
	return measureOverTCP(libp2pFlow)(ctx, d)
}

func startGRPCChunks(ctx context.Context) (meter, error) {
	pair, err := newGRPCPair(ctx)
	if err != nil {
		return nil, err
	}
	measure := func(ctx context.Context, d time.Duration) (float64, error) {
		rate, err := flowRate(ctx, d, func(ctx context.Context, moved *atomic.Int64) error {
			return pair.read(ctx, grpcChunks, func(n int) { moved.Add(int64(n)) })
		})
		return rate / megabyte, err
	}
	return held{measure, pair.Close}, nil
}
