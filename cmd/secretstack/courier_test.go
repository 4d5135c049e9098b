package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/internal/testkit"
)

// runMain makes the test program behave as the command, for tests that need a process.
const runMain = "SECRETSTACK_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
		return
	}
	// Those that run side by side are faults of nodes, which wait more than they work.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// home is somebody's root folder, with a courier that runs until the test ends or stop is called.
type home struct {
	t    *testing.T
	root string
	stop func()
	args []string
	errs *testkit.Buffer
}

// shortDir is a folder whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ss") //nolint:usetesting // names of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func newHome(t *testing.T, args ...string) *home {
	t.Helper()
	h := &home{t: t, root: shortDir(t), args: args}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *home) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	errs := &testkit.Buffer{}
	h.errs = errs
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append([]string{"courier", "--json", "--root", h.root}, h.args...), streams{strings.NewReader(""), w, errs})
		w.Close()
	}()
	h.stop = func() {
		cancel()
		if code := <-done; code != exitOK {
			h.t.Errorf("courier ended with %d: %s", code, errs.String())
		}
		h.stop = func() {}
	}
	var status courier.Status
	if err := json.NewDecoder(r).Decode(&status); err != nil {
		h.t.Fatalf("courier printed no status: %v, %s", err, errs.String())
	}
	go io.Copy(io.Discard, r)
}

// try runs a command for the owner.
func (h *home) try(stdin string, args ...string) result {
	h.t.Helper()
	return command(h.t, stdin, append(args, "--root", h.root)...)
}

// do runs a command that must succeed, and gives what it prints.
func (h *home) do(args ...string) string {
	h.t.Helper()
	r := h.try("", args...)
	if r.code != exitOK {
		h.t.Fatalf("%v ended with %d: %s", args, r.code, r.err)
	}
	return r.out
}

func (h *home) card() string {
	h.t.Helper()
	var who struct{ Card string }
	if err := json.Unmarshal([]byte(h.do("whoami", "--json")), &who); err != nil {
		h.t.Fatal(err)
	}
	return who.Card
}

// comesToItsHub waits until the courier is reached through its hub.
func (h *home) comesToItsHub() {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(h.do("status"), ", connected"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("not at the hub: %s", h.do("status"))
		}
	}
}

// says waits until the courier has printed a line with all of the texts for its owner.
func (h *home) says(texts ...string) {
	h.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		for line := range strings.Lines(h.errs.String()) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				return
			}
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("the courier says %q, and nothing of %q", h.errs.String(), texts)
		}
	}
}

// friends are two homes whose owners know each other.
func friends(t *testing.T) (alice, bob *home) {
	t.Helper()
	alice, bob = newHome(t, "--name", "Alice", "--listen", "127.0.0.1:0"), newHome(t, "--name", "Bob", "--listen", "127.0.0.1:0")
	alice.do("contact", "add", "bob", bob.card())
	bob.do("contact", "add", "alice", alice.card())
	return alice, bob
}

func TestAConversationOnTheCommandLine(t *testing.T) {
	alice, bob := friends(t)
	alice.do("send", "bob", "hello", "bob", "--wait", "1m")
	if r := alice.try("from\nstdin\n", "send", "bob", "--wait", "1m"); r.code != exitOK {
		t.Fatal(r.err)
	}
	if got := bob.do("messages", "alice"); !strings.Contains(got, "  alice: hello bob\n") || !strings.Contains(got, "  alice: from\n    stdin\n") {
		t.Errorf("bob sees %q", got)
	}
	var m courier.Message
	if err := json.Unmarshal([]byte(alice.do("messages", "--last", "1", "--json")), &m); err != nil || m.Text != "from\nstdin" || m.State != "delivered" {
		t.Errorf("%+v, %v", m, err)
	}
	if got := alice.do("messages", "--received"); got != "" {
		t.Errorf("alice has received %q", got)
	}
	if got := alice.do("status"); !strings.Contains(got, "waiting   nothing") || !strings.Contains(got, "contacts  1") {
		t.Errorf("status is %q", got)
	}
	if got := alice.do("contact", "list"); !strings.HasPrefix(got, "bob  @") {
		t.Errorf("contacts are %q", got)
	}
}

