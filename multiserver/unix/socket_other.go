//go:build !unix

package unix

import (
	"errors"
	"io/fs"
	"syscall"
)

// ownerOnly does nothing: the folder's access list protects the socket.
func ownerOnly(_, _ string, _ syscall.RawConn) error { return nil }

// isSocket also takes what Windows calls irregular: its sockets are reparse
// points.
func isSocket(info fs.FileInfo) bool {
	return info.Mode().Type()&(fs.ModeSocket|fs.ModeIrregular) != 0
}

func refused(err error) bool {
	const wsaeconnrefused = syscall.Errno(10061)
	return errors.Is(err, wsaeconnrefused) || errors.Is(err, syscall.ECONNREFUSED)
}
