//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package unix

import (
	"os"
	"syscall"
)

// lock keeps other processes from replacing the socket in dir meanwhile.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flock(d); err != nil {
		_ = d.Close()
		return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	return func() { _ = d.Close() }, nil
}

// flock waits for the lock, which nobody holds for longer than it takes to
// bind a socket. Closing the file gives it back.
func flock(d *os.File) error {
	for {
		err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			return err
		}
	}
}
