package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/muxrpc"
)

// rawPeer is our end of muxrpc over plain TCP.
type rawPeer struct {
	*muxrpc.Session
	seen *notes
}

// newRawPeer serves the plugin "test" on conn, as js/muxrpc.js does.
func newRawPeer(t testing.TB, conn net.Conn) rawPeer {
	t.Helper()
	p := rawPeer{seen: newNotes()}
	mux := muxrpc.NewMux()
	register(t, under{mux, "test."}, p.seen, func(ctx context.Context) string {
		who, _ := muxrpc.PeerFrom(ctx).(string)
		return who
	})
	err := muxrpc.HandleAsync(mux, "manifest", func(context.Context, muxrpc.None) (muxrpc.Manifest, error) {
		return mux.Manifest(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	permissions := anonymousPermissions("test.")
	permissions.Allow = append(permissions.Allow, ghosts...)
	permissions.Allow = append(permissions.Allow, "manifest")
	// Not t.Context, which ends before the deferred closings of the test.
	ctx, cancel := context.WithCancel(context.Background())
	p.Session = muxrpc.New(ctx, conn, muxrpc.Options{Mux: mux, Permissions: permissions, Peer: "the peer"})
	t.Cleanup(func() {
		cancel()
		<-p.Done()
	})
	return p
}

// rawPair connects a script and us, in either direction.
func rawPair(t *testing.T, n *node, version int, jsDials bool, extra ...any) (p rawPeer, session int) {
	t.Helper()
	options := map[string]any{"version": version}
	for i := 0; i+1 < len(extra); i += 2 {
		options[extra[i].(string)] = extra[i+1]
	}
	type js struct {
		Port    int `json:"port"`
		Session int `json:"session"`
	}
	if !jsDials {
		var addr js
		n.do(t, "listen", options, &addr)
		p = newRawPeer(t, dialLoopback(t, addr.Port))
		return p, waitEvent(t, n, "session", func(js) bool { return true }).Session
	}
	l := listenLoopback(t)
	options["port"] = l.Addr().(*net.TCPAddr).Port
	answer, err := n.send("connect", options)
	if err != nil {
		t.Fatal(err)
	}
	p = newRawPeer(t, acceptOne(t, l))
	var s js
	if err := n.await(t.Context(), answer, &s); err != nil {
		t.Fatal(err)
	}
	return p, s.Session
}

// closeWell closes a session and fails the test when that is not orderly.
func closeWell(t *testing.T, s *muxrpc.Session) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := s.Err(); err != nil {
		t.Errorf("the session ended with %v", err)
	}
}

func TestEveryCallTypeInBothDirectionsOverPlainMuxrpc(t *testing.T) {
	for _, version := range []int{8, 6} {
		for _, jsDials := range []bool{false, true} {
			t.Run(fmt.Sprintf("muxrpc %d, JavaScript dials: %v", version, jsDials), func(t *testing.T) {
				n := startNode(t, "muxrpc.js")
				p, session := rawPair(t, n, version, jsDials)
				callFromGo(t, p, goCases)
				callFromGo(t, p, unknownCases)
				callFromJS(t, n, session, jsCallCases)
				callFromJS(t, n, session, missingCases)
				n.mustLive(t)
			})
		}
	}
}

func TestItemsArriveInSinksAsTheyWereSent(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, true)
	want := []string{"json 1", `string "two"`, `buffer "three"`, `json {"four":4}`, "json null"}

	got := n.call(t, jsCall{Session: session, Path: "test.eat", Type: "sink", Args: args("x"), Items: []value{
		jsJSON(1), jsString("two"), jsBuffer([]byte("three")), jsJSON(map[string]any{"four": 4}), jsJSON(nil)}})
	if eaten := p.seen.wait(t, "eaten x"); !slices.Equal(eaten.items, want) || eaten.end != "well" || got.End.String() != "well" {
		t.Errorf("from JavaScript: %v, ended %q here and %v there", eaten.items, eaten.end, got.End)
	}

	_, end := sink([]any{1, "two", []byte("three"), map[string]int{"four": 4}, nil}, "test.eat", "y")(t.Context(), p)
	eaten := waitEvent(t, n, "eaten", func(e jsEaten) bool { return e.Name == "y" })
	if !slices.Equal(texts(eaten.Items), want) || end != "well" || eaten.End.String() != "well" {
		t.Errorf("from Go: %v, ended %q here and %v there", texts(eaten.Items), end, eaten.End)
	}
}

type jsEaten struct {
	Name  string  `json:"name"`
	End   ending  `json:"end"`
	Items []value `json:"items"`
}

func TestAWriterThatFailsIsAnErrorAtTheReader(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, false)
	n.call(t, jsCall{Session: session, Path: "test.eat", Type: "sink", Args: args("x"), Items: args(1), End: "error", Message: "the writer broke"})
	if eaten := p.seen.wait(t, "eaten x"); eaten.end != "the writer broke" {
		t.Errorf("our reader ended %q", eaten.end)
	}

	w, err := muxrpc.Sink[int](t.Context(), p, "test.eat", "y")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	w.Abort(muxrpc.Errorf("our writer broke"))
	if eaten := waitEvent(t, n, "eaten", func(e jsEaten) bool { return e.Name == "y" }); eaten.End.String() != "our writer broke" {
		t.Errorf("their reader ended %v", eaten.End)
	}
}

