package registry

import (
	"errors"
	"os"
	"syscall"
)

const errorSharingViolation = syscall.Errno(32)

var errShared = errors.New("shared")

// lockFile has nothing left to do: openLock opens the file for this process alone.
func lockFile(*os.File) (locked bool, err error) { return true, nil }

// openLock opens the file without sharing it, so that nobody else can open it until this process ends.
func openLock(path string) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errorSharingViolation) {
		return nil, errShared
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// isShared reports whether opening the file failed because another process has it.
func isShared(err error) bool { return errors.Is(err, errShared) }
