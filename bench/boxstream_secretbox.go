package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/crypto/nacl/secretbox"
)

const (
	boxBody   = 4 << 10
	boxHeader = 18
)

// measureSecretbox seals on one core and opens on another what a box stream has to, without moving it from the one to
// the other, and returns the slower of the two in megabytes of body a second.
func measureSecretbox(ctx context.Context, d time.Duration) (float64, error) {
	var sealed, opened float64
	err := together(func() {},
		func() (err error) {
			sealed, err = perSecond(ctx, d, 1, sealBox())
			return err
		},
		func() (err error) {
			opened, err = perSecond(ctx, d, 1, openBox())
			return err
		},
	)
	return min(sealed, opened) * boxBody / megabyte, err
}

func sealBox() func(context.Context) error {
	var (
		key    [32]byte
		nonce  [24]byte
		header = make([]byte, boxHeader)
		body   = make([]byte, boxBody)
		out    = make([]byte, 0, boxBody+secretbox.Overhead)
	)
	return func(context.Context) error {
		nonce[23]++
		_ = secretbox.Seal(out, header, &nonce, &key)
		_ = secretbox.Seal(out, body, &nonce, &key)
		return nil
	}
}

func openBox() func(context.Context) error {
	var (
		key    [32]byte
		nonce  [24]byte
		header = secretbox.Seal(nil, make([]byte, boxHeader), &nonce, &key)
		body   = secretbox.Seal(nil, make([]byte, boxBody), &nonce, &key)
		out    = make([]byte, 0, boxBody)
	)
	return func(context.Context) error {
		_, okHeader := secretbox.Open(out, header, &nonce, &key)
		_, okBody := secretbox.Open(out, body, &nonce, &key)
		if !okHeader || !okBody {
			return errors.New("a box does not open")
		}
		return nil
	}
}