func TestAFileOnTheCommandLine(t *testing.T) {
	alice, bob := friends(t)
	path := filepath.Join(t.TempDir(), "data.bin")
	content := bytes.Repeat([]byte("data"), 100000)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	alice.do("send", "bob", "--file", path, "--wait", "1m")
	if got := bob.do("messages"); !strings.Contains(got, "[file data.bin, 400000 bytes] (secretstack messages --save 1)") {
		t.Errorf("bob sees %q", got)
	}
	if got := bob.do("messages", "--save", "1", "--output", "-"); got != string(content) {
		t.Errorf("%d other bytes came out", len(got))
	}
	t.Chdir(t.TempDir())
	bob.do("messages", "--save", "1")
	if got, err := os.ReadFile("data.bin"); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if r := bob.try("", "messages", "--save", "1"); r.code != exitUsage || !strings.Contains(r.err, "there is a file data.bin") {
		t.Errorf("a second time: %d, %s", r.code, r.err)
	}
	if r := bob.try("", "messages", "--save", "9"); r.code != exitFailed || !strings.Contains(r.err, "no file in message 9") {
		t.Errorf("no file: %d, %s", r.code, r.err)
	}
}

func TestAStrangerOnTheCommandLine(t *testing.T) {
	alice, bob := newHome(t, "--listen", "127.0.0.1:0"), newHome(t, "--listen", "127.0.0.1:0")
	alice.do("contact", "add", "bob", bob.card())
	if r := alice.try("", "send", "bob", "do you know me?", "--wait", "1s"); r.code != exitFailed || !strings.Contains(r.err, "not delivered yet") {
		t.Errorf("%d, %s", r.code, r.err)
	}
	var requests []courier.Request
	for len(requests) == 0 {
		if err := json.Unmarshal([]byte(bob.do("contact", "requests", "--json")), &requests); err != nil {
			t.Fatal(err)
		}
	}
	if got := bob.do("contact", "requests"); !strings.Contains(got, "do you know me?") {
		t.Errorf("requests are %q", got)
	}
	bob.do("contact", "accept", "alice", requests[0].Key.Ref())
	if got := bob.do("messages", "alice"); !strings.Contains(got, "do you know me?") {
		t.Errorf("bob sees %q", got)
	}
	bob.do("contact", "rename", "alice", "al")
	bob.do("contact", "block", "al")
	if got := bob.do("contact", "list"); !strings.HasPrefix(got, "al  @") || !strings.Contains(got, "blocked") {
		t.Errorf("contacts are %q", got)
	}
	if r := bob.try("", "send", "al", "x"); r.code != exitFailed || r.err != "secretstack: \"al\" is blocked: unblock the contact first\n" {
		t.Errorf("to somebody who is blocked: %d, %q", r.code, r.err)
	}
	bob.do("contact", "unblock", "al")
	bob.do("contact", "remove", "al")
	if got := bob.do("contact", "list", "--json"); strings.TrimSpace(got) != "[]" {
		t.Errorf("contacts are %q", got)
	}
}

