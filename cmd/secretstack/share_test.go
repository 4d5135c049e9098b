package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
)

// testHub is a hub in this process.
type testHub struct {
	*hub.Hub
	address string
	addr    string // host:port
	stop    func()
}

func newTestHub(t *testing.T) *testHub {
	t.Helper()
	h, err := hub.New(t.Context(), hub.Config{
		Dir: t.TempDir(), Listen: []string{"127.0.0.1:0"}, Domain: "hub.test", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(context.Background()) }()
	addr := h.Addrs()[0].String()
	th := &testHub{Hub: h, addr: addr, address: "net:" + addr + "~shs:" + h.About().Key.Base64()}
	th.stop = func() {
		if err := errors.Join(h.Close(context.Background()), <-served); err != nil {
			t.Error(err)
		}
		th.stop = func() {}
	}
	t.Cleanup(func() { th.stop() })
	return th
}

// process is a command in a process of its own.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	errs  testkit.Buffer
	ended sync.Once
	code  int // set by ended
}

func newProcess(t *testing.T, args ...string) *process {
	t.Helper()
	return startProcess(t, exec.Command, args...)
}

// startProcess starts the command that command makes.
func startProcess(t *testing.T, command func(name string, args ...string) *exec.Cmd, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), runMain+"=1")
	p.cmd.Stderr = &p.errs
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.in.Close()
		p.wait()
	})
	return p
}

// linePatience bounds the time for a line: who waits for ever tells nobody what the process had to say.
const linePatience = 2 * time.Minute

// line reads a line of output.
func (p *process) line() string {
	p.t.Helper()
	late := time.AfterFunc(linePatience, func() { _ = p.cmd.Process.Kill() })
	text, err := p.out.ReadString('\n')
	if !late.Stop() {
		p.t.Fatalf("%v said nothing for %v and was killed: %s", p.cmd.Args[1:], linePatience, p.errs.String())
	}
	if err != nil {
		p.t.Fatalf("%v printed %q and ended: %v: %s", p.cmd.Args[1:], text, err, p.errs.String())
	}
	return text
}

// object reads a line of JSON.
func (p *process) object() map[string]any {
	p.t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(p.line()), &o); err != nil {
		p.t.Fatal(err)
	}
	return o
}

// wait waits for the end, and returns the exit code.
func (p *process) wait() int {
	p.ended.Do(func() {
		_, _ = io.Copy(io.Discard, p.out)
		_ = p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
	})
	return p.code
}

// interrupt ends it as Ctrl-C does.
func (p *process) interrupt() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.t.Fatal(err)
	}
	if code := p.wait(); code != exitOK {
		p.t.Errorf("%v ended with %d: %s", p.cmd.Args[1:], code, p.errs.String())
	}
}

