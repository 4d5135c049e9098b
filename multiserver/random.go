package multiserver

import (
	"errors"
	"math/rand/v2"
	"syscall"
)

// randomPort returns a port from the range for private use, 49152 to 65535. It
// is no secret.
func randomPort() uint16 {
	const first, last = 49152, 65535
	return uint16(first + rand.IntN(last-first+1))
}

// addrInUse reports whether a port is taken. Windows has a number of its own
// for it.
func addrInUse(err error) bool {
	const wsaeaddrinuse = syscall.Errno(10048)
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaeaddrinuse)
}
