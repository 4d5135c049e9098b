//go:build linux || darwin

package registry

import "syscall"

// freeBytes tells how much may still be written to the disk that dir is on.
func freeBytes(dir string) (free int64, known bool) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