// identityIn makes an identity in a folder.
func identityIn(t *testing.T, root string) keys.PublicKey {
	t.Helper()
	id, err := keys.LoadOrCreate(filepath.Join(root, "secret"), keys.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return id.Public()
}

// echoService answers what it is told in capitals, and ends when it is told nothing more.
func echoService(t *testing.T, network, address string) string {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 32<<10)
				for {
					n, err := c.Read(b)
					if n > 0 {
						_, _ = c.Write(bytes.ToUpper(b[:n]))
					}
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// speak sends text over a connection, half-closes it, and returns all that comes back.
func speak(t *testing.T, network, address, text string) (string, error) {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(c)
	return string(got), err
}

// sharer shares a service for bob, in processes.
type sharer struct {
	hub     *testHub
	bob     string // root folder
	share   *process
	address string
}

func newSharer(t *testing.T, what string, args ...string) *sharer {
	t.Helper()
	s := &sharer{hub: newTestHub(t), bob: t.TempDir()}
	bob := identityIn(t, s.bob)
	s.share = newProcess(t, append([]string{"share", what, "--json", "--root", t.TempDir(), "--hub", s.hub.address, "--allow", bob.Ref()}, args...)...)
	shared := s.share.object()
	s.address, _ = shared["address"].(string)
	if shared["type"] != "shared" || !strings.HasPrefix(s.address, "circuit:net:") {
		t.Fatalf("%v", shared)
	}
	return s
}

func (s *sharer) connect(t *testing.T, remote, local string, args ...string) *process {
	t.Helper()
	return newProcess(t, append([]string{"connect", remote, local, "--root", s.bob}, args...)...)
}

func TestAPortIsSharedAndConnected(t *testing.T) {
	port := strings.TrimPrefix(echoService(t, "tcp", "127.0.0.1:0"), "127.0.0.1:")
	s := newSharer(t, port)
	c := s.connect(t, s.address+"/"+port, "0", "--json")
	local, _ := c.object()["local"].(string)
	text := strings.Repeat("a long way ", 100_000)
	got, err := speak(t, "tcp", local, text)
	if err != nil || got != strings.ToUpper(text) {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(text), err)
	}
	for _, p := range []*process{s.share, c} {
		if e := p.object(); e["type"] != "opened" {
			t.Errorf("%v", e)
		}
		for e := p.object(); e["type"] != "closed"; e = p.object() {
			if e["type"] != "traffic" {
				t.Errorf("%v", e)
			}
		}
	}
	c.interrupt()
	if r := command(t, "", "call", s.address, "manifest", "--root", s.bob); r.code != exitOK || !strings.Contains(r.out, "manifest") {
		t.Errorf("call ended with %d: %s%s", r.code, r.out, r.err)
	}
	s.share.interrupt()
}

func TestConnectServesAsAProxyCommand(t *testing.T) {
	s := newSharer(t, echoService(t, "tcp", "127.0.0.1:0"), "--name", "ssh")
	for _, remote := range []string{"/ssh", ""} { // the only service needs no name
		c := s.connect(t, s.address+remote, "-")
		if _, err := io.WriteString(c.in, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if got := c.line(); got != "HELLO\n" {
			t.Errorf("got %q", got)
		}
		_ = c.in.Close()
		if rest, err := io.ReadAll(c.out); len(rest) > 0 || err != nil {
			t.Errorf("got %q, %v", rest, err)
		}
		if code := c.wait(); code != exitOK || c.errs.String() != "" {
			t.Errorf("it ended with %d: %q", code, c.errs.String())
		}
	}
}

func TestUnixSocketsAreSharedAndConnected(t *testing.T) {
	dir := shortDir(t)
	service, local := filepath.Join(dir, "service"), filepath.Join(dir, "local")
	echoService(t, "unix", service)
	s := newSharer(t, service)
	for range 2 { // the second finds the socket of the first, who was killed
		c := s.connect(t, s.address+"/service", local, "--json")
		c.object()
		if info, err := os.Stat(local); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if got, err := speak(t, "unix", local, "hello"); got != "HELLO" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		_ = c.cmd.Process.Kill()
		c.wait()
	}
}

func TestPeopleReadWhatIsShared(t *testing.T) {
	s := newSharer(t, echoService(t, "tcp", "127.0.0.1:0"), "--name", "web")
	port := strings.TrimPrefix(echoService(t, "tcp", "127.0.0.1:0"), "127.0.0.1:")
	p := newProcess(t, "share", port, "--root", t.TempDir(), "--hub", s.hub.address, "--allow", "anyone")
	if got := p.line(); got != "tcp 127.0.0.1:"+port+" is shared as "+port+" with anyone who has the address\n" {
		t.Errorf("it says %q", got)
	}
	for got := p.line(); got != "Ctrl-C ends it.\n"; got = p.line() {
		if strings.Contains(got, "secretstack connect") && !strings.Contains(got, "/"+port+"' ") {
			t.Errorf("the next step is %q", got)
		}
	}
	p.interrupt()
	if text := p.errs.String(); text != "" {
		t.Errorf("in a pipe it says %q", text)
	}
	c := s.connect(t, s.address, "0")
	if got := c.line(); !strings.HasPrefix(got, "127.0.0.1:") || !strings.Contains(got, " leads to @") || !strings.HasSuffix(got, "/web\n") {
		t.Errorf("it says %q", got)
	}
	c.interrupt()
	if text := c.errs.String(); text != "" {
		t.Errorf("in a pipe it says %q", text)
	}
}

// TestAServiceThatDoesNotRunIsSharedWithAWarning, and can be used once it runs.
func TestAServiceThatDoesNotRunIsSharedWithAWarning(t *testing.T) {
	socket := filepath.Join(shortDir(t), "later")
	for _, what := range []string{"1", socket} {
		s := newSharer(t, what, "--name", "later")
		c := s.connect(t, s.address, "-")
		if code := c.wait(); code != exitFailed || !strings.Contains(c.errs.String(), "the service itself does not run there") {
			t.Errorf("%s: connect ended with %d: %q", what, code, c.errs.String())
		}
		if what == socket {
			echoService(t, "unix", socket)
			c := s.connect(t, s.address, "-")
			_, _ = io.WriteString(c.in, "hello\n")
			if got := c.line(); got != "HELLO\n" {
				t.Errorf("got %q", got)
			}
		}
		s.share.interrupt()
		if text := s.share.errs.String(); !strings.HasPrefix(text, "nothing takes connections at ") || strings.Count(text, "\n") != 1 {
			t.Errorf("%s: it says %q", what, text)
		}
	}
}

// TestSharingDoesNotUseUpAService that takes one connection and no more.
func TestSharingDoesNotUseUpAService(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := newSharer(t, ln.Addr().String(), "--name", "once")
	c := s.connect(t, s.address, "-")
	first, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	_, _ = io.WriteString(c.in, "hello\n")
	if got, err := bufio.NewReader(first).ReadString('\n'); got != "hello\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	s.share.interrupt()
	if text := s.share.errs.String(); text != "" {
		t.Errorf("it says %q", text)
	}
}

func TestWhyThereIsNoConnectionIsSaid(t *testing.T) {
	s := newSharer(t, echoService(t, "tcp", "127.0.0.1:0"), "--name", "web")
	stranger := t.TempDir()
	nobody := identityIn(t, t.TempDir())
	other := strings.Replace(s.address, s.hub.About().Key.Ref(), nobody.Ref(), 1)
	nowhere := strings.Replace(s.address, s.hub.addr, "127.0.0.1:1", 1)
	for _, c := range []struct {
		name, root, remote string
		code               int
		says               string
	}{
		{"a stranger", stranger, s.address + "/web", exitFailed, "shares nothing with you; its owner has to allow your key"},
		{"no such service", s.bob, s.address + "/mail", exitFailed, `shares no "mail" with you; there is`},
		{"nobody's key", s.bob, nobody.Ref() + "/web", exitFailed, "nobody at the hub"},
		{"another key than the hub's", s.bob, other + "/web", exitFailed, "does not have the hub's key " + nobody.Ref()},
		{"no hub", s.bob, nowhere + "/web", exitFailed, "does not run: nobody listens at its address"},
		{"no id", s.bob, "7y-6ro-3z/web", exitFailed, "nobody at the hub"},
		{"nothing at all", s.bob, "alice/web", exitUsage, "is no address, key or id"},
		{"another transport", s.bob, s.hub.address + "/web", exitUsage, "is no address of a circuit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, local := range []string{"0", "-"} {
				r := command(t, "", "connect", c.remote, local, "--root", c.root, "--hub", s.hub.address)
				if r.code != c.code || !strings.Contains(r.err, c.says) || strings.Count(r.err, "\n") != 1 || r.out != "" {
					t.Errorf("%s: %d, %q, %q", local, r.code, r.err, r.out)
				}
			}
		})
	}
	t.Run("offline", func(t *testing.T) {
		s.share.interrupt()
		for _, local := range []string{"0", "-"} {
			r := command(t, "", "connect", s.address+"/web", local, "--root", s.bob)
			if r.code != exitFailed || !strings.Contains(r.err, "is offline: its program does not run") || r.out != "" {
				t.Errorf("%s: %d, %q, %q", local, r.code, r.err, r.out)
			}
		}
	})
}

