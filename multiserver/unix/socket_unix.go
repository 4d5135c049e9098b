//go:build unix

package unix

import (
	"errors"
	"io/fs"
	"syscall"
)

// ownerOnly makes the socket file come into being with mode 0600 where the
// system takes the mode from the socket (Linux). Elsewhere the error means
// nothing: the mode is set afterwards.
func ownerOnly(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
}

func isSocket(info fs.FileInfo) bool { return info.Mode().Type() == fs.ModeSocket }

func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
