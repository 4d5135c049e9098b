// Package secretbox is NaCl's secretbox (XSalsa20 and Poly1305) with the tag
// apart from the ciphertext, into the caller's buffer, without allocations.
//
// It produces bit for bit what golang.org/x/crypto/nacl/secretbox produces and
// differs in three ways that pay for boxes of up to a few KiB. The subkey, which
// depends on the key and the first 16 bytes of the nonce, is kept between calls,
// so a stream whose nonce counts upwards computes it once. The start of the key
// stream is made by one call that fills the width of the vector code, where
// NaCl's layout takes one call for the first block and leaves the vector code
// three blocks short at the end. And the tag stands where the caller wants it.
package secretbox

import (
	"crypto/subtle"
	"encoding/binary"

	//lint:ignore SA1019 it is the building block that secretbox is made of
	"golang.org/x/crypto/poly1305" //nolint:staticcheck // as above
	//lint:ignore SA1019 likewise
	"golang.org/x/crypto/salsa20/salsa" //nolint:staticcheck // likewise
)

const (
	// KeySize is the length of a key in bytes.
	KeySize = 32
	// NonceSize is the length of a nonce in bytes.
	NonceSize = 24
	// TagSize is the length of a tag in bytes.
	TagSize = 16

	prefixSize  = 16  // the part of the nonce that goes into the subkey
	oneTimeSize = 32  // the part of the key stream that keys Poly1305
	blockSize   = 64  // of Salsa20
	wideSize    = 256 // of the vector code: as fast as two single blocks
)

// Key is a key made ready for use. It is not safe for concurrent use. The zero
// value is a key of zeros, which is of no use: call Init.
type Key struct {
	key    [KeySize]byte
	subkey [KeySize]byte
	prefix [prefixSize]byte
	ready  bool // subkey belongs to prefix
}

// Init sets the key.
func (k *Key) Init(key *[KeySize]byte) { *k = Key{key: *key} }

// Clear forgets the key, as well as the runtime allows.
func (k *Key) Clear() { *k = Key{} }

// Seal encrypts msg into dst, which has its length and either is msg or does not
// overlap it, and returns the tag. A nonce must serve only once with a key.
func (k *Key) Seal(dst, msg []byte, nonce *[NonceSize]byte) (tag [TagSize]byte) {
	dst = dst[:len(msg)]
	var stream [wideSize]byte
	head := stream[:headSize(len(msg))]
	k.stream(head, head, nonce, 0)
	n := subtle.XORBytes(dst, msg, head[oneTimeSize:])
	if n < len(msg) {
		k.stream(dst[n:], msg[n:], nonce, wideSize/blockSize)
	}
	poly1305.Sum(&tag, dst, (*[oneTimeSize]byte)(head))
	return tag
}

// Open checks the tag over box and, if it is right, decrypts box into dst, which
// has its length and either is box or does not overlap it. If the tag is wrong,
// dst stays as it is.
func (k *Key) Open(dst, box []byte, tag *[TagSize]byte, nonce *[NonceSize]byte) bool {
	dst = dst[:len(box)]
	var stream [wideSize]byte
	head := stream[:headSize(len(box))]
	k.stream(head, head, nonce, 0)
	if !poly1305.Verify(tag, box, (*[oneTimeSize]byte)(head)) {
		return false
	}
	n := subtle.XORBytes(dst, box, head[oneTimeSize:])
	if n < len(box) {
		k.stream(dst[n:], box[n:], nonce, wideSize/blockSize)
	}
	return true
}

// headSize says how much of the key stream is made in the first call for a
// message of n bytes: one block, if that is enough, or the vector code's width.
func headSize(n int) int {
	if n <= blockSize-oneTimeSize {
		return blockSize
	}
	return wideSize
}

// stream applies the nonce's key stream, from the given block on, to in.
func (k *Key) stream(out, in []byte, nonce *[NonceSize]byte, block uint64) {
	if prefix := [prefixSize]byte(nonce[:prefixSize]); !k.ready || prefix != k.prefix {
		k.prefix, k.ready = prefix, true
		salsa.HSalsa20(&k.subkey, &k.prefix, &k.key, &salsa.Sigma)
	}
	var counter [16]byte // the rest of the nonce, then the number of the block
	copy(counter[:], nonce[prefixSize:])
	binary.LittleEndian.PutUint64(counter[8:], block)
	salsa.XORKeyStream(out, in, &counter, &k.subkey)
}