func TestWrongUseOfShareAndConnectIsExplained(t *testing.T) {
	key := identityIn(t, t.TempDir()).Ref()
	address := "net:127.0.0.1:1~shs:" + strings.TrimSuffix(key[1:], ".ed25519")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"share"}, "something is missing"},
		{[]string{"share", "abc"}, `"abc" is no port such as 3000`},
		{[]string{"share", "0"}, `"0" is no port`},
		{[]string{"share", "70000"}, `"70000" is no port`},
		{[]string{"share", "3000"}, "say who may connect"},
		{[]string{"share", "3000", "--allow", "bob"}, "names of contacts only while your courier runs"},
		{[]string{"share", "3000", "--allow", key}, "name the hub through which others come"},
		{[]string{"share", "3000", "--allow", key, "--hub", "net:example.org:8433"}, "--hub"},
		{[]string{"share", "3000", "--http", "--allow", key}, "--http is for everybody"},
		{[]string{"share", "./socket", "--http", "--hub", address}, "--http takes a port"},
		{[]string{"connect", "alice"}, "something is missing"},
		{[]string{"connect", "alice/web", "abc"}, `"abc" is no port such as 9000`},
		{[]string{"connect", "alice/web", "9000", "--timeout", "0s"}, "--timeout must be more than 0"},
		{[]string{"connect", key + "/web", "9000"}, "name one with --hub"},
		{[]string{"connect", "circuit:net~shs:x/web", "9000"}, "shs"},
	} {
		r := command(t, "", c.args...)
		if r.code != exitUsage || !strings.Contains(r.err, c.says) || strings.Count(r.err, "\n") != 1 || r.out != "" {
			t.Errorf("%v: %d, %q, %q", c.args, r.code, r.err, r.out)
		}
	}
}

