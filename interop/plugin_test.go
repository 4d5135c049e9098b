package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
)

// notes is what our side of an exchange noticed, for the test to wait for.
type notes struct {
	mu      sync.Mutex
	all     []note
	changed chan struct{}
}

type note struct {
	name  string
	items []string
	end   string
}

func newNotes() *notes { return &notes{changed: make(chan struct{})} }

func (n *notes) add(name string, items []string, end string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, note{name, items, end})
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *notes) take(name string) (note, <-chan struct{}, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, x := range n.all {
		if x.name == name {
			n.all = append(n.all[:i:i], n.all[i+1:]...)
			return x, nil, true
		}
	}
	return note{}, n.changed, false
}

// wait takes the first note of that name.
func (n *notes) wait(t testing.TB, name string) note {
	t.Helper()
	timeout := time.After(patience)
	for {
		x, changed, ok := n.take(name)
		if ok {
			return x
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("our side never noted %q; it has %v", name, n.all)
		}
	}
}

// text shows a value like value.text does.
func text(v muxrpc.Value) string {
	switch v.Kind {
	case muxrpc.KindBuffer:
		return fmt.Sprintf("buffer %q", v.Bytes)
	case muxrpc.KindString:
		return fmt.Sprintf("string %q", v.Bytes)
	}
	var parsed any
	if err := json.Unmarshal(v.Bytes, &parsed); err != nil {
		return "bad json " + string(v.Bytes)
	}
	b, _ := json.Marshal(parsed)
	return "json " + string(b)
}

// collect takes all items of a stream, and how it ended.
func collect(items iter.Seq2[muxrpc.Value, error]) (got []string, end string) {
	for v, err := range items {
		if err != nil {
			return got, errorText(err)
		}
		got = append(got, text(v))
	}
	return got, "well"
}

// errorText is what the peer said, when the peer said it.
func errorText(err error) string {
	if err == nil {
		return "well"
	}
	if remote, ok := asRemote(err); ok {
		return remote.Message
	}
	return err.Error()
}

// kinds mirrors the table of js/lib/plugin.js.
var kinds = map[string]any{
	"string":       "a string: é, 漢, 🎈",
	"buffer":       []byte{0, 1, 2, 253, 254, 255},
	"null":         nil,
	"true":         true,
	"false":        false,
	"zero":         0,
	"number":       -1.5,
	"object":       map[string]any{"a": []any{1, "two", nil}, "b": map[string]any{"c": true}},
	"array":        []any{},
	"nestedBuffer": map[string]any{"data": map[string]any{"type": "Buffer", "data": []int{104, 105}}},
	"emptyString":  "",
	"emptyBuffer":  []byte{},
}

// under puts a prefix before the names of methods.
type under struct {
	muxrpc.Registrar
	prefix string
}

func (u under) Handle(m muxrpc.Method) error {
	m.Name = u.prefix + m.Name
	return u.Registrar.Handle(m)
}

// anonymousAllow mirrors the permissions of js/lib/plugin.js.
func anonymousPermissions(prefix string) muxrpc.Permissions {
	p := muxrpc.Permissions{Deny: []string{prefix + "forbidden"}}
	for _, name := range strings.Fields(`hello whoami throws echo args kind big fail never forbidden
		count mixed chunks countThenFail countThenWait eat eatSome upper talk duplexFail deep leak`) {
		p.Allow = append(p.Allow, prefix+name)
	}
	return p
}

// ghosts are the methods that js/lib/plugin.js permits and has not. A stack of ours refuses to start with such permissions,
// so they are given to sessions.
var ghosts = []string{"test.ghost", "test.ghostSource", "test.ghostSink", "test.ghostDuplex"}

