package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// startTLSEcho is the least that a call over an encrypted connection can cost: frames that come back to the goroutine
// that sent them.
func startTLSEcho(inFlight int) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		clientConfig, serverConfig, err := newTLSPair()
		if err != nil {
			return nil, err
		}
		a, b, err := loopbackPair(ctx)
		if err != nil {
			return nil, err
		}
		server, client := tls.Server(b, serverConfig), newEchoClient(tls.Client(a, clientConfig), inFlight)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = echoFrames(server)
			drop(server)
		}()
		closeBoth := func() error {
			err := client.Close()
			<-done
			return err
		}
		return held{client.measure, closeBoth}, nil
	}
}

// A frame is 4 bytes of length, 4 bytes that name the caller, and a text.
type frameReader struct {
	r   *bufio.Reader
	buf []byte
}

func (f *frameReader) next() (caller uint32, text []byte, err error) {
	head, err := f.r.Peek(8)
	if err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	caller = binary.BigEndian.Uint32(head[4:])
	if _, err := f.r.Discard(8); err != nil {
		return 0, nil, err
	}
	if cap(f.buf) < n {
		f.buf = make([]byte, n)
	}
	f.buf = f.buf[:n]
	_, err = io.ReadFull(f.r, f.buf)
	return caller, f.buf, err
}

func writeFrame(w *bufio.Writer, caller uint32, text []byte) error {
	head := binary.BigEndian.AppendUint32(w.AvailableBuffer(), uint32(len(text)))
	if _, err := w.Write(binary.BigEndian.AppendUint32(head, caller)); err != nil {
		return err
	}
	_, err := w.Write(text)
	return err
}

// echoFrames sends everything back, and what is there to be read at once in one write.
func echoFrames(conn net.Conn) error {
	r, w := &frameReader{r: bufio.NewReader(conn)}, bufio.NewWriter(conn)
	for {
		caller, text, err := r.next()
		if err != nil {
			return err
		}
		if err := writeFrame(w, caller, text); err != nil {
			return err
		}
		if r.r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

type echoClient struct {
	conn    net.Conn
	r       frameReader
	replies []chan bool    // one a caller: whether the echo was right
	readers sync.WaitGroup // the goroutine that hands replies out; a single caller reads by itself

	waiting atomic.Int64 // callers about to write
	mu      sync.Mutex
	w       *bufio.Writer
}

func newEchoClient(conn net.Conn, inFlight int) *echoClient {
	c := &echoClient{conn: conn, r: frameReader{r: bufio.NewReader(conn)}, w: bufio.NewWriter(conn)}
	for range inFlight {
		c.replies = append(c.replies, make(chan bool, 1))
	}
	if inFlight > 1 {
		c.readers.Go(c.handOut)
	}
	return c
}

func (c *echoClient) handOut() {
	for {
		caller, text, err := c.r.next()
		if err != nil || int(caller) >= len(c.replies) {
			for _, reply := range c.replies {
				close(reply)
			}
			return
		}
		c.replies[caller] <- string(text) == echoText
	}
}

// send writes a frame; the last of the callers that came together flushes for all.
func (c *echoClient) send(caller int) error {
	c.waiting.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	err := writeFrame(c.w, uint32(caller), []byte(echoText))
	if c.waiting.Add(-1) == 0 {
		err = errors.Join(err, c.w.Flush())
	}
	return err
}

func (c *echoClient) measure(ctx context.Context, d time.Duration) (float64, error) {
	callers := make([]func() error, len(c.replies))
	rates := make([]float64, len(c.replies))
	for i := range callers {
		callers[i] = func() (err error) {
			rates[i], err = perSecond(ctx, d, 1, func(context.Context) error { return c.echo(i) })
			return err
		}
	}
	err := together(func() { drop(c.conn) }, callers...)
	sum := 0.0
	for _, rate := range rates {
		sum += rate
	}
	return sum, err
}

func (c *echoClient) echo(caller int) error {
	if err := c.send(caller); err != nil {
		return err
	}
	if len(c.replies) == 1 {
		_, text, err := c.r.next()
		if err == nil && string(text) != echoText {
			err = errWrongEcho
		}
		return err
	}
	if right, open := <-c.replies[caller]; !right || !open {
		return errWrongEcho
	}
	return nil
}

func (c *echoClient) Close() error {
	err := c.conn.Close()
	c.readers.Wait()
	return err
}
