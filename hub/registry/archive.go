package registry

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/secretstack/secretstack/keys"
)

// An archive is a line that says what it is, and then frames:
//
//	1   kind
//	4   length of the body, big endian
//	    body
//	4   CRC-32C of kind, length and body
//
// The kinds, in their order:
//
//	H   JSON: Archive
//	S   a stream begins. JSON: its configuration, in the engine's form
//	M   a message of it: length of the subject as uvarint, subject, length of the header as uvarint, header as JSON, message
//	E   the end: number of messages (8, big endian), SHA-256 of everything before this frame (32), signature of the hub over
//	    archiveLabel and the two (64)
//
// Nothing follows the end. The sums find what was cut short or altered by accident; the signature ties the archive to the
// hub named in it.

const (
	archiveMagic = "secretstack registry archive 1\n"
	archiveLabel = "secretstack registry archive v1\x00"

	frameHeader  = 'H'
	frameStream  = 'S'
	frameMessage = 'M'
	frameEnd     = 'E'

	frameMax  = 16 << 20
	endSize   = 8 + sha256.Size + signatureSize
	crcSize   = 4
	frameHead = 5

	signatureSize = 64
)

// Archive says what is in an archive.
type Archive struct {
	Hub     keys.PublicKey `json:"hub"`     // whose it is
	Created time.Time      `json:"created"` // by the hub's clock

	// Messages is how many messages of the engine it holds. It is known when the archive has been read.
	Messages uint64 `json:"-"`

	// Records is how many keys with an id there were.
	Records int `json:"records"`
}

// An archiver writes frames.
type archiver struct {
	w        *bufio.Writer
	sum      hash.Hash
	messages uint64
}

func newArchiver(w io.Writer) (*archiver, error) {
	a := &archiver{sum: sha256.New()}
	a.w = bufio.NewWriterSize(io.MultiWriter(w, a.sum), 64<<10)
	_, err := a.w.WriteString(archiveMagic)
	return a, err
}

func (a *archiver) frame(kind byte, body []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	check := crc32.Update(crc32.Checksum(head, castagnoli()), castagnoli(), body)
	for _, part := range [][]byte{head, body, binary.BigEndian.AppendUint32(nil, check)} {
		if _, err := a.w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once by the library

func (a *archiver) json(kind byte, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.frame(kind, body)
}

func (a *archiver) message(m message) error {
	var header []byte
	if len(m.header) > 0 {
		var err error
		if header, err = json.Marshal(m.header); err != nil {
			return err
		}
	}
	body := appendPart(nil, m.subject)
	body = appendPart(body, header)
	a.messages++
	return a.frame(frameMessage, append(body, m.data...))
}

func (a *archiver) end(id *keys.Identity) error {
	if err := a.w.Flush(); err != nil {
		return err
	}
	body := a.sum.Sum(binary.BigEndian.AppendUint64(nil, a.messages))
	body = append(body, id.Sign(append([]byte(archiveLabel), body...))...)
	if err := a.frame(frameEnd, body); err != nil {
		return err
	}
	return a.w.Flush()
}

// An unarchiver reads frames.
type unarchiver struct {
	r        *bufio.Reader
	sum      hash.Hash
	messages uint64

	stream string // whose messages come
	last   uint64 // of the log's new messages
}

// newUnarchiver reads the beginning of an archive.
func newUnarchiver(r io.Reader) (*unarchiver, Archive, error) {
	u := &unarchiver{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	var info Archive
	magic := make([]byte, len(archiveMagic))
	if _, err := io.ReadFull(u.r, magic); err != nil || string(magic) != archiveMagic {
		return nil, info, u.broken(err, "it does not begin as one of this version")
	}
	u.sum.Write(magic)
	kind, body, _, err := u.next()
	if err != nil {
		return nil, info, err
	}
	if kind != frameHeader || json.Unmarshal(body, &info) != nil || info.Hub.IsZero() {
		return nil, info, u.broken(nil, "it has no header")
	}
	return u, info, nil
}

// next reads one frame, and gives the sum of all that came before it.
func (u *unarchiver) next() (kind byte, body, before []byte, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(u.r, head[:]); err != nil {
		return 0, nil, nil, u.broken(err, "it ends early")
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > frameMax {
		return 0, nil, nil, u.broken(nil, "a frame is too large")
	}
	var frame bytes.Buffer // grows with what comes, whatever the length says
	if n, err := io.CopyN(&frame, u.r, int64(size)+crcSize); err != nil {
		return 0, nil, nil, u.broken(err, fmt.Sprintf("it ends early, %d bytes into a frame", n))
	}
	body, check := frame.Bytes()[:size], frame.Bytes()[size:]
	want := crc32.Update(crc32.Checksum(head[:], castagnoli()), castagnoli(), body)
	if binary.BigEndian.Uint32(check) != want {
		return 0, nil, nil, u.broken(nil, "a frame is altered")
	}
	before = u.sum.Sum(nil)
	u.sum.Write(head[:])
	u.sum.Write(frame.Bytes())
	return head[0], body, before, nil
}

// broken tells what is wrong with the archive, or that reading it failed.
func (u *unarchiver) broken(err error, what string) error {
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("registry: read the archive: %w", err)
	}
	return fmt.Errorf("%w: %s", ErrArchive, what)
}

// end checks the last frame, and that nothing follows it.
func (u *unarchiver) end(body, before []byte, hub keys.PublicKey) error {
	if len(body) != endSize {
		return u.broken(nil, "its end is malformed")
	}
	facts, signature := body[:8+sha256.Size], body[8+sha256.Size:]
	switch {
	case binary.BigEndian.Uint64(facts) != u.messages:
		return u.broken(nil, "messages are missing")
	case !bytes.Equal(facts[8:], before):
		return u.broken(nil, "it is altered")
	case !hub.Verify(append([]byte(archiveLabel), facts...), signature):
		return u.broken(nil, "the hub named in it has not signed it")
	}
	if _, err := u.r.ReadByte(); err == nil {
		return u.broken(nil, "something follows its end")
	} else if !errors.Is(err, io.EOF) {
		return u.broken(err, "")
	}
	return nil
}

func (u *unarchiver) message(body []byte) (message, error) {
	r := groupReader{rest: body}
	m := message{subject: string(r.part())}
	header := r.part()
	if r.bad || m.subject == "" {
		return m, u.broken(nil, "a message is malformed")
	}
	if len(header) > 0 {
		m.header = nats.Header{}
		if err := json.Unmarshal(header, &m.header); err != nil {
			return m, u.broken(nil, "the header of a message is malformed")
		}
	}
	m.data = r.rest
	u.messages++
	return m, nil
}
