package main

import (
	"syscall"
	"testing"

	"github.com/secretstack/secretstack/internal/testkit"
)

// smallDisk mounts a disk of so many bytes, and gives the way to mount it again as read-only ("ro") or not ("rw").
func smallDisk(t *testing.T, size string) (dir string, set func(how string)) {
	t.Helper()
	dir = shortDir(t)
	testkit.SmallDisk(t, dir, size)
	return dir, func(how string) {
		t.Helper()
		flags := uintptr(syscall.MS_REMOUNT)
		if how == "ro" {
			flags |= syscall.MS_RDONLY
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
}
