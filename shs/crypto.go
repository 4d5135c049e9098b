package shs

import (
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/secretstack/secretstack/internal/secretbox"
	"github.com/secretstack/secretstack/keys"
)

const (
	signatureSize = 64
	helloPlain    = signatureSize + keys.PublicKeySize // H of docs/PROTOCOL.md §1
)

var errStep = errors.New("shs: a step of the handshake out of order")

// step is how far a handshake has come. A state that failed stays failed.
type step uint8

const (
	stepStart     step = iota // a challenge is to be exchanged
	stepAnswer                // server: its challenge is to be sent
	stepChallenge             // both challenges are known
	stepHello                 // the hello was made, or was found right
	stepDone                  // the session is there
	stepFailed
)

// state is what the two roles have in common.
type state struct {
	identity  *keys.Identity
	appKey    [keys.AppKeySize]byte
	mac       hash.Hash // HMAC-SHA-512 under appKey; nil until it is needed
	sum       [sha512.Size]byte
	ephemeral *ecdh.PrivateKey
	local     [ChallengeSize]byte // challenge sent
	remote    [ChallengeSize]byte // challenge received
	step      step

	// The secrets by their names in docs/PROTOCOL.md §1: A and B are the long-term
	// keys of client and server, a and b the ephemeral ones. abHash is SHA-256(ab).
	ab, aB, Ab, abHash [32]byte
}

// init takes the configuration and makes the challenge of this side.
func (s *state) init(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	s.identity = cfg.Identity
	s.appKey = [keys.AppKeySize]byte(cfg.AppKey.Bytes())
	var err error
	if s.ephemeral, err = newEphemeral(cfg.Rand); err != nil {
		return fmt.Errorf("shs: ephemeral key: %w", err)
	}
	public := s.ephemeral.PublicKey().Bytes()
	tag := s.auth(public)
	copy(s.local[:], tag[:])
	copy(s.local[32:], public)
	return nil
}

// newEphemeral makes an ephemeral key from 32 random bytes as the JavaScript
// implementation does, so that its recorded handshakes can be replayed.
func newEphemeral(r io.Reader) (*ecdh.PrivateKey, error) {
	if r == nil {
		r = rand.Reader
	}
	var seed [32]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(r, seed[:]); err != nil {
		return nil, err
	}
	h := sha512.Sum512(seed[:])
	defer clear(h[:])
	return ecdh.X25519().NewPrivateKey(h[:32])
}

// auth is HMAC-SHA-512 under the app key, cut to 32 bytes.
func (s *state) auth(msg []byte) (tag [32]byte) {
	if s.mac == nil {
		s.mac = hmac.New(sha512.New, s.appKey[:])
	} else {
		s.mac.Reset()
	}
	s.mac.Write(msg)
	copy(tag[:], s.mac.Sum(s.sum[:0]))
	return tag
}

// readChallenge checks the other side's challenge and returns its ephemeral key.
func (s *state) readChallenge(msg []byte) (*ecdh.PublicKey, bool) {
	if len(msg) != ChallengeSize {
		return nil, false
	}
	tag := s.auth(msg[32:])
	if subtle.ConstantTimeCompare(tag[:], msg[:32]) != 1 {
		return nil, false
	}
	copy(s.remote[:], msg)
	key, err := ecdh.X25519().NewPublicKey(msg[32:])
	return key, err == nil
}

// agree puts the shared secret of two keys into dst. It fails if the secret is
// all zeros, which is what a point of low order gives.
func agree(dst *[32]byte, private *ecdh.PrivateKey, public *ecdh.PublicKey) bool {
	secret, err := private.ECDH(public)
	if err != nil {
		return false
	}
	copy(dst[:], secret)
	clear(secret)
	return true
}

// helloKey is k2, under which message 3 is sealed.
func (s *state) helloKey() [32]byte {
	var b [96]byte
	defer clear(b[:])
	copy(b[:], s.appKey[:])
	copy(b[32:], s.ab[:])
	copy(b[64:], s.aB[:])
	return sha256.Sum256(b[:])
}

// acceptKey is k3, under which message 4 is sealed.
func (s *state) acceptKey() [32]byte {
	var b [128]byte
	defer clear(b[:])
	copy(b[:], s.appKey[:])
	copy(b[32:], s.ab[:])
	copy(b[64:], s.aB[:])
	copy(b[96:], s.Ab[:])
	return sha256.Sum256(b[:])
}

// clientSigned is what the client signs to prove its key to this server.
func (s *state) clientSigned(server keys.PublicKey) [96]byte {
	var b [96]byte
	pub := server.Array()
	copy(b[:], s.appKey[:])
	copy(b[32:], pub[:])
	copy(b[64:], s.abHash[:])
	return b
}

// serverSigned is what the server signs to prove its key to the sender of hello.
func (s *state) serverSigned(hello *[helloPlain]byte) [160]byte {
	var b [160]byte
	copy(b[:], s.appKey[:])
	copy(b[32:], hello[:])
	copy(b[128:], s.abHash[:])
	return b
}

// session derives the keys of the two directions.
func (s *state) session(remote keys.PublicKey) *Session {
	k3 := s.acceptKey()
	shared := sha256.Sum256(k3[:])
	out := &Session{
		Remote:     remote,
		SendKey:    directionKey(&shared, remote),
		ReceiveKey: directionKey(&shared, s.identity.Public()),
	}
	copy(out.SendNonce[:], s.remote[:])
	copy(out.ReceiveNonce[:], s.local[:])
	clear(k3[:])
	clear(shared[:])
	return out
}

// directionKey is the key of the stream towards a peer.
func directionKey(shared *[32]byte, to keys.PublicKey) [32]byte {
	var b [64]byte
	defer clear(b[:])
	pub := to.Array()
	copy(b[:], shared[:])
	copy(b[32:], pub[:])
	return sha256.Sum256(b[:])
}

// forget clears the secrets, as well as the runtime allows, and ends the
// handshake.
func (s *state) forget(last step) {
	s.ephemeral, s.mac = nil, nil
	clear(s.ab[:])
	clear(s.aB[:])
	clear(s.Ab[:])
	clear(s.abHash[:])
	s.step = last
}

// sealBox encrypts msg with a key that serves once, hence the nonce of zeros,
// and writes tag and ciphertext to dst.
func sealBox(dst, msg []byte, key *[32]byte) {
	var k secretbox.Key
	k.Init(key)
	tag := k.Seal(dst[secretbox.TagSize:], msg, new([secretbox.NonceSize]byte))
	copy(dst, tag[:])
	k.Clear()
}

// openBox reverses sealBox.
func openBox(dst, box []byte, key *[32]byte) bool {
	var k secretbox.Key
	k.Init(key)
	defer k.Clear()
	tag := [secretbox.TagSize]byte(box)
	return k.Open(dst, box[secretbox.TagSize:], &tag, new([secretbox.NonceSize]byte))
}
