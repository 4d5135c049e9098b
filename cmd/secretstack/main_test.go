package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
)

// result is what a finished command has left.
type result struct {
	code     int
	out, err string
}

// command runs a command line to its end, in a root folder of its own unless one is named.
func command(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	if !strings.Contains(strings.Join(args, " "), "--root") {
		args = append(args, "--root", t.TempDir())
	}
	var out, errs bytes.Buffer
	code := run(t.Context(), args, streams{strings.NewReader(stdin), &out, &errs})
	return result{code, out.String(), errs.String()}
}

// background is a command that runs until the test ends, and its first line of output.
func background(t *testing.T, args ...string) (first []byte) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	var errs testkit.Buffer
	done := make(chan int, 1)
	go func() {
		if os.Getenv(envRoot) == "" && !strings.Contains(strings.Join(args, " "), "--config") {
			args = append(args, "--root", t.TempDir())
		}
		code := run(ctx, args, streams{strings.NewReader(""), w, &errs})
		w.Close()
		done <- code
	}()
	t.Cleanup(func() {
		stop()
		if code := <-done; code != exitOK {
			t.Errorf("%v ended with %d: %s", args, code, errs.String())
		}
	})
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		t.Fatalf("%v printed nothing: %v, %s", args, err, errs.String())
	}
	go io.Copy(io.Discard, r)
	return line
}

// node is what hub and serve print with --json.
type node struct {
	ID        string
	Addresses []string
	Circuits  []string
	Tunnels   []string
	IDs       []string
}

func start(t *testing.T, args ...string) node {
	t.Helper()
	var n node
	if err := json.Unmarshal(background(t, append(args, "--json")...), &n); err != nil {
		t.Fatal(err)
	}
	if len(n.Addresses) == 0 {
		t.Fatalf("%v printed no address", args)
	}
	return n
}

