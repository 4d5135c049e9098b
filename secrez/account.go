package secrez

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"

	"github.com/secretstack/secretstack/keys"
)

// Account holds the two secret halves of a Secrez account. It never prints them: whatever way it is formatted, logged or
// marshalled, only its public key shows. It is safe for concurrent use. The zero value is no account and cannot be used.
type Account struct {
	identity *keys.Identity
	box      func() *ecdh.PrivateKey // fmt looks into pointers in unexported fields, but not into functions
	public   PublicKey
}

// FromIdentity derives the account of an identity: the sign half is the identity, the box half is its X25519 form. Its
// error is [ErrSecret], for no identity.
func FromIdentity(id *keys.Identity) (*Account, error) {
	if id.IsZero() {
		return nil, fmt.Errorf("%w: no identity", ErrSecret)
	}
	box, err := id.X25519()
	if err != nil {
		return nil, fmt.Errorf("%w: bad box half", ErrSecret)
	}
	return newAccount(id, box)
}

// ImportAccount builds an account made by Secrez from its two independent halves: sign is the Ed25519 seed of 32 bytes,
// or the 64 bytes of seed and public key that Secrez stores; box is the X25519 secret of 32 bytes. Its error is
// [ErrSecret]: for a wrong length, or a public key that is not the seed's.
func ImportAccount(sign, box []byte) (*Account, error) {
	seed, err := seedOf(sign)
	if err != nil {
		return nil, err
	}
	id, err := keys.FromSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("%w: bad sign half", ErrSecret)
	}
	secret, err := ecdh.X25519().NewPrivateKey(box)
	if err != nil {
		return nil, fmt.Errorf("%w: the box half has %d bytes", ErrSecret, halfSize)
	}
	return newAccount(id, secret)
}

func seedOf(sign []byte) ([]byte, error) {
	switch len(sign) {
	case ed25519.SeedSize:
		return sign, nil
	case ed25519.PrivateKeySize:
		seed := sign[:ed25519.SeedSize]
		if !bytes.Equal(ed25519.NewKeyFromSeed(seed), sign) {
			return nil, fmt.Errorf("%w: the sign half's public key is not its seed's", ErrSecret)
		}
		return seed, nil
	default:
		return nil, fmt.Errorf("%w: the sign half has %d or %d bytes", ErrSecret, ed25519.SeedSize, ed25519.PrivateKeySize)
	}
}

func newAccount(id *keys.Identity, box *ecdh.PrivateKey) (*Account, error) {
	public, err := NewPublicKey(box.PublicKey().Bytes(), id.Public().Bytes())
	if err != nil {
		return nil, err
	}
	return &Account{identity: id, box: func() *ecdh.PrivateKey { return box }, public: public}, nil
}

// Public gives the account's public key.
func (a *Account) Public() PublicKey { return a.public }

// Identity gives the sign half with its secret, which proves the account to every other part of the system.
func (a *Account) Identity() *keys.Identity { return a.identity }

// BoxSecret gives the 32 secret bytes of the box half, for whoever stores an imported account. Keep them secret.
func (a *Account) BoxSecret() []byte { return a.box().Bytes() }

// Sign signs message and gives the signature as Secrez writes it: 88 characters of base64.
func (a *Account) Sign(message []byte) string {
	return base64.StdEncoding.EncodeToString(a.identity.Sign(message))
}

// String names the account by its public key. No formatting verb shows a secret.
func (a Account) String() string { return "secrez.Account(" + a.public.Short() + ")" }

// Format writes [Account.String] for every verb.
func (a Account) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, a.String()) }

// GoString writes [Account.String].
func (a Account) GoString() string { return a.String() }

// LogValue logs the short form of the public key.
func (a Account) LogValue() slog.Value { return a.public.LogValue() }

// MarshalText writes the public key. It cannot be read back.
func (a Account) MarshalText() ([]byte, error) { return a.public.MarshalText() }
