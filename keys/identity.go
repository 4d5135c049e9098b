package keys

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"unicode/utf16"
)

// SeedSize is the length in bytes of the secret from which an identity is made.
const SeedSize = ed25519.SeedSize

// Identity is an Ed25519 key pair: who a peer is and the means to prove it.
// Printing, logging or JSON-encoding one shows its public key only. Its methods
// may be called from several goroutines. The zero value is no identity.
type Identity struct {
	s hiding[secret]
}

// secret is what an identity hides.
type secret struct {
	private ed25519.PrivateKey
	public  PublicKey
	x25519  func() (*ecdh.PrivateKey, error)
}

// Generate makes a new identity from the operating system's randomness.
func Generate() (*Identity, error) {
	var seed [SeedSize]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("keys: generate: %w", err)
	}
	defer clear(seed[:])
	return FromSeed(seed[:])
}

// FromSeed makes the identity that belongs to a seed of 32 bytes. The same seed
// gives the same identity; whoever knows it is that peer.
func FromSeed(seed []byte) (*Identity, error) {
	if len(seed) != SeedSize {
		return nil, fmt.Errorf("keys: a seed has %d bytes, not %d", SeedSize, len(seed))
	}
	s := &secret{private: ed25519.NewKeyFromSeed(seed)}
	copy(s.public.b[:], s.private[SeedSize:])
	s.x25519 = sync.OnceValues(s.deriveX25519)
	return &Identity{s: hide(s)}, nil
}

// FromStringSeed makes the identity that ssb-keys makes from a string: its
// UTF-8, cut after 32 UTF-16 units and 32 bytes, padded with zeros. A string
// that somebody can guess makes an identity that somebody can steal; it is for
// tests and for peers that already exist. See docs/PROTOCOL.md §8.
func FromStringSeed(s string) (*Identity, error) {
	units := utf16.Encode([]rune(s))
	units = units[:min(len(units), SeedSize)]
	var seed [SeedSize]byte
	copy(seed[:], string(utf16.Decode(units)))
	return FromSeed(seed[:])
}

// deriveX25519 applies the usual conversion: the first half of SHA-512(seed),
// clamped by the curve function itself.
func (s *secret) deriveX25519() (*ecdh.PrivateKey, error) {
	h := sha512.Sum512(s.private.Seed())
	defer clear(h[:])
	return ecdh.X25519().NewPrivateKey(h[:32])
}

// IsZero reports whether id is nil or the zero value, that is, no identity.
func (id *Identity) IsZero() bool { return id == nil || id.s == nil }

// Public returns the public key, which names this identity.
func (id *Identity) Public() PublicKey { return id.s().public }

// Sign returns the 64-byte Ed25519 signature over msg.
func (id *Identity) Sign(msg []byte) []byte { return ed25519.Sign(id.s().private, msg) }

// X25519 returns the secret in its X25519 form, with which shared secrets are
// made. It is as secret as the seed. See docs/PROTOCOL.md §1.
func (id *Identity) X25519() (*ecdh.PrivateKey, error) { return id.s().x25519() }

// Seed returns the 32 secret bytes from which [FromSeed] makes this identity.
// Whoever sees them can be this peer: keep them out of logs, and clear them.
func (id *Identity) Seed() []byte { return id.s().private.Seed() }

// String shows the public key only.
func (id Identity) String() string {
	if id.s == nil {
		return "keys.Identity(none)"
	}
	return "keys.Identity(" + id.s().public.Ref() + ")"
}

// Format implements [fmt.Formatter]; every verb prints what String returns.
func (id Identity) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, id.String()) }

// MarshalJSON writes what String returns. It cannot be read back.
func (id Identity) MarshalJSON() ([]byte, error) { return json.Marshal(id.String()) }

// MarshalText writes what String returns. It cannot be read back.
func (id Identity) MarshalText() ([]byte, error) { return []byte(id.String()), nil }
