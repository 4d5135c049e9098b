// Package packetstream frames the packets that muxrpc sends over a connection: a nine-byte header and a body.
//
//	offset  size  field
//	0       1     flags: 0x08 stream, 0x04 end or error, 0x03 body type (0 buffer, 1 UTF-8 string, 2 JSON);
//	              0x80 is an extension that peers without it ignore
//	1       4     length of the body, unsigned, big endian
//	5       4     request id, signed, big endian
//	9       …     body
//
// A header whose length is zero is the goodbye, whatever its other fields say; its canonical form is nine zero bytes.
// The package knows nothing of what the bodies mean, of encryption or of sockets. See docs/PROTOCOL.md §3.
package packetstream

import (
	"encoding/binary"
	"errors"
)

// HeaderSize is the length of a packet's header in bytes.
const HeaderSize = 9

// BodyType says how a packet's body is encoded.
type BodyType uint8

// The body types of docs/PROTOCOL.md §3. The two bits allow a fourth value, 3, which no peer may send.
const (
	Buffer BodyType = 0 // bytes
	String BodyType = 1 // UTF-8 text
	JSON   BodyType = 2 // a JSON value
)

// Valid reports whether t is one of the three types that exist.
func (t BodyType) Valid() bool { return t <= JSON }

// String names the type as the JavaScript implementation does.
func (t BodyType) String() string {
	switch t {
	case Buffer:
		return "buffer"
	case String:
		return "string"
	case JSON:
		return "json"
	}
	return "invalid"
}

// Flag bits of a header's first byte. Bits 6–4 are ignored when read and zero when written.
const (
	flagCredit = 0x80
	flagStream = 0x08
	flagEnd    = 0x04
	maskType   = 0x03
)

// ErrTooLarge is returned by Reader.Next when a packet announces a body over the reader's limit.
var ErrTooLarge = errors.New("packetstream: packet too large")

// Header is the fixed part of a packet.
type Header struct {
	Stream bool     // the packet belongs to a stream rather than to a single request
	End    bool     // the packet ends its stream, or carries an error
	Credit bool     // extension: the sender knows stream windows, docs/PROTOCOL.md §5.2
	Type   BodyType // encoding of the body
	ID     int32    // request number: positive from the side that asked, negative from the side that answers
	Length uint32   // bytes of body that follow; zero makes the packet the goodbye
}

// Goodbye reports whether the header is a goodbye: nothing follows it.
func (h Header) Goodbye() bool { return h.Length == 0 }

// ParseHeader decodes a header. Every nine bytes are a header, so it cannot fail; the caller judges Type and Length.
func ParseHeader(b [HeaderSize]byte) Header {
	return Header{
		Stream: b[0]&flagStream != 0,
		End:    b[0]&flagEnd != 0,
		Credit: b[0]&flagCredit != 0,
		Type:   BodyType(b[0] & maskType),
		Length: binary.BigEndian.Uint32(b[1:5]),
		ID:     int32(binary.BigEndian.Uint32(b[5:9])),
	}
}

// AppendHeader appends the nine bytes of h to dst.
func AppendHeader(dst []byte, h Header) []byte {
	flags := byte(h.Type) & maskType
	if h.Stream {
		flags |= flagStream
	}
	if h.End {
		flags |= flagEnd
	}
	if h.Credit {
		flags |= flagCredit
	}
	dst = append(dst, flags)
	dst = binary.BigEndian.AppendUint32(dst, h.Length)
	return binary.BigEndian.AppendUint32(dst, uint32(h.ID))
}

// AppendPacket appends a packet with the given body to dst; h.Length is ignored. It appends nothing when body is
// empty, because such a packet would be the goodbye.
func AppendPacket(dst []byte, h Header, body []byte) []byte {
	if len(body) == 0 {
		return dst
	}
	h.Length = uint32(len(body))
	return append(AppendHeader(dst, h), body...)
}

// AppendGoodbye appends the canonical goodbye to dst.
func AppendGoodbye(dst []byte) []byte {
	return append(dst, make([]byte, HeaderSize)...)
}
