package packaging_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds what a loaded machine may take.
const patience = time.Minute

// container is a process that has nothing but an image and a network of its own, in which there is only loopback.
type container struct {
	t    *testing.T
	img  image
	cmd  *exec.Cmd
	out  *os.File
	done chan error
}

// run starts what the image starts by itself.
func (img image) run(t *testing.T) *container {
	t.Helper()
	needs(t, "unshare", "nsenter", "ip", "chroot")
	out, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	script := `ip link set lo up && exec chroot --userspec="$1" "$0" "${@:2}"`
	args := append([]string{"--net", "bash", "-c", script, img.root, img.user}, img.start...)
	c := &container{t: t, img: img, cmd: exec.CommandContext(context.Background(), "unshare", args...), out: out, done: make(chan error, 1)}
	c.cmd.Env = append(img.env, "PATH="+os.Getenv("PATH"))
	c.cmd.Stdout, c.cmd.Stderr = out, out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.done <- c.cmd.Wait() }()
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	return c
}

// healthy asks as the engine of containers does, until the answer is yes.
func (c *container) healthy() {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		out, err := c.exec(c.img.health...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("not healthy: %v %s\n%s", err, out, c.said())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// exec runs a command beside the process.
func (c *container) exec(args ...string) (string, error) {
	c.t.Helper()
	enter := []string{"--net=/proc/" + strconv.Itoa(c.cmd.Process.Pid) + "/ns/net", "chroot", "--userspec=" + c.img.user, c.img.root}
	cmd := exec.CommandContext(c.t.Context(), "nsenter", append(enter, args...)...)
	cmd.Env = append(c.img.env, "PATH="+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// stop ends the process as the engine of containers does.
func (c *container) stop(signal syscall.Signal) error {
	c.t.Helper()
	if err := c.cmd.Process.Signal(signal); err != nil {
		c.t.Fatal(err)
	}
	select {
	case err := <-c.done:
		return err
	case <-time.After(patience):
		c.t.Fatalf("it does not end\n%s", c.said())
		return nil
	}
}

func (c *container) said() string {
	text, err := os.ReadFile(c.out.Name())
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

func TestAContainerRunsAHub(t *testing.T) {
	img := buildByHand(t)
	if img.stopSignal != "SIGTERM" {
		t.Fatalf("it is stopped with %q", img.stopSignal)
	}
	c := img.run(t)
	c.healthy()
	if out, err := c.exec(img.start[0], "--version"); err != nil || !strings.Contains(out, "container") {
		t.Errorf("version: %v %s", err, out)
	}
	if out, err := c.exec(img.start[0], "hub", "status"); err != nil || !strings.Contains(out, "admission  open") {
		t.Errorf("status: %v %s", err, out)
	}
	if err := c.stop(syscall.SIGTERM); err != nil {
		t.Errorf("it ended with %v\n%s", err, c.said())
	}
	key := func() string {
		_, after, _ := strings.Cut(c.said(), "key")
		first, _, _ := strings.Cut(after, "\n")
		return strings.TrimSpace(first)
	}
	first := key()
	c = img.run(t)
	c.healthy()
	if second := key(); first == "" || second != first {
		t.Errorf("the hub was %q and is %q: its data is not in the volume", first, second)
	}
	if err := c.stop(syscall.SIGTERM); err != nil {
		t.Errorf("it ended with %v\n%s", err, c.said())
	}
}
