package main

import (
	"context"
	"crypto/tls"
	"net"
	"runtime"
	"strconv"
	"time"
)

const tlsNote = "crypto/tls, TLS 1.3, Ed25519 certificates pinned on both sides, no session tickets"

const oursName = "secretstack"

// handshakeRow counts handshakes, both sides, on all cores. Nobody's handshakes touch a socket.
func handshakeRow(node *nodeJS) row {
	cores := runtime.GOMAXPROCS(0)
	return row{
		Key:   "1",
		Title: "secret handshake, both sides",
		Unit:  "handshakes/s",
		Ours:  peer{Name: oursName, Note: "shs.Client and shs.Server; in memory", Start: startHandshakes},
		Peers: []peer{
			{
				Name:    "sum of its operations",
				Note:    "2 × (X25519 key generation + 3 X25519 + Ed25519 sign + verify), crypto/ecdh and crypto/ed25519",
				AtLeast: 1 / 1.25,
				Start:   stateless(measureHandshakeSum),
			},
			{
				Name: "JS secret-handshake, libsodium",
				Note: "secret-handshake 1.1.21 with chloride on sodium-native's prebuilt library; in memory, " +
					"one node process a core (" + strconv.Itoa(cores) + "), summed",
				AtLeast: 1,
				Start:   node.start(script{processes: cores, args: []string{"handshake.js"}}),
			},
			{
				Name:    "libp2p noise",
				Note:    "go-libp2p p2p/security/noise (XX, Ed25519 identities); in memory",
				AtLeast: 1,
				Start:   startNoiseHandshakes,
			},
			{
				Name:    "mutual TLS 1.3 as shipped",
				Note:    tlsNote + "; key agreement X25519MLKEM768, Go's default; in memory",
				AtLeast: 1,
				Start:   startTLSHandshakes(),
			},
			{
				Name:  "mutual TLS 1.3, X25519",
				Note:  tlsNote + "; key agreement X25519 alone, as in the secret handshake; in memory",
				Start: startTLSHandshakes(tls.X25519),
			},
		},
	}
}

// handshakePipe is the room on the way: more than any of the messages.
const handshakePipe = 4 << 10

// handshakes measures a pair of functions that run the two sides over a connection. Twice as many pairs as cores are
// under way, so that no core waits for an answer.
func handshakes(client, server func(context.Context, net.Conn) error) meter {
	return measureFunc(func(ctx context.Context, d time.Duration) (float64, error) {
		return perSecond(ctx, d, 2*runtime.GOMAXPROCS(0), func(ctx context.Context) error {
			a, b := memoryPair(handshakePipe)
			return together(func() { drop(a) },
				func() error { return client(ctx, a) },
				func() error { return server(ctx, b) },
			)
		})
	})
}