func count(n int) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// register mounts our twin of js/lib/plugin.js, without its ghosts. whoami
// tells who the peer of a call is.
func register(t testing.TB, r muxrpc.Registrar, seen *notes, whoami func(context.Context) string) {
	t.Helper()
	for _, err := range []error{
		registerAsync(r, seen, whoami),
		registerSources(r, seen),
		registerSinks(r, seen),
		registerDuplexes(r, seen),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// all returns the first error of the registrations.
func all(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func registerAsync(r muxrpc.Registrar, seen *notes, whoami func(context.Context) string) error {
	return all(
		muxrpc.HandleSync(r, "hello", func(_ context.Context, name string) (string, error) {
			return "Hello, " + name, nil
		}),
		muxrpc.HandleSync(r, "whoami", func(ctx context.Context, _ muxrpc.None) (string, error) {
			return whoami(ctx), nil
		}),
		muxrpc.HandleSync(r, "throws", func(_ context.Context, message string) (any, error) {
			return nil, muxrpc.Errorf("%s", message)
		}),
		muxrpc.HandleAsync(r, "echo", func(_ context.Context, v json.RawMessage) (json.RawMessage, error) {
			return v, nil
		}),
		muxrpc.HandleAsync(r, "args", func(_ context.Context, a muxrpc.Args) (any, error) {
			list := make([]any, a.Len())
			into := make([]any, a.Len())
			for i := range list {
				into[i] = &list[i]
			}
			return list, a.Decode(into...)
		}),
		muxrpc.HandleAsync(r, "kind", func(_ context.Context, name string) (any, error) {
			return kinds[name], nil
		}),
		muxrpc.HandleAsync(r, "big", func(_ context.Context, n int) ([]byte, error) {
			return pattern(n), nil
		}),
		muxrpc.HandleAsync(r, "fail", func(_ context.Context, message string) (any, error) {
			return nil, muxrpc.Errorf("%s", message)
		}),
		muxrpc.HandleAsync(r, "leak", func(context.Context, muxrpc.None) (any, error) {
			return nil, fmt.Errorf("open /home/somebody/secret: permission denied")
		}),
		muxrpc.HandleAsync(r, "never", func(ctx context.Context, _ muxrpc.None) (any, error) {
			seen.add("never called", nil, "")
			<-ctx.Done()
			return nil, ctx.Err()
		}),
		muxrpc.HandleSync(r, "secret", func(context.Context, muxrpc.None) (string, error) { return "the secret", nil }),
		muxrpc.HandleSync(r, "forbidden", func(context.Context, muxrpc.None) (string, error) { return "forbidden", nil }),
		muxrpc.HandleAsync(r, "deep.er.add", func(_ context.Context, a muxrpc.Args) (int, error) {
			var x, y int
			err := a.Decode(&x, &y)
			return x + y, err
		}),
	)
}

func registerSources(r muxrpc.Registrar, seen *notes) error {
	return all(
		muxrpc.HandleSource(r, "count", func(_ context.Context, n int) iter.Seq2[int, error] { return count(n) }),
		muxrpc.HandleSource(r, "deep.er.count", func(_ context.Context, n int) iter.Seq2[int, error] { return count(n) }),
		muxrpc.HandleSource(r, "secretSource", func(context.Context, muxrpc.None) iter.Seq2[int, error] { return count(1) }),
		muxrpc.HandleSource(r, "mixed", func(context.Context, muxrpc.None) iter.Seq2[any, error] {
			return func(yield func(any, error) bool) {
				for _, v := range []any{[]byte("bytes"), "text", map[string]bool{"json": true}, 7, nil, false, []int{1}} {
					if !yield(v, nil) {
						return
					}
				}
			}
		}),
		muxrpc.HandleSource(r, "chunks", func(_ context.Context, a muxrpc.Args) iter.Seq2[[]byte, error] {
			var n, size int
			return func(yield func([]byte, error) bool) {
				if err := a.Decode(&n, &size); err != nil {
					yield(nil, err)
					return
				}
				for range n {
					if !yield(pattern(size), nil) {
						return
					}
				}
			}
		}),
		muxrpc.HandleSource(r, "countThenFail", func(_ context.Context, a muxrpc.Args) iter.Seq2[int, error] {
			var n int
			var message string
			return func(yield func(int, error) bool) {
				if err := a.Decode(&n, &message); err != nil {
					yield(0, err)
					return
				}
				for i := range n {
					if !yield(i, nil) {
						return
					}
				}
				yield(0, muxrpc.Errorf("%s", message))
			}
		}),
		muxrpc.HandleSource(r, "countThenWait", func(ctx context.Context, n int) iter.Seq2[int, error] {
			return func(yield func(int, error) bool) {
				defer seen.add("aborted", nil, "")
				for i := range n {
					if !yield(i, nil) {
						return
					}
				}
				<-ctx.Done()
			}
		}),
	)
}

func registerSinks(r muxrpc.Registrar, seen *notes) error {
	return all(
		muxrpc.HandleSink(r, "eat", func(_ context.Context, name string, items iter.Seq2[muxrpc.Value, error]) error {
			got, end := collect(items)
			seen.add("eaten "+name, got, end)
			return nil
		}),
		muxrpc.HandleSink(r, "eatSome", func(_ context.Context, a muxrpc.Args, items iter.Seq2[muxrpc.Value, error]) error {
			var n int
			var message string
			if err := a.Decode(&n, &message); err != nil {
				return err
			}
			got := 0
			for _, err := range items {
				if err != nil {
					return err
				}
				if got++; got == n {
					break
				}
			}
			seen.add("eaten some", nil, "")
			if message == "" {
				return nil
			}
			return muxrpc.Errorf("%s", message)
		}),
		muxrpc.HandleSink(r, "secretSink", func(context.Context, muxrpc.None, iter.Seq2[muxrpc.Value, error]) error { return nil }),
	)
}

func registerDuplexes(r muxrpc.Registrar, seen *notes) error {
	return all(
		muxrpc.HandleDuplex(r, "upper", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[muxrpc.Value, muxrpc.Value]) error {
			for v, err := range s.All(ctx) {
				if err != nil {
					return err
				}
				if v.Kind == muxrpc.KindString {
					v.Bytes = []byte(strings.ToUpper(string(v.Bytes)))
				}
				if err := s.Send(ctx, v); err != nil {
					return err
				}
			}
			return nil
		}),
		muxrpc.HandleDuplex(r, "talk", func(ctx context.Context, n int, s *muxrpc.Stream[muxrpc.Value, int]) error {
			for i := range n {
				if err := s.Send(ctx, i); err != nil {
					return err
				}
			}
			return nil
		}),
		muxrpc.HandleDuplex(r, "duplexFail", func(_ context.Context, message string, _ *muxrpc.Stream[muxrpc.Value, int]) error {
			return muxrpc.Errorf("%s", message)
		}),
		muxrpc.HandleDuplex(r, "secretDuplex", func(context.Context, muxrpc.None, *muxrpc.Stream[muxrpc.Value, int]) error {
			return nil
		}),
	)
}
