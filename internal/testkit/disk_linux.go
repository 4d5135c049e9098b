package testkit

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// SmallDisk mounts a disk of so many bytes, such as "64m", at a folder that is there. Where only root may, the test is skipped, and
// fails in CI, where everything must run.
func SmallDisk(tb testing.TB, dir, size string) {
	tb.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		Needs(tb, "a disk of its own, which only root may mount: "+err.Error())
	}
	tb.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
}

// FillDisk writes a file in a folder until so many bytes are free, and gives the way to take it away again.
func FillDisk(tb testing.TB, dir string, leave int64) (empty func()) {
	tb.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	for chunk := make([]byte, 64<<10); ; {
		left := free(tb, dir)
		if left <= leave {
			break
		}
		if _, err := f.Write(chunk[:min(left-leave, int64(len(chunk)))]); err != nil {
			break
		}
	}
	if err := f.Close(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		tb.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
	}
}

func free(tb testing.TB, dir string) int64 {
	tb.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		tb.Fatal(err)
	}
	return int64(s.Bavail) * int64(s.Bsize)
}
