package secrez

import (
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"

	"golang.org/x/crypto/sha3"
)

const (
	base32Alphabet = "ybndrfg8ejkmcpqxot1uwisza345h769"
	base58Alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

	// bigDigits are the digits of math/big, in order of value.
	bigDigits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

	// maxEncoded bounds the work of a decoding, which grows faster than its input.
	maxEncoded = 1 << 16
)

// EncodeBase32 writes b as one big number in the z-base-32 alphabet, with one "y" for each leading zero byte. This is
// not the bit grouping of RFC 4648, and there is no padding.
func EncodeBase32(b []byte) string { return encodeNumber(b, base32Alphabet) }

// DecodeBase32 reads what [EncodeBase32] writes: lower case, at most 65536 characters. Its error is [ErrEncoding].
func DecodeBase32(s string) ([]byte, error) { return decodeNumber(s, base32Alphabet) }

// EncodeBase58 writes b in base58 with Bitcoin's alphabet, with one "1" for each leading zero byte.
func EncodeBase58(b []byte) string { return encodeNumber(b, base58Alphabet) }

// DecodeBase58 reads what [EncodeBase58] writes, at most 65536 characters. Its error is [ErrEncoding].
func DecodeBase58(s string) ([]byte, error) { return decodeNumber(s, base58Alphabet) }

// Keccak256 hashes b with Keccak as it was before NIST changed the padding. It is not SHA3-256.
func Keccak256(b []byte) [32]byte {
	h := sha3.NewLegacyKeccak256()
	h.Write(b)
	return [32]byte(h.Sum(nil))
}

func encodeNumber(b []byte, alphabet string) string {
	zeros := leadingZeros(b)
	var out strings.Builder
	for range zeros {
		out.WriteByte(alphabet[0])
	}
	if zeros == len(b) {
		return out.String()
	}
	for _, digit := range []byte(new(big.Int).SetBytes(b).Text(len(alphabet))) {
		out.WriteByte(alphabet[strings.IndexByte(bigDigits, digit)])
	}
	return out.String()
}

func decodeNumber(s, alphabet string) ([]byte, error) {
	if len(s) > maxEncoded {
		return nil, fmt.Errorf("%w: over %d characters", ErrEncoding, maxEncoded)
	}
	digits := make([]byte, len(s))
	for i := range len(s) {
		value := strings.IndexByte(alphabet, s[i])
		if value < 0 {
			return nil, fmt.Errorf("%w: character outside the alphabet of base %d", ErrEncoding, len(alphabet))
		}
		digits[i] = bigDigits[value]
	}
	number := strings.TrimLeft(string(digits), bigDigits[:1])
	out := make([]byte, len(s)-len(number))
	if number == "" {
		return out, nil
	}
	n, ok := new(big.Int).SetString(number, len(alphabet))
	if !ok {
		return nil, fmt.Errorf("%w: not a number in base %d", ErrEncoding, len(alphabet))
	}
	return append(out, n.Bytes()...), nil
}

func leadingZeros(b []byte) int {
	n := 0
	for n < len(b) && b[n] == 0 {
		n++
	}
	return n
}

// decodeBase64 accepts the one spelling that encoding gives: padded, no spare bits, no line breaks.
func decodeBase64(s string) ([]byte, bool) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || base64.StdEncoding.EncodeToString(b) != s {
		return nil, false
	}
	return b, true
}
