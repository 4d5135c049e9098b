package keys

import (
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	kdfName    = "argon2id"
	cipherName = "xchacha20-poly1305"
	saltSize   = 16
)

// Bounds on what a file may ask of the machine that reads it.
const (
	maxTime    = 64
	maxMemory  = 1 << 20 // KiB: 1 GiB
	maxThreads = 64
	maxWork    = 16 << 20 // KiB times passes
)

// cost is what opening a sealed file takes.
type cost struct {
	Time    uint32 `json:"time"`   // passes
	Memory  uint32 `json:"memory"` // KiB
	Threads uint8  `json:"threads"`
}

// defaultCost is the second choice of RFC 9106, for machines with little memory.
func defaultCost() cost { return cost{Time: 3, Memory: 64 << 10, Threads: 4} }

// sealed is the private part of a file under a passphrase. []byte fields are
// base64 in JSON.
type sealed struct {
	KDF string `json:"kdf"`
	cost
	Salt   []byte `json:"salt"`
	Cipher string `json:"cipher"`
	Nonce  []byte `json:"nonce"`
	Data   []byte `json:"data"` // the seed, encrypted, and the tag
}

// sealWithPassphrase encrypts the identity's seed.
func sealWithPassphrase(id *Identity, opts FileOptions, c cost) (*sealed, error) {
	passphrase, err := opts.passphrase()
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	s := &sealed{
		KDF: kdfName, cost: c, Salt: make([]byte, saltSize),
		Cipher: cipherName, Nonce: make([]byte, chacha20poly1305.NonceSizeX),
	}
	_, _ = rand.Read(s.Salt) // never fails
	_, _ = rand.Read(s.Nonce)
	key := s.key(passphrase)
	defer clear(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	seed := id.Seed()
	defer clear(seed)
	s.Data = aead.Seal(nil, s.Nonce, seed, id.s().public.b[:])
	return s, nil
}

// open decrypts the seed of the identity whose public key the file names.
func (s *sealed) open(public PublicKey, opts FileOptions) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	passphrase, err := opts.passphrase()
	if err != nil {
		return nil, err
	}
	defer clear(passphrase)
	key := s.key(passphrase)
	defer clear(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, err
	}
	seed, err := aead.Open(nil, s.Nonce, s.Data, public.b[:])
	if err != nil {
		return nil, fmt.Errorf("%w: the one given does not open the file", ErrPassphrase)
	}
	return seed, nil
}

// check refuses what this version cannot open and what would cost too much.
func (s *sealed) check() error {
	switch {
	case s.KDF != kdfName || s.Cipher != cipherName:
		return fmt.Errorf("sealed with %.20q and %.20q, which this version does not know", s.KDF, s.Cipher)
	case s.Time < 1 || s.Memory < 8 || s.Threads < 1:
		return errors.New("the cost parameters of the sealed key are too small")
	case s.Time > maxTime || s.Memory > maxMemory || s.Threads > maxThreads || uint64(s.Time)*uint64(s.Memory) > maxWork:
		return errors.New("the cost parameters of the sealed key are too large")
	case len(s.Salt) < 8 || len(s.Salt) > 64 || len(s.Nonce) != chacha20poly1305.NonceSizeX ||
		len(s.Data) != SeedSize+chacha20poly1305.Overhead:
		return errors.New("the sealed key is damaged; restore the file from a backup")
	}
	return nil
}

// key stretches the passphrase.
func (s *sealed) key(passphrase []byte) []byte {
	return argon2.IDKey(passphrase, s.Salt, s.Time, s.Memory, s.Threads, chacha20poly1305.KeySize)
}

// passphrase asks for the passphrase.
func (o FileOptions) passphrase() ([]byte, error) {
	if o.Passphrase == nil {
		return nil, fmt.Errorf("%w: the file is protected by one", ErrPassphrase)
	}
	p, err := o.Passphrase()
	if err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, fmt.Errorf("%w: the one given is empty", ErrPassphrase)
	}
	return p, nil
}
