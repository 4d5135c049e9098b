package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

func TestMemoryPairCarriesBytesUnchangedThroughASmallRing(t *testing.T) {
	a, b := memoryPair(7)
	sent := make([]byte, 10_000)
	rand.Read(sent)
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 13)
			a.Write(rest[:n])
			rest = rest[n:]
		}
		a.Close()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came (%v), %d were sent", len(got), err, len(sent))
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("writing to a closed pair: %v", err)
	}
}

func TestAPassedDeadlineEndsAWaitingRead(t *testing.T) {
	a, _ := memoryPair(7)
	go a.SetDeadline(time.Unix(1, 0))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}
