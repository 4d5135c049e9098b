package main

import (
	"context"
	"sync/atomic"
	"time"
)

// item is what the source of the items row sends: 100 bytes of JSON.
type item struct {
	Sequence int    `json:"sequence"`
	Author   string `json:"author"`
	Text     string `json:"text"`
}

const itemSize = 100

// newItem makes the item number n; all of them have the same size.
func newItem(n int) item {
	return item{
		Sequence: 100000 + n%900000,
		Author:   "a name of twenty-five chars",
		Text:     "thirty-two characters of content",
	}
}

// itemsRow counts the small items of one source.
func itemsRow(node *nodeJS) row {
	return row{
		Key:   "4",
		Title: "source of 100-byte JSON items",
		Unit:  "items/s",
		Ours:  peer{Name: oursName, Note: oursNote + "; each item encoded from a struct and decoded into one", Start: startItems},
		Peers: []peer{
			{Name: "grpc-go", Note: grpcNote + "; messages are 100 bytes that nobody looks into", AtLeast: 1, Start: startGRPCItems},
			{
				Name: "JS muxrpc as shipped", Note: jsStackNote, AtLeast: 10,
				Start: node.start(script{processes: 1, args: []string{"source.js", "items"}}),
			},
		},
	}
}

func startGRPCItems(ctx context.Context) (meter, error) {
	pair, err := newGRPCPair(ctx)
	if err != nil {
		return nil, err
	}
	measure := func(ctx context.Context, d time.Duration) (float64, error) {
		return flowRate(ctx, d, func(ctx context.Context, moved *atomic.Int64) error {
			return pair.read(ctx, grpcItems, func(int) { moved.Add(1) })
		})
	}
	return held{measure, pair.Close}, nil
}