func TestWrongUseOfTheCourierNamesTheWayOut(t *testing.T) {
	alice := newHome(t, "--listen", "127.0.0.1:0")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"send", "nobody", "hi"}, exitFailed, `there is no contact "nobody"`},
		{[]string{"send", "nobody"}, exitUsage, "nothing to send"},
		{[]string{"send"}, exitUsage, "something is missing"},
		{[]string{"send", "x", "--file", "/nowhere"}, exitUsage, "--file"},
		{[]string{"messages", "nobody"}, exitFailed, `there is no contact "nobody"`},
		{[]string{"messages", "--since", "yesteryear"}, exitUsage, "no time such as"},
		{[]string{"messages", "--last", "-1"}, exitUsage, "number of messages"},
		{[]string{"messages", "--last", "x"}, exitUsage, `--last takes a number, not "x"`},
		{[]string{"chat", "nobody"}, exitUsage, "chat needs a terminal"},
		{[]string{"contact", "add", "x", "hello"}, exitFailed, "no contact card"},
		{[]string{"contact", "accept", "x", "y"}, exitUsage, "is no key"},
		{[]string{"messages", "--since", "-3d"}, exitUsage, "no time such as"},
		{[]string{"send", "x", "hi", "--wait", "soon"}, exitUsage, `--wait takes a time such as 5s, 12h or 7d, not "soon"`},
		{[]string{"hub", "invite", "--lasts", "never"}, exitUsage, "--lasts takes a time such as"},
		{[]string{"hub", "invite", "--uses", "0"}, exitUsage, "--uses takes how many may use it, from 1 to 1000, not 0"},
		{[]string{"courier"}, exitFailed, "running for " + alice.root + " already"},
		{[]string{"courier", "--listen", "8008"}, exitUsage, "--listen takes"},
		{[]string{"courier", "--hub", "non/sense"}, exitUsage, "--hub takes"},
		{[]string{"courier", "--hub", "127.0.0.1:1"}, exitFailed, "no answer from the hub 127.0.0.1:1"},
		{[]string{"courier", "--hub", "secretstack:AQAB"}, exitUsage, "--hub: not a link to a hub"},
		{[]string{"share", "22", "--http", "--hub", "secretstack://hub?address=nonsense"}, exitUsage, "--hub"},
		{[]string{"courier", "--hub", "http://127.0.0.1:1"}, exitFailed, "no answer from the hub 127.0.0.1:1"},
		{[]string{"courier", "--hub", "127.0.0.1:1"}, exitFailed, "no answer from the hub 127.0.0.1:1"},
		{[]string{"courier", "--owner", "me"}, exitUsage, "--owner takes"},
	} {
		r := alice.try("", c.args...)
		if r.code != c.code || !strings.Contains(r.err, c.want) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%v: %d, %q", c.args, r.code, r.err)
		}
	}
	alice.stop()
	if r := alice.try("", "status"); r.code != exitFailed || !strings.Contains(r.err, "start one: secretstack courier") {
		t.Errorf("no courier: %d, %s", r.code, r.err)
	}
}

func TestACourierRemembersItsFlags(t *testing.T) {
	alice := newHome(t, "--name", "Alice")
	address := func() string {
		for line := range strings.Lines(alice.do("status")) {
			if rest, found := strings.CutPrefix(line, "address "); found {
				return rest
			}
		}
		t.Fatal("no address")
		return ""
	}
	before := address()
	alice.stop()
	alice.args = nil
	alice.start()
	if got := address(); got != before {
		t.Errorf("the address was %s, is %s", before, got)
	}
	if got := alice.do("whoami"); !strings.Contains(got, "name    Alice\n") || !strings.Contains(got, "card    secretstack:") {
		t.Errorf("whoami prints %q", got)
	}
}

func TestACourierServesSecrezOnAPortThatItKeeps(t *testing.T) {
	old := httptest.NewServer(http.NotFoundHandler()) // a hub that says nothing of a key
	defer old.Close()
	alice := newHome(t, "--secrez", "--hub", old.URL, "--listen", "none")
	port := func() uint16 {
		text, err := os.ReadFile(filepath.Join(alice.root, "courier", "options.json"))
		if err != nil {
			t.Fatal(err)
		}
		var options courierOptions
		if err := json.Unmarshal(text, &options); err != nil || options.SecrezHub != old.URL || options.Hubs != nil {
			t.Fatalf("%s, %v", text, err)
		}
		return options.SecrezPort
	}
	before := port()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Get(fmt.Sprintf("https://localhost:%d/", before))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	if err != nil || string(got) != `{"hello":"world"}` {
		t.Errorf("%s, %v", got, err)
	}
	response.Body.Close()
	alice.stop()
	alice.args = nil
	alice.start()
	if got := port(); got != before || got == 0 {
		t.Errorf("the port was %d, is %d", before, got)
	}
	alice.stop()
	alice.args = []string{"--new-random-port"}
	alice.start()
	if got := port(); got == before {
		t.Errorf("the port is still %d", got)
	}
}

