package muxrpc_test

import (
	"bytes"
	"context"
	"iter"
	"testing"

	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/muxrpc/muxrpctest"
)

func TestItemsWhoseMemoryIsGivenBackDoNotChangeOthers(t *testing.T) {
	const items = 300
	content := func(i int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 16<<10+i%3*(8<<10)) }
	mux := muxrpc.NewMux()
	must(t, muxrpc.HandleSource(mux, "chunks", func(context.Context, muxrpc.None) iter.Seq2[[]byte, error] {
		return func(yield func([]byte, error) bool) {
			for i := 0; i < items && yield(content(i), nil); i++ {
			}
		}
	}))
	c, _ := muxrpctest.Pipe(t, muxrpc.Options{}, muxrpc.Options{Mux: mux})
	kept := map[int][]byte{}
	i := 0
	for item, err := range muxrpc.Source[[]byte](t.Context(), c, "chunks") {
		must(t, err)
		if !bytes.Equal(item, content(i)) {
			t.Fatalf("item %d is wrong", i)
		}
		if i%5 == 0 {
			kept[i] = item
		} else {
			muxrpc.Recycle(item)
		}
		i++
	}
	if i != items {
		t.Errorf("%d items", i)
	}
	for i, item := range kept {
		if !bytes.Equal(item, content(i)) {
			t.Errorf("item %d, which was kept, has changed", i)
		}
	}
}
