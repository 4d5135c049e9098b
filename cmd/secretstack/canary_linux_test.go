package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// tap passes connections on to a hub and keeps everything that passes.
type tap struct {
	net.Listener
	mu   sync.Mutex
	seen bytes.Buffer
}

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	p := &tap{Listener: ln}
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			go p.pass(near, far)
			go p.pass(far, near)
		}
	}()
	return p
}

func (p *tap) pass(to, from net.Conn) {
	_, _ = io.Copy(io.MultiWriter(to, p), from)
	_ = to.(*net.TCPConn).CloseWrite()
}

func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.Write(b)
}

func (p *tap) contains(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Contains(p.seen.Bytes(), b)
}

// inMemory reports whether bytes are in the memory of a process.
func inMemory(t *testing.T, pid int, b []byte) bool {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil || rights[0] != 'r' {
			continue
		}
		if contains(io.NewSectionReader(mem, from, to-from), b) {
			return true
		}
	}
	return false
}

// contains looks for bytes in what can be read of r.
func contains(r io.Reader, b []byte) bool {
	window := make([]byte, 0, 1<<20)
	for {
		n, err := r.Read(window[len(window):cap(window)])
		window = window[:len(window)+n]
		if bytes.Contains(window, b) {
			return true
		}
		if err != nil || n == 0 {
			return false
		}
		if keep := len(b) - 1; len(window) > keep {
			window = window[:copy(window, window[len(window)-keep:])]
		}
	}
}

// inFolder reports whether bytes are in a file below a folder.
func inFolder(t *testing.T, dir string, b []byte) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		found = found || bytes.Contains(text, b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestTheHubNeverHasWhatPeersSay sends a canary through a circuit, over TCP and over WebSocket, and looks for it in the hub's
// memory, on its disk, in its log and in all that goes over its connections, while the circuit is open and afterwards.
func TestTheHubNeverHasWhatPeersSay(t *testing.T) {
	root := t.TempDir()
	h := newProcess(t, "hub", "--json", "--verbose", "--root", root, "--address", "127.0.0.1", "--port", "0")
	var addresses []string
	for _, a := range h.object()["addresses"].([]any) {
		addresses = append(addresses, a.(string))
	}
	for _, transport := range []string{"net:", "ws:"} {
		t.Run(transport, func(t *testing.T) {
			address := ""
			for _, a := range addresses {
				if strings.HasPrefix(a, transport) {
					address = a
				}
			}
			hubAddr := strings.TrimPrefix(strings.TrimPrefix(address[:strings.Index(address, "~")], transport), "//")
			wire := newTap(t, strings.TrimSuffix(hubAddr, "/"))
			address = strings.Replace(address, strings.TrimSuffix(hubAddr, "/"), wire.Addr().String(), 1)

			random := make([]byte, 16)
			_, _ = rand.Read(random)
			canary := []byte(hex.EncodeToString(random))
			service := echoService(t, "tcp", "127.0.0.1:0")
			bob := t.TempDir()
			s := newProcess(t, "share", service, "--name", "web", "--json", "--root", t.TempDir(), "--hub", address, "--allow", identityIn(t, bob).Ref())
			at, _ := s.object()["address"].(string)
			c := newProcess(t, "connect", at+"/web", "-", "--root", bob)
			sung := bytes.Repeat(canary, 10_000)
			if _, err := c.in.Write(sung); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c.out, make([]byte, len(sung))); err != nil {
				t.Fatal(err)
			}
			if !inMemory(t, s.cmd.Process.Pid, canary) {
				t.Error("the canary is not even found where it must be")
			}
			look := func(when string) {
				for where, found := range map[string]bool{
					"memory": inMemory(t, h.cmd.Process.Pid, canary), "folder": inFolder(t, root, canary),
					"log": strings.Contains(h.errs.String(), string(canary)), "traffic": wire.contains(canary),
				} {
					if found {
						t.Errorf("%s, the canary is in the hub's %s", when, where)
					}
				}
			}
			look("while the circuit is open")
			_ = c.in.Close()
			if code := c.wait(); code != exitOK {
				t.Errorf("connect ended with %d: %s", code, c.errs.String())
			}
			look("afterwards")
		})
	}
}
