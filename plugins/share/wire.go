package share

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxMessage bounds the request and the answer of §13, in bytes.
const maxMessage = 4 << 10

// request is what a visitor asks for.
type request struct {
	// Service is the name of a service; empty: the only one that the visitor may connect to.
	Service string `json:"service,omitempty"`
	// List asks which services there are, and for nothing else.
	List bool `json:"list,omitempty"`
}

// Status is the answer to somebody who wants to connect to a service.
type Status string

// The answers. Others count as Denied.
const (
	OK      Status = "ok"      // what follows are the bytes of the service
	Denied  Status = "denied"  // the visitor may connect to nothing here
	Unknown Status = "unknown" // no service that the visitor may connect to has the name
	Which   Status = "which"   // the visitor has named none, and there are several
	Busy    Status = "busy"    // too many connections are open
	Down    Status = "down"    // the service itself does not take connections
)

// answer is what the visitor is told.
type answer struct {
	Status   Status   `json:"status"`
	Services []string `json:"services,omitempty"` // that the visitor may connect to
}

// Error is an answer other than OK.
type Error struct {
	Status Status
	// Service is what was asked for, Services what there is for us, as far as the peer tells.
	Service  string
	Services []string
}

// Error says what the peer has answered.
func (e *Error) Error() string {
	switch e.Status {
	case Unknown:
		return fmt.Sprintf("share: the peer shares no %q with us, but %s", e.Service, strings.Join(e.Services, ", "))
	case Which:
		return "share: the peer shares several services with us: " + strings.Join(e.Services, ", ")
	case Busy:
		return "share: too many connections are open to the peer's services"
	case Down:
		return "share: the service itself does not answer at the peer"
	}
	return "share: the peer shares nothing with us"
}

var errMessage = errors.New("share: the peer does not keep to the protocol")

// writeMessage writes a message behind its length.
func writeMessage(w io.Writer, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return errMessage
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(text)), uint16(len(text))) //nolint:gosec // maxMessage fits
	_, err = w.Write(append(b, text...))
	return err
}

// readMessage reads exactly one message.
func readMessage(r io.Reader, into any) error {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return noEOF(err)
	}
	n := binary.BigEndian.Uint16(size[:])
	if n == 0 || n > maxMessage {
		return errMessage
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return noEOF(err)
	}
	if json.Unmarshal(text, into) != nil {
		return errMessage
	}
	return nil
}

// noEOF keeps an end in the wrong place from being taken for an end in order.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errMessage
	}
	return err
}