func TestPeersAndNamesAreToldApart(t *testing.T) {
	key := "@//+8/3ZoMSrL3ZXqWyDEcUGJc9DHBbKPKmzIqfXxdGE=.ed25519"
	base64 := strings.TrimSuffix(key[1:], ".ed25519")
	address := "circuit:wss://hub.example.org/a/b:" + key + ":" + key + "~shs:" + base64
	for text, want := range map[string]remotePart{
		"alice":                          {"alice", ""},
		"alice/web":                      {"alice", "web"},
		"alice/":                         {"alice", ""},
		"7y-6ro-3z/web":                  {"7y-6ro-3z", "web"},
		key:                              {key, ""},
		key + "/web":                     {key, "web"},
		address:                          {address, ""},
		address + "/web":                 {address, "web"},
		address + ";" + address:          {address + ";" + address, ""},
		address + ";" + address + "/web": {address + ";" + address, "web"},
	} {
		if got := splitRemote(text); got != want {
			t.Errorf("%s is %+v", text, got)
		}
	}
}

// TestFriendsShareByName goes through couriers: names in place of addresses and keys.
func TestFriendsShareByName(t *testing.T) {
	h := newTestHub(t)
	alice, bob := newHome(t, "--name", "Alice", "--hub", h.address), newHome(t, "--name", "Bob", "--hub", h.address)
	alice.do("contact", "add", "bob", bob.card())
	bob.do("contact", "add", "alice", alice.card())
	service := echoService(t, "tcp", "127.0.0.1:0")
	shared := newProcess(t, "share", service, "--name", "web", "--json", "--root", alice.root)
	if got := shared.object(); got["type"] != "shared" || len(got["allow"].([]any)) != 1 {
		t.Fatalf("%v", got)
	}
	for _, remote := range []string{"alice/web", "alice"} {
		c := newProcess(t, "connect", remote, "-", "--root", bob.root)
		_, _ = io.WriteString(c.in, "hello")
		_ = c.in.Close()
		if got, err := io.ReadAll(c.out); string(got) != "HELLO" || err != nil {
			t.Errorf("%s: got %q, %v: %s", remote, got, err, c.errs.String())
		}
	}
	if r := alice.try("", "share", service, "--name", "web"); r.code != exitFailed || !strings.Contains(r.err, "shared already") {
		t.Errorf("%d, %q", r.code, r.err)
	}
	if r := alice.try("", "share", service, "--allow", "carol"); r.code != exitUsage || !strings.Contains(r.err, `no contact "carol"`) {
		t.Errorf("%d, %q", r.code, r.err)
	}
	alice.do("contact", "block", "bob")
	if r := alice.try("", "share", service, "--allow", "bob"); r.code != exitUsage || !strings.Contains(r.err, "bob is blocked") {
		t.Errorf("%d, %q", r.code, r.err)
	}
	if r := alice.try("", "share", service, "--hub", h.address); r.code != exitUsage {
		t.Errorf("%d, %q", r.code, r.err)
	}
	shared.interrupt()
	if r := bob.try("", "connect", "alice/web", "-"); r.code != exitFailed || !strings.Contains(r.err, "alice shares nothing with you") {
		t.Errorf("%d, %q", r.code, r.err)
	}
}

