package secretstack_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/muxrpc"
)

// TestIdlePeersTakeLittleMemory: a hub has ten thousand of them. One takes about five KiB of heap and stack; the limit
// leaves room for the race detector, and catches a stack that stays large or a buffer that is kept.
func TestIdlePeersTakeLittleMemory(t *testing.T) {
	const peers, limit = 300, 14 << 10
	stack := stackOf(t, secretstack.Options{}, testPlugin())
	cfg := quiet(t, "bob")
	cfg.MaxPeersPerKey = -1
	alice, bob := start(t, stack, quiet(t, "alice")), start(t, stack, cfg)
	before := heapAndStacks()
	for range peers {
		if _, err := muxrpc.Call[string](t.Context(), connect(t, alice, bob), "test.hello", "x"); err != nil {
			t.Fatal(err)
		}
	}
	var each int
	for range 300 { // calm comes in two or three seconds
		each = int(heapAndStacks()-before) / (2 * peers) // both ends are here
		if each < limit {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Errorf("%d bytes each", each)
}

func heapAndStacks() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
