package secrez

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"

	"golang.org/x/crypto/nacl/box"
	"golang.org/x/crypto/nacl/secretbox"
)

const (
	nonceSize = 24

	// SealedOverhead is by how many bytes a sealed message exceeds its text, before base64: a nonce and a tag.
	SealedOverhead = nonceSize + secretbox.Overhead

	// MaxMessage is the longest text, in bytes, that can be sealed. Sealed and in base64 it fits a payload.
	MaxMessage = 512 << 10
)

// SharedKey encrypts and decrypts between two accounts, the same way in both directions. It is secret and never prints.
// Whoever handles many messages of one peer keeps it, and saves a key agreement each. It is safe for concurrent use. The
// zero value is no key and cannot be used.
type SharedKey struct {
	key func() *[32]byte // fmt looks into pointers in unexported fields, but not into functions
}

// Shared agrees on a key with peer. Its error is [ErrPublicKey], for the zero key; every other one gives a secret.
func (a *Account) Shared(peer PublicKey) (*SharedKey, error) {
	if peer.IsZero() {
		return nil, fmt.Errorf("%w: no key", ErrPublicKey)
	}
	var key [32]byte
	box.Precompute(&key, &peer.box, (*[32]byte)(a.BoxSecret()))
	return &SharedKey{key: func() *[32]byte { return &key }}, nil
}

// Seal encrypts text and gives nonce, tag and ciphertext: [SealedOverhead] bytes more than text. Its error is
// [ErrSealed], for a text longer than [MaxMessage].
func (k *SharedKey) Seal(text []byte) ([]byte, error) {
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // never fails
	return k.seal(&nonce, text)
}

func (k *SharedKey) seal(nonce *[nonceSize]byte, text []byte) ([]byte, error) {
	if len(text) > MaxMessage {
		return nil, fmt.Errorf("%w: over %d bytes", ErrSealed, MaxMessage)
	}
	out := make([]byte, nonceSize, len(text)+SealedOverhead)
	copy(out, nonce[:])
	return secretbox.Seal(out, text, nonce, k.key()), nil
}

// Open decrypts what [SharedKey.Seal] gave, on either side. Its error is [ErrSealed].
func (k *SharedKey) Open(sealed []byte) ([]byte, error) {
	if len(sealed) < SealedOverhead || len(sealed) > MaxMessage+SealedOverhead {
		return nil, fmt.Errorf("%w: wrong length", ErrSealed)
	}
	text, ok := secretbox.Open(nil, sealed[nonceSize:], (*[nonceSize]byte)(sealed), k.key())
	if !ok {
		return nil, fmt.Errorf("%w: not between these accounts, or altered", ErrSealed)
	}
	return text, nil
}

// String hides the key.
func (k SharedKey) String() string { return "secrez.SharedKey" }

// Format hides the key from every verb.
func (k SharedKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// GoString hides the key.
func (k SharedKey) GoString() string { return k.String() }

// LogValue hides the key.
func (k SharedKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText hides the key. It cannot be read back.
func (k SharedKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Seal encrypts text for the account to, in base64 as the "message" member of a chat payload carries it. Its error is
// [ErrPublicKey] for the zero key, [ErrSealed] for a text longer than [MaxMessage].
func (a *Account) Seal(to PublicKey, text []byte) (string, error) {
	k, err := a.Shared(to)
	if err != nil {
		return "", err
	}
	sealed, err := k.Seal(text)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(sealed), nil
}

// Open decrypts a message in base64 between this account and peer, whichever of the two sealed it. Its error is
// [ErrPublicKey] for the zero key, else [ErrSealed].
func (a *Account) Open(peer PublicKey, sealed string) ([]byte, error) {
	raw, ok := decodeBase64(sealed)
	if !ok {
		return nil, fmt.Errorf("%w: not canonical base64", ErrSealed)
	}
	k, err := a.Shared(peer)
	if err != nil {
		return nil, err
	}
	return k.Open(raw)
}
