package port

import (
	"errors"
	"net"
	"sync"
)

// join makes one listener of several.
func join(first net.Listener, more []net.Listener) net.Listener {
	if len(more) == 0 {
		return first
	}
	j := &joined{all: append([]net.Listener{first}, more...), accepted: make(chan accepted), done: make(chan struct{})}
	for _, ln := range j.all {
		j.wg.Go(func() { j.accept(ln) })
	}
	return j
}

type joined struct {
	all      []net.Listener
	accepted chan accepted
	done     chan struct{} // closed by Close
	wg       sync.WaitGroup
	once     sync.Once
	err      error // set inside once
}

type accepted struct {
	conn net.Conn
	err  error
}

// accept hands on what one listener accepts, and its errors, so that whoever accepts waits after them.
func (j *joined) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case j.accepted <- accepted{conn, err}:
		case <-j.done:
			if err == nil {
				_ = conn.Close()
			}
			return
		}
	}
}

func (j *joined) Accept() (net.Conn, error) {
	select {
	case a := <-j.accepted:
		return a.conn, a.err
	case <-j.done:
		return nil, net.ErrClosed
	}
}

func (j *joined) Addr() net.Addr { return j.all[0].Addr() }

func (j *joined) Close() error {
	j.once.Do(func() {
		close(j.done)
		var errs []error
		for _, ln := range j.all {
			errs = append(errs, ln.Close())
		}
		j.err = errors.Join(errs...)
	})
	j.wg.Wait()
	return j.err
}
