package main

import (
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/internal/netns"
)

// far is a hub, somebody who shares, and somebody who connects, each on a machine of its own.
type far struct {
	*netns.Star
	share, connect *process
	service        net.Listener
	local          string // the path of a socket
}

// hosts of far: the hub is 0.
const sharing1, connecting2 = 1, 2

func newFar(t *testing.T) *far {
	t.Helper()
	f := &far{Star: netns.New(t, 2)}
	at := func(host int, args ...string) *process {
		return startProcess(t, func(name string, args ...string) *exec.Cmd { return f.Command(host, name, args...) }, args...)
	}
	h := at(0, "hub", "--json", "--root", t.TempDir(), "--address", "0.0.0.0", "--port", "8433")
	id, _ := h.object()["id"].(string)
	key := strings.TrimSuffix(strings.TrimPrefix(id, "@"), ".ed25519")
	hubFor := func(host int) string { return "net:" + f.HubAddress(host) + ":8433~shs:" + key }

	dir := shortDir(t)
	var err error
	if f.service, err = net.Listen("unix", filepath.Join(dir, "service")); err != nil { // sockets of files are everywhere
		t.Fatal(err)
	}
	t.Cleanup(func() { f.service.Close() })
	f.local = filepath.Join(dir, "local")
	alice, bob := t.TempDir(), t.TempDir()
	f.share = at(sharing1, "share", f.service.Addr().String(), "--name", "s", "--json", "--root", alice, "--hub", hubFor(sharing1), "--allow", identityIn(t, bob).Ref())
	f.share.object()
	f.connect = at(connecting2, "connect", identityIn(t, alice).Ref()+"/s", f.local, "--json", "--root", bob, "--hub", hubFor(connecting2))
	f.connect.object()
	return f
}

// program connects to the service as a program does.
func (f *far) program(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", f.local)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pair returns both ends of a connection to the service.
func (f *far) pair(t *testing.T) (program, service net.Conn) {
	t.Helper()
	program = f.program(t)
	service, err := f.service.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Close() })
	if _, err := io.WriteString(program, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(service, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return program, service
}

// until reads events until one of a type comes, and returns its error.
func until(p *process, kind string) string {
	p.t.Helper()
	for {
		e := p.object()
		if e["type"] == kind {
			text, _ := e["error"].(string)
			return text
		}
	}
}

// TestTheNetworkIsCut cuts the cable of either end, or of both: while nothing passes, while much does, and before there is a
// connection. Both ends learn it, and when the cable is mended all goes on as before. All is done at the same time, for it is
// nothing but waiting.
func TestTheNetworkIsCut(t *testing.T) {
	scenes := map[string]func(t *testing.T){
		"of who shares, before a connection": func(t *testing.T) {
			cutBefore(t, sharing1, "the other end did not come")
		},
		"of who connects, before a connection": func(t *testing.T) {
			cutBefore(t, connecting2, "network is unreachable")
		},
	}
	for name, hosts := range map[string][]int{"of who shares": {sharing1}, "of who connects": {connecting2}, "of the hub": {sharing1, connecting2}} {
		scenes[name+", idle"] = func(t *testing.T) { cutMeanwhile(t, hosts, false) }
		scenes[name+", busy"] = func(t *testing.T) { cutMeanwhile(t, hosts, true) }
	}
	var all sync.WaitGroup
	for name, scene := range scenes {
		all.Go(func() { t.Run(name, scene) })
	}
	all.Wait()
}

// cutBefore cuts a cable, and then a program connects.
func cutBefore(t *testing.T, host int, says string) {
	f := newFar(t)
	f.Cut(host)
	f.program(t)
	if text := until(f.connect, "failed"); !strings.Contains(text, says) {
		t.Errorf("it says %q", text)
	}
}

// cutMeanwhile cuts cables while there is a connection, and mends them.
func cutMeanwhile(t *testing.T, hosts []int, busy bool) {
	f := newFar(t)
	program, service := f.pair(t)
	if busy {
		for _, way := range [][2]net.Conn{{program, service}, {service, program}} {
			go func() { _, _ = io.Copy(way[0], endless{}) }()
			go func() { _, _ = io.Copy(io.Discard, way[1]) }()
		}
	}
	for _, host := range hosts {
		f.Cut(host)
	}
	for _, p := range []*process{f.share, f.connect} {
		if text := until(p, "closed"); text == "" {
			t.Error("a cut is taken for an end in order")
		}
	}
	for _, host := range hosts {
		f.Mend(host)
	}
	for kind := ""; kind != "opened"; {
		again := f.program(t)
		go func() { _, _ = io.WriteString(again, "again") }()
		kind, _ = f.connect.object()["type"].(string)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
