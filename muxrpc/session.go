package muxrpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/secretstack/secretstack/packetstream"
)

// Options configures a session. The zero value serves nothing and can call.
type Options struct {
	Mux         *Mux         // what the peer may call; nil serves nothing
	Permissions Permissions  // which of it; the zero value refuses nothing. See Session.SetPermissions
	Peer        any          // who the other end is, for handlers to ask with PeerFrom
	Limits      Limits       // the zero value stands for the defaults
	Budget      *Budget      // what the session shares with others; nil bounds nothing
	Logger      *slog.Logger // where failures of handlers go that the peer must not see, with their contexts; nil discards them
}

// Session is a connection to a peer, which may call and serve. All its methods may be called concurrently.
type Session struct {
	conn   io.ReadWriteCloser
	limits *limits // never changed
	mux    *Mux
	peer   any
	log    *slog.Logger
	perms  atomic.Pointer[permissionSet]
	meter  meter

	ctx    sessionContext // parent of all handlers' contexts; its cause is why the session ended
	detach func() bool    // stops watching the context that New was given; nil if that cannot end

	reader     *packetstream.Reader // owned by read
	begun      packetClock          // of the packet that is being read
	writeRenew time.Duration        // owned by whoever flushes: when, by the meter
	writeWatch *time.Timer          // owned by whoever flushes

	mu sync.Mutex
	state
}

// state is everything about a session that changes. Guarded by Session.mu.
type state struct {
	lastID      int32
	callsServed int32             // see callsStalled
	calls       map[int32]call    // ours, by the id of the request
	mine        map[int32]*stream // streams we opened, by the id of the request
	theirs      map[int32]*stream // streams the peer opened, by the id of the request
	used        idWindow          // ids of the peer's requests
	unread      map[*stream]bool  // streams that are over and hold what was not read

	handlers     int           // async and sync calls of the peer being served
	serving      int           // streams of the peer whose handler has not returned
	arguments    int           // bytes of the requests of both
	callsStalled time.Duration // how long reading has paused for want of handlers, since half of MaxHandlers were served

	closing  bool          // Close was called: no new calls
	ended    bool          // no calls at all; the goodbye is on its way
	readDone bool          // nothing more is read
	hurry    bool          // the end may not wait for the peer
	over     bool          // the connection is closed and nothing reads or writes it
	reason   error         // why the session ended; nil after an orderly end
	done     chan struct{} // closed when it is over; made when somebody asks for it

	buffered int // cost of what arrived for streams and was not read
	arriving int // bytes that the body of a large packet may have, which has arrived in part
	taken    int // from the Budget
	credit   credit
	out      outbox
	crew     crew
	quiet    quiet
	room     signal // something was read, a handler returned, a stream or the session ended
	idle     signal // a call or a stream finished, nothing is left to write, or the session came closer to its end
}

// New starts a session over conn, which it owns from then on: conn is closed when the session ends, and its Close must
// unblock its Read and Write. Deadlines for writing are used if it has them, and those for reading if it is a
// [ReadResumer]. When ctx is cancelled the session ends as by Abort; the contexts of handlers have its values.
func New(ctx context.Context, conn io.ReadWriteCloser, opts Options) *Session {
	s := &Session{
		conn:   conn,
		limits: opts.Mux.sharedLimits(limits{opts.Limits.withDefaults(), opts.Budget}),
		mux:    opts.Mux,
		peer:   opts.Peer,
		log:    opts.Logger,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.meter.start()
	s.perms.Store(s.mux.permissionSet(opts.Permissions))
	s.reader = packetstream.NewReader(meteredReader{s}, uint32(min(s.limits.MaxPacket, math.MaxInt32)))
	s.quiet.resumes = readResumes(conn)
	s.ctx.s = s
	s.mu.Lock() // the session may end before AfterFunc returns
	defer s.mu.Unlock()
	values := ctx
	if ctx.Done() != nil {
		values = context.WithoutCancel(ctx) // the session ends first, then its handlers
		s.detach = context.AfterFunc(ctx, func() { s.Abort(context.Cause(ctx)) })
	}
	s.ctx.Context = values
	go s.read()
	return s
}

// Peer returns what Options.Peer was.
func (s *Session) Peer() any { return s.peer }

// SetPermissions changes what the peer may call from now on. Calls being served are not affected.
func (s *Session) SetPermissions(p Permissions) { s.perms.Store(s.mux.permissionSet(p)) }

// Done is closed when the session has ended and its connection is closed. Handlers may still be running then; their
// contexts are cancelled.
func (s *Session) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whenOver()
}

