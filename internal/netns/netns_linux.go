package netns

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Star is a host in the middle, the hub, with a cable to each of several others, which reach nobody but it.
type Star struct {
	t     testing.TB
	names []string
}

// New makes a star with so many hosts around the hub, and takes it down when the test ends. Without the right to do that,
// or without the program ip, the test is skipped, but never where CI=true.
func New(t testing.TB, hosts int) *Star {
	t.Helper()
	if os.Getuid() != 0 {
		skip(t, "this test needs root, for network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		skip(t, "this test needs the program ip (Debian: iproute2)")
	}
	s := &Star{t: t}
	unique := rand.Text()[:8]
	for i := range hosts + 1 {
		name := fmt.Sprintf("sstack-%s-%d", unique, i)
		s.ip("netns", "add", name)
		s.names = append(s.names, name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
		s.ip("-n", name, "link", "set", "lo", "up")
	}
	for i := 1; i <= hosts; i++ {
		s.plug(i)
	}
	return s
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// plug lays the cable between the hub and a host.
func (s *Star) plug(host int) {
	s.t.Helper()
	near, far := fmt.Sprintf("hub%d", host), "eth0"
	s.ip("link", "add", near, "netns", s.names[0], "type", "veth", "peer", "name", far, "netns", s.names[host])
	s.ip("-n", s.names[0], "addr", "add", s.HubAddress(host)+"/24", "dev", near)
	s.ip("-n", s.names[host], "addr", "add", fmt.Sprintf("10.77.%d.2/24", host), "dev", far)
	s.ip("-n", s.names[0], "link", "set", near, "up")
	s.ip("-n", s.names[host], "link", "set", far, "up")
}

// HubAddress is the IP address by which a host, counted from 1, reaches the hub.
func (s *Star) HubAddress(host int) string { return fmt.Sprintf("10.77.%d.1", host) }

// Cut cuts the cable between the hub and a host: nothing arrives any more, and nobody is told.
func (s *Star) Cut(host int) {
	s.t.Helper()
	s.ip("-n", s.names[host], "link", "set", "eth0", "down")
}

// Mend puts a cable right that was cut.
func (s *Star) Mend(host int) {
	s.t.Helper()
	s.ip("-n", s.names[host], "link", "set", "eth0", "up")
}

func (s *Star) ip(args ...string) {
	s.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		s.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// At runs f at a host, or at the hub, which is 0: sockets that f itself opens, and not in other goroutines, are there for
// as long as they live.
func (s *Star) At(host int, f func()) {
	s.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		err := enter(s.names[host])
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

func enter(name string) error {
	f, err := os.Open("/var/run/netns/" + name)
	if err != nil {
		return err
	}
	return errors.Join(unix.Setns(int(f.Fd()), unix.CLONE_NEWNET), f.Close())
}

// Command is a command that runs at a host, or at the hub, which is 0.
func (s *Star) Command(host int, name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", s.names[host], name}, args...)...)
}
