package sdnotify_test

import (
	"crypto/rand"
	"net"
	"path/filepath"
	"testing"

	"github.com/secretstack/secretstack/internal/sdnotify"
)

func TestStatesReachTheManagerInOneMessage(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "notify"), "@secretstack-test-" + rand.Text()} {
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { manager.Close() })
		t.Setenv("NOTIFY_SOCKET", path)
		if err := sdnotify.Send(sdnotify.Ready, sdnotify.Status("serving\nEXTEND_TIMEOUT_USEC=1")); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 1024)
		n, err := manager.Read(buffer)
		if want := "READY=1\nSTATUS=serving EXTEND_TIMEOUT_USEC=1"; err != nil || string(buffer[:n]) != want {
			t.Errorf("%s: %q %v, want %q", path, buffer[:n], err, want)
		}
	}
}

func TestNothingIsSentWithoutAManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := sdnotify.Send(sdnotify.Ready); err != nil {
		t.Errorf("without one: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if err := sdnotify.Send(); err != nil {
		t.Errorf("with nothing to say: %v", err)
	}
	if err := sdnotify.Send(sdnotify.Stopping); err == nil {
		t.Error("a manager that is not there heard it")
	}
}
