package interop

import (
	"bufio"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The example greeter that runs with -serve is called by the JavaScript file beside it.
func TestTheGreeterExampleIsCalledFromJavaScript(t *testing.T) {
	requireNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), "greeter")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "./examples/greeter")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	greeter := exec.CommandContext(ctx, path, "-serve")
	stdout, err := greeter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := greeter.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = greeter.Process.Kill(); _ = greeter.Wait() })
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	modules, err := filepath.Abs("node_modules")
	if err != nil {
		t.Fatal(err)
	}
	caller := exec.CommandContext(ctx, "node", filepath.Join("..", "examples", "greeter", "greeter.js"), strings.TrimSpace(address))
	caller.Env = append(caller.Environ(), "NODE_PATH="+modules)
	out, err := caller.CombinedOutput()
	if err != nil || string(out) != "hello javascript\n" {
		t.Errorf("%v: %s", err, out)
	}
}