// whenOver returns what Done does. Called with mu held.
func (s *Session) whenOver() chan struct{} {
	if s.done == nil {
		s.done = make(chan struct{})
		if s.over {
			close(s.done)
		}
	}
	return s.done
}

// Ended reports whether the session takes no more calls in either direction. Done is closed soon after.
func (s *Session) Ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// Err returns why the session ended: nil while it has not, and after an orderly end.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// Manifest asks the peer for its manifest.
func (s *Session) Manifest(ctx context.Context) (Manifest, error) {
	v, err := s.call(ctx, appendManifestRequest)
	if err != nil {
		return nil, err
	}
	var m Manifest
	if err := decode(v, true, &m); err != nil {
		return nil, err
	}
	return m, nil
}

// session lets a *Session, and whatever embeds one, be a Caller.
func (s *Session) session() *Session { return s }

// Close ends the session in an orderly way: new calls are refused on both sides, open ones may finish until ctx is done
// or, if it has no deadline, for Limits.CloseTimeout; then both sides say goodbye and the connection is closed. It
// returns when that is so and the handlers have returned, and an error if something had to be cut off. Closing again
// waits for the same end. A handler that closes its own session waits for itself; it should use Abort, or let a
// goroutine close.
func (s *Session) Close(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.limits.CloseTimeout)
		defer cancel()
	}
	s.mu.Lock()
	s.closing = true
	err := s.waitIdle(ctx, func() bool { return s.ended || s.inactive() })
	s.mu.Unlock()
	if err != nil {
		s.end(ErrClosing)
	} else {
		s.end(nil)
	}
	done := s.Done()
	select {
	case <-done:
	case <-ctx.Done():
		s.hangUpNow()
		<-done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if waited := s.waitIdle(ctx, func() bool { return s.handlers == 0 && s.serving == 0 }); err == nil {
		err = waited
	}
	return err
}

// inactive reports whether no call is open in either direction. Called with mu held.
func (s *Session) inactive() bool {
	return len(s.calls) == 0 && len(s.mine) == 0 && s.handlers == 0 && s.serving == 0
}

// Abort ends the session at once: open calls fail on both sides. It says goodbye if the connection allows, and does not
// wait. The reason is what Err returns; it is not told to the peer.
func (s *Session) Abort(reason error) {
	if reason == nil {
		reason = ErrSessionClosed
	}
	s.end(reason)
}

// end moves the session to its end, once: everything that is open fails, and the connection is closed in the background.
func (s *Session) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	s.reason = reason
	err := &endError{reason}
	for id, c := range s.calls {
		delete(s.calls, id)
		c <- answer{err: err}
	}
	for _, st := range s.mine {
		st.sessionEnded(err)
	}
	for _, st := range s.theirs {
		st.sessionEnded(err)
	}
	clear(s.mine)
	clear(s.theirs)
	if s.credit.timer != nil {
		s.credit.timer.Stop()
	}
	s.credit.dirty = nil
	s.crew.close()
	s.begun.close()
	s.out.close()
	s.flushSoon()
	s.room.broadcast()
	s.idle.broadcast()
	go s.hangUp(err)
}

// hangUp closes the connection when both goodbyes are through, or when that takes too long.
func (s *Session) hangUp(reason error) {
	if s.detach != nil {
		s.detach()
	}
	s.ctx.cancel(reason)
	s.mu.Lock()
	s.waitAtMost(s.linger(), func() bool { return s.hurry || s.out.isIdle() && s.readDone })
	if s.hurry {
		s.waitAtMost(hurryTimeout, s.out.isIdle)
	}
	s.mu.Unlock()
	_ = s.conn.Close() // the session is over whatever it says
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.waitIdle(context.Background(), func() bool { return s.out.isIdle() && s.readDone })
	s.over = true
	s.account()
	if s.done != nil {
		close(s.done)
	}
}

