package muxrpc_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
)

// An error is sent whether there is room for it or not, so its text is cut to 4 KiB, at the border of a rune.
func TestLongErrorTextsAreCut(t *testing.T) {
	const most = 4 << 10
	for name, text := range map[string]string{
		"ASCII":        strings.Repeat("x", 1<<20),
		"runes":        strings.Repeat("é€", 1<<18),
		"control":      strings.Repeat("\x01", 1<<20),
		"invalid text": strings.Repeat("\xbf", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			mux := muxrpc.NewMux()
			err := muxrpc.HandleAsync(mux, "fail", func(context.Context, muxrpc.None) (string, error) {
				return "", muxrpc.Errorf("%s", text)
			})
			if err != nil {
				t.Fatal(err)
			}
			caller, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
			_, err = muxrpc.Call[string](t.Context(), caller, "fail")
			remote, ok := errors.AsType[*muxrpc.RemoteError](err)
			if !ok {
				t.Fatal(err)
			}
			if len(remote.Message) > most || !strings.HasPrefix(text, remote.Message) {
				t.Errorf("the peer is told %d bytes, %.20q…", len(remote.Message), remote.Message)
			}
		})
	}
}

// The name of a method that does not exist is looked at once for each of its levels, so there must be few.
func TestNamesOfManyLevelsAreCheapToRefuse(t *testing.T) {
	mux := muxrpc.NewMux()
	if err := mux.Handle(muxrpc.Method{Name: "a" + strings.Repeat(".a", 16), Type: muxrpc.TypeAsync,
		Handler: func(context.Context, *muxrpc.CallInfo) (any, error) { return nil, nil }}); !errors.Is(err, muxrpc.ErrMethod) {
		t.Errorf("a method with 17 levels: %v", err)
	}
	caller, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{
		Mux: mux, Permissions: muxrpc.Permissions{Allow: []string{"b"}},
	})
	_, err := muxrpc.Call[any](t.Context(), caller, "a"+strings.Repeat(".a", 1000))
	remote, ok := errors.AsType[*muxrpc.RemoteError](err)
	want := "method:a" + strings.Repeat(",a", 16) + " is not in list of allowed methods"
	if !ok || remote.Message != want {
		t.Errorf("the answer is %v, want %q", err, want)
	}
}
