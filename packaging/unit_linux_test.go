package packaging_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// service is the unit's command, run as systemd would, but below a folder and with a network that has only loopback.
type service struct {
	t        *testing.T
	cmd      *exec.Cmd
	notified *net.UnixConn
	out      strings.Builder
	done     chan error
}

// startService runs the command of the unit that is installed below a folder.
func startService(t *testing.T, root string) *service {
	t.Helper()
	needs(t, "unshare", "ip")
	unit, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system/secretstack-hub.service"))
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindSubmatch(unit)
	if command == nil || !regexp.MustCompile(`(?m)^Type=notify$`).Match(unit) {
		t.Fatalf("the unit has no command, or does not wait until it is ready:\n%s", unit)
	}
	words := strings.Fields(string(command[1]))
	for i, word := range words {
		if strings.HasPrefix(word, "/") {
			words[i] = filepath.Join(root, word)
		}
	}
	path := filepath.Join(t.TempDir(), "notify")
	s := &service{t: t, done: make(chan error, 1)}
	if s.notified, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.notified.Close() })
	args := append([]string{"--net", "bash", "-c", `ip link set lo up && exec "$0" "$@"`}, words...)
	s.cmd = exec.CommandContext(context.Background(), "unshare", args...)
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NOTIFY_SOCKET=" + path}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

// hears waits until systemd would hear something.
func (s *service) hears(state string) {
	s.t.Helper()
	if err := s.notified.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for {
		n, err := s.notified.Read(buffer)
		if err != nil {
			s.t.Fatalf("it does not say %s: %v", state, err)
		}
		if strings.Contains(string(buffer[:n]), state) {
			return
		}
	}
}

// ends waits for the end, and gives what was printed.
func (s *service) ends() (string, error) {
	s.t.Helper()
	select {
	case err := <-s.done:
		return s.out.String(), err
	case <-time.After(patience):
		s.t.Fatal("it does not end")
		return "", nil
	}
}

func TestTheUnitRunsAHubThatSystemdCanWatch(t *testing.T) {
	needs(t, "dpkg", "systemd-sysusers")
	needsRoot(t)
	root := newRoot(t)
	dpkg(t, root, "--install", packageFile(t, "deb"))
	s := startService(t, root)
	s.hears("READY=1")
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if err := s.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	s.hears("STOPPING=1")
	if out, err := s.ends(); err != nil {
		t.Errorf("it ended with %v\n%s", err, out)
	}
	if !exists(filepath.Join(root, "var/lib/secretstack/hub/admin-token")) {
		t.Error("the operator's page is not served as the configuration says")
	}
}

func TestEveryLineOfTheConfigurationIsUnderstood(t *testing.T) {
	needs(t, "dpkg", "systemd-sysusers")
	needsRoot(t)
	root := newRoot(t)
	dpkg(t, root, "--install", packageFile(t, "deb"))
	config := filepath.Join(root, "etc/secretstack/hub.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^#(\[|[a-z-]+ = )`).ReplaceAll(text, []byte("$1"))
	text = regexp.MustCompile(`(?m)^domain = .*$`).ReplaceAll(text, nil) // without which it ends before it asks an authority
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := startService(t, root).ends()
	if err == nil || !strings.Contains(out, "--tls needs to know for which --domain") {
		t.Errorf("it ended with %v\n%s", err, out)
	}
}
