package multiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
)

var identity = testkit.Identity

func shsFor(t testing.TB, name string) multiserver.Transform {
	t.Helper()
	return multiserver.SHS(shsConfig(t, name))
}

func shsConfig(t testing.TB, name string) multiserver.SHSConfig {
	t.Helper()
	return multiserver.SHSConfig{Identity: identity(t, name), AppKey: keys.MainNet()}
}

// vector reads one list of a recorded file.
func vector[T any](t testing.TB, file, field string) T {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	var v T
	if err := json.Unmarshal(all[field], &v); err != nil {
		t.Fatalf("%s: %v", field, err)
	}
	return v
}

// must makes a server from the options and closes it at the end.
func must(t testing.TB, opts multiserver.Options) *multiserver.Server {
	t.Helper()
	s, err := multiserver.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func listening(t testing.TB, opts multiserver.Options) *multiserver.Server {
	t.Helper()
	s := must(t, opts)
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// loose parses what must have an address in it.
func loose(t testing.TB, text string) []multiserver.Address {
	t.Helper()
	addrs := multiserver.ParseLoose(text)
	if len(addrs) == 0 {
		t.Fatalf("no address in %q", text)
	}
	return addrs
}

// memory is a transport within the process that works in synctest bubbles.
// Addresses are mem:NAME, and NAME is the host of the entry.
type memory struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
	dials     []string
	failures  []error // what Accept returns first
}

func newMemory() *memory { return &memory{listeners: map[string]*memoryListener{}} }

func (*memory) Name() string { return "mem" }

func (*memory) ParsePart(p multiserver.Part, _ multiserver.Mode) (multiserver.Part, error) {
	if p.Name != "mem" {
		return multiserver.Part{}, multiserver.ErrOtherPart
	}
	if len(p.Data) != 1 || p.Data[0] == "" {
		return multiserver.Part{}, errors.New("mem needs a name")
	}
	return p, nil
}

func (m *memory) Listen(_ context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners[in.Host] != nil {
		return nil, errors.New("the name " + in.Host + " is taken")
	}
	l := &memoryListener{m: m, in: in, conns: make(chan net.Conn), done: make(chan struct{}), failures: m.failures}
	m.listeners[in.Host] = l
	return l, nil
}

func (m *memory) Dial(ctx context.Context, p multiserver.Part) (net.Conn, error) {
	m.mu.Lock()
	l := m.listeners[p.Data[0]]
	m.dials = append(m.dials, p.Data[0])
	m.mu.Unlock()
	if p.Data[0] == "blackhole" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, errors.New("nobody is called " + p.Data[0])
	}
	return l.connect(ctx)
}

type memoryListener struct {
	m        *memory
	in       multiserver.Incoming
	conns    chan net.Conn
	done     chan struct{}
	once     sync.Once
	failures []error // owned by Accept
}

func (l *memoryListener) connect(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *memoryListener) Accept() (net.Conn, error) {
	if len(l.failures) > 0 {
		err := l.failures[0]
		l.failures = l.failures[1:]
		return nil, err
	}
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.m.mu.Lock()
		delete(l.m.listeners, l.in.Host)
		l.m.mu.Unlock()
	})
	return nil
}

func (l *memoryListener) Addresses(scope multiserver.Scope) []multiserver.Part {
	if len(l.in.AdvertisedHosts(scope)) == 0 {
		return nil
	}
	return []multiserver.Part{multiserver.NewPart("mem", l.in.Host)}
}

// memoryOptions are those of a peer that listens under its own name.
func memoryOptions(t testing.TB, m *memory, name string) multiserver.Options {
	t.Helper()
	return multiserver.Options{
		Transports: []multiserver.Transport{m},
		Transforms: []multiserver.Transform{shsFor(t, name)},
		Config: multiserver.Config{
			Incoming: map[string][]multiserver.Incoming{"mem": {{Transform: "shs", Host: name}}},
			Outgoing: map[string][]multiserver.Outgoing{"mem": {{Transform: "shs"}}},
		},
	}
}

// addressOf is how to dial the peer of that name over memory.
func addressOf(t testing.TB, name string) []multiserver.Address {
	t.Helper()
	return loose(t, "mem:"+name+"~shs:"+identity(t, name).Public().Base64())
}

// echo is an OnConn that sends back what comes, in upper case.
func echo(c *multiserver.Conn) {
	go func() {
		defer func() { _ = c.Close() }()
		buf := make([]byte, 1024)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(bytes.ToUpper(buf[:n])); err != nil {
				return
			}
		}
	}()
}

// checkEcho sends a line to an echo and wants it back.
func checkEcho(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != "HELLO" {
		t.Fatalf("echo sent %q", got)
	}
}

// collect is an OnConn that puts connections into a channel.
func collect(conns chan<- *multiserver.Conn) func(*multiserver.Conn) {
	return func(c *multiserver.Conn) { conns <- c }
}

// logTo returns a logger whose text can be read.
func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
