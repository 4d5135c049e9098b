package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/secretstack/secretstack"
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
	var errs lockedBuffer
	done := make(chan int, 1)
	go func() {
		code := run(ctx, append(args, "--root", t.TempDir()), streams{strings.NewReader(""), w, &errs})
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

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// node is what hub and serve print with --json.
type node struct {
	ID        string
	Addresses []string
	Tunnels   []string
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
		Permissions: secretstack.Anonymous("hello", "fail", "bytes", "count", "collect", "echo"),
	}, func(_ context.Context, s *secretstack.Setup) error {
		collected := ""
		return firstError(
			muxrpc.HandleAsync(s, "hello", func(_ context.Context, name string) (string, error) { return "hello " + name, nil }),
			muxrpc.HandleAsync(s, "fail", func(context.Context, muxrpc.None) (string, error) { return "", muxrpc.Errorf("no luck") }),
			muxrpc.HandleAsync(s, "bytes", func(context.Context, muxrpc.None) ([]byte, error) { return []byte{1, 2, 3}, nil }),
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
		{"bad app key", []string{"call", address, "hello", "--app-key", "abc"}, "--app-key"},
		{"serve with a bad hub", []string{"serve", "--hub", "example.org"}, "--hub"},
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
	if r := command(t, "", "keys", "--root", root); r.code != exitFailed {
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
		{"nobody listens", "", []string{"call", nobody, "manifest"}, "connection refused"},
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
	if len(peer.Tunnels) != 1 {
		t.Fatalf("serve names the tunnels %q", peer.Tunnels)
	}
	for {
		r := command(t, "", "call", "--hub", hub.Addresses[0], peer.Tunnels[0], "manifest")
		if r.code == exitOK {
			if !json.Valid([]byte(r.out)) {
				t.Errorf("the manifest is %q", r.out)
			}
			return
		}
		// The peer may still be on its way to the hub.
		if !strings.Contains(r.err, "is the peer running") || t.Context().Err() != nil {
			t.Fatal(r.err)
		}
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
		if !strings.Contains(string(page), "secretstack hub") {
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
	if !strings.Contains(printed.String(), "secretstack serve --hub 'net:127.0.0.1:") {
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
	r := command(t, "", "hub", "-a", "127.0.0.1", "-p", port)
	if r.code != exitFailed || !strings.Contains(r.err, "--port") {
		t.Errorf("exit code %d, %q", r.code, r.err)
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
