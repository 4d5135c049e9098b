package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/native"
)

func TestWrongUseOfTheHubSaysTheWayOut(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key.pem")
	for says, args := range map[string][]string{
		"--domain takes a host name":       {"--domain", "192.0.2.1"},
		"takes a number from 0 to 65535":   {"--port", "x"},
		"--tunnel-ports takes ports such":  {"--tunnel-ports", "many"},
		"--max-sockets must be at least 1": {"-m", "0"},
		"--trusted-proxy takes an address": {"--trusted-proxy", "nginx"},
		"--admission takes open, invite":   {"--admission", "ajar"},
		"--rule \"forbid x\"":              {"--rule", "forbid x"},
		"--drain-to":                       {"--drain-to", "elsewhere"},
		"leave out --cert and --key":       {"--tls", "--cert", key, "--key", key},
		"--cert and --key belong together": {"--cert", key},
		"--cert and --key name files":      {"--cert", key, "--key", key},
		"--tls needs to know for which":    {"--tls"},
		"Landing":                          {"--landing", "example.org"},
		"there is no file":                 {"--config", "nowhere.toml"},
		"--drain takes a time such as":     {"--drain", "5"},
		"--admin takes an address such":    {"--admin", "8434"},
		`"now" is too much`:                {"now"},
		"it takes the name of the file to": {"backup"},
		"--remove takes whom":              {"rule", "--remove"},
		"not understood":                   {"rule", "forbid x"},
	} {
		r := command(t, "", append([]string{"hub"}, args...)...)
		if r.code != exitUsage || !strings.Contains(r.err, says) || strings.Count(r.err, "\n") != 1 || r.out != "" {
			t.Errorf("%v: %d, %q, %q; want %q", args, r.code, r.err, r.out, says)
		}
	}
}

func TestAHubThatCannotStartSaysWhatToDo(t *testing.T) {
	taken := start(t, "hub", "-p", "0", "-a", "127.0.0.1")
	hostPort, _, _ := strings.Cut(strings.TrimPrefix(taken.Addresses[0], "net:"), "~")
	port := hostPort[strings.LastIndexByte(hostPort, ':')+1:]
	r := command(t, "", "hub", "-p", port, "-a", "127.0.0.1")
	if r.code != exitFailed || !strings.Contains(r.err, "choose another port with --port") {
		t.Errorf("a port in use: %d, %s", r.code, r.err)
	}
	r = command(t, "", "hub", "-p", "0", "-a", "203.0.113.1")
	if r.code != exitFailed || !strings.Contains(r.err, "choose an address of this machine with --address") {
		t.Errorf("somebody else's address: %d, %s", r.code, r.err)
	}
	root := shortDir(t)
	startIn(t, root, "hub", "-p", "0", "-a", "127.0.0.1")
	r = command(t, "", "hub", "-p", "0", "-a", "127.0.0.1", "--root", root)
	if r.code != exitFailed || !strings.Contains(r.err, "a hub is running with this --root already") {
		t.Errorf("a folder in use: %d, %s", r.code, r.err)
	}
}