// callee is a peer with a method of every type.
func callee(t *testing.T) string {
	t.Helper()
	plugin := secretstack.NewPlugin(secretstack.Info{
		Name:        "test",
		Permissions: secretstack.Anonymous("hello", "fail", "bytes", "count", "collect", "echo", "curse", "cut", "negate", "swear", "spell"),
	}, func(_ context.Context, s *secretstack.Setup) error {
		collected := ""
		return firstError(
			muxrpc.HandleAsync(s, "hello", func(_ context.Context, name string) (string, error) { return "hello " + name, nil }),
			muxrpc.HandleAsync(s, "fail", func(context.Context, muxrpc.None) (string, error) { return "", muxrpc.Errorf("no luck") }),
			muxrpc.HandleAsync(s, "bytes", func(context.Context, muxrpc.None) ([]byte, error) { return []byte{1, 2, 3}, nil }),
			muxrpc.HandleAsync(s, "negate", func(_ context.Context, n int) (int, error) { return -n, nil }),
			muxrpc.HandleAsync(s, "curse", func(context.Context, muxrpc.None) (string, error) {
				return "", muxrpc.Errorf("keys: \x1b[2Jgone")
			}),
			muxrpc.HandleAsync(s, "swear", func(context.Context, muxrpc.None) (string, error) { return "", muxrpc.Errorf("%s", hostile) }),
			muxrpc.HandleAsync(s, "spell", func(context.Context, muxrpc.None) (string, error) { return hostile, nil }),
			muxrpc.HandleSource(s, "cut", func(ctx context.Context, _ muxrpc.None) iter.Seq2[int, error] {
				return func(yield func(int, error) bool) {
					if yield(1, nil) {
						secretstack.PeerFrom(ctx).Abort(nil)
					}
				}
			}),
			muxrpc.HandleAsync(s, "secret", func(context.Context, muxrpc.None) (string, error) { return "told", nil }),
			muxrpc.HandleSync(s, "collected", func(context.Context, muxrpc.None) (string, error) { return collected, nil }),
			muxrpc.HandleSource(s, "count", func(_ context.Context, n int) iter.Seq2[int, error] {
				return func(yield func(int, error) bool) {
					for i := range n {
						if !yield(i, nil) {
							return
						}
					}
				}
			}),
			muxrpc.HandleSink(s, "collect", func(_ context.Context, least int, items iter.Seq2[muxrpc.Value, error]) error {
				n := 0
				for item, err := range items {
					if err != nil {
						return err
					}
					collected += string(item.Bytes)
					n++
				}
				if n < least {
					return muxrpc.Errorf("only %d items", n)
				}
				return nil
			}),
			muxrpc.HandleDuplex(s, "echo", func(ctx context.Context, _ muxrpc.None, stream *muxrpc.Stream[muxrpc.Value, muxrpc.Value]) error {
				for item, err := range stream.All(ctx) {
					if err != nil {
						return err
					}
					if err := stream.Send(ctx, item); err != nil {
						return err
					}
				}
				return nil
			}),
		)
	})
	stack := secretstack.New(secretstack.Options{})
	if err := stack.Use(plugin); err != nil {
		t.Fatal(err)
	}
	app, err := stack.Start(t.Context(), secretstack.Config{Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := app.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return app.Address("device")
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestWrongUseIsOneLineWithTheWayOutAndExitCode2(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	address := "net:127.0.0.1:1~shs:" + key
	for _, tt := range []struct {
		name string
		args []string
		says string
	}{
		{"unknown command", []string{"hubb"}, `unknown command "hubb"`},
		{"unknown flag", []string{"hub", "--prot", "1"}, "unknown flag: --prot"},
		{"port out of range", []string{"hub", "--port", "70000"}, "70000"},
		{"hub with an argument", []string{"hub", "now"}, `"now" is too much`},
		{"call without a method", []string{"call", address}, "something is missing"},
		{"address without a key", []string{"call", "net:127.0.0.1:1", "manifest"}, "add ~shs:"},
		{"address that is none", []string{"call", "127.0.0.1:1", "manifest"}, "does not begin with a part name"},
		{"argument that is not JSON", []string{"call", address, "hello", "bob"}, `write '"bob"'`},
		{"unknown call type", []string{"call", address, "hello", "--type", "stream"}, "source, sink and duplex"},
		{"tunnel without a hub", []string{"call", "tunnel:@" + key + ".ed25519:@" + key + ".ed25519~shs:" + key, "hello"}, "--hub"},
		{"call of a key", []string{"call", "@" + key + ".ed25519", "hello"}, "that is a key, not an address"},
		{"unknown transport", []string{"call", "quic:127.0.0.1:1~shs:" + key, "hello"}, "quic"},
		{"no proof over net", []string{"call", "net:127.0.0.1:1~noauth", "hello"}, "add ~shs:"},
		{"no time to connect", []string{"call", address, "hello", "--timeout", "0s"}, "--timeout must be more than 0, such as 5s"},
		{"time without a unit", []string{"call", address, "hello", "--timeout", "5"}, "such as 5s"},
		{"empty root", []string{"keys", "--root", ""}, "--root is empty"},
		{"empty root of a hub", []string{"hub", "--root", ""}, "--root is empty"},
		{"root that is a file", []string{"keys", "--root", "main.go"}, "--root main.go is no folder; choose another with --root"},
		{"root below a file", []string{"hub", "--root", "main.go"}, "is no folder; choose another with --root"},
		{"port that is no number", []string{"serve", "--port", "abc"}, "a number from 0 to 65535"},
		{"serve on a port out of range", []string{"serve", "--port", "70000"}, "70000"},
		{"domain that is a URL", []string{"hub", "--domain", "https://example.org/"}, "--domain"},
		{"domain with a port", []string{"hub", "--domain", "example.org:443"}, "--domain"},
		{"help on nothing", []string{"help", "nosuch"}, "nosuch"},
		{"help on nothing below", []string{"help", "hub", "nosuch"}, "nosuch"},
		{"completion for nothing", []string{"completion", "foo"}, "foo"},
		{"tunnel as hub", []string{"serve", "--hub", "tunnel:@" + key + ".ed25519:@" + key + ".ed25519~shs:" + key}, "tunnel:"},
		{"bad app key", []string{"call", address, "hello", "--app-key", "abc"}, "--app-key"},
		{"serve with a bad hub", []string{"serve", "--hub", "net:example.org:8433"}, "--hub takes the address"},
		{"serve with a missing file", []string{"serve", "--config", "nowhere.json"}, "no file nowhere.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := command(t, "", tt.args...)
			if r.code != exitUsage {
				t.Errorf("exit code %d, want %d", r.code, exitUsage)
			}
			if !strings.Contains(r.err, tt.says) {
				t.Errorf("it says %q, want %q", r.err, tt.says)
			}
			if strings.Count(r.err, "\n") != 1 || r.out != "" {
				t.Errorf("not one line on the error stream: %q, and %q on the other", r.err, r.out)
			}
		})
	}
}

func TestServeRefusesAConfigurationThatIsNoneOfItsOwn(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":       `{"plugins":`,
		"not an object":  `[1]`,
		"unknown plugin": `{"plugins":["chess"]}`,
		"odd list":       `{"plugins":"room"}`,
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "peer.json")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := command(t, "", "serve", "--config", file); r.code != exitUsage || strings.Count(r.err, "\n") != 1 {
				t.Errorf("exit code %d, %q", r.code, r.err)
			}
		})
	}
}