func TestAnEmptyValueDoesNotEndTheSession(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	_, session := rawPair(t, n, 8, true)
	callFromJS(t, n, session, []jsCallCase{
		{name: "empty string", call: jsCall{Path: "test.kind", Args: args("emptyString")}, items: []string{`string ""`}},
		{name: "empty buffer", call: jsCall{Path: "test.kind", Args: args("emptyBuffer")}, items: []string{`json {"data":[],"type":"Buffer"}`}},
		{name: "still there", call: jsCall{Path: "test.hello", Args: args("x")}, items: []string{`string "Hello, x"`}},
	})
}

func TestAnErrorThatIsNotForThePeerStaysHere(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	_, session := rawPair(t, n, 8, true)
	callFromJS(t, n, session, []jsCallCase{{name: "leak", call: jsCall{Path: "test.leak"}, end: "internal error"}})
}

func TestLeavingASourceEndsItAtTheOtherSide(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, true)
	n.call(t, jsCall{Session: session, Path: "test.countThenWait", Type: "source", Args: args(3), Take: ptr(1)})
	p.seen.wait(t, "aborted")

	for _, err := range muxrpc.Source[int](t.Context(), p, "test.countThenWait", 3) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	waitEvent(t, n, "aborted", func(any) bool { return true })

	ctx, cancel := context.WithCancel(t.Context())
	for _, err := range muxrpc.Source[int](ctx, p, "test.countThenWait", 1) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled source ended with %v", err)
			}
			break
		}
		cancel()
	}
	cancel()
	waitEvent(t, n, "aborted", func(any) bool { return true })
}

func TestACancelledCallLeavesTheSessionInOrder(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := muxrpc.Call[any](ctx, p, "test.never"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	callFromGo(t, p, goCases[:3])
	callFromJS(t, n, session, jsCallCases[:3])
}

const mebibyte = 1 << 20

func TestLargeValuesPassInBothDirections(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, true)

	b, err := muxrpc.Call[[]byte](t.Context(), p, "test.big", mebibyte)
	if err != nil || !bytes.Equal(b, pattern(mebibyte)) {
		t.Errorf("from JavaScript came %d bytes, %v", len(b), err)
	}
	got := n.call(t, jsCall{Session: session, Path: "test.big", Args: args(mebibyte), Summary: true})
	if got.Bytes != mebibyte || got.SHA256 != sum256(1, mebibyte) {
		t.Errorf("JavaScript got %d bytes, %v", got.Bytes, got.End)
	}
	long := strings.Repeat("é", mebibyte/2)
	s, err := muxrpc.Call[string](t.Context(), p, "test.echo", long)
	if err != nil || s != long {
		t.Errorf("an argument of 1 MiB came back with %d bytes, %v", len(s), err)
	}
	got = n.call(t, jsCall{Session: session, Path: "test.echo", Args: args(long)})
	if len(got.Items) != 1 || (got.Items[0].String != long && got.Items[0].JSON != long) {
		t.Errorf("an argument of 1 MiB of JavaScript did not come back: %v", got.End)
	}
}

