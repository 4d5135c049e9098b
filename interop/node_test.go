package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// patience bounds every wait for a JavaScript process.
	patience = time.Minute
	// installTime bounds `npm ci`.
	installTime = 5 * time.Minute
	minNode     = 18
)

// installed makes node_modules match package-lock.json, once a test run.
var installed = sync.OnceValue(install)

func install() error {
	if _, err := exec.LookPath("node"); err != nil {
		return fmt.Errorf("needs node %d or newer on PATH: %w", minNode, err)
	}
	if err := checkNodeVersion(); err != nil {
		return err
	}
	if fresh("node_modules/.package-lock.json", "package-lock.json") {
		return nil
	}
	if _, err := exec.LookPath("npm"); err != nil {
		return fmt.Errorf("needs npm on PATH to install the packages of package-lock.json: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), installTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "npm", "ci").CombinedOutput()
	if err != nil {
		return fmt.Errorf("needs the packages of package-lock.json, and npm ci failed: %w\n%s", err, tail(out, 2000))
	}
	return nil
}

func checkNodeVersion() error {
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		return fmt.Errorf("needs a node that runs: %w", err)
	}
	var major int
	if _, err := fmt.Sscanf(string(out), "v%d.", &major); err != nil || major < minNode {
		return fmt.Errorf("needs node %d or newer, found %s", minNode, strings.TrimSpace(string(out)))
	}
	return nil
}

// fresh reports whether the installed file is there and not older than its source.
func fresh(installed, source string) bool {
	a, err := os.Stat(installed)
	if err != nil {
		return false
	}
	b, err := os.Stat(source)
	return err == nil && !a.ModTime().Before(b.ModTime())
}

// requireNode skips the test, with the reason, where JavaScript cannot run; on
// a CI machine that is a failure.
func requireNode(t testing.TB) {
	t.Helper()
	err := installed()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

// node is one running script of js/.
type node struct {
	script string
	stdin  io.WriteCloser
	stderr *tailBuffer
	done   chan struct{} // closed when the process has ended

	mu      sync.Mutex
	next    int
	pending map[int]chan reply
	events  []event
	changed chan struct{} // closed and replaced at every event
	crash   string
}

type reply struct {
	ID    int             `json:"id"`
	OK    json.RawMessage `json:"ok"`
	Err   *jsError        `json:"err"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
}

type event struct {
	name string
	data json.RawMessage
}

// jsError is an error as a script tells it.
type jsError struct {
	Message string `json:"message"`
	Name    string `json:"name"`
	// Remote is set when the error came over the wire as a plain object.
	Remote bool `json:"remote"`
}

func (e *jsError) Error() string { return e.Message }

// startNode runs js/<script> until the test ends. env entries are added to the
// process's environment.
func startNode(t testing.TB, script string, env ...string) *node {
	t.Helper()
	requireNode(t)
	n := &node{
		script:  script,
		stderr:  &tailBuffer{},
		done:    make(chan struct{}),
		pending: map[int]chan reply{},
		changed: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "node", filepath.Join("js", script))
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = n.stderr
	cmd.WaitDelay = time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.stdin = stdin
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(n.done)
		n.read(stdout)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		stdin.Close()
		cancel()
		<-n.done
		if t.Failed() {
			t.Logf("js/%s stderr:\n%s", script, n.stderr)
		}
	})
	waitEvent(t, n, "ready", func(string) bool { return true })
	return n
}

func (n *node) read(stdout io.Reader) {
	r := bufio.NewReader(stdout)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		var m reply
		if err := json.Unmarshal(line, &m); err != nil {
			fmt.Fprintf(n.stderr, "not JSON on stdout: %s", line)
			continue
		}
		n.dispatch(m)
	}
}

func (n *node) dispatch(m reply) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m.Event == "" {
		if c := n.pending[m.ID]; c != nil {
			c <- m // has room for its one answer
			delete(n.pending, m.ID)
		}
		return
	}
	if m.Event == "crash" {
		n.crash = string(m.Data)
	}
	n.events = append(n.events, event{m.Event, m.Data})
	close(n.changed)
	n.changed = make(chan struct{})
}

// send starts an operation and returns where its answer will be.
func (n *node) send(op string, args any) (<-chan reply, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	line, err := json.Marshal(map[string]any{"id": n.next, "op": op, "args": args})
	if err != nil {
		return nil, err
	}
	c := make(chan reply, 1)
	n.pending[n.next] = c
	_, err = n.stdin.Write(append(line, '\n'))
	return c, err
}

// try runs an operation and decodes its result into out (unless nil).
func (n *node) try(ctx context.Context, op string, args, out any) error {
	c, err := n.send(op, args)
	if err != nil {
		return err
	}
	return n.await(ctx, c, out)
}

func (n *node) await(ctx context.Context, c <-chan reply, out any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case m := <-c:
		if m.Err != nil {
			return m.Err
		}
		if out == nil {
			return nil
		}
		return json.Unmarshal(m.OK, out)
	case <-n.done:
		return fmt.Errorf("js/%s ended: %s %s", n.script, n.crashed(), n.stderr)
	case <-ctx.Done():
		return fmt.Errorf("js/%s did not answer: %w", n.script, ctx.Err())
	}
}

// do is try for operations that must succeed.
func (n *node) do(t testing.TB, op string, args, out any) {
	t.Helper()
	if err := n.try(t.Context(), op, args, out); err != nil {
		t.Fatalf("js/%s %s: %v", n.script, op, err)
	}
}

// crashed is the uncaught exception that ended the process, or "".
func (n *node) crashed() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.crash
}

// mustLive fails the test when the process has ended or is about to.
func (n *node) mustLive(t testing.TB) {
	t.Helper()
	select {
	case <-n.done:
		t.Fatalf("js/%s has ended: %s", n.script, n.crashed())
	default:
	}
	if c := n.crashed(); c != "" {
		t.Fatalf("js/%s crashed: %s", n.script, c)
	}
}

// waitEvent waits for an event of that name that matches, takes it out of the
// list, and returns its data.
func waitEvent[T any](t testing.TB, n *node, name string, match func(T) bool) T {
	t.Helper()
	timeout := time.After(patience)
	for {
		data, changed, ok := takeEvent(t, n, name, match)
		if ok {
			return data
		}
		select {
		case <-changed:
		case <-n.done:
			if data, _, ok := takeEvent(t, n, name, match); ok {
				return data
			}
			t.Fatalf("js/%s ended before its event %q: %s %s", n.script, name, n.crashed(), n.stderr)
		case <-timeout:
			t.Fatalf("js/%s: no event %q that matches; left: %s", n.script, name, n.eventList())
		}
	}
}

func takeEvent[T any](t testing.TB, n *node, name string, match func(T) bool) (data T, changed <-chan struct{}, ok bool) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, e := range n.events {
		if e.name != name {
			continue
		}
		var d T
		if err := json.Unmarshal(e.data, &d); err != nil {
			t.Fatalf("js/%s event %q: %v in %s", n.script, name, err, e.data)
		}
		if match(d) {
			n.events = append(n.events[:i:i], n.events[i+1:]...)
			return d, nil, true
		}
	}
	return data, n.changed, false
}

func (n *node) eventList() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var b strings.Builder
	for _, e := range n.events {
		fmt.Fprintf(&b, "\n%s %s", e.name, tail(e.data, 300))
	}
	return b.String()
}

// value is a muxrpc value as it crosses the control channel, which has neither
// buffers nor undefined.
type value struct {
	Kind   string `json:"kind"`
	String string `json:"string,omitempty"`
	Base64 string `json:"base64,omitempty"`
	JSON   any    `json:"json"`
}

func jsJSON(v any) value      { return value{Kind: "json", JSON: v} }
func jsString(s string) value { return value{Kind: "string", String: s} }
func jsBuffer(b []byte) value { return value{Kind: "buffer", Base64: encode64(b)} }

// String form for comparisons: kind and content in one line.
func (v value) text() string {
	switch v.Kind {
	case "buffer":
		b, _ := base64.StdEncoding.DecodeString(v.Base64)
		return fmt.Sprintf("buffer %q", b)
	case "string":
		return fmt.Sprintf("string %q", v.String)
	case "undefined":
		return "undefined"
	}
	b, _ := json.Marshal(v.JSON)
	return "json " + string(b)
}

func texts(values []value) []string {
	var out []string
	for _, v := range values {
		out = append(out, v.text())
	}
	return out
}

// ending is how a call or stream ended on the JavaScript side.
type ending struct {
	Aborted bool // true, the pull-stream way to say "no more"
	Err     *jsError
}

func (e *ending) UnmarshalJSON(b []byte) error {
	switch s := string(bytes.TrimSpace(b)); s {
	case "null":
		*e = ending{}
		return nil
	case "true":
		*e = ending{Aborted: true}
		return nil
	}
	e.Err = new(jsError)
	return json.Unmarshal(b, e.Err)
}

func (e ending) String() string {
	switch {
	case e.Err != nil:
		return e.Err.Message
	case e.Aborted:
		return "aborted"
	}
	return "well"
}

// jsCall is a call that a script makes of its peer.
type jsCall struct {
	Session  int       `json:"session"`
	Path     string    `json:"path"`
	Type     string    `json:"type,omitempty"`
	Args     []value   `json:"args,omitempty"`
	Items    []value   `json:"items,omitempty"`
	Generate *generate `json:"generate,omitempty"`
	// End of what is sent: "end" (default), "error" with Message, or "wait".
	End     string `json:"end,omitempty"`
	Message string `json:"message,omitempty"`
	// Take aborts after so many items.
	Take *int `json:"take,omitempty"`
	// Pause in milliseconds after each item.
	Pause   int  `json:"pause,omitempty"`
	Summary bool `json:"summary,omitempty"`
}

type generate struct {
	Count int `json:"count"`
	Size  int `json:"size,omitempty"`
}

// jsResult is how a jsCall went.
type jsResult struct {
	End    ending  `json:"end"`
	Count  int     `json:"count"`
	Items  []value `json:"items"`
	Bytes  int     `json:"bytes"`
	SHA256 string  `json:"sha256"`
}

// call makes the script call its peer.
func (n *node) call(t testing.TB, c jsCall) jsResult {
	t.Helper()
	var r jsResult
	n.do(t, "call", c, &r)
	return r
}

func ptr[T any](v T) *T { return &v }

func encode64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func decode64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tail(b []byte, n int) []byte {
	if len(b) <= n {
		return b
	}
	return b[len(b)-n:]
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = tail(append(b.b, p...), 8<<10)
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b)
}

// eventually waits for a condition that no event tells of.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// within fails the test when f takes longer than d.
func within(t testing.TB, d time.Duration, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(d):
		t.Fatalf("%s took more than %v", what, d)
		return errors.New("unreachable")
	}
}