func TestTheFirstMinuteWithAHub(t *testing.T) {
	hub := start(t, "hub", "--port", "0", "--address", "127.0.0.1")
	var port int
	if _, err := fmt.Sscanf(hub.Addresses[0], "net:127.0.0.1:%d~", &port); err != nil {
		t.Fatalf("%v: %v", hub.Addresses, err)
	}
	web := fmt.Sprintf("http://127.0.0.1:%d", port)
	bare := strings.TrimPrefix(web, "http://")
	alice, bob := newHome(t, "--hub", web, "--name", "Alice"), newHome(t, "-H", bare, "--name", "Bob")
	for _, h := range []*home{alice, bob} {
		h.comesToItsHub()
	}
	alice.do("contact", "add", "bob", bob.card())
	bob.do("contact", "add", "alice", alice.card())
	alice.do("send", "bob", "through the hub", "--wait", "1m")
	if got := bob.do("messages"); !strings.Contains(got, "alice: through the hub") {
		t.Errorf("bob sees %q", got)
	}
}

func TestTheLinkOfAnInvitationTakesTheHubsPlace(t *testing.T) {
	hubRoot := shortDir(t)
	hub := startIn(t, hubRoot, "hub", "--port", "0", "--address", "127.0.0.1", "--admission", "invite")
	invite := func() string {
		r := command(t, "", "hub", "invite", "--root", hubRoot)
		if r.code != exitOK {
			t.Fatal(r.err)
		}
		return strings.TrimSpace(r.out)
	}
	alice := newHome(t, "--hub", hub.Addresses[0])
	alice.says("not connected to the hub yet: "+hub.Addresses[0], "invite-needed")
	alice.stop()
	alice.args = []string{"--hub", invite()}
	alice.start()
	alice.comesToItsHub()
	alice.stop()
	alice.args = nil // the invitation is used, and the hub remembers
	alice.start()
	alice.comesToItsHub()

	shared := newProcess(t, "share", "1", "--http", "--json", "--hub", invite(), "--root", shortDir(t))
	if o := shared.object(); fmt.Sprint(o["urls"]) == "[]" {
		t.Errorf("what is shared has not come to the hub: %v, %s", o, shared.errs.String())
	}
	served := start(t, "serve", "--hub", invite())
	if len(served.Tunnels) != 1 {
		t.Errorf("a peer is reached through %v", served.Tunnels)
	}
}

func TestACourierSaysThatItsHubHasAnotherKey(t *testing.T) {
	hub, stranger := start(t, "hub", "--port", "0", "--address", "127.0.0.1"), start(t, "hub", "--port", "0", "--address", "127.0.0.1")
	at, _, _ := strings.Cut(hub.Addresses[0], "~")
	_, key, _ := strings.Cut(stranger.Addresses[0], "~")
	alice := newHome(t, "--hub", at+"~"+key)
	alice.says("not connected to the hub yet: "+at, "; retrying")
	if got := alice.do("status"); !strings.Contains(got, ", not connected: ") || strings.Contains(got, "not connected: shs: ") {
		t.Errorf("status is %q", got)
	}
}

