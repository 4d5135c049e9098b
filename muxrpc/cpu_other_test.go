//go:build !unix

package muxrpc_test

import "testing"

// reportCPU reports nothing where the processor time is not known.
func reportCPU(*testing.B) func() { return func() {} }