// TestWhoeverIsBlockedOrRemovedIsCutOff has a contact in mid-stream.
func TestWhoeverIsBlockedOrRemovedIsCutOff(t *testing.T) {
	h := newTestHub(t)
	alice, bob := newHome(t, "--name", "Alice", "--hub", h.address), newHome(t, "--name", "Bob", "--hub", h.address)
	alice.do("contact", "add", "bob", bob.card())
	bob.do("contact", "add", "alice", alice.card())
	service := echoService(t, "tcp", "127.0.0.1:0")
	newProcess(t, "share", service, "--name", "all", "--json", "--root", alice.root).object()
	newProcess(t, "share", service, "--name", "one", "--json", "--root", alice.root, "--allow", "bob").object()
	for _, end := range []string{"block", "remove"} {
		var running []*process
		for _, name := range []string{"all", "one"} {
			c := newProcess(t, "connect", "alice/"+name, "-", "--root", bob.root)
			_, _ = io.WriteString(c.in, "hello\n")
			if got := c.line(); got != "HELLO\n" {
				t.Fatalf("%s: got %q", name, got)
			}
			running = append(running, c)
		}
		alice.do("contact", end, "bob")
		for _, c := range running {
			if code := c.wait(); code != exitFailed {
				t.Errorf("%s: a connection ended with %d: %s", end, code, c.errs.String())
			}
		}
		if r := bob.try("", "connect", "alice/one", "-"); r.code != exitFailed || !strings.Contains(r.err, "alice shares nothing with you") {
			t.Errorf("%s: %d, %q", end, r.code, r.err)
		}
		if end == "block" {
			alice.do("contact", "unblock", "bob")
		}
	}
}

// publishWeb publishes a web server, and returns its only URL.
func publishWeb(t *testing.T, web, root string, args ...string) (*process, string) {
	t.Helper()
	p := newProcess(t, append([]string{"share", web, "--http", "--json", "--root", root}, args...)...)
	urls, _ := p.object()["urls"].([]any)
	if len(urls) != 1 {
		t.Fatalf("it is at %v: %s", urls, p.errs.String())
	}
	return p, urls[0].(string)
}

// wantPage gets a page of a server whatever its name is.
func (h *testHub) wantPage(t *testing.T, url, want string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, h.addr)
	}}}
	res, err := client.Get(url + "/some/page")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); string(body) != want || err != nil {
		t.Errorf("a visitor gets %q, %v", body, err)
	}
}

// TestWebServersArePublishedBesideACourier, each at an address of its own, which stays.
func TestWebServersArePublishedBesideACourier(t *testing.T) {
	one := httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s from %s", r.Method, r.URL.Path, r.Header.Get("X-Forwarded-For"))
	})
	two := httpServer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "two") })
	h := newTestHub(t)
	alone := t.TempDir()
	p, before := publishWeb(t, one, alone, "--hub", h.address)
	h.wantPage(t, before, "GET /some/page from 127.0.0.1")
	p.interrupt()
	p, after := publishWeb(t, one, alone, "--hub", h.addr)
	if after != before {
		t.Errorf("it was at %s and is at %s", before, after)
	}
	p.interrupt()

	alice := newHome(t, "--hub", h.address) // at whose hub the servers are
	alice.comesToItsHub()
	first, oneURL := publishWeb(t, one, alice.root)
	_, twoURL := publishWeb(t, two, alice.root)
	h.wantPage(t, oneURL, "GET /some/page from 127.0.0.1")
	h.wantPage(t, twoURL, "two")
	alice.comesToItsHub()
	again, same := publishWeb(t, one, alice.root)
	if same != oneURL {
		t.Errorf("the same server is at %s and at %s", oneURL, same)
	}
	if code := first.wait(); code != exitFailed || !strings.Contains(first.errs.String(), "another program has begun to publish the same server") {
		t.Errorf("the first ended with %d: %s", code, first.errs.String())
	}
	h.wantPage(t, same, "GET /some/page from 127.0.0.1")
	again.interrupt()
}

