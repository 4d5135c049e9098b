package muxrpc

import (
	"encoding/binary"
	"sync"
)

const (
	recordHeader = 5        // kind and length before each small body
	apart        = 0x80     // flag beside the kind: the body has memory of its own
	smallBody    = 4 << 10  // bodies under this are packed together
	keptPacked   = 16 << 10 // most memory that a queue in use keeps for more
)

// queue holds the packets of a stream that its reader has not taken. Small bodies are packed one after the other, so
// that the memory used stays close to the bytes that the peer sent however small its packets are.
type queue struct {
	packed []byte
	apart  [][]byte
	pos    int // of the next record to take
}

// push adds a packet. A body of smallBody bytes or more must be memory that the queue may keep; others are copied.
func (q *queue) push(kind Kind, body []byte) {
	if need := len(q.packed) + recordHeader + len(body); need > cap(q.packed) {
		q.grow(need)
	}
	if len(body) >= smallBody {
		q.packed = append(q.packed, byte(kind)|apart)
		q.apart = append(q.apart, body)
		return
	}
	q.packed = append(q.packed, byte(kind))
	q.packed = binary.BigEndian.AppendUint32(q.packed, uint32(len(body)))
	q.packed = append(q.packed, body...)
}

func (q *queue) empty() bool { return q.pos == len(q.packed) }

// pop takes the next packet. Its bytes belong to the caller if owned is true, and otherwise are valid until the queue
// is used for something else. The queue must not be empty.
func (q *queue) pop() (v Value, owned bool) {
	kind := q.packed[q.pos]
	if kind&apart != 0 {
		q.pos++
		body := q.apart[0]
		q.apart[0] = nil
		q.apart = q.apart[1:]
		return Value{Kind(kind &^ apart), body}, true
	}
	start := q.pos + recordHeader
	end := start + int(binary.BigEndian.Uint32(q.packed[q.pos+1:]))
	q.pos = end
	return Value{Kind(kind), q.packed[start:end:end]}, false
}

var arenas [5]sync.Pool // of *[]byte, from 4 KiB to 1 MiB, each four times the one before

func arenaSize(class int) int { return 4 << 10 << (2 * class) }

// grow moves the packed packets to memory for n bytes.
func (q *queue) grow(n int) {
	if n <= 1<<10 {
		return
	}
	for class := range arenas {
		if n > arenaSize(class) {
			continue
		}
		b, ok := arenas[class].Get().(*[]byte)
		if !ok {
			fresh := make([]byte, 0, arenaSize(class))
			b = &fresh
		}
		packed := append(*b, q.packed...)
		q.drop()
		q.packed = packed
		return
	}
}

// drop gives the memory of the packed packets back.
func (q *queue) drop() {
	for class := range arenas {
		if cap(q.packed) == arenaSize(class) {
			b := q.packed[:0]
			arenas[class].Put(&b)
		}
	}
	q.packed = nil
}

// reset empties the queue and keeps its memory for more, unless it is much.
func (q *queue) reset() {
	if cap(q.packed) > keptPacked {
		q.drop()
		*q = queue{}
		return
	}
	*q = queue{packed: q.packed[:0]}
}
