package shs

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
)

// handshake runs both sides on bytes.
func handshake(t testing.TB, clientConfig, serverConfig Config) (client, server *Session) {
	c, err := NewClientState(clientConfig, serverConfig.Identity.Public())
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServerState(serverConfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ReadChallenge(c.Challenge()); err != nil {
		t.Fatal(err)
	}
	msg, err := s.Challenge()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ReadChallenge(msg); err != nil {
		t.Fatal(err)
	}
	if msg, err = c.Hello(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadHello(msg); err != nil {
		t.Fatal(err)
	}
	msg, server, err = s.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if client, err = c.ReadAccept(msg); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func randomConfigs(t testing.TB) (client, server Config) {
	client, server = config(t, "alice"), config(t, "bob")
	client.Rand, server.Rand = nil, nil
	return client, server
}

func TestHandshakeAllocatesLittle(t *testing.T) {
	const limit = 60 // both sides
	client, server := randomConfigs(t)
	n := testing.AllocsPerRun(20, func() { handshake(t, client, server) })
	t.Logf("%v allocations", n)
	if n > limit {
		t.Errorf("a handshake allocates %v times, want at most %d", n, limit)
	}
}

// BenchmarkHandshake is both sides, to be compared with BenchmarkOperations.
func BenchmarkHandshake(b *testing.B) {
	client, server := randomConfigs(b)
	b.ReportAllocs()
	for b.Loop() {
		handshake(b, client, server)
	}
}

// BenchmarkOperations is the sum of what the two sides cannot do without: each
// makes a key, agrees on three secrets, signs and verifies.
func BenchmarkOperations(b *testing.B) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	public := private.Public().(ed25519.PublicKey)
	peer, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	side := func(msg []byte) {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		for range 3 {
			if _, err := key.ECDH(peer.PublicKey()); err != nil {
				b.Fatal(err)
			}
		}
		if !ed25519.Verify(public, msg, ed25519.Sign(private, msg)) {
			b.Fatal("the signature does not verify")
		}
	}
	clientSigned, serverSigned := make([]byte, 96), make([]byte, 160)
	b.ReportAllocs()
	for b.Loop() {
		side(clientSigned)
		side(serverSigned)
	}
}
