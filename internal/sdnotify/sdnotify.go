// Package sdnotify tells systemd how a service is doing, as sd_notify(3) does. Without systemd it does nothing.
package sdnotify

import (
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// States of a service.
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// sendTimeout bounds the wait for a service manager that does not read.
const sendTimeout = time.Second

// Status is a line about the service that systemctl status shows.
func Status(line string) string { return "STATUS=" + strings.ReplaceAll(line, "\n", " ") }

// Extend asks for more time to start, beyond what the service is given otherwise.
func Extend(d time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds())
}

// Send tells the service manager the states, all at once. It does nothing if the environment names no manager.
func Send(states ...string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" || len(states) == 0 {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // "@…" is an abstract name
	if err != nil {
		return fmt.Errorf("sdnotify: %w", err)
	}
	err = conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err == nil {
		_, err = conn.Write([]byte(strings.Join(states, "\n")))
	}
	if closing := conn.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("sdnotify: %w", err)
	}
	return nil
}
