package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/muxrpc"
)

const (
	maxLine  = 4 << 20  // bytes of one JSON item on standard input
	rawChunk = 64 << 10 // bytes of one item with --raw
)

// caller makes one call and prints what comes back.
type caller struct {
	*globals
	flags  callFlags
	peer   *secretstack.Peer
	method string
	args   []any
}

func (c *caller) run(ctx context.Context, kind muxrpc.CallType) error {
	switch kind {
	case muxrpc.TypeSource:
		return c.source(ctx)
	case muxrpc.TypeSink:
		return c.sink(ctx)
	case muxrpc.TypeDuplex:
		return c.duplex(ctx)
	default:
		return c.async(ctx)
	}
}

func (c *caller) async(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.flags.timeout))
	defer cancel()
	v, err := muxrpc.Call[muxrpc.Value](ctx, c.peer, c.method, c.args...)
	if err != nil {
		return err
	}
	return c.printResult(v)
}

func (c *caller) source(ctx context.Context) error {
	for v, err := range muxrpc.Source[muxrpc.Value](ctx, c.peer, c.method, c.args...) {
		if err != nil {
			return err
		}
		if err := c.printItem(v); err != nil {
			return err
		}
	}
	return nil
}

func (c *caller) sink(ctx context.Context) error {
	w, err := muxrpc.Sink[muxrpc.Value](ctx, c.peer, c.method, c.args...)
	if err != nil {
		return err
	}
	fed := make(chan error, 1) // nothing can interrupt a read from standard input
	go func() { fed <- c.feed(func(v muxrpc.Value) error { return w.Send(ctx, v) }) }()
	select {
	case err = <-fed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		w.Abort(err)
		return err
	}
	return w.Close(ctx)
}

// duplex prints what comes while it sends standard input. Ending a duplex ends both its directions, so that after the
// end of the input it waits until no item has come for a while.
func (c *caller) duplex(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := muxrpc.Duplex[muxrpc.Value, muxrpc.Value](ctx, c.peer, c.method, c.args...)
	if err != nil {
		return err
	}
	fed := make(chan error, 1)
	go func() { fed <- c.feed(func(v muxrpc.Value) error { return s.Send(ctx, v) }) }()
	items := make(chan muxrpc.Value)
	ended := make(chan error, 1)
	go func() {
		for {
			v, err := s.Recv(ctx)
			if err != nil {
				ended <- err
				return
			}
			select {
			case items <- v:
			case <-ctx.Done():
				return
			}
		}
	}()
	var quiet <-chan time.Time
	for {
		select {
		case v := <-items:
			if err := c.printItem(v); err != nil {
				s.Abort(err)
				return err
			}
			if quiet != nil {
				quiet = time.After(time.Duration(c.flags.linger))
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case err := <-fed:
			if err != nil {
				s.Abort(err)
				return err
			}
			quiet = time.After(time.Duration(c.flags.linger))
		case <-quiet:
			return s.Close(ctx)
		}
	}
}

// feed sends standard input: a JSON value a line, or bytes as they come with --raw.
func (c *caller) feed(send func(muxrpc.Value) error) error {
	if c.flags.raw {
		return feedRaw(c.in, send)
	}
	lines := bufio.NewScanner(c.in)
	lines.Buffer(nil, maxLine)
	n := 1
	for ; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		if !json.Valid(line) {
			return fmt.Errorf("line %d of the input is not JSON; use --raw to send bytes as they are", n)
		}
		if err := send(muxrpc.Value{Kind: muxrpc.KindJSON, Bytes: bytes.Clone(line)}); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d is longer than %d MiB; use --raw", n, maxLine>>20)
	}
	return lines.Err()
}

func feedRaw(in io.Reader, send func(muxrpc.Value) error) error {
	for {
		chunk := make([]byte, rawChunk)
		n, err := in.Read(chunk)
		if n > 0 {
			if err := send(muxrpc.Value{Kind: muxrpc.KindBuffer, Bytes: chunk[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// printResult prints an answer for a person on a terminal, in one line otherwise.
func (c *caller) printResult(v muxrpc.Value) error {
	if c.flags.raw || c.json || !isTerminal(c.out) || v.Kind != muxrpc.KindJSON {
		return c.printItem(v)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, v.Bytes, "", "  "); err != nil {
		return err
	}
	return c.printJSONText(pretty.Bytes())
}

// printItem prints a value as one line of JSON, or as it is with --raw.
func (c *caller) printItem(v muxrpc.Value) error {
	if c.flags.raw {
		return c.printRaw(v)
	}
	var line []byte
	var err error
	switch v.Kind {
	case muxrpc.KindBuffer:
		line, err = json.Marshal(map[string]string{"base64": base64.StdEncoding.EncodeToString(v.Bytes)})
	case muxrpc.KindString:
		line, err = json.Marshal(string(v.Bytes))
	default:
		var compact bytes.Buffer
		err = json.Compact(&compact, v.Bytes)
		line = compact.Bytes()
	}
	if err != nil {
		return err
	}
	return c.printJSONText(line)
}

// printRaw prints bytes as they are; text and other values get a line each.
func (c *caller) printRaw(v muxrpc.Value) error {
	b := v.Bytes
	var text string
	if v.Kind == muxrpc.KindJSON && json.Unmarshal(b, &text) == nil {
		b = []byte(text)
	}
	if v.Kind != muxrpc.KindBuffer {
		b = append(bytes.Clone(b), '\n')
	}
	_, err := c.out.Write(b)
	return err
}
