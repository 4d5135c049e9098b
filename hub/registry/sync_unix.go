//go:build !windows

package registry

import (
	"errors"
	"os"
)

// syncFile writes one file or folder to the disk.
func syncFile(path string, _ bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
