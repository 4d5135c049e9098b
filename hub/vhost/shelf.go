package vhost

import (
	"container/list"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A shelf keeps the connections to one courier between exchanges, and the visitors that wait for one, first come, first
// served. What stands on it is watched: a connection that ends, or on which anything arrives while nobody has asked, is
// thrown away with what it said.
type shelf struct {
	queue   int           // visitors that may wait
	wait    time.Duration // for how long
	standby time.Duration // how long a connection may stand; 0: as long as it likes
	most    int           // connections that take may let callers open; 0: none, they come by themselves

	left  func(*socket) // called with mu held when a connection has left; may be nil
	stood func()        // called with mu held when a connection begins to stand; may be nil

	watchers sync.WaitGroup
	over     chan struct{} // closed when the shelf has ended

	mu       sync.Mutex
	all      map[*socket]struct{} // guarded by mu, as is what follows
	standing []*socket            // the one used last is last
	line     list.List            // of *waiter
	opening  int                  // connections being opened by callers of take
	retired  int                  // how often retire was called
	ended    bool
}

// A waiter is a visitor in line. It gets a connection, or nil: the leave to open one.
type waiter struct{ ready chan *socket }

// A socket is one connection to a courier, for as long as it is open.
type socket struct {
	net.Conn
	retired bool // guarded by the shelf's mu: not to be used again

	called  atomic.Bool   // a visitor wants it: what ends the watch is no failure
	watched chan struct{} // gets a token when a watch ends
	dead    bool          // written by the watch, read after the token
	probe   [1]byte       // owned by the watch
}

func newSocket(c net.Conn) *socket { return &socket{Conn: c, watched: make(chan struct{}, 1)} }

func (sh *shelf) init() {
	sh.over = make(chan struct{})
	sh.all = map[*socket]struct{}{}
}

// take gives a connection that nobody else uses. When both results are nil the caller may open one, and calls opened.
func (sh *shelf) take(ctx context.Context) (*socket, error) {
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s, w, err := sh.next()
		switch {
		case err != nil:
			return nil, err
		case w != nil:
			return sh.await(ctx, w)
		case s == nil || s.claim(ctx):
			return s, nil
		}
		sh.discard(s)
	}
}

// next gives a connection that stands, or the leave to open one (neither), or a place in the line.
func (sh *shelf) next() (*socket, *waiter, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.ended {
		return nil, nil, ErrAway
	}
	if last := len(sh.standing) - 1; last >= 0 {
		s := sh.standing[last]
		sh.standing[last] = nil
		sh.standing = sh.standing[:last]
		return s, nil, nil
	}
	if sh.mayOpen() {
		sh.opening++
		return nil, nil, nil
	}
	if sh.line.Len() >= sh.queue {
		return nil, nil, fmt.Errorf("%w: %d visitors wait already", ErrBusy, sh.queue)
	}
	w := &waiter{ready: make(chan *socket, 1)}
	sh.line.PushBack(w)
	return nil, w, nil
}

// mayOpen is called with mu held.
func (sh *shelf) mayOpen() bool { return len(sh.all)+sh.opening < sh.most }

func (sh *shelf) await(ctx context.Context, w *waiter) (*socket, error) {
	timer := time.NewTimer(sh.wait)
	defer timer.Stop()
	select {
	case s := <-w.ready:
		return s, nil
	case <-timer.C:
		return sh.waited(w)
	case <-ctx.Done():
		sh.leave(w)
		return nil, context.Cause(ctx)
	case <-sh.over:
		sh.leave(w)
		return nil, ErrAway
	}
}

// waited ends a wait that took too long, unless a connection came at the last moment.
func (sh *shelf) waited(w *waiter) (*socket, error) {
	sh.mu.Lock()
	inLine := sh.unline(w)
	away := sh.most == 0 && len(sh.all) == 0
	sh.mu.Unlock()
	if !inLine {
		return <-w.ready, nil
	}
	if away {
		return nil, ErrAway
	}
	return nil, fmt.Errorf("%w: none of its connections came free", ErrBusy)
}

// leave takes a waiter out of the line and gives back what it was handed in the meantime.
func (sh *shelf) leave(w *waiter) {
	sh.mu.Lock()
	inLine := sh.unline(w)
	sh.mu.Unlock()
	if inLine {
		return
	}
	if s := <-w.ready; s != nil {
		sh.put(s)
		return
	}
	sh.unopened()
}

// unline is called with mu held. It reports whether w was still in the line.
func (sh *shelf) unline(w *waiter) bool {
	for e := sh.line.Front(); e != nil; e = e.Next() {
		if e.Value == w {
			sh.line.Remove(e)
			return true
		}
	}
	return false
}

// serve is called with mu held. It hands s to the first in line and reports whether there was one.
func (sh *shelf) serve(s *socket) bool {
	first := sh.line.Front()
	if first == nil {
		return false
	}
	w, _ := sh.line.Remove(first).(*waiter)
	w.ready <- s // never blocks: one place, one grant
	return true
}

