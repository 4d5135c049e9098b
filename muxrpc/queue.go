package muxrpc

import "encoding/binary"

const (
	recordHeader = 5       // kind and length before each small body
	apart        = 0x80    // flag beside the kind: the body has memory of its own
	smallBody    = 4 << 10 // bodies under this are packed together
)

// queue holds the packets of a stream that its reader has not taken. Small bodies are packed one after the other, so
// that the memory used stays close to the bytes that the peer sent however small its packets are.
type queue struct {
	packed *arena
	apart  [][]byte
	pos    int // of the next record to take
}

// push adds a packet. A body of smallBody bytes or more must be memory that the queue may keep; others are copied.
func (q *queue) push(kind Kind, body []byte) {
	q.packed = q.packed.withRoom(recordHeader + min(len(body), smallBody))
	b := q.packed.b
	if len(body) >= smallBody {
		q.packed.b = append(b, byte(kind)|apart)
		q.apart = append(q.apart, body)
		return
	}
	b = append(b, byte(kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	q.packed.b = append(b, body...)
}

func (q *queue) empty() bool { return q.packed == nil || q.pos == len(q.packed.b) }

// pop takes the next packet. Its bytes belong to the caller if owned is true, and otherwise are valid until the queue
// is used for something else. The queue must not be empty.
func (q *queue) pop() (v Value, owned bool) {
	b := q.packed.b
	kind := b[q.pos]
	if kind&apart != 0 {
		q.pos++
		body := q.apart[0]
		q.apart[0] = nil
		q.apart = q.apart[1:]
		return Value{Kind(kind &^ apart), body}, true
	}
	start := q.pos + recordHeader
	end := start + int(binary.BigEndian.Uint32(b[q.pos+1:]))
	q.pos = end
	return Value{Kind(kind), b[start:end:end]}, false
}

// reset empties the queue and gives its memory back.
func (q *queue) reset() {
	q.packed.free()
	*q = queue{}
}