func TestKeysMakesAnIdentityOnceAndShowsIt(t *testing.T) {
	root := t.TempDir()
	first := command(t, "", "keys", "--root", root)
	if _, err := keys.ParsePublicKey(strings.TrimSpace(first.out)); err != nil {
		t.Fatalf("%q is no reference: %v", first.out, err)
	}
	if second := command(t, "", "keys", "--root", root); second.out != first.out {
		t.Errorf("the second time it shows %q, not %q", second.out, first.out)
	}
	var shown struct {
		ID      string
		Created bool
	}
	if err := json.Unmarshal([]byte(command(t, "", "keys", "--root", root, "--json").out), &shown); err != nil {
		t.Fatal(err)
	}
	if shown.ID != strings.TrimSpace(first.out) || shown.Created {
		t.Errorf("--json says %+v", shown)
	}
	secret, err := os.ReadFile(filepath.Join(root, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(secret, []byte(shown.ID)) {
		t.Error("the secret file does not name the identity")
	}
}

func TestKeysProtectsANewIdentityWithAPassphrase(t *testing.T) {
	root := t.TempDir()
	t.Setenv(envPassphrase, "correct horse")
	made := command(t, "", "keys", "--passphrase", "--root", root)
	if made.code != exitOK {
		t.Fatal(made.err)
	}
	if again := command(t, "", "keys", "--passphrase", "--root", root); again.code != exitUsage {
		t.Errorf("protecting an identity that exists ended with %d", again.code)
	}
	t.Setenv(envPassphrase, "wrong horse")
	if r := command(t, "", "keys", "--root", root); r.code != exitFailed || !strings.Contains(r.err, "wrong passphrase") {
		t.Errorf("the wrong passphrase ended with %d: %s", r.code, r.out)
	}
	t.Setenv(envPassphrase, "")
	if r := command(t, "", "keys", "--root", root); r.code != exitFailed || !strings.Contains(r.err, envPassphrase) {
		t.Errorf("without a passphrase it says %q", r.err)
	}
}

func TestCallPrintsEveryTypeOfAnswer(t *testing.T) {
	address := callee(t)
	for _, tt := range []struct {
		name  string
		stdin string
		args  []string
		out   string
	}{
		{"text", "", []string{"test.hello", `"bob"`}, "\"hello bob\"\n"},
		{"raw text", "", []string{"test.hello", `"bob"`, "--raw"}, "hello bob\n"},
		{"bytes", "", []string{"test.bytes"}, "{\"base64\":\"AQID\"}\n"},
		{"raw bytes", "", []string{"test.bytes", "-r"}, "\x01\x02\x03"},
		{"source", "", []string{"test.count", "3"}, "0\n1\n2\n"},
		{"sink", "1\n\n{\"a\": 2}\n", []string{"test.collect", "2"}, ""},
		{"duplex", "\"a\"\n{\"b\":1}\n", []string{"test.echo", "--linger", "200ms"}, "\"a\"\n{\"b\":1}\n"},
		{"raw duplex", "bytes", []string{"test.echo", "--raw", "--linger", "200ms"}, "bytes"},
		{"negative number", "", []string{"test.negate", "-5"}, "5\n"},
		{"type by hand", "", []string{"test.hello", `"al"`, "--type", "async"}, "\"hello al\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := command(t, tt.stdin, append([]string{"call", address}, tt.args...)...)
			if r.code != exitOK || r.out != tt.out {
				t.Errorf("exit code %d, %q, %s; want %q", r.code, r.out, r.err, tt.out)
			}
		})
	}
}

func TestCallSaysWhatWentWrongAndWhatToDo(t *testing.T) {
	address := callee(t)
	wrongKey := address[:strings.Index(address, "~shs:")] + "~shs:" + newKey(t)
	otherNetwork := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "net:127.0.0.1:" + strings.TrimPrefix(closed.Addr().String(), "127.0.0.1:") + "~shs:" + newKey(t)
	closed.Close()
	for _, tt := range []struct {
		name  string
		stdin string
		args  []string
		says  string
	}{
		{"the method fails", "", []string{"call", address, "test.fail"}, "the peer answered: no luck"},
		{"the method is denied", "", []string{"call", address, "test.secret"}, "does not allow you to call test.secret"},
		{"there is no such method", "", []string{"call", address, "test.hullo"}, "it has: "},
		{"a sink refuses", "1\n", []string{"call", address, "test.collect", "2"}, "only 1 items"},
		{"input that is not JSON", "1\nbob\n", []string{"call", address, "test.collect", "2"}, "line 2 of the input is not JSON"},
		{"wrong key", "", []string{"call", wrongKey, "manifest"}, "key in the address"},
		{"wrong network", "", []string{"call", address, "manifest", "--app-key", otherNetwork}, "--app-key"},
		{"nobody listens", "", []string{"call", nobody, "manifest"}, "connection refused; is the peer running, and is the address right?"},
		{"a line that is too long", strings.Repeat(" ", maxLine+1), []string{"call", address, "test.collect", "0"}, "line 1 is longer than 4 MiB; use --raw"},
		{"text that moves the cursor", "", []string{"call", address, "test.curse"}, `answered: keys: \x1b[2J`},
		{"the connection is cut", "", []string{"call", address, "test.cut"}, "the connection was cut; is the peer still running?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := command(t, tt.stdin, tt.args...)
			if r.code != exitFailed || !strings.Contains(r.err, tt.says) {
				t.Errorf("exit code %d, %q; want %q", r.code, r.err, tt.says)
			}
		})
	}
}