func httpServer(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	go server.Serve(ln)
	t.Cleanup(func() { server.Close() })
	return ln.Addr().String()
}

// TestWhoeverIsKilledTheOtherLearnsIt kills one of the three in mid-stream.
func TestWhoeverIsKilledTheOtherLearnsIt(t *testing.T) {
	for _, who := range []string{"share", "connect", "hub"} {
		t.Run(who, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			s := newSharer(t, ln.Addr().String(), "--name", "web")
			c := s.connect(t, s.address+"/web", "0", "--json")
			local, _ := c.object()["local"].(string)
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
			if _, err := io.WriteString(program, "hello"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(service, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			switch who {
			case "share":
				_ = s.share.cmd.Process.Kill()
			case "connect":
				_ = c.cmd.Process.Kill()
			case "hub":
				s.hub.stop()
			}
			if who != "connect" { // whose own connections the system ends
				if _, err := io.ReadAll(program); err == nil {
					t.Error("the program takes it for an end in order")
				}
				for e := c.object(); e["type"] != "closed" || e["error"] == nil; e = c.object() {
					if e["type"] != "opened" {
						t.Errorf("%v", e)
					}
				}
			}
			if who != "share" {
				if _, err := io.ReadAll(service); err == nil {
					t.Error("the service takes it for an end in order")
				}
			}
		})
	}
}

// TestAChangeOfKeysIsSaidToThoseWhoUseTheOldOne, who go on with the name of the contact.
func TestAChangeOfKeysIsSaidToThoseWhoUseTheOldOne(t *testing.T) {
	h := newTestHub(t)
	alice, bob := newHome(t, "--name", "Alice", "--hub", h.address), newHome(t, "--name", "Bob", "--hub", h.address)
	alice.do("contact", "add", "bob", bob.card())
	bob.do("contact", "add", "alice", alice.card())
	service := echoService(t, "tcp", "127.0.0.1:0")
	shared := newProcess(t, "share", service, "--name", "web", "--json", "--root", alice.root)
	shared.object()
	c := newProcess(t, "connect", "alice/web", "0", "--root", bob.root)
	local, _, _ := strings.Cut(c.line(), " ")
	if got, err := speak(t, "tcp", local, "hello"); got != "HELLO" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	alice.stop()
	if code := shared.wait(); code != exitFailed {
		t.Errorf("share ended with %d", code)
	}
	alice.do("keys", "rotate")
	alice.start()
	alice.comesToItsHub()
	if got, _ := speak(t, "tcp", local, "hello"); got != "" {
		t.Errorf("got %q", got)
	}
	c.interrupt()
	if text := c.errs.String(); !strings.Contains(text, "alice has changed its key") || !strings.Contains(text, "start this again") {
		t.Errorf("it says %q", text)
	}
	newProcess(t, "share", service, "--name", "web", "--json", "--root", alice.root).object()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // until bob's courier has been told
		r := bob.try("hello", "connect", "alice/web", "-")
		if r.code == exitOK && r.out == "HELLO" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d, %q, %s", r.code, r.out, r.err)
		}
	}
}

// TestANewKeyKeepsTheIdWhateverRunsFirst: not only the courier tells the hub which key it has replaced.
func TestANewKeyKeepsTheIdWhateverRunsFirst(t *testing.T) {
	h := newTestHub(t)
	root := t.TempDir()
	serve := func() string {
		p := newProcess(t, "serve", "--hub", h.address, "--host", "127.0.0.1", "--json", "--root", root)
		defer p.interrupt()
		return fmt.Sprint(p.object()["ids"])
	}
	before := serve()
	if r := command(t, "", "keys", "rotate", "--root", root); r.code != exitOK {
		t.Fatal(r.err)
	}
	if after := serve(); after != before || after == "[]" {
		t.Errorf("the ids were %s and are %s", before, after)
	}
}
