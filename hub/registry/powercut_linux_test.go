package registry

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/secrez"
)

// A kill leaves what the process has written in the kernel's memory. A power cut does not. This test runs a registry on a file
// system of its own in an image file, and takes a copy of the image while it works: the copy has what reached the disk.
func TestEveryAcknowledgedIDSurvivesPowerCuts(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk")
	makeDisk(t, image)
	acknowledged := map[uint64]secrez.ID{}
	next := uint64(1)
	for range 3 {
		disk := mountImage(t, image)
		dir := filepath.Join(disk, "data")
		cmd, lines, pipe := startChildPipe(t, dir, next)
		for range 400 {
			if !lines.Scan() {
				t.Fatal("the child ended by itself")
			}
			next = max(next, noteLine(t, lines.Text(), acknowledged)+1)
		}
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil { // so that nothing changes under the copy
			t.Fatal(err)
		}
		_ = pipe.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		for lines.Scan() { // what it had said by then
			next = max(next, noteLine(t, lines.Text(), acknowledged)+1)
		}
		after := filepath.Join(t.TempDir(), "after")
		copyFile(t, image, after)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		unmount(t, disk)

		image = after
		disk = mountImage(t, image)
		r := open1(t, config(t, filepath.Join(disk, "data")))
		for n, id := range acknowledged {
			if rec, ok := r.LookupKey(holder(t, r, n).Public()); !ok || rec.ID != id {
				t.Errorf("owner %d was told %v, there is %v", n, id, rec.ID)
			}
		}
		t.Logf("%d ids were acknowledged and %d are there", len(acknowledged), r.Count())
		closed(t, r)
		unmount(t, disk)
		next += 1000
	}
}

// startChildPipe is startChild with a pipe whose reading can be given up.
func startChildPipe(t *testing.T, dir string, first uint64) (*exec.Cmd, *bufio.Scanner, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	cmd := childCommand(t, dir, first)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(r), r
}

func makeDisk(t *testing.T, image string) {
	t.Helper()
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(64<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/usr/sbin/mkfs.ext4"
	}
	if out, err := exec.CommandContext(t.Context(), mkfs, "-q", "-F", image).CombinedOutput(); err != nil {
		testkit.Needs(t, "mkfs.ext4: "+err.Error()+" "+string(out))
	}
}

func mountImage(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		testkit.Needs(t, "to mount an image, which only root may: "+err.Error()+" "+string(out))
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
