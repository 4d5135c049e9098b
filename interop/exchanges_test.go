package interop

import (
	"net"
	"slices"
	"testing"
)

// noStack keeps file names of the recording machine out of JavaScript's errors.
const noStack = "NODE_OPTIONS=--stack-trace-limit=0"

// racing are cases in which both sides end a stream at the same time, so that
// what is said depends on who is faster.
var racing = []string{"sink that fails", "denied sink", "unknown sink"}

var (
	steadyGoCases = without(slices.Concat(goCases, unknownCases), racing...)
	steadyJSCases = without(slices.Concat(jsCallCases, missingCases), racing...)
)

// exchanges are recorded and replayed.
var exchanges = []exchange{
	{
		name: "muxrpc8-go-calls",
		note: "plain muxrpc: we dial and call muxrpc 8.0.0, then close",
		start: func(t *testing.T, _ int) (int, func(*testing.T)) {
			return listenMuxrpc(t, 8), nil
		},
		run: func(t *testing.T, conn net.Conn) {
			p := newRawPeer(t, conn)
			callFromGo(t, p, steadyGoCases)
			closeWell(t, p.Session)
		},
	},
	{
		name: "muxrpc6-go-calls",
		note: "plain muxrpc: we dial and call muxrpc 6.7.3, then close",
		start: func(t *testing.T, _ int) (int, func(*testing.T)) {
			return listenMuxrpc(t, 6), nil
		},
		run: func(t *testing.T, conn net.Conn) {
			p := newRawPeer(t, conn)
			callFromGo(t, p, steadyGoCases)
			closeWell(t, p.Session)
		},
	},
	{
		name:    "muxrpc8-js-calls",
		note:    "plain muxrpc: muxrpc 8.0.0 dials and calls us, then closes",
		jsDials: true,
		start: func(t *testing.T, port int) (int, func(*testing.T)) {
			return 0, dialMuxrpc(t, 8, port)
		},
		run: serveUntilClosed,
	},
	{
		name:    "muxrpc6-js-calls",
		note:    "plain muxrpc: muxrpc 6.7.3 dials and calls us, then closes",
		jsDials: true,
		start: func(t *testing.T, port int) (int, func(*testing.T)) {
			return 0, dialMuxrpc(t, 6, port)
		},
		run: serveUntilClosed,
	},
}

func listenMuxrpc(t *testing.T, version int) int {
	var addr struct {
		Port int `json:"port"`
	}
	startNode(t, "muxrpc.js", noStack).do(t, "listen", map[string]any{"version": version}, &addr)
	return addr.Port
}

func dialMuxrpc(t *testing.T, version, port int) func(*testing.T) {
	n := startNode(t, "muxrpc.js", noStack)
	var s sessionEvent
	n.do(t, "connect", map[string]any{"version": version, "port": port}, &s)
	return func(t *testing.T) {
		callFromJS(t, n, s.Session, steadyJSCases)
		n.do(t, "closeSession", map[string]any{"session": s.Session, "hard": true}, nil)
	}
}

func serveUntilClosed(t *testing.T, conn net.Conn) {
	p := newRawPeer(t, conn)
	waitDone(t, p.Session)
	if err := p.Err(); err != nil {
		t.Errorf("the session ended with %v", err)
	}
}

// Transcripts say what JavaScript said once; what we say must not change since.
func TestTranscriptsOfCallsReplay(t *testing.T) {
	for _, x := range exchanges {
		t.Run(x.name, func(t *testing.T) {
			if *record {
				saveJSON(t, x.name, x.live(t))
			}
			x.replayed(t)
		})
	}
}
