package main

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"runtime"
	"time"
)

// measureHandshakeSum does what two sides of the secret handshake cannot do without, and nothing else.
func measureHandshakeSum(ctx context.Context, d time.Duration) (float64, error) {
	remote, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return 0, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return 0, err
	}
	message := make([]byte, 96)
	side := func() error {
		own, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		for range 3 {
			if _, err := own.ECDH(remote.PublicKey()); err != nil {
				return err
			}
		}
		if !ed25519.Verify(public, message, ed25519.Sign(private, message)) {
			return errors.New("a signature does not hold")
		}
		return nil
	}
	return perSecond(ctx, d, runtime.GOMAXPROCS(0), func(context.Context) error {
		return errors.Join(side(), side())
	})
}
