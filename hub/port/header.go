package port

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/secretstack/secretstack/multiserver"
)

// The PROXY protocol: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
const (
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"

	minHeader = len("PROXY UNKNOWN\r\n") // no header of either version is shorter
	maxLine   = 107                      // of version 1, with its end
	fixed     = 16                       // bytes of version 2 before the addresses
	maxFields = 4 << 10                  // bytes of version 2 after them, far more than is ever sent
)

var (
	errNoHeader  = errors.New("the proxy sends no PROXY header")
	errUntrusted = errors.New("a PROXY header from somebody who is no trusted proxy, or a second one")
	errHeader    = errors.New("not a PROXY header")
)

// matchHeader matches connections that begin with a PROXY header.
func matchHeader(prefix []byte) multiserver.Match {
	for _, signature := range [...]string{signature1, signature2} {
		switch {
		case bytes.HasPrefix(prefix, []byte(signature)):
			return multiserver.MatchYes
		case strings.HasPrefix(signature, string(prefix)):
			return multiserver.MatchMore
		}
	}
	return multiserver.MatchNo
}

// readHeader reads the PROXY header, if there is one, and not a byte that follows it, so that nothing stands between
// the connection and who reads it later. It reports whether the proxy said who the visitor is.
func (c *visit) readHeader(required bool) (told bool, err error) {
	match := multiserver.MatchMore
	for match == multiserver.MatchMore {
		n, err := c.Conn.Read(c.head[c.end:])
		c.end += uint8(n)
		if n > 0 {
			match = matchHeader(c.head[:c.end])
		}
		if err != nil && match == multiserver.MatchMore {
			return false, fmt.Errorf("reading the PROXY header: %w", err)
		}
	}
	if match == multiserver.MatchNo {
		if required {
			return false, errNoHeader
		}
		return false, nil
	}
	begun := c.head[:c.end]
	c.end = 0
	visitor, err := parseHeader(io.MultiReader(bytes.NewReader(begun), c.Conn))
	if err != nil || !visitor.IsValid() {
		return false, err
	}
	c.told = net.TCPAddrFromAddrPort(visitor)
	return true, nil
}

// parseHeader reads a header up to its end. The address is the zero value when the proxy speaks for itself, as in a check
// of our health, or does not know.
func parseHeader(r io.Reader) (netip.AddrPort, error) {
	head := make([]byte, minHeader, maxLine)
	if _, err := io.ReadFull(r, head); err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading the PROXY header: %w", err)
	}
	if bytes.HasPrefix(head, []byte(signature1)) {
		return readLine(r, head)
	}
	return readFields(r, head)
}

// readLine reads the rest of version 1. How long it is only its end tells, so that it is read byte by byte.
func readLine(r io.Reader, line []byte) (netip.AddrPort, error) {
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxLine {
			return netip.AddrPort{}, fmt.Errorf("%w: the line does not end", errHeader)
		}
		if _, err := io.ReadFull(r, line[len(line):len(line)+1]); err != nil {
			return netip.AddrPort{}, fmt.Errorf("reading the PROXY header: %w", err)
		}
		line = line[:len(line)+1]
	}
	return parseLine(strings.TrimSuffix(string(line), "\r\n"))
}

// parseLine reads "PROXY TCP4 192.0.2.7 198.51.100.1 40112 8433".
func parseLine(line string) (netip.AddrPort, error) {
	words := strings.Split(line, " ")
	if len(words) >= 2 && words[0]+" " == signature1 && words[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil // whatever follows
	}
	if len(words) != 6 || words[0]+" " != signature1 || (words[1] != "TCP4" && words[1] != "TCP6") {
		return netip.AddrPort{}, fmt.Errorf("%w: of another form", errHeader)
	}
	source, err := parseAddr(words[2], words[1] == "TCP4")
	if err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := parseAddr(words[3], words[1] == "TCP4"); err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(words[4], 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: not a port", errHeader)
	}
	return netip.AddrPortFrom(source, uint16(port)), nil
}

// parseAddr reads an address. TCP6 may have those of IPv4, as nginx writes when its two sides differ.
func parseAddr(text string, only4 bool) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || only4 && !addr.Is4() {
		return netip.Addr{}, fmt.Errorf("%w: not an address", errHeader)
	}
	return addr.Unmap(), nil
}

// readFields reads the rest of version 2: 12 bytes of signature, version and command, family and protocol, two bytes
// that say how long the rest is; then source, destination, both ports, and fields that do not concern us.
func readFields(r io.Reader, head []byte) (netip.AddrPort, error) {
	head = head[:fixed]
	if _, err := io.ReadFull(r, head[minHeader:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading the PROXY header: %w", err)
	}
	command, family, size := head[12], head[13], int(binary.BigEndian.Uint16(head[14:]))
	if !bytes.HasPrefix(head, []byte(signature2)) || command>>4 != 2 || size > maxFields {
		return netip.AddrPort{}, fmt.Errorf("%w: of another form", errHeader)
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading the PROXY header: %w", err)
	}
	const local, proxied = 0x20, 0x21
	switch {
	case command == local || command == proxied && family == 0:
		return netip.AddrPort{}, nil
	case command == proxied:
		return parseFields(family, rest)
	}
	return netip.AddrPort{}, fmt.Errorf("%w: an unknown command", errHeader)
}

func parseFields(family byte, rest []byte) (netip.AddrPort, error) {
	const tcp4, tcp6 = 0x11, 0x21
	size := 0 // of an address
	switch family {
	case tcp4:
		size = 4
	case tcp6:
		size = 16
	default:
		return netip.AddrPort{}, fmt.Errorf("%w: not for TCP", errHeader)
	}
	if len(rest) < 2*size+4 {
		return netip.AddrPort{}, fmt.Errorf("%w: too short", errHeader)
	}
	source, _ := netip.AddrFromSlice(rest[:size])
	return netip.AddrPortFrom(source.Unmap(), binary.BigEndian.Uint16(rest[2*size:])), nil
}
