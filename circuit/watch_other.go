//go:build !linux

package circuit

import (
	"net"
	"time"
)

// tellsSilence says whether the system tells how long the other side has been silent.
const tellsSilence = false

func silence(*net.TCPConn) (time.Duration, error) { return 0, nil }

// askOften does nothing: the system's own times apply.
func askOften(*net.TCPConn, time.Duration) {}
