// Package words writes the seed of an identity as 24 English words that a person can keep on paper, and reads them.
//
// The words are those of BIP 39, whose list is in the public domain, for 256 bits of entropy with their checksum of 8
// bits: 24 words of 11 bits. The entropy is the seed itself. Wallets make another seed from the same words; theirs are
// no identities of ours.
package words

import (
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/secretstack/secretstack/keys"
)

// Count is how many words make a seed.
const Count = 24

const bitsPerWord = 11

// ErrWords says that words are not those of a seed. The error's text names the word that is wrong, never another.
var ErrWords = errors.New("words: not the recovery words of an identity")

//go:embed english.txt
var english string

// list gives the 2048 words in alphabetical order.
func list() []string { return strings.Fields(english) }

// FromSeed writes a seed of 32 bytes as [Count] words with spaces between them. Its error is [ErrWords], for another
// length.
func FromSeed(seed []byte) (string, error) {
	if len(seed) != keys.SeedSize {
		return "", fmt.Errorf("%w: a seed has %d bytes", ErrWords, keys.SeedSize)
	}
	bits := append(slices.Clone(seed), checksum(seed))
	defer clear(bits)
	all, words := list(), make([]string, Count)
	for i := range words {
		words[i] = all[take(bits, i*bitsPerWord)]
	}
	return strings.Join(words, " "), nil
}

// ToSeed reads what FromSeed writes, in any case and with any white space. Each word may be cut after its first four
// letters. Its error is [ErrWords].
func ToSeed(text string) ([]byte, error) {
	words := strings.Fields(strings.ToLower(text))
	if len(words) != Count {
		return nil, fmt.Errorf("%w: there are %d words, not %d", ErrWords, len(words), Count)
	}
	all, bits := list(), make([]byte, keys.SeedSize+1)
	for i, word := range words {
		index, ok := find(all, word)
		if !ok {
			return nil, fmt.Errorf("%w: word %d, %.20q, is none of the list", ErrWords, i+1, word)
		}
		put(bits, i*bitsPerWord, index)
	}
	seed := bits[:keys.SeedSize]
	if checksum(seed) != bits[keys.SeedSize] {
		clear(bits)
		return nil, fmt.Errorf("%w: each word is of the list, but they do not fit together; one may be wrong or misplaced", ErrWords)
	}
	return seed, nil
}

// find looks a word up, whole or by its first four letters, which no two words share.
func find(all []string, word string) (int, bool) {
	i, whole := slices.BinarySearch(all, word)
	if whole {
		return i, true
	}
	return i, len(word) == 4 && i < len(all) && strings.HasPrefix(all[i], word)
}

func checksum(seed []byte) byte {
	sum := sha256.Sum256(seed)
	return sum[0]
}

// take reads the 11 bits from position at on.
func take(bits []byte, at int) int {
	n := 0
	for i := at; i < at+bitsPerWord; i++ {
		n = n<<1 | int(bits[i/8]>>(7-i%8)&1)
	}
	return n
}

// put writes the 11 bits of n to position at.
func put(bits []byte, at, n int) {
	for i := range bitsPerWord {
		bit := byte(n >> (bitsPerWord - 1 - i) & 1)
		bits[(at+i)/8] |= bit << (7 - (at+i)%8)
	}
}
