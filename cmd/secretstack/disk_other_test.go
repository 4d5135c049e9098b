//go:build unix && !linux

package main

import "testing"

// smallDisk needs Linux, where root can mount one.
func smallDisk(t *testing.T, _ string) (dir string, set func(how string)) {
	t.Helper()
	t.Skip("this test mounts a disk, as Linux does")
	return "", nil
}
