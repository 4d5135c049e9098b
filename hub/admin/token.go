package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// minToken is the fewest characters of a token that an operator has chosen.
const minToken = 32

// Token is what an operator proves himself with. It holds no secret: only what is needed to recognise the token. The zero
// Token recognises nothing.
type Token struct {
	hash [sha256.Size]byte
	set  bool
}

// LoadToken reads the token in a file. If there is none, it makes one of 32 random bytes in base64url, mode 0600. It refuses a
// file that other users of the machine can read or write (except on Windows), and a token of less than 32 characters.
func LoadToken(path string) (Token, error) {
	t, err := readToken(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	if err := makeToken(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return Token{}, fmt.Errorf("admin: token: %w", err)
	}
	return readToken(path)
}

func readToken(path string) (Token, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Token{}, fmt.Errorf("admin: token: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return Token{}, fmt.Errorf("admin: other users can use the token in %s: run chmod 600 on it", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Token{}, fmt.Errorf("admin: token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < minToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Token{}, fmt.Errorf("admin: %s must hold one word of at least %d ASCII characters; remove it to get a new one",
			path, minToken)
	}
	return tokenOf(token), nil
}

// makeToken writes a new token. The file appears whole or not at all; of several processes one makes it.
func makeToken(path string) error {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	f, err := os.CreateTemp(filepath.Dir(path), ".admin-token-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = fmt.Fprintln(f, base64.RawURLEncoding.EncodeToString(secret[:]))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path) // fails if somebody else was first
}

func tokenOf(text string) Token { return Token{sha256.Sum256([]byte(text)), true} }

// is tells, in constant time, whether text is the token.
func (t Token) is(text string) bool {
	hash := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(hash[:], t.hash[:]) == 1 && t.set
}