func newKey(t *testing.T) string {
	t.Helper()
	id, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id.Public().Base64()
}

func TestAPeerIsCalledThroughAHub(t *testing.T) {
	hub := start(t, "hub", "--port", "0", "--address", "127.0.0.1")
	peer := start(t, "serve", "--hub", hub.Addresses[0], "--host", "127.0.0.1")
	if len(peer.Circuits) != 1 || len(peer.Tunnels) != 1 || len(peer.IDs) != 1 || !strings.HasPrefix(peer.Addresses[0], "net:") {
		t.Fatalf("serve names %+v", peer)
	}
	// serve has waited for the hub
	for _, args := range [][]string{{peer.Circuits[0]}, {"--hub", hub.Addresses[0], peer.Tunnels[0]}} {
		r := command(t, "", append(append([]string{"call"}, args...), "manifest")...)
		if r.code != exitOK || !json.Valid([]byte(r.out)) {
			t.Errorf("call %v: exit code %d, %s%s", args, r.code, r.out, r.err)
		}
	}
	r := command(t, "", "connect", peer.Circuits[0], "0")
	if r.code != exitFailed || !strings.Contains(r.err, "shares nothing") {
		t.Errorf("connect: exit code %d, %s%s", r.code, r.out, r.err)
	}
}

// TestAPeerIsReachedThroughAMereRoom: one that knows nothing of ids and circuits, as those in JavaScript.
func TestAPeerIsReachedThroughAMereRoom(t *testing.T) {
	config := filepath.Join(t.TempDir(), "room.json")
	if err := os.WriteFile(config, []byte(`{"plugins": ["room"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	room := start(t, "serve", "--config", config, "--host", "127.0.0.1")
	peer := start(t, "serve", "--hub", room.Addresses[0], "--host", "127.0.0.1")
	if len(peer.Circuits) != 0 || len(peer.Tunnels) != 1 || len(peer.IDs) != 0 {
		t.Fatalf("serve names %+v", peer)
	}
	r := command(t, "", "call", "--hub", room.Addresses[0], peer.Tunnels[0], "manifest")
	if r.code != exitOK || !json.Valid([]byte(r.out)) {
		t.Errorf("exit code %d, %s%s", r.code, r.out, r.err)
	}
}

func TestServeTellsPeopleHowItIsReached(t *testing.T) {
	h := newTestHub(t)
	p := newProcess(t, "serve", "--hub", h.addr, "--host", "127.0.0.1", "--root", t.TempDir())
	var text strings.Builder
	for line := ""; line != "Ctrl-C stops it.\n"; {
		line = p.line()
		text.WriteString(line)
	}
	for _, part := range []string{"  id       ", "  through  circuit:net:" + h.addr + ":", "  rooms    tunnel:@", "  secretstack call 'circuit:"} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("%q is not in %s", part, text.String())
		}
	}
	p.interrupt()
	if errs := p.errs.String(); errs != "" {
		t.Errorf("it says %q", errs)
	}
}

func TestAPeerThatIsNotAtTheHubIsSaidToBeMissing(t *testing.T) {
	hub := start(t, "hub", "--port", "0", "--address", "127.0.0.1")
	_, portal, _ := strings.Cut(hub.Addresses[0], "~shs:")
	target := newKey(t)
	address := "tunnel:@" + portal + ".ed25519:@" + target + ".ed25519~shs:" + target
	r := command(t, "", "call", "--hub", hub.Addresses[0], address, "manifest")
	if r.code != exitFailed || !strings.Contains(r.err, "is the peer running, and connected to this hub?") {
		t.Errorf("exit code %d, %q", r.code, r.err)
	}
}

func TestTheHubSpeaksTCPWebSocketAndHTTPOnOnePort(t *testing.T) {
	hub := start(t, "hub", "-p", "0", "-a", "127.0.0.1", "--name", "our hub")
	ports := map[string]bool{}
	for _, address := range hub.Addresses {
		r := command(t, "", "call", address, "room.metadata")
		if r.code != exitOK || !strings.Contains(r.out, "our hub") {
			t.Errorf("over %s: exit code %d, %s%s", address, r.code, r.out, r.err)
		}
		kind, rest, _ := strings.Cut(address, ":")
		hostPort, _, _ := strings.Cut(strings.TrimPrefix(rest, "//"), "~")
		ports[hostPort] = true
		if kind != "ws" {
			continue
		}
		response, err := http.Get("http://" + hostPort + "/")
		if err != nil {
			t.Fatal(err)
		}
		page, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if !strings.Contains(string(page), "welcome_to") {
			t.Errorf("a browser sees %q", page)
		}
	}
	if len(hub.Addresses) != 2 || len(ports) != 1 {
		t.Errorf("the addresses are %q, not two on one port", hub.Addresses)
	}
}

func TestTheHubSaysWhatToTypeNext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"hub", "-p", "0", "-a", "127.0.0.1", "--root", t.TempDir()}, streams{strings.NewReader(""), w, io.Discard})
		w.Close()
	}()
	var printed strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); {
		printed.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "Ctrl-C stops the hub") {
			stop()
		}
	}
	if code := <-done; code != exitOK {
		t.Errorf("Ctrl-C ended it with %d", code)
	}
	if !strings.Contains(printed.String(), "secretstack courier --hub http://127.0.0.1:") {
		t.Errorf("it prints %q", printed.String())
	}
}

func TestAPortInUseNamesTheWayOut(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	root := filepath.Join(t.TempDir(), "root")
	for flag, args := range map[string][]string{"--port": {"-p", port}, "--admin": {"-p", "0", "--admin", "127.0.0.1:" + port}} {
		r := command(t, "", append(args, "hub", "-a", "127.0.0.1", "--root", root)...)
		if r.code != exitFailed || !strings.Contains(r.err, flag) {
			t.Errorf("exit code %d, %q", r.code, r.err)
		}
		if _, err := os.Lstat(root); err == nil {
			t.Errorf("%s: it has left something behind", flag)
		}
	}
}

func TestServeLoadsTheShippedPluginsOfItsConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "peer.json")
	text := `{"plugins": ["room"], "global": {"host": "127.0.0.1"}, "room": {"name": "our room"}}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	peer := start(t, "serve", "--config", file)
	if r := command(t, "", "call", peer.Addresses[0], "room.metadata"); !strings.Contains(r.out, "our room") {
		t.Errorf("exit code %d, %s%s", r.code, r.out, r.err)
	}
}

func TestManualPagesAreWrittenForEveryCommand(t *testing.T) {
	dir := t.TempDir()
	if r := command(t, "", "man", dir); r.code != exitOK {
		t.Fatal(r.err)
	}
	for _, name := range []string{"secretstack", "secretstack-hub", "secretstack-serve", "secretstack-call", "secretstack-keys"} {
		if _, err := os.Stat(filepath.Join(dir, name+".1")); err != nil {
			t.Error(err)
		}
	}
}

func TestPlainStripsOnlyOurOwnNamesAndOnlyAtTheBeginning(t *testing.T) {
	for text, want := range map[string]string{
		"secretstack: muxrpc: keys: bad":     "bad",
		"multiserver: the address is empty":  "the address is empty",
		"the peer answered: keys: not found": "the peer answered: keys: not found",
		"other: keys: x":                     "other: keys: x",
	} {
		if got := plain(errors.New(text)); got != want {
			t.Errorf("plain(%q) is %q, not %q", text, got, want)
		}
	}
}

func TestPrintableLeavesTextAndQuotesTheRest(t *testing.T) {
	for text, want := range map[string]string{
		`Grüße, "世界" \`:  `Grüße, "世界" \`,
		"a\x1b[31mb\r\n": `a\x1b[31mb\r\n`,
		"\u202eb\u009b":  `\u202eb\u009b`,
		"\xff\ufffd":     `\xff` + "\ufffd",
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q) is %q, not %q", text, got, want)
		}
	}
	manifest := muxrpc.Manifest{}
	if err := json.Unmarshal([]byte(`{"a\u001bb":"async"}`), &manifest); err == nil {
		if got := strings.Join(methodNames(manifest), " "); strings.Contains(got, "\x1b") {
			t.Errorf("the names of methods are %q", got)
		}
	}
}

func TestAQuestionEndsWithCtrlC(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	_, err := readUntil(ctx, func() ([]byte, error) { <-never; return nil, nil })
	if !errors.Is(err, errInterrupted) {
		t.Errorf("the error is %v", err)
	}
}

func TestAConfigurationSaysWhoThePeerIsUnlessTheRootIsGiven(t *testing.T) {
	seed := bytes.Repeat([]byte{5}, 32)
	id, err := keys.FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	seed64 := base64.StdEncoding.EncodeToString(seed)
	dir := t.TempDir()
	made := strings.TrimSpace(command(t, "", "keys", "--root", dir).out)
	for _, tt := range []struct {
		name, text, id string
	}{
		{"seed", `{"global": {"host": "127.0.0.1", "seed": "` + seed64 + `"}}`, id.Public().Ref()},
		{"flat seed", `{"host": "127.0.0.1", "seed": "` + seed64 + `"}`, id.Public().Ref()},
		{"path", `{"global": {"host": "127.0.0.1", "path": "` + dir + `"}}`, made},
		{"flat path", `{"host": "127.0.0.1", "path": "` + dir + `"}`, made},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			t.Setenv(envRoot, "")
			if peer := start(t, "serve", "--config", writeConfig(t, tt.text)); peer.ID != tt.id {
				t.Errorf("the peer is %s, not %s", peer.ID, tt.id)
			}
			if peer := start(t, "serve", "--config", writeConfig(t, tt.text), "--root", t.TempDir()); peer.ID == tt.id {
				t.Error("--root does not win")
			}
		})
	}
}

func TestAConfigurationNamesTheNetwork(t *testing.T) {
	network := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32))
	file := writeConfig(t, `{"global": {"host": "127.0.0.1", "caps": {"shs": "`+network+`"}}}`)
	peer := start(t, "serve", "--config", file, "--root", t.TempDir())
	if r := command(t, "", "call", peer.Addresses[0], "manifest", "--app-key", network); r.code != exitOK {
		t.Errorf("on its network: %s", r.err)
	}
	if r := command(t, "", "call", peer.Addresses[0], "manifest"); r.code != exitFailed {
		t.Error("it is reached on the main network")
	}
}

func TestAPeerThatListensToNothingHasNoAddress(t *testing.T) {
	file := writeConfig(t, `{"global": {"connections": {"incoming": {"net": [], "ws": [], "unix": [], "onion": []}}}}`)
	line := background(t, "serve", "--json", "--config", file, "--root", t.TempDir())
	if !bytes.Contains(line, []byte(`"addresses":[]`)) || !bytes.Contains(line, []byte(`"tunnels":[]`)) {
		t.Errorf("it prints %s", line)
	}
}

func writeConfig(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "peer.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestServeDoesNotTakeItselfForItsHub(t *testing.T) {
	root := t.TempDir()
	own := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(command(t, "", "keys", "--root", root).out), "@"), ".ed25519")
	r := command(t, "", "serve", "--host", "127.0.0.1", "--hub", "net:127.0.0.1:1~shs:"+own, "--root", root)
	if r.code != exitUsage || !strings.Contains(r.err, "own key") {
		t.Errorf("exit code %d, %q", r.code, r.err)
	}
	tunnel := "tunnel:@" + newKey(t) + ".ed25519:@" + own + ".ed25519~shs:" + own
	r = command(t, "", "call", "--hub", "net:127.0.0.1:1~shs:"+newKey(t), tunnel, "manifest", "--root", root)
	if r.code != exitUsage || !strings.Contains(r.err, "leads to yourself") {
		t.Errorf("exit code %d, %q", r.code, r.err)
	}
}

func TestServeSaysThatTheHubIsNotThere(t *testing.T) {
	hub := "net:127.0.0.1:1~shs:" + newKey(t)
	p := newProcess(t, "serve", "--host", "127.0.0.1", "--hub", hub, "--root", t.TempDir())
	for p.line() != "Ctrl-C stops it.\n" {
	}
	p.interrupt()
	if text := p.errs.String(); !strings.Contains(text, "not connected to the hub yet: "+hub+" (the hub @") {
		t.Errorf("it says %q", text)
	}
}

func TestThePassphraseOfTheEnvironmentProtectsNewIdentities(t *testing.T) {
	root := t.TempDir()
	t.Setenv(envPassphrase, "correct horse")
	if r := command(t, "", "keys", "--root", root); r.code != exitOK {
		t.Fatal(r.err)
	}
	if _, err := keys.Load(filepath.Join(root, "secret"), keys.FileOptions{}); !errors.Is(err, keys.ErrPassphrase) {
		t.Errorf("without the passphrase the file gives %v", err)
	}
}

func TestABadAppKeyOfTheEnvironmentIsBlamedOnIt(t *testing.T) {
	t.Setenv(envAppKey, "abc")
	if r := command(t, "", "hub"); r.code != exitUsage || !strings.Contains(r.err, envAppKey) {
		t.Errorf("exit code %d, %q", r.code, r.err)
	}
}

func TestCtrlCEndsADuplexAndASinkThatWaitForInput(t *testing.T) {
	address := callee(t)
	for method, want := range map[string]int{"test.echo": exitOK, "test.collect": exitFailed} {
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, stop)
		in, w := io.Pipe() // nobody types
		code := run(ctx, []string{"call", address, method, "--root", t.TempDir()}, streams{in, io.Discard, io.Discard})
		w.Close()
		if code != want {
			t.Errorf("%s ended with %d", method, code)
		}
	}
}

func TestAnAddressOfAnotherMachineNamesTheWayOut(t *testing.T) {
	r := command(t, "", "hub", "-a", "192.0.2.1", "-p", "0")
	if r.code != exitFailed || !strings.Contains(r.err, "--address") || strings.Contains(r.err, "already") {
		t.Errorf("exit code %d, %q", r.code, r.err)
	}
}