func TestAnIdentityIsExportedAndImported(t *testing.T) {
	t.Setenv(envPassphrase, "correct horse")
	home := t.TempDir()
	id := command(t, "", "keys", "--root", home).out
	file := filepath.Join(t.TempDir(), "backup")
	for _, args := range [][]string{{"keys", "export", file, "--root", home}, {"keys", "import", file, "--root", filepath.Join(t.TempDir(), "x")}} {
		if r := command(t, "", args...); r.code != exitOK || r.out != id {
			t.Errorf("%v: %d, %s%s", args, r.code, r.out, r.err)
		}
	}
	if r := command(t, "", "keys", "export", file, "--root", home); r.code != exitUsage || !strings.Contains(r.err, "choose another name") {
		t.Errorf("exported twice: %d, %s", r.code, r.err)
	}
	if r := command(t, "", "keys", "import", file, "--root", home); r.code != exitFailed || !strings.Contains(r.err, "not replaced") {
		t.Errorf("imported over another: %d, %s", r.code, r.err)
	}
	t.Setenv(envPassphrase, "wrong horse")
	if r := command(t, "", "keys", "import", file); r.code != exitFailed || !strings.Contains(r.err, "wrong passphrase") {
		t.Errorf("wrong passphrase: %d, %s", r.code, r.err)
	}
}

func TestAnIdentityIsNotExportedUnderAWeakPassphrase(t *testing.T) {
	home, file := t.TempDir(), filepath.Join(t.TempDir(), "backup")
	command(t, "", "keys", "--root", home)
	t.Setenv(envPassphrase, "\u00e4bcdefg") // seven characters in eight bytes
	if r := command(t, "", "keys", "export", file, "--root", home); r.code != exitFailed || !strings.Contains(r.err, "at least 8 characters") || !strings.Contains(r.err, "--weak") {
		t.Errorf("%d, %s", r.code, r.err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it is there")
	}
	if r := command(t, "", "keys", "export", file, "--weak", "--root", home); r.code != exitOK {
		t.Errorf("confirmed: %d, %s", r.code, r.err)
	}
}

// TestEmptyListsSayOnATerminalWhatToDo, and nothing to programs.
func TestEmptyListsSayOnATerminalWhatToDo(t *testing.T) {
	alice := newHome(t, "--listen", "127.0.0.1:0")
	hubRoot := shortDir(t)
	startIn(t, hubRoot, "hub", "--port", "0", "--address", "127.0.0.1")
	for _, c := range []struct {
		root, says string
		args       []string
	}{
		{alice.root, "secretstack contact add NAME CARD", []string{"contact", "list"}},
		{alice.root, "secretstack whoami", []string{"contact", "requests"}},
		{alice.root, "secretstack send NAME TEXT", []string{"messages"}},
		{hubRoot, "secretstack hub rule 'deny", []string{"hub", "rule"}},
		{hubRoot, "To make one: secretstack hub invite", []string{"hub", "invite", "--list"}},
	} {
		if r := command(t, "", append(c.args, "--root", c.root)...); r.code != exitOK || r.out != "" || r.err != "" {
			t.Errorf("%v says to a program: %q, %q", c.args, r.out, r.err)
		}
		onTerminal(t, append(c.args, "--root", c.root)...).sees(c.says)
	}
}

func TestAnIdentityComesBackFromItsWords(t *testing.T) {
	home := t.TempDir()
	id := command(t, "", "keys", "--root", home).out
	words := command(t, "", "keys", "words", "--root", home).out
	if n := len(strings.Fields(words)); n != 24 {
		t.Fatalf("%d words", n)
	}
	if r := command(t, strings.ToUpper(words), "keys", "import", "--words"); r.code != exitOK || r.out != id {
		t.Errorf("%d, %s%s", r.code, r.out, r.err)
	}
	if r := command(t, "abandon "+words, "keys", "import", "--words"); r.code != exitFailed || !strings.Contains(r.err, "25 words, not 24") {
		t.Errorf("%d, %s", r.code, r.err)
	}
	if r := command(t, "", "keys", "words"); r.code != exitFailed || !strings.Contains(r.err, "no identity") {
		t.Errorf("no identity: %d, %s", r.code, r.err)
	}
	if r := command(t, "", "keys", "import"); r.code != exitUsage {
		t.Errorf("neither file nor words: %d, %s", r.code, r.err)
	}
}

func TestContactsFollowAChangeOfKeys(t *testing.T) {
	alice, bob := friends(t)
	before := strings.TrimSpace(bob.do("keys"))
	bob.stop()
	after := strings.TrimSpace(bob.do("keys", "rotate"))
	if after == before || strings.TrimSpace(bob.do("keys")) != after {
		t.Fatalf("the key was %s, is %s", before, after)
	}
	bob.start()
	bob.do("send", "alice", "it is me", "--wait", "1m")
	if got := alice.do("contact", "list"); !strings.Contains(got, after) || !strings.Contains(got, "LOOK: has changed the key") {
		t.Errorf("alice's contacts are %q", got)
	}
	if got := alice.do("messages", "bob"); !strings.Contains(got, "bob: it is me") {
		t.Errorf("alice sees %q", got)
	}
	alice.do("contact", "seen", "bob")
	alice.do("send", "bob", "I see", "--wait", "1m")
	bob.stop()
	bob.do("keys", "rotate")
	bob.start()
	bob.do("send", "alice", "me again", "--wait", "1m")
}

// screen is a terminal in tmux in which a command runs.
type screen struct {
	t      *testing.T
	socket string
}

func (h *home) screen(args ...string) *screen {
	h.t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("CI") == "true" {
			h.t.Fatal("tmux is needed")
		}
		h.t.Skip("this test needs tmux")
	}
	s := &screen{h.t, filepath.Join(shortDir(h.t), "tmux")}
	h.t.Cleanup(func() { _ = exec.Command("tmux", "-S", s.socket, "kill-server").Run() })
	script := `"$0" "$@"; echo ended with $?; sleep 600`
	s.tmux(append([]string{"-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-e", runMain + "=1",
		"sh", "-c", script, os.Args[0], "--root", h.root}, args...)...)
	return s
}

