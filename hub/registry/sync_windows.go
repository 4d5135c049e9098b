package registry

import (
	"errors"
	"os"
)

// syncFile writes one file to the disk. A folder cannot be synced on this system, and need not be.
func syncFile(path string, folder bool) error {
	if folder {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
