package circuit

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/secretstack/secretstack/multiserver"
)

const (
	// magic begins every preamble. It says which version of this format follows.
	magic = "sstack-circuit/1"

	// TokenSize is the length of a token in bytes.
	TokenSize = 32
	// PreambleSize is the length in bytes of what an end sends before everything else.
	PreambleSize = len(magic) + TokenSize
)

// ErrPreamble says that a connection begins with something else than a preamble.
var ErrPreamble = errors.New("circuit: the connection does not begin with a circuit's preamble")

// Match recognises the connections of ends, from their first 16 bytes, for [multiserver.Split].
func Match(prefix []byte) multiserver.Match {
	switch {
	case strings.HasPrefix(string(prefix), magic):
		return multiserver.MatchYes
	case strings.HasPrefix(magic, string(prefix)):
		return multiserver.MatchMore
	}
	return multiserver.MatchNo
}

// Token lets whoever presents it be one end of one circuit, once and for a short time. It is not printed.
type Token [TokenSize]byte

// TokenName is by which a token is found; the rest of it is compared in constant time.
type TokenName [TokenSize / 2]byte

// Name is the first half of the token.
func (t Token) Name() TokenName { return TokenName(t[:TokenSize/2]) }

// NewToken makes a token that nobody can guess.
func NewToken() Token {
	var t Token
	_, _ = rand.Read(t[:]) // never fails
	return t
}

// MarshalText gives the token in base64, as the calls that hand it over have it.
func (t Token) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, t[:]), nil
}

// UnmarshalText reads what MarshalText gives.
func (t *Token) UnmarshalText(text []byte) error {
	var b [TokenSize + 1]byte // three for every four characters, of which one is padding
	if len(text) != base64.StdEncoding.EncodedLen(TokenSize) {
		return errToken
	}
	if n, err := base64.StdEncoding.Strict().Decode(b[:], text); err != nil || n != TokenSize {
		return errToken
	}
	copy(t[:], b[:])
	return nil
}

var errToken = errors.New("circuit: a token is 32 bytes in base64")

// Format prints nothing of the token, whatever the verb.
func (Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "circuit token") }

// AppendPreamble appends to b what an end with the token sends before everything else.
func AppendPreamble(b []byte, t Token) []byte {
	return append(append(b, magic...), t[:]...)
}

// ReadPreamble reads exactly a preamble. The error is [ErrPreamble], or that of r; io.ErrUnexpectedEOF if r ends early.
func ReadPreamble(r io.Reader) (Token, error) {
	var b [PreambleSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Token{}, err
	}
	if string(b[:len(magic)]) != magic {
		return Token{}, ErrPreamble
	}
	return Token(b[len(magic):]), nil
}