// startIn starts a command with a root folder.
func startIn(t *testing.T, root string, args ...string) node {
	t.Helper()
	t.Setenv(envRoot, root)
	n := start(t, args...)
	if err := os.Unsetenv(envRoot); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAConfigurationFileSaysWhatFlagsSay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hub.toml")
	write(t, file, `
port = 1
domain = "hub.example.org"
secure = true
admission = "invite"
rule = ["deny 192.0.2.0/24 # a bad neighbourhood"]
trusted-proxy = ["10.0.0.0/8", "127.0.0.1"]
drain = "3s"

[limits]
max-peers = 7
inactivity = "5m"
[limits.session]
max-packet = 1024
[limits.admission]
exempt = ["192.0.2.0/24"]
[limits.admission.address]
registration = "5/s burst 200"
[limits.circuits]
idle = "1h"
`)
	root := newRoot(streams{})
	cmd, _, err := root.Find([]string{"hub"})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags([]string{"-p", "2", "--rule", "allow 192.0.2.7"}); err != nil {
		t.Fatal(err)
	}
	s, err := readHubSettings(file, cmd.Flags())
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := s.config()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(cfg.Listen, " "); got != ":2" {
		t.Errorf("it listens on %s, not on what the flag says", got)
	}
	if cfg.Domain != "hub.example.org" || !cfg.Secure || cfg.Mode != admission.ModeInvite || s.Drain != duration(3*time.Second) || s.MaxSockets != 4 {
		t.Errorf("%+v", s)
	}
	if len(cfg.Rules) != 1 || cfg.Rules[0].Effect != admission.Allow {
		t.Errorf("the rules are %v, not those of the flags", cfg.Rules)
	}
	if len(cfg.TrustedProxies) != 2 || cfg.TrustedProxies[1].String() != "127.0.0.1/32" {
		t.Errorf("the proxies are %v", cfg.TrustedProxies)
	}
	l := cfg.Limits
	if l.MaxPeers != 7 || l.Inactivity != 5*time.Minute || l.Session.MaxPacket != 1024 || l.Circuits.Idle != time.Hour ||
		l.Admission.Address.Registration.String() != "5/s burst 200" || len(l.Admission.Exempt) != 1 {
		t.Errorf("the limits are %+v", l)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAConfigurationFileIsTakenAtItsWord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hub.toml")
	for text, says := range map[string]string{
		"prot = 1":                                   `:1: there is no setting "prot"`,
		"domain = 5":                                 ":1:",
		"port = 99999":                               ":1:",
		"= x":                                        ":1:",
		"drain = \"soon\"":                           "no time such as",
		"[limits]\nmax-piers = 1":                    `no setting "limits.max-piers"`,
		"[limits]\nmax-peers = \"many\"":             "limits.max-peers takes a number",
		"[limits]\ninactivity = 5":                   `limits.inactivity takes a time such as "5s"`,
		"[limits]\ninactivity = \"soon\"":            `limits.inactivity takes a time such as "5s"`,
		"[limits]\nsession = 5":                      "limits.session is a table of limits",
		"[limits.session]\nmax = 5":                  `no setting "limits.session.max"`,
		"[limits.admission.address]\nlookup = \"x\"": "limits.admission.address.lookup",
		"[limits.admission]\nexempt = [\"x\"]":       "limits.admission.exempt",
		"[limits.admission]\nexempt = 5":             "limits.admission.exempt does not take this",
	} {
		write(t, file, text)
		r := command(t, "", "hub", "--config", file)
		if r.code != exitUsage || !strings.Contains(r.err, says) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%q: %d, %q; want %q", text, r.code, r.err, says)
		}
	}
}

func TestLimitsAreSpeltAsInTheFile(t *testing.T) {
	for name, want := range map[string]string{"MaxPeersPerKey": "max-peers-per-key", "NewID": "new-id", "IDOf": "id-of", "Idle": "idle"} {
		if got := spelt(name); got != want {
			t.Errorf("%s is spelt %s, want %s", name, got, want)
		}
	}
}

func TestTheHubIsBackedUpWhileItRunsAndWhenItIsStopped(t *testing.T) {
	root := shortDir(t)
	write(t, filepath.Join(mkdir(t, root, "hub", "tls"), "cert.pem"), "a certificate")
	files := t.TempDir()
	running, stopped := filepath.Join(files, "running.tar"), filepath.Join(files, "stopped.tar")
	t.Run("running", func(t *testing.T) { // its end stops the hub
		n := startIn(t, root, "hub", "-p", "0", "-a", "127.0.0.1")
		r := command(t, "", "hub", "status", "--json", "--root", root)
		var status hub.ControlStatus
		if err := json.Unmarshal([]byte(r.out), &status); err != nil || status.Key.Ref() != n.ID || status.Mode != admission.ModeOpen {
			t.Errorf("%+v, %v, %s", status, err, r.err)
		}
		if r := command(t, "", "hub", "status", "--root", root); r.code != exitOK || !strings.Contains(r.out, "admission  open") {
			t.Errorf("%d, %s%s", r.code, r.out, r.err)
		}
		r = command(t, "", "hub", "backup", running, "--root", root)
		if r.code != exitOK || !strings.Contains(r.out, "with 0 ids") {
			t.Errorf("%d, %s%s", r.code, r.out, r.err)
		}
		if r := command(t, "", "hub", "backup", running, "--root", root); r.code != exitFailed || !strings.Contains(r.err, "is there already") {
			t.Errorf("over a file: %d, %s", r.code, r.err)
		}
	})
	if r := command(t, "", "hub", "status", "--root", root); r.code != exitFailed || !strings.Contains(r.err, "no hub is running") {
		t.Errorf("%d, %s", r.code, r.err)
	}
	if r := command(t, "", "hub", "backup", stopped, "--root", root); r.code != exitOK {
		t.Errorf("%d, %s", r.code, r.err)
	}
	secret, err := os.ReadFile(filepath.Join(root, "hub", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{running, stopped} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
		again := shortDir(t)
		r := command(t, "", "hub", "restore", file, "--root", again)
		if r.code != exitOK {
			t.Errorf("%d, %s", r.code, r.err)
			continue
		}
		got, err := os.ReadFile(filepath.Join(again, "hub", "secret"))
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("the identity is another one, %v", err)
		}
		if _, err := os.Stat(filepath.Join(again, "hub", "tls", "cert.pem")); err != nil {
			t.Error(err)
		}
		if r := command(t, "", "hub", "restore", file, "--root", again); r.code != exitFailed || !strings.Contains(r.err, "move it away") {
			t.Errorf("a second time: %d, %s", r.code, r.err)
		}
	}
	if r := command(t, "no backup", "hub", "restore", "-"); r.code != exitFailed || !strings.Contains(r.err, "is no sound backup") {
		t.Errorf("something else: %d, %s", r.code, r.err)
	}
	if r := command(t, "", "hub", "backup", filepath.Join(files, "none.tar")); r.code != exitFailed || !strings.Contains(r.err, "there is no hub in") {
		t.Errorf("without a hub: %d, %s", r.code, r.err)
	}
	if _, err := os.Stat(filepath.Join(files, "none.tar")); err == nil {
		t.Error("a backup that failed leaves a file")
	}
}

