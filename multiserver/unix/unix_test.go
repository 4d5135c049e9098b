//go:build unix

package unix_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/multiserver/unix"
)

// folder is a folder whose path leaves room for a socket's name.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ms") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func at(t *testing.T, dir string) multiserver.Incoming {
	t.Helper()
	path, err := json.Marshal(dir)
	if err != nil {
		t.Fatal(err)
	}
	return multiserver.Incoming{Options: map[string]json.RawMessage{"path": path}}
}

func listen(t *testing.T, dir string) multiserver.Listener {
	t.Helper()
	l, err := unix.New(unix.Options{}).Listen(t.Context(), at(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func reachable(t *testing.T, l multiserver.Listener) {
	t.Helper()
	c, err := unix.New(unix.Options{}).Dial(t.Context(), l.Addresses(multiserver.Device)[0])
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = accepted.Close()
}

func TestSocketIsTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(folder(t), "made/on/the/way")
	listen(t, dir)
	info, err := os.Stat(filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o", info.Mode().Perm())
	}
	if info, err = os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: mode %o, %v", info.Mode().Perm(), err)
	}
}

// The wart that one process can have one unix server only.
func TestWartSeveralServersInOneProcess(t *testing.T) {
	a, b := listen(t, folder(t)), listen(t, folder(t))
	reachable(t, a)
	reachable(t, b)
}

// The wart that the client's side shows the path of a server of its own, in
// which nobody listens.
func TestWartClientShowsThePathThatItDialled(t *testing.T) {
	dir := folder(t)
	l := listen(t, dir)
	c, err := unix.New(unix.Options{}).Dial(t.Context(), multiserver.NewPart("unix", dir+"/socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Close() }()
	for _, end := range []net.Conn{c, accepted} {
		if got := multiserver.PeerPart(end).Text(); got != "unix:"+dir+"/socket" {
			t.Errorf("got %s", got)
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir := folder(t)
	abandon(t, dir)
	reachable(t, listen(t, dir))
}

// abandon leaves a socket behind as a process does that was killed.
func abandon(t *testing.T, dir string) {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = ln.Close()
}

func TestSocketInUseIsNeverRemoved(t *testing.T) {
	dir := folder(t)
	l := listen(t, dir)
	_, err := unix.New(unix.Options{Dir: dir}).Listen(t.Context(), multiserver.Incoming{})
	if err == nil || !strings.Contains(err.Error(), "is in use: is the same program running already?") {
		t.Fatal(err)
	}
	_, _ = l.Accept() // the question whether anybody is there
	reachable(t, l)
}

func TestOneOfManyReplacesAStaleSocket(t *testing.T) {
	dir := folder(t)
	abandon(t, dir)
	var wg sync.WaitGroup
	listeners := make(chan multiserver.Listener, 8)
	for range cap(listeners) {
		wg.Go(func() {
			if l, err := unix.New(unix.Options{Dir: dir}).Listen(t.Context(), multiserver.Incoming{}); err == nil {
				listeners <- l
			}
		})
	}
	wg.Wait()
	if len(listeners) != 1 {
		t.Errorf("%d listen on one socket", len(listeners))
	}
	close(listeners)
	for l := range listeners {
		_ = l.Close()
	}
}

func TestWhatIsNoSocketStays(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, "socket")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := unix.New(unix.Options{Dir: dir}).Listen(t.Context(), multiserver.Incoming{})
	if err == nil || !strings.Contains(err.Error(), "it is not a socket") {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("%q %v", b, err)
	}
}

func TestCloseRemovesTheSocketUnlessItIsAnothers(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, "socket")
	l := listen(t, dir)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there: %v", err)
	}

	first := listen(t, dir)
	if err := os.Remove(path); err != nil { // somebody tidied up
		t.Fatal(err)
	}
	second := listen(t, dir)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	reachable(t, second)
}

func TestTemporaryFolderIsRemoved(t *testing.T) {
	l, err := unix.New(unix.Options{}).Listen(t.Context(), multiserver.Incoming{})
	if err != nil {
		t.Fatal(err)
	}
	path := l.Addresses(multiserver.Device)[0].Rest()
	if !strings.Contains(path, "multiserver-") {
		t.Error(path)
	}
	reachable(t, l)
	_ = l.Close()
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
}

func TestMistakesInTheEntryAreNamed(t *testing.T) {
	dir := folder(t)
	for want, in := range map[string]multiserver.Incoming{
		"its scope must be device": {Scope: multiserver.Scopes{multiserver.Public}},
		"set path":                 {Host: "localhost"},
		"unknown field":            {Options: map[string]json.RawMessage{"paht": json.RawMessage(`"/"`)}},
		"choose a shorter folder":  at(t, filepath.Join(dir, strings.Repeat("x", 100))),
	} {
		if _, err := unix.New(unix.Options{Dir: dir}).Listen(t.Context(), in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestDialWithoutAServerFailsAtOnce(t *testing.T) {
	start := time.Now()
	_, err := unix.New(unix.Options{}).Dial(t.Context(), multiserver.NewPart("unix", filepath.Join(folder(t), "socket")))
	if !errors.Is(err, syscall.ENOENT) || time.Since(start) > time.Minute {
		t.Error(err)
	}
}
