package main

import (
	"os"
	"syscall"
	"testing"
)

// smallDisk mounts a disk of so many bytes, and gives the way to mount it again as read-only ("ro") or not ("rw").
func smallDisk(t *testing.T, size string) (dir string, set func(how string)) {
	t.Helper()
	dir = shortDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs a disk of its own, which only root may mount: ", err)
		}
		t.Skip("this test needs a disk of its own, which only root may mount: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
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