// sum256 is the hash of count patterns of that size, as hex.
func sum256(count, size int) string {
	h := sha256.New()
	for range count {
		h.Write(pattern(size))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestManyChunksPassInBothDirections(t *testing.T) {
	const chunks, size = 64, 64 << 10
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, false)

	h, total := sha256.New(), 0
	for b, err := range muxrpc.Source[[]byte](t.Context(), p, "test.chunks", chunks, size) {
		if err != nil {
			t.Fatal(err)
		}
		total += len(b)
		h.Write(b)
	}
	if total != chunks*size || hex.EncodeToString(h.Sum(nil)) != sum256(chunks, size) {
		t.Errorf("from JavaScript came %d bytes", total)
	}

	got := n.call(t, jsCall{Session: session, Path: "test.chunks", Type: "source", Args: args(chunks, size), Summary: true})
	if got.Bytes != chunks*size || got.SHA256 != sum256(chunks, size) || got.End.String() != "well" {
		t.Errorf("JavaScript got %d bytes, %v", got.Bytes, got.End)
	}
}

func TestTenThousandItemsPassInBothDirections(t *testing.T) {
	const items = 10_000
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, false)

	next := 0
	for v, err := range muxrpc.Source[int](t.Context(), p, "test.count", items) {
		if err != nil || v != next {
			t.Fatalf("item %d is %d, %v", next, v, err)
		}
		next++
	}
	if next != items {
		t.Errorf("the source of JavaScript ended after %d items", next)
	}

	got := n.call(t, jsCall{Session: session, Path: "test.count", Type: "source", Args: args(items), Summary: true})
	if got.Count != items || got.End.String() != "well" {
		t.Errorf("JavaScript got %d items, %v", got.Count, got.End)
	}

	n.call(t, jsCall{Session: session, Path: "test.eat", Type: "sink", Args: args("x"), Generate: &generate{Count: items}})
	if eaten := p.seen.wait(t, "eaten x"); len(eaten.items) != items || eaten.items[items-1] != fmt.Sprintf("json %d", items-1) {
		t.Errorf("our sink got %d items", len(eaten.items))
	}

	w, err := muxrpc.Sink[int](t.Context(), p, "test.eat", "y")
	if err != nil {
		t.Fatal(err)
	}
	for i := range items {
		if err := w.Send(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if eaten := waitEvent(t, n, "eaten", func(e jsEaten) bool { return e.Name == "y" }); len(eaten.Items) != items {
		t.Errorf("their sink got %d items", len(eaten.Items))
	}
}

// A reader of ours that is slow for a while must not lose anything of a source
// that JavaScript has produced all at once.
func TestASlowReaderGetsAllOfAJavaScriptSource(t *testing.T) {
	const chunks, size = 48, 64 << 10 // 3 MiB, three times the buffer of a stream
	n := startNode(t, "muxrpc.js")
	p, _ := rawPair(t, n, 8, false)
	got := 0
	for b, err := range muxrpc.Source[[]byte](t.Context(), p, "test.chunks", chunks, size) {
		if err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
		got += len(b)
		time.Sleep(5 * time.Millisecond)
	}
	if got != chunks*size {
		t.Errorf("got %d bytes of %d", got, chunks*size)
	}
}

// A JavaScript reader takes everything into memory; ours may not rely on that.
func TestASlowJavaScriptReaderGetsAllOfOurSource(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	_, session := rawPair(t, n, 8, true)
	got := n.call(t, jsCall{Session: session, Path: "test.chunks", Type: "source", Args: args(48, 64<<10), Pause: 2, Summary: true})
	if got.Bytes != 48*64<<10 || got.End.String() != "well" {
		t.Errorf("JavaScript got %d bytes, %v", got.Bytes, got.End)
	}
}

func TestManyCallsAtOnceInBothDirections(t *testing.T) {
	const calls = 200
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, false)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			got, err := muxrpc.Call[int](t.Context(), p, "test.deep.er.add", i, 1)
			if err != nil || got != i+1 {
				t.Errorf("%d + 1 = %d, %v", i, got, err)
			}
		})
		wg.Go(func() {
			var got jsResult
			err := n.try(t.Context(), "call", jsCall{Session: session, Path: "test.deep.er.add", Args: args(i, 1)}, &got)
			if err != nil || got.End.String() != "well" || got.Items[0].JSON != float64(i+1) {
				t.Errorf("%d + 1 = %v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestTheManifestIsFetchedInBothDirections(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, true, "bootstrap", true)
	m, err := p.Manifest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]muxrpc.CallType{
		"test.hello": muxrpc.TypeSync, "test.echo": muxrpc.TypeAsync, "test.count": muxrpc.TypeSource,
		"test.eat": muxrpc.TypeSink, "test.upper": muxrpc.TypeDuplex, "test.deep.er.add": muxrpc.TypeAsync,
	} {
		if got := m.Lookup(strings.Split(path, ".")...); got != want {
			t.Errorf("%s is %q in the manifest of JavaScript, want %q", path, got, want)
		}
	}
	if e := waitEvent(t, n, "bootstrapped", func(struct {
		Error string `json:"error"`
	}) bool {
		return true
	}); e.Error != "" {
		t.Fatalf("JavaScript has no manifest of ours: %s", e.Error)
	}
	callFromJS(t, n, session, jsCallCases)
}

// sessionEvent is an event about one session of a script.
type sessionEvent struct {
	Session int `json:"session"`
}

func closedEvent(session int) func(sessionEvent) bool {
	return func(e sessionEvent) bool { return e.Session == session }
}

func TestAGracefulCloseEndsBothSides(t *testing.T) {
	for _, version := range []int{8, 6} {
		t.Run(fmt.Sprintf("Go closes muxrpc %d", version), func(t *testing.T) {
			n := startNode(t, "muxrpc.js")
			p, session := rawPair(t, n, version, false)
			callFromGo(t, p, goCases[:2])
			closeWell(t, p.Session)
			waitEvent(t, n, "closed", closedEvent(session))
		})
		t.Run(fmt.Sprintf("muxrpc %d closes Go", version), func(t *testing.T) {
			n := startNode(t, "muxrpc.js")
			p, session := rawPair(t, n, version, true)
			callFromJS(t, n, session, jsCallCases[:2])
			n.do(t, "closeSession", map[string]any{"session": session}, nil)
			waitDone(t, p.Session)
			if err := p.Err(); err != nil {
				t.Errorf("our side ended with %v", err)
			}
		})
	}
}

func waitDone(t *testing.T, s *muxrpc.Session) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the session did not end")
	}
}

