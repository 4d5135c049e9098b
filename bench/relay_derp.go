package main

import (
	"context"
	"io"
)

// derpRelay is Tailscale's relay.
type derpRelay struct {
	*role
	address string
}

func startDerpRelay(ctx context.Context) (relay, error) {
	r, err := startRole(ctx, roleDerp, "")
	if err != nil {
		return nil, err
	}
	address, err := r.line()
	return &derpRelay{r, address}, err
}

func (r *derpRelay) open(ctx context.Context) (io.WriteCloser, io.ReadCloser, error) {
	s, err := newDerpStream(ctx, r.address)
	return s, s, err
}
