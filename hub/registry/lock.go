package registry

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const lockName = "lock"

// lockFolder takes the data folder for this process. Closing the file gives it back. Its error is ErrLocked when another
// process has it.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := openLock(path)
	if err != nil {
		if isShared(err) {
			return nil, fmt.Errorf("%w: %s: stop the other hub first", ErrLocked, dir)
		}
		return nil, fmt.Errorf("%w: %w: a hub needs a folder that it may write to", ErrUnavailable, err)
	}
	locked, err := lockFile(f)
	if locked {
		err = writeOwner(f)
	}
	if locked && err == nil {
		return f, nil
	}
	owner := readOwner(f)
	_ = f.Close()
	if !locked && err == nil {
		return nil, fmt.Errorf("%w: %s: stop the other hub%s first", ErrLocked, dir, owner)
	}
	return nil, fmt.Errorf("%w: lock %s: %w", ErrUnavailable, dir, err)
}

// writeOwner leaves the process id for whoever finds the folder locked. A full disk does not matter for that.
func writeOwner(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return nil
}

func readOwner(f *os.File) string {
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
		return fmt.Sprintf(" (process %d)", pid)
	}
	return ""
}