// JavaScript sends no end of its own when the other side ends a duplex: its
// graceful close hangs then. Ours must not.
func TestAGracefulCloseAfterADuplexEnds(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, false)
	callFromGo(t, p, goCases)
	callFromJS(t, n, session, jsCallCases)
	_ = within(t, patience, "close", func() error { closeWell(t, p.Session); return nil })
	waitEvent(t, n, "closed", closedEvent(session))
}

func TestAGracefulCloseWaitsForAnOpenCall(t *testing.T) {
	n := startNode(t, "muxrpc.js")
	p, session := rawPair(t, n, 8, false)
	next := make(chan error, 1)
	w, err := muxrpc.Sink[int](t.Context(), p, "test.eat", "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	go func() { next <- p.Close(context.Background()) }()
	eventually(t, "new calls are refused", func() bool {
		_, err := muxrpc.Call[any](t.Context(), p, "test.hello", "x")
		return errors.Is(err, muxrpc.ErrClosing)
	})
	if err := w.Send(t.Context(), 2); err != nil {
		t.Errorf("an open sink is refused while closing: %v", err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-next; err != nil {
		t.Error(err)
	}
	if eaten := waitEvent(t, n, "eaten", func(jsEaten) bool { return true }); len(eaten.Items) != 2 {
		t.Errorf("JavaScript got %d items", len(eaten.Items))
	}
	waitEvent(t, n, "closed", closedEvent(session))
}

func TestAHardCloseEndsOpenCallsOnBothSides(t *testing.T) {
	open := func(t *testing.T, n *node, p rawPeer, session int) (ours <-chan error, theirs <-chan reply) {
		t.Helper()
		answer, err := n.send("call", jsCall{Session: session, Path: "test.never"})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := muxrpc.Call[any](context.Background(), p, "test.never")
			done <- err
		}()
		p.seen.wait(t, "never called")
		waitEvent(t, n, "never called", func(any) bool { return true })
		return done, answer
	}
	check := func(t *testing.T, n *node, ours <-chan error, theirs <-chan reply) {
		t.Helper()
		err := within(t, patience, "our open call", func() error { return <-ours })
		if !errors.Is(err, muxrpc.ErrUnexpectedEnd) {
			t.Errorf("our call ended with %v", err)
		}
		var got jsResult
		if err := n.await(t.Context(), theirs, &got); err != nil || got.End.String() != "unexpected end of parent stream" {
			t.Errorf("their call ended with %v, %v", got.End, err)
		}
	}
	t.Run("Go aborts", func(t *testing.T) {
		n := startNode(t, "muxrpc.js")
		p, session := rawPair(t, n, 8, false)
		ours, theirs := open(t, n, p, session)
		p.Abort(nil)
		check(t, n, ours, theirs)
	})
	t.Run("JavaScript closes with true", func(t *testing.T) {
		n := startNode(t, "muxrpc.js")
		p, session := rawPair(t, n, 8, true)
		ours, theirs := open(t, n, p, session)
		n.do(t, "closeSession", map[string]any{"session": session, "hard": true}, nil)
		check(t, n, ours, theirs)
		waitDone(t, p.Session)
	})
	t.Run("JavaScript is killed", func(t *testing.T) {
		n := startNode(t, "muxrpc.js")
		p, session := rawPair(t, n, 8, true)
		ours, _ := open(t, n, p, session)
		n.stdin.Close()
		if err := within(t, patience, "our open call", func() error { return <-ours }); !errors.Is(err, muxrpc.ErrUnexpectedEnd) {
			t.Errorf("our call ended with %v", err)
		}
		waitDone(t, p.Session)
		if p.Err() == nil {
			t.Error("a connection that was cut counts as ended well")
		}
	})
}
