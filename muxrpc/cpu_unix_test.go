//go:build unix

package muxrpc_test

import (
	"syscall"
	"testing"
	"time"
)

// reportCPU reports the processor time that the benchmark takes from now on, which other work on the machine does not
// change.
func reportCPU(b *testing.B) func() {
	start := processTime()
	return func() { b.ReportMetric(float64(processTime()-start)/float64(b.N), "cpu-ns/op") }
}

func processTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
