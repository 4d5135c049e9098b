package main

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// natsServer builds a NATS server, and gives what starts one: with a login, and all that it stores in one folder.
func natsServer(t *testing.T) (start func() *exec.Cmd, address string) {
	t.Helper()
	dir := shortDir(t)
	program := filepath.Join(dir, "nats-server")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	address = net.JoinHostPort(loopback(2), "4222")
	write(t, filepath.Join(dir, "conf"), fmt.Sprintf(`
listen: %q
jetstream { store_dir: %q, sync_interval: always }
accounts { HUB { jetstream: enabled, users: [{user: hub, password: secret}] } }
`, address, filepath.Join(dir, "store")))
	return func() *exec.Cmd {
		t.Helper()
		cmd := exec.Command(program, "-c", filepath.Join(dir, "conf"), "-l", filepath.Join(dir, "log"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		return cmd
	}, address
}

// TestNodesUseANATSServerOfSomebodyElses, start before it, and outlive it.
func TestNodesUseANATSServerOfSomebodyElses(t *testing.T) {
	startNATS, address := natsServer(t)
	c := newCluster(t)
	roots := []string{"one", "two"}
	launch := func(i int, password string) *process {
		file := filepath.Join(c.dir, roots[i]+".toml")
		write(t, file, fmt.Sprintf("cluster = \"eu\"\nnode = \"hub-%d\"\nreplicas = 1\nnats-url = \"nats://hub:%s@%s\"\nadvertise = \"%s\"\n",
			i+1, password, address, loopback(i)))
		return c.process("hub", "--json", "-a", loopback(i), "--root", roots[i], "--config", file)
	}
	first := launch(0, "secret")
	first.says("waiting for the other nodes")
	nats := startNATS()
	one, two := attend(t, first, loopback(0)), attend(t, launch(1, "secret"), loopback(1))
	id := one.register(someone(t, 1))
	if got := two.whois(someone(t, 1)); got != id {
		t.Errorf("somebody is %v at one node and %v at another", id, got)
	}

	if err := nats.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = nats.Wait()
	if got := two.whois(someone(t, 1)); got != id {
		t.Errorf("without NATS somebody is %v, and not %v", got, id)
	}
	startNATS()
	next := two.register(someone(t, 2))
	if got := one.whois(someone(t, 2)); got != next {
		t.Errorf("after NATS was restarted somebody is %v at one node and %v at another", next, got)
	}

	one.signal(syscall.SIGKILL)
	one = attend(t, launch(0, "secret"), loopback(0))
	for n, want := range map[int]fmt.Stringer{1: id, 2: next} {
		if got := one.whois(someone(t, n)); got != want {
			t.Errorf("after the hub was restarted somebody is %v, and not %v", got, want)
		}
	}
	two.signal(syscall.SIGTERM)
	p := launch(1, "wrong")
	if code := p.wait(); code != exitFailed || !strings.Contains(p.errs.String(), "refuses the credentials") || strings.Contains(p.errs.String(), "wrong") {
		t.Errorf("with a wrong password it ends with %d: %s", code, p.errs.String())
	}
}
