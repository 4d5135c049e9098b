// Package testkit is what the tests of several packages need: people, waiting without a fixed time, addresses and disks of a
// test's own, logs. Nothing but tests imports it.
package testkit

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/keys"
)

// patience is how long something may take that takes a moment: machines that test may be slow.
const patience = 2 * time.Minute

// Identity is the same for the same name, and the one that recorded JavaScript peers have.
func Identity(tb testing.TB, name string) *keys.Identity {
	tb.Helper()
	seed := sha256.Sum256([]byte(name))
	id, err := keys.FromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// Eventually waits for a condition that others bring about, and fails the test when they do not.
func Eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	if !poll(cond) {
		tb.Fatalf("in vain: %s", what)
	}
}

// poll reports whether a condition has come true.
func poll(cond func() bool) bool {
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// LeakCheck fails the test when there are more goroutines at its end than now. Call it first: it looks last.
func LeakCheck(tb testing.TB) {
	tb.Helper()
	before := runtime.NumGoroutine()
	tb.Cleanup(func() {
		if !poll(func() bool { return runtime.NumGoroutine() <= before }) {
			stacks := make([]byte, 1<<20)
			tb.Errorf("%d goroutines are left of %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	})
}

// LeakCheckOf fails the test when goroutines are left at its end in which code of a package is at work, but for tests: others may
// run beside it. Call it first: it looks last.
func LeakCheckOf(tb testing.TB, pkg string) {
	tb.Helper()
	tb.Cleanup(func() {
		var left string
		if !poll(func() bool { left = goroutinesOf(pkg); return left == "" }) {
			tb.Errorf("goroutines are left:\n%s", left)
		}
	})
}

func goroutinesOf(pkg string) string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var left []string
	for i, stack := range strings.Split(string(stacks), "\n\n") {
		test := strings.Contains(stack, "testing.(*T).Run") || strings.Contains(stack, "testing.tRunner(")
		if i > 0 && !test && strings.Contains(stack, pkg) { // the first one is our own
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}

// A Buffer keeps what several goroutines write, such as a log. Its zero value is empty.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

// Write never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String gives everything that was written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// FreeAddresses gives addresses of this machine at which nobody listens. Those on Linux are this process's own, so that no
// other test takes them before they are used.
func FreeAddresses(tb testing.TB, n int) (addresses []string) {
	tb.Helper()
	for range n {
		ln, err := net.Listen("tcp", net.JoinHostPort(OwnHost(), "0"))
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		addresses = append(addresses, ln.Addr().String())
	}
	return addresses
}

// FreePort is a port of 127.0.0.1 at which nobody listens, to be used more than once: none of those that systems give to
// connections which go out, because one of these might hold it in between.
func FreePort(tb testing.TB) uint16 {
	tb.Helper()
	for range 1000 {
		port := 20_000 + rand.IntN(10_000)
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = ln.Close()
			return uint16(port)
		}
	}
	tb.Fatal("no port is free")
	return 0
}

// OwnHost is an address of this machine, on Linux one that no other process uses.
func OwnHost() string {
	if pid := os.Getpid(); runtime.GOOS == "linux" {
		return fmt.Sprintf("127.%d.%d.%d", 64+pid>>16&63, pid>>8&255, pid&255)
	}
	return "127.0.0.1"
}

// Needs ends a test that cannot be run here, and says what it lacks. In CI, where everything must run, it fails.
func Needs(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal("this test needs " + what)
	}
	tb.Skip("this test needs " + what)
}
