package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/plugins/tunnel"
)

// program is our command line, built once a test run in the folder that
// TestMain removes.
var program = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(programDir, "secretstack")
	ctx, cancel := context.WithTimeout(context.Background(), installTime)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/secretstack")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

var programDir string // set by TestMain

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait for other processes more than they compute.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("6")
	}
	dir, err := os.MkdirTemp("", "secretstack-interop")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// startProgram runs our command line until the test ends, and decodes its first
// line, in JSON, into out.
func startProgram(t testing.TB, out any, arguments ...string) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	arguments = append(arguments, "--json", "--verbose", "--root", t.TempDir(), "--app-key", encode64(appKey(t, network).Bytes()))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, arguments...)
	stderr := &tailBuffer{}
	cmd.Stderr = stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		defer func() {
			if t.Failed() {
				t.Logf("secretstack %s stderr:\n%s", arguments[0], stderr)
			}
		}()
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("secretstack %s ended with %v\n%s", arguments[0], err, stderr)
		}
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("secretstack %s said nothing: %v\n%s", arguments[0], err, stderr)
	}
	if err := json.Unmarshal(line, out); err != nil {
		t.Fatalf("secretstack %s: %v in %s", arguments[0], err, line)
	}
}

// runProgram runs our command line to its end.
func runProgram(t testing.TB, stdin string, arguments ...string) (stdout, stderr string, code int) {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	arguments = append(arguments, "--root", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, arguments...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("secretstack %s: %v\n%s", strings.Join(arguments, " "), err, &errs)
	}
	return out.String(), errs.String(), 0
}

func TestTheCommandLineCallsAJavaScriptPeer(t *testing.T) {
	bob := startJS(t, "bob", jsOptions{incoming: netIn(t)})
	address := bob.address(t)
	key := encode64(appKey(t, network).Bytes())
	for _, tt := range []struct {
		name, stdin string
		arguments   []string
		stdout      string
		stderr      string // a part of it; empty: it succeeds
	}{
		{name: "sync", arguments: []string{"test.hello", `"alice"`}, stdout: "\"Hello, alice\"\n"},
		{name: "async", arguments: []string{"test.deep.er.add", "3", "4"}, stdout: "7\n"},
		{name: "source", arguments: []string{"test.count", "3"}, stdout: "0\n1\n2\n"},
		{name: "sink", stdin: "1\n\"two\"\n", arguments: []string{"test.eat", `"cli"`}},
		{name: "duplex", stdin: "\"abc\"\n", arguments: []string{"test.upper"}, stdout: "\"ABC\"\n"},
		{name: "denied", arguments: []string{"test.secret"}, stderr: "does not allow you to call test.secret"},
		{name: "error", arguments: []string{"test.fail", `"nope"`}, stderr: "nope"},
		{name: "a failing source", arguments: []string{"test.countThenFail", "1", `"no luck"`}, stdout: "0\n", stderr: "no luck"},
		{name: "unknown", arguments: []string{"test.zzz"}, stderr: "no method"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, code := runProgram(t, tt.stdin, append([]string{"call", "--app-key", key, address}, tt.arguments...)...)
			if stdout != tt.stdout {
				t.Errorf("it prints %q, want %q", stdout, tt.stdout)
			}
			if failed := code != 0; failed != (tt.stderr != "") || !strings.Contains(stderr, tt.stderr) {
				t.Errorf("it ends with %d and says %q", code, stderr)
			}
		})
	}
	eaten := waitEvent(t, bob.node, "eaten", func(e jsEaten) bool { return e.Name == "cli" })
	if got := strings.Join(texts(eaten.Items), " "); got != `json 1 string "two"` {
		t.Errorf("the sink got %s", got)
	}
	bob.mustLive(t)
}

// What README promises: a hub, a peer behind it, and somebody who calls it.
func TestTheCommandLineCallsAJavaScriptPeerThroughTheHub(t *testing.T) {
	portal := openHub(t, "net:")
	bob := joinJS(t, "bob", 8, portal)
	watcher := joinGo(t, "watcher", portal)
	watcher.sees(t, identity(t, "bob").Public())
	address := tunnel.Address(portal.id, identity(t, "bob").Public()).String()
	stdout, stderr, _ := runProgram(t, "", "call", "--app-key", encode64(appKey(t, network).Bytes()), "--hub", portal.address, address, "test.hello", `"alice"`)
	if stdout != "\"Hello, alice\"\n" {
		t.Errorf("it prints %q and says %q", stdout, stderr)
	}
	bob.mustLive(t)
}

// A peer of our command line behind the hub is reached by JavaScript.
func TestJavaScriptReachesTheCommandLineThroughTheHub(t *testing.T) {
	portal := openHub(t, "net:")
	var served struct {
		ID string `json:"id"`
	}
	startProgram(t, &served, "serve", "--hub", portal.address, "--host", "127.0.0.1")
	alice := joinJS(t, "alice", 8, portal)
	s := alice.tunnel(t, alice.sees(t, served.ID))
	got := alice.call(t, jsCall{Session: s.Session, Path: "manifest"})
	manifest, _ := got.Items[0].JSON.(map[string]any)
	if manifest["tunnel"] == nil {
		t.Errorf("its manifest is %v", got)
	}
}
