package circuit

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// largePipe and smallPipe are how many bytes a pipe is asked to hold: the first of a pool the one, all others the other.
	// The system lends unprivileged users 64 MiB of pipes in all, and very small ones above that, so that many large pipes
	// would be worse than none.
	largePipe, smallPipe = 1 << 20, 128 << 10
	mostLarge            = 32
	// maxFree is how many pipes are kept that nobody uses.
	maxFree = 128
)

// pipe is a pair of descriptors between which the kernel holds bytes on their way from one socket to another.
type pipe struct {
	r, w  int
	large bool
}

// pipes is the pipes that are not in use. io.Copy would keep one for each direction for as long as that lasts; with
// thousands of circuits, most of them idle, that is more than the system has to lend.
type pipes struct {
	mu     sync.Mutex
	free   []*pipe // guarded by mu: the large ones last, which are taken first
	large  int     // guarded by mu: pipes that there are
	closed bool    // guarded by mu: none are kept any more
}

// get returns an empty pipe.
func (ps *pipes) get() (*pipe, error) {
	ps.mu.Lock()
	if n := len(ps.free); n > 0 {
		p := ps.free[n-1]
		ps.free = ps.free[:n-1]
		ps.mu.Unlock()
		return p, nil
	}
	large := ps.large < mostLarge
	if large {
		ps.large++
	}
	ps.mu.Unlock()
	p, err := newPipe(large)
	if err != nil && large {
		ps.mu.Lock()
		ps.large--
		ps.mu.Unlock()
	}
	return p, err
}

func newPipe(large bool) (*pipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	size := smallPipe
	if large {
		size = largePipe
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, size) // another size does as well
	return &pipe{r: fds[0], w: fds[1], large: large}, nil
}

// put takes an empty pipe back.
func (ps *pipes) put(p *pipe) {
	ps.mu.Lock()
	keep := !ps.closed && len(ps.free) < maxFree
	switch {
	case keep && p.large:
		ps.free = append(ps.free, p)
	case keep:
		ps.free = slices.Insert(ps.free, 0, p)
	}
	ps.mu.Unlock()
	if !keep {
		ps.discard(p)
	}
}

// discard closes a pipe, with what is inside.
func (ps *pipes) discard(p *pipe) {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
	if p.large {
		ps.mu.Lock()
		ps.large--
		ps.mu.Unlock()
	}
}

func (ps *pipes) close() {
	ps.mu.Lock()
	free := ps.free
	ps.free, ps.closed = nil, true
	ps.mu.Unlock()
	for _, p := range free {
		ps.discard(p)
	}
}

// splice moves bytes in the kernel until src ends. It reports false when the bytes must be moved otherwise; then none
// are on their way.
func (ps *pipes) splice(dst, src *net.TCPConn, moved *atomic.Uint64) (done bool, err error) {
	s := splicer{pipes: ps}
	if s.src, err = src.SyscallConn(); err != nil {
		return true, err
	}
	if s.dst, err = dst.SyscallConn(); err != nil {
		return true, err
	}
	defer s.drop()
	fill, drain := s.fill, s.drain // once, not for every move
	for {
		if err := s.src.Read(fill); err != nil {
			return true, err
		}
		if s.err != nil {
			return !errors.Is(s.err, errNoSplice), s.err
		}
		if s.inside == 0 {
			return true, nil // src has ended
		}
		for s.inside > 0 {
			before := s.inside
			err := s.dst.Write(drain)
			moved.Add(uint64(before - s.inside)) //nolint:gosec // what is inside does not grow
			if err := errors.Join(err, s.err); err != nil {
				return true, err
			}
		}
	}
}

// errNoSplice says that the system does not move these bytes.
var errNoSplice = errors.New("circuit: no splice")

// splicer moves the bytes of one direction. It has a pipe only while bytes come.
type splicer struct {
	pipes    *pipes
	src, dst syscall.RawConn
	pipe     *pipe // nil: nothing has come since the source was last found empty
	inside   int   // bytes in the pipe
	err      error // of the last call
}

// fill moves what has come into the pipe. It returns false to be called again when more has come.
func (s *splicer) fill(fd uintptr) bool {
	if s.pipe == nil {
		if s.pipe, s.err = s.pipes.get(); s.err != nil {
			s.err = errNoSplice // no descriptors left
			return true
		}
	}
	s.inside, s.err = splice(int(fd), s.pipe.w, largePipe)
	switch {
	case errors.Is(s.err, unix.EAGAIN):
		s.inside, s.err = 0, nil
		s.drop()
		return false
	case errors.Is(s.err, unix.EINVAL):
		s.err = errNoSplice
	}
	return true
}

// drain moves what is in the pipe on. It returns false to be called again when there is room.
func (s *splicer) drain(fd uintptr) bool {
	var n int
	n, s.err = splice(s.pipe.r, int(fd), s.inside)
	if errors.Is(s.err, unix.EAGAIN) {
		s.err = nil
		return false
	}
	if n == 0 && s.err == nil {
		s.err = io.ErrNoProgress
	}
	s.inside -= n
	return true
}

// splice moves up to n bytes and does not wait.
func splice(from, to, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if !errors.Is(err, unix.EINTR) {
			return max(int(moved), 0), err
		}
	}
}

// drop gives the pipe back. One that is not empty goes, with what is inside.
func (s *splicer) drop() {
	if s.pipe == nil {
		return
	}
	if s.inside > 0 {
		s.pipes.discard(s.pipe)
	} else {
		s.pipes.put(s.pipe)
	}
	s.pipe = nil
}
