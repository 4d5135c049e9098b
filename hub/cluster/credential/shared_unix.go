//go:build unix

package credential

import (
	"io/fs"
	"os"
	"syscall"
)

// handedOver reports whether a file is root's, who lets the group of this process read it and nobody else anything: so a service
// gets what it may not own, for instance as a secret of Kubernetes.
func handedOver(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Uid == 0 && os.Geteuid() != 0 && info.Mode().Perm()&0o037 == 0
}