// linger is how long the end may wait for the peer. Called with mu held.
func (s *Session) linger() time.Duration {
	if s.reason == nil {
		return s.limits.CloseTimeout
	}
	return min(lingerTimeout, s.limits.CloseTimeout)
}

// hangUpNow closes the connection without waiting for the peer's goodbye. The session must have ended.
func (s *Session) hangUpNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurry = true
	s.idle.broadcast()
}

// waitIdle waits until met, which idle announces. Called with mu held.
func (s *Session) waitIdle(ctx context.Context, met func() bool) error {
	for !met() {
		if err := s.waitUnlocked(ctx, s.idle.wait(), nil); err != nil {
			return err
		}
	}
	return nil
}

// waitAtMost is waitIdle with a bound. Called with mu held.
func (s *Session) waitAtMost(d time.Duration, met func() bool) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_ = s.waitIdle(ctx, met)
}

// trim gives back what an idle session does not need. Called with mu held.
func (s *Session) trim() {
	if len(s.calls) == 0 {
		s.calls = nil
	}
	if len(s.mine) == 0 {
		s.mine = nil
	}
	if len(s.theirs) == 0 {
		s.theirs = nil
	}
	if len(s.unread) == 0 {
		s.unread = nil
	}
	s.crew.resting = nil
	s.begun.rest()
}

// forget takes a stream off the tables. Called with mu held.
func (s *Session) forget(st *stream) {
	table, id := s.mine, st.id
	if st.remote() {
		table, id = s.theirs, -st.id
	}
	st.unwatch()
	if table[id] != st {
		return
	}
	delete(table, id)
	if st.held > 0 {
		if s.unread == nil {
			s.unread = make(map[*stream]bool)
		}
		s.unread[st] = true
	}
	s.credit.reserved -= st.window
	s.idle.broadcast()
	s.room.broadcast()
}

// openError returns why no call can be made, or nil. Called with mu held.
func (s *Session) openError() error {
	switch {
	case s.ended:
		return sessionError(s.reason)
	case s.closing:
		return ErrClosing
	}
	return nil
}

// sessionError is what calls after the end return.
func sessionError(reason error) error {
	if reason == nil || errors.Is(reason, ErrSessionClosed) {
		return ErrSessionClosed
	}
	return &closedError{reason}
}

// closedError is ErrSessionClosed with the reason.
type closedError struct{ reason error }

func (e *closedError) Error() string        { return ErrSessionClosed.Error() + ": " + e.reason.Error() }
func (e *closedError) Is(target error) bool { return target == ErrSessionClosed }
func (e *closedError) Unwrap() error        { return e.reason }

// newID returns the id of our next request. Called with mu held.
func (s *Session) newID() int32 {
	for {
		if s.lastID == math.MaxInt32 {
			s.lastID = 0
		}
		s.lastID++
		if s.calls[s.lastID] == nil && s.mine[s.lastID] == nil {
			return s.lastID
		}
	}
}

// newStream makes a stream and adds it to its table. Called with mu held.
func (s *Session) newStream(id int32, t CallType) *stream {
	st := &stream{s: s, id: id, typ: t}
	if st.reads() {
		st.window = s.ownWindow()
		st.step = min(releaseStep, st.window/2)
		st.granted = uint64(st.window)
		s.credit.reserved += st.window
	} else {
		st.deaf = true
	}
	if !st.sends() {
		st.sendErr = ErrStreamClosed
	}
	if st.remote() {
		s.theirs = put(s.theirs, -id, st)
	} else {
		s.mine = put(s.mine, id, st)
	}
	return st
}

// put adds to a map that is made when it is first needed.
func put[V any](m map[int32]V, id int32, v V) map[int32]V {
	if m == nil {
		m = make(map[int32]V)
	}
	m[id] = v
	return m
}
