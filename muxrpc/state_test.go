package muxrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"math"
	"net"
	"strings"
	"testing"
)

// pair returns two sessions that are connected to each other.
func pair(t *testing.T, a, b Options) (*Session, *Session) {
	x, y := net.Pipe()
	sa, sb := New(context.Background(), x, a), New(context.Background(), y, b)
	t.Cleanup(func() {
		_ = sa.Close(context.Background())
		_ = sb.Close(context.Background())
	})
	return sa, sb
}

func testMux(t *testing.T) *Mux {
	mux := NewMux()
	for _, err := range []error{
		HandleAsync(mux, "echo", func(_ context.Context, n int) (int, error) { return n, nil }),
		HandleSource(mux, "count", func(_ context.Context, n int) iter.Seq2[int, error] {
			return func(yield func(int, error) bool) {
				for i := 0; i < n && yield(i, nil); i++ {
				}
			}
		}),
		HandleSink(mux, "eat", func(_ context.Context, _ None, items iter.Seq2[int, error]) error {
			for _, err := range items {
				if err != nil {
					return err
				}
			}
			return nil
		}),
		HandleDuplex(mux, "dup", func(ctx context.Context, _ None, s *Stream[int, int]) error {
			for item, err := range s.All(ctx) {
				if err != nil {
					return err
				}
				if err := s.Send(ctx, item); err != nil {
					return err
				}
			}
			return nil
		}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return mux
}

func TestTablesAreEmptyAfterManyCallsOfEveryType(t *testing.T) {
	mux := testMux(t)
	a, b := pair(t, Options{Mux: mux}, Options{Mux: mux})
	ctx := t.Context()
	for i := range 500 {
		for _, s := range []*Session{a, b} {
			if n, err := Call[int](ctx, s, "echo", i); err != nil || n != i {
				t.Fatal(n, err)
			}
			_, _ = Call[int](ctx, s, "nope")
			for item, err := range Source[int](ctx, s, "count", 9) {
				if err != nil || item == i%12 {
					break // some are left before their end
				}
			}
			w, err := Sink[int](ctx, s, "eat")
			if err != nil {
				t.Fatal(err)
			}
			_ = w.Send(ctx, 1)
			if i%3 == 0 {
				w.Abort(nil)
			} else if err := w.Close(ctx); err != nil {
				t.Fatal(err)
			}
			d, err := Duplex[int, int](ctx, s, "dup")
			if err != nil {
				t.Fatal(err)
			}
			_ = d.Send(ctx, 1)
			if i%3 == 0 {
				_ = d.CloseSend()
				for range d.All(ctx) {
				}
			} else if err := d.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range []*Session{a, b} {
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		if len(s.calls)+len(s.mine)+len(s.theirs)+len(s.unread)+s.handlers+s.serving+s.arguments+s.buffered+len(s.crew.resting) != 0 || s.out.pending != nil || s.credit.dirty != nil {
			t.Errorf("something is left: %+v", s.state)
		}
		if s.credit.reserved != 0 {
			t.Errorf("%d bytes of windows are reserved", s.credit.reserved)
		}
		s.mu.Unlock()
	}
}

func TestWartIDsWrapAround(t *testing.T) {
	// JavaScript's ids grow until writing them throws.
	mux := testMux(t)
	a, _ := pair(t, Options{}, Options{Mux: mux})
	ctx := t.Context()
	a.mu.Lock()
	a.lastID = math.MaxInt32 - 20
	a.mu.Unlock()
	d, err := Duplex[int, int](ctx, a, "dup") // stays open while the ids go round
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if n, err := Call[int](ctx, a, "echo", i); err != nil || n != i {
			t.Fatal(i, n, err)
		}
		for range Source[int](ctx, a, "count", 2) {
		}
	}
	a.mu.Lock()
	a.lastID = math.MaxInt32 - 20 // as after one more turn
	a.mu.Unlock()
	if err := d.Send(ctx, 7); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Recv(ctx); n != 7 || err != nil {
		t.Error(n, err)
	}
	a.mu.Lock()
	a.lastID = math.MaxInt32 - 20
	if id := a.newID(); id != math.MaxInt32-18 {
		t.Errorf("the id of an open stream was given out again: %d", id)
	}
	a.mu.Unlock()
	if err := d.Close(ctx); err != nil {
		t.Error(err)
	}
}

func FuzzRequest(f *testing.F) {
	for _, body := range []string{
		`{"name":["test","hello"],"args":["alice"]}`, `{"name":"manifest","args":[]}`, `{"name":["a"],"args":[[1,"]"]],"type":"source"}`,
		`null`, `{"name":["a"],"type":"sink"}`, ` {"args":[ ],"name" : [ "\u0061" ]} `, `{"name":[],"args":[,]}`, `{"name":["a","args":[]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, stream := range []bool{false, true} {
			v := Value{KindJSON, body}
			r, err := parseRequest(v, stream)
			if err != nil {
				continue
			}
			path, _ := parseName(r.name)
			_ = pathKeys(path)
			for arg := range elements(r.args.raw) {
				var x any
				_ = decodeJSON(arg, &x)
			}
			_ = r.args.Len()
			if !json.Valid(body) {
				continue // its parts are looked at when they are used
			}
			// What the fast path reads, encoding/json reads in the same way.
			slow, err := parseAnyRequest(v, stream)
			if err != nil {
				t.Fatalf("%s: only the fast path reads it: %v", body, err)
			}
			slowPath, _ := parseName(slow.name)
			if strings.Join(path, "\x00") != strings.Join(slowPath, "\x00") || r.typ != slow.typ || !bytes.Equal(r.args.raw, slow.args.raw) {
				t.Fatalf("%s: %v %v %s, and slowly %v %v %s", body, path, r.typ, r.args.raw, slowPath, slow.typ, slow.args.raw)
			}
		}
	})
}
