// Package unix is the transport "unix": sockets in the file system, which only
// their owner may connect to.
//
// Addresses have the form unix:path, and the entries of the configuration have
// the field path: the folder in which the socket, named "socket", stands. The
// scope is always device. See docs/PROTOCOL.md §6.3.
package unix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/secretstack/secretstack/multiserver"
)

const (
	name       = "unix"
	socketName = "socket"

	// longestPath is what the systems with the smallest sockaddr_un take.
	longestPath = 103

	// probeTimeout bounds the question whether anybody listens on a socket
	// that is already there.
	probeTimeout = time.Second
)

// Options configures [New]. The zero value is fit for use.
type Options struct {
	// Dir is the folder for the socket when the configuration names none. An
	// empty Dir means a new temporary folder, removed with the listener.
	Dir string
}

// New returns the transport. Any number of them can listen in one process, each
// in a folder of its own.
func New(opts Options) multiserver.Transport {
	return transport{multiserver.PathParts(), opts}
}

type transport struct {
	multiserver.PartParser
	opts Options
}

// Dial connects to the socket. The peer's address is the path that was dialled.
func (transport) Dial(ctx context.Context, part multiserver.Part) (net.Conn, error) {
	path, canonical, err := multiserver.ParsePath(part, multiserver.Loose)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return wrap(c, canonical)
}

// Listen listens on a socket with mode 0600. A socket file that nobody listens
// on any more is replaced; one that is in use is an error.
func (t transport) Listen(ctx context.Context, in multiserver.Incoming) (multiserver.Listener, error) {
	dir, temporary, err := t.dir(in)
	if err != nil {
		return nil, err
	}
	l := &listener{path: filepath.Join(dir, socketName)}
	if temporary {
		l.tempDir = dir
	}
	if err := l.listen(ctx, dir); err != nil {
		l.removeDir()
		return nil, err
	}
	return l, nil
}

// dir checks the entry and makes the folder.
func (t transport) dir(in multiserver.Incoming) (dir string, temporary bool, err error) {
	var options struct {
		Path string `json:"path"`
	}
	if err := in.Decode(&options); err != nil {
		return "", false, err
	}
	if slices.ContainsFunc(in.Scope, func(s multiserver.Scope) bool { return s != multiserver.Device }) {
		return "", false, errors.New("a unix socket is reached from this machine only: its scope must be device")
	}
	if in.Host != "" || in.Port != 0 || len(in.External) > 0 {
		return "", false, errors.New("a unix socket has no host, port or external address: set path, the folder for the socket")
	}
	dir = options.Path
	if dir == "" {
		dir = t.opts.Dir
	}
	if dir == "" {
		dir, err = os.MkdirTemp("", "multiserver-*")
		return dir, true, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", false, err
	}
	return dir, false, os.MkdirAll(dir, 0o700)
}

type listener struct {
	ln      *net.UnixListener
	path    string
	info    fs.FileInfo // of the socket we made
	tempDir string      // removed in the end, unless empty

	once sync.Once
	err  error // set inside once
}

func (l *listener) listen(ctx context.Context, dir string) error {
	if len(l.path) > longestPath {
		return fmt.Errorf("the path %s has %d bytes, and a unix socket's has at most %d: choose a shorter folder", l.path, len(l.path), longestPath)
	}
	// Between finding a socket stale and replacing it, nobody else may do the
	// same, or one would remove what the other has just made.
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeStale(ctx, l.path); err != nil {
		return err
	}
	config := net.ListenConfig{Control: ownerOnly}
	ln, err := config.Listen(ctx, "unix", l.path)
	if err != nil {
		return err
	}
	l.ln = ln.(*net.UnixListener)
	l.ln.SetUnlinkOnClose(false) // see remove
	if err := os.Chmod(l.path, 0o600); err != nil {
		return errors.Join(err, l.ln.Close())
	}
	l.info, err = os.Lstat(l.path)
	if err != nil {
		return errors.Join(err, l.ln.Close())
	}
	return nil
}

// removeStale removes a socket that nobody listens on, and nothing else.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !isSocket(info) {
		return fmt.Errorf("%s is in the way: it is not a socket", path)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
	}
	// Only a refusal says that nobody is there. Others may be a full backlog.
	if !refused(err) {
		return fmt.Errorf("%s is in use: is the same program running already?", path)
	}
	return os.Remove(path)
}

// Accept waits for the next connection. Its address is the socket's path: that
// is all a unix socket knows of its clients.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.ln.Accept()
	if err != nil {
		return nil, err
	}
	return wrap(c, multiserver.NewPart(name, l.path))
}

// Addresses returns unix:path in scope device.
func (l *listener) Addresses(scope multiserver.Scope) []multiserver.Part {
	if scope != multiserver.Device {
		return nil
	}
	return []multiserver.Part{multiserver.NewPart(name, l.path)}
}

// Close stops listening and removes the socket, if it is still ours.
func (l *listener) Close() error {
	l.once.Do(func() {
		if info, err := os.Lstat(l.path); err == nil && os.SameFile(info, l.info) {
			_ = os.Remove(l.path)
		}
		l.err = l.ln.Close()
		l.removeDir()
	})
	return l.err
}

func (l *listener) removeDir() {
	if l.tempDir != "" {
		_ = os.Remove(l.tempDir)
	}
}

// conn is a unix connection that knows the peer's address.
type conn struct {
	*net.UnixConn
	part multiserver.Part
}

func wrap(c net.Conn, part multiserver.Part) (net.Conn, error) {
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a unix connection"), c.Close())
	}
	return &conn{unix, part}, nil
}

// PeerPart returns unix:path.
func (c *conn) PeerPart() multiserver.Part { return c.part }

// NetConn returns the connection underneath.
func (c *conn) NetConn() net.Conn { return c.UnixConn }
