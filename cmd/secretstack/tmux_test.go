package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// terminal is a command on a terminal, as a person sees it.
type terminal struct {
	t      *testing.T
	socket string
}

// onTerminal starts a command on a terminal of 100 columns. Without tmux the test is skipped, but never where CI=true.
func onTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs tmux")
		}
		t.Skip("this test needs tmux")
	}
	term := &terminal{t, filepath.Join(shortDir(t), "tmux")}
	command := "env " + runMain + "=1 " + quoted(append([]string{os.Args[0]}, args...)) + "; echo; echo ended with $?; exec sleep 1000"
	term.tmux("-f", os.DevNull, "new-session", "-d", "-x", "100", "-y", "40", command)
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", term.socket, "kill-server").Run() })
	return term
}

func quoted(args []string) string {
	all := make([]string, len(args))
	for i, arg := range args {
		all[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(all, " ")
}

func (term *terminal) tmux(args ...string) string {
	term.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", term.socket}, args...)...).CombinedOutput()
	if err != nil {
		term.t.Fatalf("tmux %v: %v: %s", args, err, out)
	}
	return string(out)
}

// sees waits until the screen shows a text, and returns the screen.
func (term *terminal) sees(text string) string {
	term.t.Helper()
	screen := ""
	for range 1200 {
		if screen = term.tmux("capture-pane", "-p", "-J"); strings.Contains(screen, text) {
			return screen
		}
		time.Sleep(25 * time.Millisecond)
	}
	term.t.Fatalf("nobody sees %q on\n%s", text, screen)
	return ""
}

// press presses keys.
func (term *terminal) press(keys ...string) {
	term.t.Helper()
	term.tmux(append([]string{"send-keys"}, keys...)...)
}

func TestAHubOnATerminalSaysWhatItsEndWaitsFor(t *testing.T) {
	hub := onTerminal(t, "hub", "-a", "127.0.0.1", "-p", "0", "-d", "hub.test", "--drain", "1h", "--root", shortDir(t))
	screen := hub.sees("Ctrl-C stops the hub")
	_, address, _ := strings.Cut(screen, "address")
	address = strings.Fields(address)[0]
	began, finish := make(chan struct{}), make(chan struct{})
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(hubclient.Plugin(hubclient.Config{
		Hubs: []hubclient.Hub{{Address: strings.Replace(address, "hub.test", "127.0.0.1", 1)}},
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(began)
			<-finish
		}),
	})); err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(context.Background(), secretstack.Config{Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close(context.Background())
	client, _ := secretstack.Find[*hubclient.Client](app)
	var at hubclient.Status
	for all := range client.Watch(t.Context()) {
		if at = all[0]; at.Online {
			break
		}
	}
	visited := make(chan error, 1)
	go func() {
		u, err := url.Parse(at.URL)
		if err != nil {
			visited <- err
			return
		}
		visit, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+u.Port(), nil)
		if err == nil {
			visit.Host = u.Host
			_, err = http.DefaultClient.Do(visit)
		}
		visited <- err
	}()
	<-began
	hub.press("C-c")
	hub.sees("Draining: couriers are told; 1 request may finish for 1h. Ctrl-C again ends at once.")
	close(finish)
	if err := <-visited; err != nil {
		t.Error(err)
	}
	hub.sees("ended with 0")
}

func TestATerminalShowsWhatGoesOn(t *testing.T) {
	h := newTestHub(t)
	root, bob := t.TempDir(), t.TempDir()
	key := identityIn(t, bob)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	share := onTerminal(t, "share", ln.Addr().String(), "--name", "web", "--root", root, "--hub", h.address, "--allow", key.Ref())
	share.sees("waiting for connections")

	connect := onTerminal(t, "connect", identityIn(t, root).Ref()+"/web", "127.0.0.1:0", "--root", bob, "--hub", h.address)
	screen := connect.sees("waiting for connections")
	local, _, ok := strings.Cut(screen, " leads to @")
	if !ok {
		t.Fatalf("it does not say where:\n%s", screen)
	}
	program, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	service, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go func() { _, _ = program.Write(make([]byte, 123_456)) }()
	if _, err := io.ReadFull(service, make([]byte, 123_456)); err != nil {
		t.Fatal(err)
	}
	connect.sees("1 connection, 1 in all, sent 123.5 kB, received 0 B")
	share.sees("1 connection, 1 in all, sent 0 B, received 123.5 kB")

	stranger := command(t, "", "connect", identityIn(t, root).Ref()+"/web", "-", "--hub", h.address)
	if stranger.code != exitFailed {
		t.Errorf("%+v", stranger)
	}
	share.sees("refused @")

	connect.press("C-c")
	connect.sees("ended with 0")
	share.press("C-c")
	if screen := share.sees("ended with 0"); strings.Contains(screen, "1 connection") {
		t.Errorf("the live line is still there:\n%s", screen)
	}
}
