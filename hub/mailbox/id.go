package mailbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// ID names an envelope in its recipient's mailbox. It tells nothing to anybody: neither how many others there are nor when
// they came.
type ID [16]byte

// An id is encrypted as one block:
//
//	1   number of the queue
//	7   sequence in it
//	8   the beginning of the SHA-256 of the message: after a restored backup, a sequence may be another message's
const (
	idHash      = 8
	mostInQueue = 1<<56 - 1
)

// String writes the id, in 22 characters.
func (id ID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseID reads what String writes, and reports false for everything else.
func ParseID(s string) (id ID, ok bool) {
	if len(s) != base64.RawURLEncoding.EncodedLen(len(id)) { // the decoder would pass over line breaks
		return id, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return ID(append(b, id[:]...)[:len(id)]), err == nil && len(b) == len(id)
}

// place is where a message lies.
type place struct {
	queue    int
	sequence uint64
	hash     [idHash]byte
}

func placeOf(queue int, sequence uint64, data []byte) place {
	sum := sha256.Sum256(data)
	return place{queue, sequence, [idHash]byte(sum[:])}
}

func (m *Mailboxes) idOf(p place) (id ID) {
	binary.BigEndian.PutUint64(id[:], uint64(p.queue)<<56|p.sequence&mostInQueue)
	copy(id[8:], p.hash[:])
	m.ids.Encrypt(id[:], id[:])
	return id
}

// placeOfID undoes idOf. What was never an id names a place at which there is nothing.
func (m *Mailboxes) placeOfID(id ID) (p place, ok bool) {
	m.ids.Decrypt(id[:], id[:])
	n := binary.BigEndian.Uint64(id[:])
	p = place{int(n >> 56), n & mostInQueue, [idHash]byte(id[8:])}
	return p, p.queue < len(m.queues) && p.sequence > 0
}

// holds reports whether a message is the one at a place.
func (p place) holds(data []byte) bool {
	sum := sha256.Sum256(data)
	return bytes.Equal(sum[:idHash], p.hash[:])
}
