package muxrpc_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/secretstack/secretstack/muxrpc"
)

// frame is a packet of a vector: its header in hex and its body.
type frame struct {
	fromCaller bool
	head       string
	body       string
}

// scenario is a conversation recorded between two JavaScript peers, A that calls and B that serves.
type scenario struct {
	name   string
	frames []frame
}

func loadScenarios(t *testing.T) []scenario {
	t.Helper()
	var file struct {
		Scenarios []struct {
			Name   string
			Frames []struct {
				Dir, Head, Type string
				Body            json.RawMessage
			}
			Events [][]json.RawMessage
		}
	}
	readJSON(t, "testdata/05_muxrpc_frames.json", &file)
	var scenarios []scenario
	for _, s := range file.Scenarios {
		if strings.HasPrefix(s.Name, "bootstrap") { // its frames are among the events
			must(t, json.Unmarshal(s.Events[1][1], &s.Frames))
		}
		sc := scenario{name: s.Name}
		for _, f := range s.Frames {
			body := ""
			if json.Unmarshal(f.Body, &body) != nil {
				var bin struct{ Hex string }
				must(t, json.Unmarshal(f.Body, &bin))
				body = string(must1(hex.DecodeString(bin.Hex)))
			}
			sc.frames = append(sc.frames, frame{f.Dir == "A>B", f.Head, body})
		}
		scenarios = append(scenarios, sc)
	}
	return scenarios
}

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	must(t, json.Unmarshal(data, v))
}

const goodbyeHead = "000000000000000000"

// expected returns what we must send where JavaScript sent frame i: the same bytes. Only in errors that are not echoes
// of the peer's, the stack is empty.
func expected(frames []frame, i int) (head, body string) {
	f := frames[i]
	echo := i > 0 && frames[i-1].body == f.body
	if echo || !strings.Contains(f.body, `"stack":`) {
		return f.head, f.body
	}
	body = strings.Replace(f.body, `"stack":"STACK"`, `"stack":""`, 1)
	return fmt.Sprintf("%s%08x%s", f.head[:2], len(body), f.head[10:]), body
}