func mkdir(t *testing.T, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInvitationsAndRulesAreMadeFromTheCommandLine(t *testing.T) {
	root := shortDir(t)
	n := startIn(t, root, "hub", "-p", "0", "-a", "127.0.0.1", "--admission", "invite", "--rule", "deny 192.0.2.1")
	r := command(t, "", "hub", "invite", "--uses", "2", "--note", "the club", "--root", root)
	link, err := native.ParseLink(strings.TrimSpace(r.out))
	if err != nil || link.Invite == "" || !strings.HasPrefix(link.Address, n.Addresses[0]) {
		t.Errorf("%q, %v, %s", r.out, err, r.err)
	}
	r = command(t, "", "hub", "invite", "--list", "--root", root)
	id, rest, _ := strings.Cut(r.out, " ")
	if !strings.Contains(rest, "0 of 2 used, 2 uses left  the club") {
		t.Errorf("%q, %s", r.out, r.err)
	}
	if r := command(t, "", "hub", "invite", "--revoke", id, "--root", root); r.code != exitOK {
		t.Errorf("%d, %s", r.code, r.err)
	}
	if r := command(t, "", "hub", "invite", "--revoke", id, "--root", root); r.code != exitFailed {
		t.Errorf("a second time: %d, %s", r.code, r.err)
	}
	if r := command(t, "", "hub", "rule", "allow 192.0.2.0/24 # friends", "--root", root); r.code != exitOK || r.out != "" {
		t.Errorf("%d, %s%s", r.code, r.out, r.err)
	}
	r = command(t, "", "hub", "rule", "--root", root)
	if want := "deny 192.0.2.1  (from the configuration)\nallow 192.0.2.0/24 # friends\n"; r.out != want {
		t.Errorf("%q, %s; want %q", r.out, r.err, want)
	}
	if r := command(t, "", "hub", "rule", "--remove", "192.0.2.0/24", "--root", root); r.code != exitOK {
		t.Errorf("%d, %s", r.code, r.err)
	}
	if r := command(t, "", "hub", "rule", "--json", "--root", root); strings.Contains(r.out, "friends") {
		t.Errorf("it is still there: %s", r.out)
	}
}

func TestTheOperatorIsServedWhereHeWants(t *testing.T) {
	var n struct{ Admin string }
	root := shortDir(t)
	t.Setenv(envRoot, root)
	if err := json.Unmarshal(background(t, "hub", "-p", "0", "-a", "127.0.0.1", "--admin", "127.0.0.1:0", "--json"), &n); err != nil {
		t.Fatal(err)
	}
	if r := command(t, "", "hub", "health", "--admin", n.Admin); r.code != exitOK || r.out != "ready\n" {
		t.Errorf("%d, %s%s", r.code, r.out, r.err)
	}
	if r := command(t, "", "hub", "health", "--root", root); r.code != exitOK || r.out != "ready\n" {
		t.Errorf("without --admin: %d, %s%s", r.code, r.out, r.err)
	}
	for host, want := range map[string]int{n.Admin: http.StatusOK, "evil.example": http.StatusMisdirectedRequest} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.Admin+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("metrics at %s: %s", host, response.Status)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "hub", "admin-token")); err != nil {
		t.Error(err)
	}
}
