package muxrpc

import (
	"bytes"
	"testing"
)

func TestQueueKeepsPacketsInOrder(t *testing.T) {
	var q queue
	var want []Value
	for i := range 3000 {
		body := bytes.Repeat([]byte{byte(i)}, 1+i*7%9000)
		kind := Kind(i % 3)
		want = append(want, Value{kind, body})
		if len(body) < smallBody {
			scratch := bytes.Clone(body)
			q.push(kind, scratch)
			clear(scratch) // small bodies are copied
		} else {
			q.push(kind, body)
		}
	}
	for i, w := range want {
		v, owned := q.pop()
		if v.Kind != w.Kind || !bytes.Equal(v.Bytes, w.Bytes) || owned != (len(w.Bytes) >= smallBody) {
			t.Fatalf("packet %d: kind %v, %d bytes, owned %v", i, v.Kind, len(v.Bytes), owned)
		}
	}
	if !q.empty() {
		t.Error("queue is not empty")
	}
}

func TestQueueOfTinyPacketsTakesAboutWhatTheyCost(t *testing.T) {
	var q queue
	cost := 0
	for cost < 1<<20 {
		q.push(KindBuffer, []byte{1})
		cost += packetCost(1)
	}
	if n := cap(q.packed.b) + 24*cap(q.apart); n > 4*cost {
		t.Errorf("%d bytes held for packets that cost %d", n, cost)
	}
	q.reset()
	if !q.empty() || q.packed != nil {
		t.Error("an emptied queue holds memory")
	}
}
