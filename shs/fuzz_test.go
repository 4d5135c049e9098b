package shs

import (
	"bytes"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

// wireBytes returns what client and server say in the recorded handshake.
func wireBytes(t testing.TB) (client, server []byte) {
	t.Helper()
	var v handshakeVector
	loadJSON(t, "testdata/handshake.json", &v)
	return append(unhex(t, v.Wire[0].Hex), unhex(t, v.Wire[2].Hex)...),
		append(unhex(t, v.Wire[1].Hex), unhex(t, v.Wire[3].Hex)...)
}

// alter changes bytes of msg from at on, and appends and cuts.
func alter(msg, change []byte, at uint8, cut uint16) []byte {
	out := bytes.Clone(msg)
	for i, x := range change {
		if j := int(at) + i; j < len(out) {
			out[j] ^= x
		}
	}
	return out[:min(len(out), int(cut))]
}

// FuzzServer lets a client say anything: what it would say, altered, or with a
// good tag over any ephemeral key.
func FuzzServer(f *testing.F) {
	said, _ := wireBytes(f)
	f.Add([]byte{}, uint8(0), uint16(1000), []byte{})
	f.Add([]byte{1}, uint8(100), uint16(1000), []byte{})
	f.Add([]byte{}, uint8(0), uint16(100), []byte{})
	f.Add([]byte{}, uint8(0), uint16(1000), make([]byte, 32))
	f.Fuzz(func(t *testing.T, change []byte, at uint8, cut uint16, ephemeral []byte) {
		cfg := config(t, "bob")
		msg := alter(said, change, at, cut)
		if len(ephemeral) == 32 && len(msg) >= ChallengeSize {
			copy(msg, challengeFor(cfg, ephemeral))
		}
		asked := false
		rw := &script{Reader: bytes.NewReader(msg)}
		session, err := Server(rw, cfg, func(keys.PublicKey) error { asked = true; return nil })
		good := bytes.Equal(msg, said)
		if good != (err == nil) || good != (session != nil) || good != asked {
			t.Errorf("good %v, error %v, session %v, asked %v", good, err, session, asked)
		}
		if n := rw.Len(); n != 0 && n != ChallengeSize && n != ChallengeSize+AcceptSize {
			t.Errorf("%d bytes were written", n)
		}
	})
}

// FuzzClient does the same to a client.
func FuzzClient(f *testing.F) {
	_, said := wireBytes(f)
	f.Add([]byte{}, uint8(0), uint16(1000), []byte{}, []byte{})
	f.Add([]byte{1}, uint8(100), uint16(1000), []byte{}, []byte{})
	f.Add([]byte{}, uint8(0), uint16(100), []byte{}, []byte{})
	f.Add([]byte{}, uint8(0), uint16(1000), make([]byte, 32), make([]byte, 32))
	f.Fuzz(func(t *testing.T, change []byte, at uint8, cut uint16, ephemeral, dialled []byte) {
		cfg := config(t, "alice")
		msg := alter(said, change, at, cut)
		if len(ephemeral) == 32 && len(msg) >= ChallengeSize {
			copy(msg, challengeFor(cfg, ephemeral))
		}
		server := identity(t, "bob").Public()
		if k, err := keys.NewPublicKey(dialled); err == nil {
			server = k
		}
		rw := &script{Reader: bytes.NewReader(msg)}
		session, err := Client(rw, cfg, server)
		good := bytes.Equal(msg, said) && server.Equal(identity(t, "bob").Public())
		if good != (err == nil) || good != (session != nil) {
			t.Errorf("good %v, error %v, session %v", good, err, session)
		}
		if n := rw.Len(); n != 0 && n != ChallengeSize && n != ChallengeSize+HelloSize {
			t.Errorf("%d bytes were written", n)
		}
	})
}