// retirements counts calls of retire, for opened.
func (sh *shelf) retirements() int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.retired
}

// opened enters a connection that the caller of take has opened, and began to open after so many retirements. The caller uses it.
func (sh *shelf) opened(c net.Conn, retirements int) (*socket, error) {
	s := newSocket(c)
	sh.mu.Lock()
	sh.opening--
	s.retired = retirements != sh.retired
	ended := sh.ended
	if !ended {
		sh.all[s] = struct{}{}
	}
	sh.mu.Unlock()
	if ended {
		_ = c.Close()
		return nil, ErrAway
	}
	return s, nil
}

// unopened gives back the leave to open a connection.
func (sh *shelf) unopened() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.opening--
	sh.letOpen()
}

// letOpen is called with mu held when there may be room for one more connection.
func (sh *shelf) letOpen() {
	if !sh.ended && sh.mayOpen() && sh.serve(nil) {
		sh.opening++
	}
}

// put takes back a connection that is between two exchanges.
func (sh *shelf) put(s *socket) {
	var until time.Time
	if sh.standby > 0 {
		until = time.Now().Add(sh.standby)
	}
	_ = s.SetReadDeadline(until) // before anybody can claim it; when it fails, the watch sees why
	sh.mu.Lock()
	if sh.ended || s.retired {
		sh.mu.Unlock()
		sh.discard(s)
		return
	}
	sh.stand(s)
	sh.mu.Unlock()
}

// stand is called with mu held: s goes to the first in line, or stands and is watched.
func (sh *shelf) stand(s *socket) {
	if sh.serve(s) {
		return
	}
	sh.standing = append(sh.standing, s)
	sh.watchers.Go(func() { sh.watch(s) })
	if sh.stood != nil {
		sh.stood()
	}
}

// watch waits for a standing connection to end, to speak, or to be claimed.
func (sh *shelf) watch(s *socket) {
	n, err := s.Read(s.probe[:])
	if n == 0 && isTimeout(err) && s.called.Load() {
		s.watched <- struct{}{}
		return
	}
	s.dead = true
	s.watched <- struct{}{}
	sh.discard(s)
}

// claim ends the watch of a connection that was taken off the shelf. It reports whether the connection can be used.
func (s *socket) claim(ctx context.Context) bool {
	s.called.Store(true)
	_ = s.SetReadDeadline(time.Unix(1, 0))
	select {
	case <-s.watched:
	case <-ctx.Done(): // a connection that does not keep its deadlines
		_ = s.Close()
		return false
	}
	s.called.Store(false)
	return !s.dead
}

// discard closes a connection and forgets it. Doing so again changes nothing.
func (sh *shelf) discard(s *socket) {
	sh.mu.Lock()
	sh.remove(s)
	sh.letOpen()
	sh.mu.Unlock()
	_ = s.Close()
}

// remove is called with mu held.
func (sh *shelf) remove(s *socket) {
	if _, ok := sh.all[s]; !ok {
		return
	}
	delete(sh.all, s)
	for i, other := range sh.standing {
		if other == s {
			sh.standing = append(sh.standing[:i], sh.standing[i+1:]...)
			break
		}
	}
	if sh.left != nil {
		sh.left(s)
	}
}

// retire closes the connections that stand, and lets those in use be closed after their exchange.
func (sh *shelf) retire() {
	sh.mu.Lock()
	sh.retired++
	stale := sh.standing
	sh.standing = nil
	for s := range sh.all {
		s.retired = true
	}
	sh.mu.Unlock()
	for _, s := range stale {
		sh.discard(s)
	}
}

// end closes every connection, those in use too, and sends the line away. It reports whether it was the first to do so.
// The watchers end by themselves.
func (sh *shelf) end() bool {
	sh.mu.Lock()
	if sh.ended {
		sh.mu.Unlock()
		return false
	}
	sh.ended = true
	close(sh.over)
	open := sh.all
	sh.all = map[*socket]struct{}{}
	sh.standing = nil
	sh.mu.Unlock()
	for s := range open {
		_ = s.Close()
	}
	return true
}

// A Stats is what a courier's connections are doing.
type Stats struct {
	Open    int // connections
	Idle    int // of these, used by no visitor
	Waiting int // visitors
}

func (sh *shelf) stats() Stats {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return Stats{Open: len(sh.all), Idle: len(sh.standing), Waiting: sh.line.Len()}
}

// A lease is a socket in the hands of one exchange. The first of Close and Release counts.
type lease struct {
	*socket
	shelf *shelf
	over  atomic.Bool
}

// Close gives the connection up.
func (l *lease) Close() error {
	if l.over.CompareAndSwap(false, true) {
		l.shelf.discard(l.socket)
	}
	return nil
}

// Release gives the connection back: the response has been read to its end, and no byte more.
func (l *lease) Release() {
	if l.over.CompareAndSwap(false, true) {
		l.shelf.put(l.socket)
	}
}

// CloseWrite ends the sending direction of connections that can do so.
func (l *lease) CloseWrite() error { return closeWrite(l.Conn) }
