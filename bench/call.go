package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// echoText is what every call carries there and back.
const echoText = "an echo of thirty-two characters"

var errWrongEcho = errors.New("the echo is not what was sent")

// callRow counts async calls over one connection, inFlight at a time.
func callRow(node *nodeJS, inFlight int) row {
	key, title := "3a", "async call, one at a time"
	if inFlight > 1 {
		key, title = "3b", fmt.Sprintf("async call, %d in flight", inFlight)
	}
	js := script{processes: 1, args: []string{"call.js", strconv.Itoa(inFlight)}}
	jsNoDelay := js
	jsNoDelay.env = []string{"BENCH_NODELAY=1"}
	return row{
		Key:   key,
		Title: title,
		Unit:  "calls/s",
		Ours:  peer{Name: oursName, Note: oursNote, Start: startCalls(inFlight)},
		Peers: []peer{
			{
				Name:  "framed echo over TLS",
				Note:  "8 bytes of header and the text over crypto/tls on loopback TCP, one goroutine a caller: no names, no JSON",
				Start: startTLSEcho(inFlight),
			},
			{Name: "grpc-go", Note: grpcNote, AtLeast: 2, Start: startGRPCCalls(inFlight)},
			{Name: "JS muxrpc as shipped", Note: jsStackNote, AtLeast: 1, Start: node.start(js)},
			{
				Name:    "JS muxrpc, NODELAY",
				Note:    "the same with setNoDelay on both sockets, which multiserver does not do",
				AtLeast: 1,
				Start:   node.start(jsNoDelay),
			},
		},
	}
}

const jsStackNote = "muxrpc 8.0.0 over multiserver 3.8.2 (net, shs) on loopback TCP, sodium-native; calls one at a time " +
	"with both ends in one process, everything else with the ends in two: each time the faster way"

const oursNote = "muxrpc over a multiserver connection (net, shs) on loopback TCP; as for all Go peers, both ends in this process"

// calls measures a call made by inFlight goroutines at the same time.
func calls(inFlight int, call func(context.Context) error) measureFunc {
	return func(ctx context.Context, d time.Duration) (float64, error) {
		return perSecond(ctx, d, inFlight, call)
	}
}