// vectorMux serves what peer B of the vectors serves.
func vectorMux(t *testing.T) *muxrpc.Mux {
	mux := muxrpc.NewMux()
	answer := func(name string, typ muxrpc.CallType, h func(args muxrpc.Args) (any, error)) {
		must(t, mux.Handle(muxrpc.Method{Name: name, Type: typ, Handler: func(_ context.Context, c *muxrpc.CallInfo) (any, error) {
			return h(c.Args)
		}}))
	}
	constant := func(v any, err error) func(muxrpc.Args) (any, error) {
		return func(muxrpc.Args) (any, error) { return v, err }
	}
	answer("echo", "async", func(args muxrpc.Args) (any, error) { return args, nil })
	answer("undef", "async", constant(muxrpc.None{}, nil))
	answer("nul", "async", constant(nil, nil))
	answer("boom", "async", constant(nil, muxrpc.Errorf("boom!")))
	answer("throwing", "async", constant(nil, muxrpc.Errorf("thrown!")))
	answer("syncUndef", "sync", constant(muxrpc.None{}, nil))
	answer("syncThrow", "sync", constant(nil, muxrpc.Errorf("sync thrown")))
	answer("syncOk", "sync", func(args muxrpc.Args) (any, error) { return map[string]any{"ok": args.At(0)}, nil })
	answer("buf", "async", constant([]byte{1, 2, 3}, nil))
	answer("empty", "async", constant("", nil))
	answer("that", "async", constant("function:@bob", nil))
	answer("date", "async", constant(json.RawMessage(`{"d":"1970-01-01T00:00:00.000Z","n":null}`), nil))
	answer("denied", "async", constant(nil, nil))
	answer("nested.deep.get", "async", func(args muxrpc.Args) (any, error) {
		var key string
		err := args.Decode(&key)
		return "deep " + key, err
	})
	source := func(name string, items ...any) {
		must(t, muxrpc.HandleSource(mux, name, func(context.Context, muxrpc.None) iter.Seq2[any, error] {
			return func(yield func(any, error) bool) {
				for _, item := range items {
					if err, ok := item.(error); ok {
						yield(nil, err)
						return
					}
					if !yield(item, nil) {
						return
					}
				}
			}
		}))
	}
	must(t, muxrpc.HandleSource(mux, "src", func(_ context.Context, n int) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := 1; i <= n && yield(i, nil); i++ {
			}
		}
	}))
	source("srcErr", muxrpc.Errorf("source failed"))
	source("srcThrow", muxrpc.Errorf("src thrown"))
	source("srcEmpty")
	source("srcBuf", []byte("ab"), "str", json.RawMessage(`{"o":1}`), nil, true)
	source("deniedSrc")
	must(t, muxrpc.HandleSink(mux, "sink", func(_ context.Context, _ muxrpc.None, items iter.Seq2[any, error]) error {
		for _, err := range items {
			if err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, muxrpc.HandleSink(mux, "sinkAbort", func(context.Context, muxrpc.None, iter.Seq2[any, error]) error {
		return muxrpc.Errorf("sink aborted")
	}))
	must(t, muxrpc.HandleSink(mux, "deniedSink", func(context.Context, muxrpc.None, iter.Seq2[any, error]) error { return nil }))
	must(t, muxrpc.HandleDuplex(mux, "dup", func(ctx context.Context, _ muxrpc.None, s *muxrpc.Stream[any, any]) error {
		for item, err := range s.All(ctx) {
			if err != nil {
				return err
			}
			if err := s.Send(ctx, map[string]any{"echo": item}); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, muxrpc.HandleDuplex(mux, "dupErr", func(context.Context, muxrpc.None, *muxrpc.Stream[any, any]) error {
		return muxrpc.Errorf("dup sink err")
	}))
	must(t, muxrpc.HandleDuplex(mux, "deniedDup", func(context.Context, muxrpc.None, *muxrpc.Stream[any, any]) error { return nil }))
	return mux
}

// TestVectorsServing plays the caller of each recorded conversation and wants the answers that JavaScript gave.
func TestVectorsServing(t *testing.T) {
	// What we answer otherwise, and why.
	deviations := map[string]struct {
		why    string
		frames []frame // what we send from where we deviate; nil leaves the scenario out
	}{
		"async strErr":      {why: "an error of ours always has a message"},
		"async notImpl":     {why: "the manifest is derived from what is implemented"},
		"source notImplSrc": {why: "the manifest is derived from what is implemented"},
		"empty string response": {why: "an empty string must not end the connection (spec §8)", frames: []frame{
			{true, "020000001c00000001", `{"name":["empty"],"args":[]}`},
			{false, "0200000002ffffffff", `""`},
		}},
		"bootstrap: manifest fetched by callback":  {why: "its peer has another manifest; TestWartManifestIsAskedForByStringName"},
		"close(err) by callee with open duplex":    {why: "the callee closes; TestAbortSaysGoodbye"},
		"callee closes while caller has open sink": {why: "the callee closes; TestCloseWaitsForOpenCalls"},
	}
	for _, sc := range loadScenarios(t) {
		t.Run(sc.name, func(t *testing.T) {
			frames := sc.frames
			if d, ok := deviations[sc.name]; ok {
				if frames = d.frames; frames == nil {
					t.Log("left out:", d.why)
					return
				}
			}
			opts := muxrpc.Options{Mux: vectorMux(t), Permissions: muxrpc.Permissions{Deny: []string{"denied", "deniedSrc", "deniedSink", "deniedDup"}}}
			if sc.name == "not in allow list" {
				opts.Permissions = muxrpc.Permissions{Allow: []string{"src"}}
			}
			synctest.Test(t, func(t *testing.T) {
				_, peer := raw(t, opts)
				for i, f := range frames {
					if f.fromCaller {
						peer.write(f.head, f.body)
						synctest.Wait()
						continue
					}
					peer.want(expected(frames, i))
				}
			})
		})
	}
}

// outcome describes what a call ended with.
func outcome(v any, err error) string {
	if e, ok := errors.AsType[*muxrpc.RemoteError](err); ok {
		return "peer: " + e.Message
	}
	if err != nil {
		return err.Error()
	}
	if b, ok := v.([]byte); ok {
		return fmt.Sprintf("bytes %x", b)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// TestVectorsCalling plays the callee of each recorded conversation and wants the requests that JavaScript sent, and
// the results that it gave to its user.
func TestVectorsCalling(t *testing.T) {
	type play func(ctx context.Context, s *muxrpc.Session) []string
	async := func(name string, args ...any) play {
		return func(ctx context.Context, s *muxrpc.Session) []string {
			return []string{outcome(muxrpc.Call[any](ctx, s, name, args...))}
		}
	}
	source := func(name string, args ...any) play {
		return func(ctx context.Context, s *muxrpc.Session) (results []string) {
			for item, err := range muxrpc.Source[any](ctx, s, name, args...) {
				results = append(results, outcome(item, err))
			}
			return append(results, "end")
		}
	}
	sink := func(name string, args []any, items ...any) play {
		return func(ctx context.Context, s *muxrpc.Session) []string {
			w, err := muxrpc.Sink[any](ctx, s, name, args...)
			if err != nil {
				return []string{err.Error()}
			}
			for _, item := range items {
				if err, ok := item.(error); ok {
					w.Abort(err)
					return []string{"aborted"}
				}
				if err := w.Send(ctx, item); err != nil {
					return []string{outcome(nil, err)}
				}
			}
			return []string{outcome("ok", w.Close(ctx))}
		}
	}
	duplex := func(name string, items ...any) play {
		return func(ctx context.Context, s *muxrpc.Session) (results []string) {
			d, err := muxrpc.Duplex[any, any](ctx, s, name)
			if err != nil {
				return []string{err.Error()}
			}
			for _, item := range items {
				_ = d.Send(ctx, item) // what ended the stream is what Recv returns
				got, err := d.Recv(ctx)
				results = append(results, outcome(got, err))
			}
			if items == nil {
				_, err := d.Recv(ctx)
				return append(results, outcome(nil, err))
			}
			_ = d.CloseSend()
			_, err = d.Recv(ctx)
			return append(results, outcome(nil, err))
		}
	}
	both := func(plays ...play) play {
		return func(ctx context.Context, s *muxrpc.Session) (results []string) {
			for _, p := range plays {
				results = append(results, p(ctx, s)...)
			}
			return results
		}
	}
	manifest := func(ctx context.Context, s *muxrpc.Session) []string {
		return []string{outcome(s.Manifest(ctx))}
	}
	closing := func(ctx context.Context, s *muxrpc.Session) []string {
		return []string{outcome("closed", s.Close(ctx))}
	}
	const eof = "EOF"
	denied := func(name string) string { return "peer: method:" + name + " is on list of disallowed methods" }
	unexpected := "muxrpc: unexpected end of parent stream"

	// more is what we send after the recorded packets.
	type want struct {
		play    play
		results []string
		more    []frame
		why     string
	}
	wants := map[string]want{
		"async undef":     {play: async("undef"), results: []string{"false"}},
		"async nul":       {play: async("nul"), results: []string{"null"}},
		"async boom":      {play: async("boom"), results: []string{"peer: boom!"}},
		"async strErr":    {play: async("strErr"), results: []string{"peer: "}},
		"async throwing":  {play: async("throwing"), results: []string{"peer: thrown!"}},
		"async syncUndef": {play: async("syncUndef"), results: []string{"false"}},
		"async buf":       {play: async("buf"), results: []string{"bytes 010203"}},
		"async denied":    {play: async("denied"), results: []string{denied("denied")}},
		"async notImpl":   {play: async("notImpl"), results: []string{"peer: Cannot read properties of undefined (reading 'apply')"}},
		"async that":      {play: async("that"), results: []string{`"function:@bob"`}},
		"async date":      {play: async("date"), results: []string{`{"d":"1970-01-01T00:00:00.000Z","n":null}`}},
		"async syncThrow": {play: async("syncThrow"), results: []string{"peer: sync thrown"}},
		"async echo args": {play: async("echo", 1, "two", map[string]int{"three": 3}, []byte{4}, nil, nil),
			results: []string{`[1,"two",{"three":3},{"data":[4],"type":"Buffer"},null,null]`}},
		"sync ok":               {play: async("syncOk", 5), results: []string{`{"ok":5}`}},
		"nested":                {play: async("nested.deep.get", "k"), results: []string{`"deep k"`}},
		"empty string response": {play: async("empty"), results: []string{unexpected}},
		"promise":               {play: both(async("syncOk", 1), async("boom")), results: []string{`{"ok":1}`, "peer: boom!"}},
		"three requests: ids": {play: both(async("echo", "a"), async("echo", "b"), source("src", 1), async("echo", "c")),
			results: []string{`["a"]`, `["b"]`, "1", "end", `["c"]`}},
		"source srcErr":     {play: source("srcErr"), results: []string{"peer: source failed", "end"}},
		"source srcEmpty":   {play: source("srcEmpty"), results: []string{"end"}},
		"source srcThrow":   {play: source("srcThrow"), results: []string{"peer: src thrown", "end"}},
		"source srcBuf":     {play: source("srcBuf"), results: []string{"bytes 6162", `"str"`, `{"o":1}`, "null", "true", "end"}},
		"source deniedSrc":  {play: source("deniedSrc"), results: []string{denied("deniedSrc"), "end"}},
		"source notImplSrc": {play: source("notImplSrc"), results: []string{"peer: Cannot read properties of undefined (reading 'apply')", "end"}},
		"source 3 values":   {play: source("src", 3), results: []string{"1", "2", "3", "end"}},
		"source aborted by caller after 2 (infinite)": {play: func(ctx context.Context, s *muxrpc.Session) (results []string) {
			for item, err := range muxrpc.Source[any](ctx, s, "src", 5) {
				results = append(results, outcome(item, err))
				if len(results) == 2 {
					synctest.Wait() // all five and the end have come, as they had in JavaScript
					break
				}
			}
			return results
		}, results: []string{"1", "2"}},
		"sink 3 values":      {play: sink("sink", []any{"p"}, 1, 2, 3), results: []string{`"ok"`}},
		"sink without cb":    {play: sink("sink", []any{"p"}, 1), results: []string{`"ok"`}},
		"sink source errors": {play: sink("sink", []any{"p"}, muxrpc.Errorf("client source err")), results: []string{"aborted"}},
		"sink aborted by callee": {play: func(ctx context.Context, s *muxrpc.Session) []string {
			w, err := muxrpc.Sink[any](ctx, s, "sinkAbort")
			must(t, err)
			synctest.Wait()
			return []string{outcome(nil, w.Send(ctx, 1)), outcome(nil, w.Close(ctx))}
		}, results: []string{"peer: sink aborted", "peer: sink aborted"}},
		"deniedSink": {play: func(ctx context.Context, s *muxrpc.Session) []string {
			w, err := muxrpc.Sink[any](ctx, s, "deniedSink")
			must(t, err)
			synctest.Wait()
			return []string{outcome(nil, w.Close(ctx))}
		}, results: []string{denied("deniedSink")}},
		"duplex echo": {play: duplex("dup", 1, 2), results: []string{`{"echo":1}`, `{"echo":2}`, eof}},
		"duplex error": {play: duplex("dupErr"), results: []string{"peer: dup sink err"},
			more: []frame{{true, "0e0000003900000001", `{"message":"dup sink err","name":"Error","stack":"STACK"}`}}, why: "every end is answered (spec §10)"},
		"deniedDup": {play: duplex("deniedDup"), results: []string{denied("deniedDup")},
			more: []frame{{true, "0e0000005e00000001", `{"message":"method:deniedDup is on list of disallowed methods","name":"Error","stack":"STACK"}`}}, why: "every end is answered (spec §10)"},
		"duplex: caller ends only its sink side":   {play: duplex("dup", "x"), results: []string{`{"echo":"x"}`, eof}},
		"type mismatch: async call on source":      {play: async("src", 1), results: []string{"peer: no async:src"}},
		"type mismatch: source call on async":      {play: source("echo", 1), results: []string{"peer: no source:echo", "end"}},
		"method unknown to callee (async)":         {play: async("zzz"), results: []string{"peer: no async:zzz"}},
		"method unknown to callee (nested)":        {play: async("zzz.yy"), results: []string{"peer: no async:zzz,yy"}},
		"method unknown to callee (source nested)": {play: source("zzz.yy"), results: []string{"peer: no source:zzz,yy", "end"}},
		"not in allow list": {play: both(async("echo", 1), async("nested.deep.get", "k")),
			results: []string{"peer: method:echo is not in list of allowed methods", "peer: method:nested,deep,get is not in list of allowed methods"}},
		"bootstrap: manifest fetched by callback": {play: manifest, results: []string{`{"echo":"async","src":"source"}`}},
		"graceful close, no open calls":           {play: closing, results: []string{`"closed"`}},
		"close waits for open source": {play: func(ctx context.Context, s *muxrpc.Session) []string {
			closed := make(chan error)
			var results []string
			for item, err := range muxrpc.Source[any](ctx, s, "src", 2) {
				if results == nil {
					go func() { closed <- s.Close(ctx) }()
				}
				results = append(results, outcome(item, err))
			}
			return append(results, outcome("closed", <-closed))
		}, results: []string{"1", "2", `"closed"`}},
		"callee closes while caller has open sink": {play: sink("sink", []any{"x"}, 1), results: []string{`"ok"`},
			more: []frame{{true, goodbyeHead, ""}}, why: "a goodbye is answered"},
		"close(true) with open calls": {play: func(ctx context.Context, s *muxrpc.Session) []string {
			d, err := muxrpc.Duplex[any, any](ctx, s, "dup")
			must(t, err)
			s.Abort(nil)
			_, err = d.Recv(ctx)
			return []string{fmt.Sprint(errors.Is(err, muxrpc.ErrUnexpectedEnd))}
		}, results: []string{"true"}},
		"close(err) by callee with open duplex": {play: duplex("dup", 1, nil), results: []string{`{"echo":1}`, unexpected, unexpected}},
		"call after close": {play: both(closing, async("echo", 1), source("src", 1)),
			results: []string{`"closed"`, "muxrpc: stream is closed", "muxrpc: stream is closed", "end"}},
		"call while closing": {play: func(ctx context.Context, s *muxrpc.Session) []string {
			w, err := muxrpc.Sink[any](ctx, s, "sink", "x")
			must(t, err)
			closed := make(chan error)
			go func() { closed <- s.Close(ctx) }()
			synctest.Wait()
			results := both(async("echo", 1), source("src", 1))(ctx, s)
			return append(results, outcome("ok", w.Close(ctx)), outcome("closed", <-closed))
		}, results: []string{"muxrpc: parent stream is closing", "muxrpc: parent stream is closing", "end", `"ok"`, `"closed"`},
			more: []frame{{true, goodbyeHead, ""}, {false, goodbyeHead, ""}}, why: "an orderly end has goodbyes (spec §10)"},
	}
	for _, sc := range loadScenarios(t) {
		t.Run(sc.name, func(t *testing.T) {
			w, ok := wants[sc.name]
			if !ok {
				t.Fatal("this scenario has no equivalent")
			}
			synctest.Test(t, func(t *testing.T) {
				s, peer := raw(t, muxrpc.Options{})
				results := make(chan []string, 1)
				go func() { results <- w.play(context.Background(), s) }()
				frames := append(sc.frames, w.more...)
				for i, f := range frames {
					if f.fromCaller {
						peer.want(expected(frames, i))
					} else if f.head == goodbyeHead {
						_, _ = peer.conn.Write(make([]byte, 9)) // we may have left after the peer's first goodbye
					} else {
						peer.write(f.head, f.body)
					}
				}
				got := strings.Join(<-results, "\n")
				if want := strings.Join(w.results, "\n"); got != want {
					t.Errorf("results:\n%s\nwant:\n%s", got, want)
				}
			})
		})
	}
}

// TestMalformedInputOfTheVectorsIsAnswered sends what a real JavaScript server was sent.
func TestMalformedInputOfTheVectorsIsAnswered(t *testing.T) {
	var file struct {
		Cases []struct {
			Name, Head, Body string
			Answers          [][2]string
			Dies, Goodbye    bool
		}
	}
	readJSON(t, "testdata/10_malformed_input_secret_stack.json", &file)
	// Where we do not answer as JavaScript does: the error we answer instead.
	deviations := map[string]frame{
		"request body json null": {head: "06", body: "invalid request, args should be array, was: null"}, // kills a JavaScript process
		"stream body null":       {head: "0e", body: "invalid request, args should be array, was: null"}, // kills a JavaScript process
		"bad json":               {head: "06", body: `invalid request, args should be array, was: {x`},   // JavaScript ends the session
		"type 3 frame":           {head: "06", body: "unknown message type"},                             // JavaScript ends the session
		"name __proto__":         {head: "06", body: "method:__proto__,toString is not in list of allowed methods"},
	}
	mux := muxrpc.NewMux()
	must(t, muxrpc.HandleManifest(mux))
	must(t, muxrpc.HandleSource(mux, "test.count", func(context.Context, muxrpc.None) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := 0; yield(i, nil); i++ {
			}
		}
	}))
	opts := muxrpc.Options{Mux: mux, Permissions: muxrpc.Permissions{Allow: []string{"manifest", "test.count"}}}
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, peer := raw(t, opts)
				peer.write(c.Head, c.Body)
				deviation, deviates := deviations[c.Name]
				switch {
				case deviates:
					body := `{"message":` + string(must1(json.Marshal(deviation.body))) + `,"name":"Error","stack":""}`
					peer.want(fmt.Sprintf("%s%08xffffffff", deviation.head, len(body)), body)
				case c.Dies || c.Goodbye:
					t.Fatal("what do we do instead?")
				}
				for _, answer := range c.Answers {
					if deviates {
						break
					}
					head, body, err := peer.read()
					must(t, err)
					if strings.HasSuffix(answer[1], `"stack":"…`) {
						wantSame(t, body, strings.TrimSuffix(answer[1], `…`)+`"}`)
					} else if strings.HasPrefix(answer[1], `{"auth":`) { // their manifest is longer than ours
						wantSame(t, body, `{"manifest":"sync","test":{"count":"source"}}`)
					} else {
						wantSame(t, head, answer[0])
						wantSame(t, body, answer[1])
					}
				}
				// The session goes on in any case, unlike JavaScript's.
				peer.request(77, `{"name":"manifest","args":[]}`)
				for {
					head, body, err := peer.read()
					must(t, err)
					if strings.HasSuffix(head, "ffffffb3") {
						wantSame(t, body, `{"manifest":"sync","test":{"count":"source"}}`)
						break
					}
					if c.Name != "stream first frame has no args" {
						t.Fatalf("unexpected %s %s", head, body)
					}
				}
			})
		})
	}
}

func wantSame(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
