//go:build unix

package registry

import (
	"errors"
	"os"
	"syscall"
)

// lockFile locks a file for this process. The lock goes with the process, however that ends.
func lockFile(f *os.File) (locked bool, err error) {
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// isShared reports whether opening the file failed because another process has it.
func isShared(error) bool { return false }