func (s *screen) tmux(args ...string) string {
	s.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("tmux %v: %v, %s", args, err, out)
	}
	return string(out)
}

func (s *screen) keys(keys ...string) {
	s.t.Helper()
	s.tmux(append([]string{"send-keys"}, keys...)...)
}

// wait looks at the screen until it shows all of the texts.
func (s *screen) wait(texts ...string) string {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		shown := s.tmux("capture-pane", "-p")
		missing := ""
		for _, text := range texts {
			if !strings.Contains(shown, text) {
				missing = text
			}
		}
		if missing == "" {
			return shown
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the screen never shows %q:\n%s", missing, shown)
		}
	}
}

func TestChatInATerminal(t *testing.T) {
	alice, bob := friends(t)
	bob.do("send", "alice", "from before", "--wait", "1m")
	s := alice.screen("chat", "BOB")
	s.wait("bob: from before", "── bob ──", "Enter sends")
	s.keys("hello from chat", "Enter")
	s.wait("me: hello from chat", "✓")
	s.keys("first line", "M-Enter", "second line", "Enter")
	s.wait("me: first line\n        second line\n")
	bob.do("send", "alice", "ünï世界 \x1b[31mred", "--wait", "1m")
	s.wait(`bob: ünï世界 \x1b[31mred`)
	if got := bob.do("messages", "--received"); !strings.Contains(got, "alice: first line\n    second line\n") {
		t.Errorf("bob sees %q", got)
	}
	bob.stop()
	s.keys("are you there?", "Enter")
	s.wait("… ", "me: are you there?")
	bob.start()
	s.wait("✓")
	for i := range 30 {
		bob.do("send", "alice", strings.Repeat("x", i+1))
	}
	s.wait("bob: " + strings.Repeat("x", 30))
	s.keys("PPage")
	s.wait("more below")
	s.keys("NPage", "NPage", "C-c")
	s.wait("ended with 0")
}

func TestChatEndsWithItsCourier(t *testing.T) {
	alice, _ := friends(t)
	s := alice.screen("chat", "bob")
	s.wait("Enter sends")
	alice.stop()
	s.wait("ended with 1")
}

func TestChatWithNobodySaysSo(t *testing.T) {
	alice := newHome(t, "--listen", "127.0.0.1:0")
	alice.screen("chat", "nobody").wait(`there is no contact "nobody"`, "ended with 1")
}
