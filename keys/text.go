package keys

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// base64Len is the length of 32 bytes in padded base64.
const base64Len = 44

// ParsePublicKey reads a public key as people type it: a reference
// "@<base64>.ed25519", the same without the "@", or the bare base64. It takes
// standard base64 with its padding and nothing around it, so that each key has
// one text of each form.
func ParsePublicKey(s string) (PublicKey, error) {
	k, err := parsePublicKey(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("keys: not a public key: %w", err)
	}
	return k, nil
}

// parsePublicKey is ParsePublicKey with an error that says only what is wrong.
func parsePublicKey(s string) (PublicKey, error) {
	b, err := decodeStrict(strings.TrimSuffix(strings.TrimPrefix(s, "@"), refSuffix))
	if err != nil {
		return PublicKey{}, err
	}
	k := PublicKey{b: b}
	if k.IsZero() {
		return PublicKey{}, errors.New("it is all zeros")
	}
	return k, nil
}

// ParsePublicKeyLenient reads what JavaScript peers take for a public key in an
// address: base64 of either alphabet, with characters that are in neither
// skipped and everything from the first "=" ignored, if it comes to 32 bytes.
// See docs/PROTOCOL.md §6.1.
func ParsePublicKeyLenient(s string) (PublicKey, error) {
	b, ok := decodeNode(s)
	if !ok {
		return PublicKey{}, fmt.Errorf("keys: not a public key: the base64 does not hold %d bytes", PublicKeySize)
	}
	return PublicKey{b: b}, nil
}

// decodeStrict decodes exactly 32 bytes of standard, padded base64. Its errors
// never repeat the text, which may be a secret typed in the wrong place.
func decodeStrict(s string) ([32]byte, error) {
	var out [32]byte
	if err := checkBase64(s); err != nil {
		return out, err
	}
	// The decoder ignores line ends, so the length is checked on both sides.
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(out) {
		return out, errors.New("the base64 is damaged (a character is wrong or missing)")
	}
	copy(out[:], b)
	return out, nil
}

// checkBase64 finds the mistakes that people make.
func checkBase64(s string) error {
	switch {
	case s == "":
		return errors.New("it is empty")
	case strings.ContainsAny(s, " \t\r\n"):
		return errors.New("there is a space or a line end in it")
	case strings.ContainsAny(s, "-_"):
		return errors.New(`it is url-safe base64; write "+" for "-" and "/" for "_"`)
	case len(s) == base64Len-1 && !strings.HasSuffix(s, "="):
		return errors.New(`the "=" at the end of the base64 is missing`)
	case len(s) == 88:
		return errors.New("it has the length of a secret key, which is for nobody to see")
	case len(s) != base64Len:
		return fmt.Errorf("its base64 has %d characters instead of %d", len(s), base64Len)
	}
	return nil
}

// decodeNode decodes base64 as Node's Buffer does and reports whether the
// outcome is exactly 32 bytes.
func decodeNode(s string) (out [32]byte, ok bool) {
	var acc uint32
	bits, n := 0, 0
	for i := 0; i < len(s) && s[i] != '='; i++ {
		v, valid := base64Value(s[i])
		if !valid {
			continue
		}
		acc = acc<<6 | uint32(v)
		if bits += 6; bits < 8 {
			continue
		}
		if n == len(out) {
			return out, false
		}
		bits -= 8
		out[n] = byte(acc >> bits)
		n++
	}
	return out, n == len(out)
}

// base64Value returns the six bits of a character of either base64 alphabet.
func base64Value(c byte) (byte, bool) {
	switch {
	case 'A' <= c && c <= 'Z':
		return c - 'A', true
	case 'a' <= c && c <= 'z':
		return c - 'a' + 26, true
	case '0' <= c && c <= '9':
		return c - '0' + 52, true
	case c == '+' || c == '-':
		return 62, true
	case c == '/' || c == '_':
		return 63, true
	}
	return 0, false
}
