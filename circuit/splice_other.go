//go:build !linux

package circuit

import (
	"net"
	"sync/atomic"
)

// pipes moves bytes in the kernel where the system can do that between two sockets.
type pipes struct{}

func (*pipes) splice(_, _ *net.TCPConn, _ *atomic.Uint64) (done bool, err error) { return false, nil }

func (*pipes) close() {}
