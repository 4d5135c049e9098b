package share

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/secretstack/secretstack/multiserver"
)

// pieceSize is how much is moved at once: what the box stream writes in one go.
const pieceSize = 64 << 10

var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// Pump moves bytes between a local connection and a peer until both directions have ended, and closes both. The end of a
// direction is passed on as such. When something fails, or ctx ends, the local side is reset, so that nobody there takes
// what has arrived for all there is, and the peer gets no goodbye. Of the local connection it uses Read, Write, Close and,
// where there is one, CloseWrite.
func Pump(ctx context.Context, local net.Conn, peer *multiserver.Conn, meters ...*Meter) (err error) {
	var once sync.Once
	fail := func(reason error) {
		once.Do(func() {
			err = reason
			reset(local)
			_ = peer.Abort()
		})
	}
	stop := context.AfterFunc(ctx, func() { fail(context.Cause(ctx)) })
	var back sync.WaitGroup
	back.Go(func() {
		err := move(local, peer, func(n uint64) {
			for _, m := range meters {
				m.received.Add(n)
			}
		})
		if err == nil {
			err = closeWrite(local)
		}
		if err != nil {
			fail(err)
		}
	})
	failed := move(peer, local, func(n uint64) {
		for _, m := range meters {
			m.sent.Add(n)
		}
	})
	if failed == nil {
		failed = peer.CloseWrite()
	}
	if failed != nil {
		fail(failed)
	}
	back.Wait()
	stop()
	once.Do(func() { // all is well
		_ = peer.Close()
		_ = local.Close()
	})
	return err
}

// move moves bytes until src ends, and tells how many dst has taken.
func move(dst io.Writer, src io.Reader, moved func(n uint64)) error {
	piece, _ := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(piece)
	for {
		got, err := src.Read(piece[:])
		if got > 0 {
			written, err := dst.Write(piece[:got])
			moved(uint64(max(written, 0)))
			if err != nil {
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

// closeWrite ends what goes to the local side. A side that has no halves ends when both have.
func closeWrite(local net.Conn) error {
	half, ok := local.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := half.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) && !isGone(err) {
		return err
	}
	return nil
}

// reset closes a connection so that the other side sees that something is missing.
func reset(local net.Conn) {
	if tcp, ok := local.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = local.Close()
}
