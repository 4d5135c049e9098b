package envelope

import (
	"crypto/hpke"
	"encoding/binary"
	"fmt"

	"github.com/secretstack/secretstack/keys"
)

const (
	sealLabel = "secretstack courier envelope v1\x00"

	encSize      = 32 // an ephemeral X25519 key
	tagSize      = 16
	lengthSize   = 4
	sealOverhead = 1 + encSize + tagSize + lengthSize
)

const (
	// MinSealed is the smallest size class of sealed envelopes, in bytes. Each other is twice the one before.
	MinSealed = 1 << 10
	// MaxSealed is the largest size class, in bytes.
	MaxSealed = 256 << 10
)

// Seal encrypts a signed message for its recipient, whose key is the X25519 form of its Ed25519 key. What comes out
// tells nothing but that key's owner's ability to read it: its length is a power of two from [MinSealed] to [MaxSealed].
// Its error is [ErrMalformed], for a recipient whose key is no point for that.
func Seal(s *Signed) ([]byte, error) {
	point, err := s.Recipient.X25519()
	if err != nil {
		return nil, fmt.Errorf("%w: recipient", ErrMalformed)
	}
	public, err := hpke.NewDHKEMPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("%w: recipient", ErrMalformed)
	}
	plain := make([]byte, class(len(s.bytes))-sealOverhead+lengthSize)
	binary.BigEndian.PutUint32(plain, uint32(len(s.bytes)))
	copy(plain[lengthSize:], s.bytes)
	sealed, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), sealInfo(s.Recipient), plain)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	return append([]byte{version}, sealed...), nil
}

// Open decrypts an envelope for id and reads the message in it, which must be for id. Its error is [ErrSealed] for
// what id cannot open, [ErrMalformed] or [ErrSignature] for what is in it.
func Open(id *keys.Identity, sealed []byte) (*Signed, error) {
	if len(sealed) > MaxSealed || len(sealed) < MinSealed || len(sealed)&(len(sealed)-1) != 0 || sealed[0] != version {
		return nil, fmt.Errorf("%w: length or version", ErrMalformed)
	}
	secret, err := id.X25519()
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	private, err := hpke.NewDHKEMPrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	plain, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), sealInfo(id.Public()), sealed[1:])
	if err != nil {
		return nil, ErrSealed
	}
	n := binary.BigEndian.Uint32(plain)
	if uint64(n) > uint64(len(plain)-lengthSize) {
		return nil, fmt.Errorf("%w: length", ErrMalformed)
	}
	for _, b := range plain[lengthSize+n:] {
		if b != 0 {
			return nil, fmt.Errorf("%w: padding", ErrMalformed)
		}
	}
	s, err := Parse(plain[lengthSize : lengthSize+n : lengthSize+n])
	if err != nil {
		return nil, err
	}
	if !s.Recipient.Equal(id.Public()) {
		return nil, fmt.Errorf("%w: for somebody else", ErrMalformed)
	}
	return s, nil
}

// class is the length of the envelope for a signed message of n bytes.
func class(n int) int {
	size := MinSealed
	for size < n+sealOverhead {
		size *= 2
	}
	return size
}

func sealInfo(recipient keys.PublicKey) []byte {
	return append([]byte(sealLabel), recipient.Bytes()...)
}
