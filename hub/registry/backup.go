package registry

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	restoringFolder = "restoring" // in which an archive is unpacked

	restoreInFlight = 256
)

// Backup writes everything that the registry holds, records, buckets and queues, to w while it works on. What was acknowledged
// before Backup was called is in it. The archive holds what these hold, which may be secret.
func (r *Registry) Backup(ctx context.Context, w io.Writer) (Archive, error) {
	info := Archive{Hub: r.cfg.Identity.Public(), Created: r.cfg.Now().UTC(), Records: r.Count()}
	n, err := r.engine()
	if err != nil {
		return info, err
	}
	a, err := newArchiver(w)
	if err == nil {
		err = a.json(frameHeader, info)
	}
	if err != nil {
		return info, fmt.Errorf("registry: write the archive: %w", err)
	}
	names, err := n.streams(ctx)
	if err != nil {
		return info, err
	}
	for _, name := range names {
		if err := n.archive(ctx, a, name); err != nil {
			return info, err
		}
	}
	if err := a.end(r.cfg.Identity); err != nil {
		return info, fmt.Errorf("registry: write the archive: %w", err)
	}
	info.Messages = a.messages
	return info, nil
}

// errIdle says that nothing comes from a stream any more.
var errIdle = errors.New("nothing comes any more")

// archive writes one stream, unless it is a temporary bucket: what goes by itself is worth nothing later.
func (n *run) archive(ctx context.Context, a *archiver, name string) error {
	info, err := n.describe(ctx, name)
	if err != nil || info.Config.MaxAge > 0 {
		return err
	}
	if err := a.json(frameStream, info.Config); err != nil {
		return fmt.Errorf("registry: write the archive: %w", err)
	}
	return n.walk(ctx, name, false, func(m message) error {
		if err := a.message(m); err != nil {
			return fmt.Errorf("registry: write the archive: %w", err)
		}
		return nil
	})
}

// walk hands out what is in a stream. It goes on until it has caught up once: a key that is written anew meanwhile moves to
// the end of its stream, and would be missed if the end were fixed at the start.
func (n *run) walk(ctx context.Context, name string, headersOnly bool, fn func(message) error) error {
	info, err := n.describe(ctx, name)
	if err != nil || info.State.Msgs == 0 {
		return err
	}
	life, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(n.life, func() { cancel(ErrUnavailable) })()
	idle := time.AfterFunc(n.limits.WriteTimeout, func() { cancel(errIdle) })
	defer idle.Stop()
	var last uint64
	err = n.follow(life, name, 1, headersOnly, func(m message) error {
		last = m.sequence
		if err := fn(m); err != nil {
			return err
		}
		idle.Reset(n.limits.WriteTimeout)
		if m.pending > 0 {
			return nil
		}
		if more, err := n.hasAfter(ctx, name, m.sequence, info.State.LastSeq); err != nil || more {
			return err
		}
		return errLeft
	})
	switch {
	case errors.Is(err, errLeft):
		return nil
	case errors.Is(context.Cause(life), errIdle):
		return n.emptied(ctx, name, last)
	}
	return err
}

// hasAfter reports whether a stream has messages after one that was the last for whoever has handed it out: of a cluster's nodes
// that may be one which does not have yet what the others have acknowledged. The stream ended with last a moment ago.
func (n *run) hasAfter(ctx context.Context, name string, sequence, last uint64) (bool, error) {
	if n.cluster == nil || sequence >= last {
		return false, nil
	}
	ctx, cancel := n.guard(ctx)
	defer cancel()
	// The leader answers this, and any node what the client would ask where a stream can be read directly.
	question := fmt.Appendf(nil, `{"seq":%d,"next_by_subj":">"}`, sequence+1)
	m, err := n.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+name, question)
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err == nil {
		err = json.Unmarshal(m.Data, &answer)
	}
	switch {
	case err != nil:
		return false, n.failure(ctx, "read "+name, err)
	case answer.Error == nil:
		return true, nil
	case answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return false, nil
	}
	return false, n.failure(ctx, "read "+name, answer.Error)
}

// lastOf tells where a stream ends. It is not asked for without a cluster, where nothing depends on it.
func (n *run) lastOf(ctx context.Context, name string) (uint64, error) {
	if n.cluster == nil {
		return 0, nil
	}
	info, err := n.describe(ctx, name)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// emptied checks that a stream from which nothing more came has nothing more: what was left of it has expired.
func (n *run) emptied(ctx context.Context, name string, last uint64) error {
	info, err := n.describe(ctx, name)
	if err != nil {
		return err
	}
	if info.State.Msgs > 0 && info.State.LastSeq > last {
		return fmt.Errorf("%w: %s cannot be read", ErrUnavailable, name)
	}
	return nil
}

func (e *engine) describe(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	s, err := e.js.Stream(ctx, name)
	if err != nil {
		return nil, e.failure(ctx, "describe "+name, err)
	}
	return s.CachedInfo(), nil
}

// Restore unpacks an archive into dir, which must be empty or not there yet, and tells what was in it. The folder is what
// Open takes when Restore has returned without an error; otherwise it is left as it was. Its error is ErrNotEmpty,
// ErrArchive, ErrLocked, ErrUnavailable or why r could not be read.
//
// Compare the hub in the result with the identity that the folder is for: the archive is signed with that one.
func Restore(ctx context.Context, r io.Reader, dir string) (Archive, error) {
	u, info, err := newUnarchiver(r)
	if err != nil {
		return info, err
	}
	created, err := emptyFolder(dir)
	if err != nil {
		return info, err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return info, err
	}
	sequence, err := restoreInto(ctx, u, info, filepath.Join(dir, restoringFolder))
	if err == nil {
		err = settle(dir, sequence)
	}
	info.Messages = u.messages
	return info, errors.Join(err, leaveRestored(dir, lock, err != nil, created))
}

// emptyFolder makes the folder, or sees that nothing is in it.
func emptyFolder(dir string) (created bool, err error) {
	files, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return true, nil
	case err != nil:
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	case len(files) > 0:
		return false, fmt.Errorf("%w: %s", ErrNotEmpty, dir)
	}
	return false, nil
}

// leaveRestored gives the folder back. After a failure it takes away what has been put there.
func leaveRestored(dir string, lock *os.File, failed, created bool) error {
	if !failed {
		return lock.Close()
	}
	var errs []error
	for _, name := range []string{restoringFolder, engineFolder, markName} {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
	}
	errs = append(errs, lock.Close(), os.Remove(filepath.Join(dir, lockName)))
	if created {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

// restoreInto runs an engine in a folder of its own and gives it what the archive holds. It returns the last message of the
// log. The engine does not sync: everything is synced at the end, once.
func restoreInto(ctx context.Context, u *unarchiver, info Archive, dir string) (uint64, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var limits Limits
	limits.fill()
	e, err := startEngine(ctx, dir, limits, slog.New(slog.DiscardHandler), false)
	var last uint64
	if err == nil {
		err = e.unpack(ctx, u, info)
	}
	if err == nil {
		_, last, err = e.ensureLog(ctx)
	}
	if err = errors.Join(err, e.close()); err != nil {
		return 0, err
	}
	return last, syncTree(dir)
}

// unpack publishes everything in the archive.
func (e *engine) unpack(ctx context.Context, u *unarchiver, info Archive) error {
	js, err := jetstream.New(e.conn, jetstream.WithPublishAsyncMaxPending(restoreInFlight))
	if err != nil {
		return e.failure(ctx, "unpack", err)
	}
	acks := make([]jetstream.PubAckFuture, 0, restoreInFlight)
	for {
		kind, body, before, err := u.next()
		if err != nil {
			return err
		}
		switch kind {
		case frameEnd:
			if err := e.settled(ctx, acks); err != nil {
				return err
			}
			return u.end(body, before, info.Hub)
		case frameStream:
			err = e.unpackStream(ctx, u, body)
		case frameMessage:
			var ack jetstream.PubAckFuture
			if ack, err = e.unpackMessage(js, u, body); err == nil {
				acks = append(acks, ack)
			}
		default:
			err = u.broken(nil, "a frame is of an unknown kind")
		}
		if err == nil && len(acks) == cap(acks) {
			err = e.settled(ctx, acks)
			acks = acks[:0]
		}
		if err != nil {
			return err
		}
	}
}

func (e *engine) unpackStream(ctx context.Context, u *unarchiver, body []byte) error {
	config, err := u.describe(body, 1)
	if err != nil {
		return err
	}
	ctx, cancel := e.guard(ctx)
	defer cancel()
	if _, err := e.js.CreateStream(ctx, config); err != nil {
		return e.failure(ctx, "make stream "+config.Name, err)
	}
	return nil
}

// describe reads how a stream is to be made. The messages that follow are its.
func (u *unarchiver) describe(body []byte, replicas int) (config jetstream.StreamConfig, err error) {
	if err := json.Unmarshal(body, &config); err != nil || config.Name == "" {
		return config, u.broken(nil, "the description of a stream is malformed")
	}
	config.Replicas, config.Storage = replicas, jetstream.FileStorage
	config.Mirror, config.Sources, config.RePublish, config.Placement = nil, nil, nil, nil
	if strings.HasPrefix(config.Name, queuePrefix) {
		config.AllowDirect = readsDirectly(replicas)
	}
	delete(config.Metadata, originMark)
	u.stream, u.last = config.Name, 0
	return config, nil
}

func (e *engine) unpackMessage(js jetstream.JetStream, u *unarchiver, body []byte) (jetstream.PubAckFuture, error) {
	m, err := u.unpack(body)
	if err != nil {
		return nil, err
	}
	ack, err := js.PublishMsgAsync(m.publication(), jetstream.WithExpectStream(u.stream))
	if err != nil {
		return nil, fmt.Errorf("%w: unpack: %w", ErrUnavailable, err)
	}
	return ack, nil
}

// unpack reads a message of the stream that has been described last.
func (u *unarchiver) unpack(body []byte) (message, error) {
	m, err := u.message(body)
	if err != nil {
		return m, err
	}
	if u.stream == logStream {
		m.data, err = u.renumber(m.data)
		return m, err
	}
	if !belongs(m.subject, u.stream) {
		return m, u.broken(nil, "a message is not the stream's")
	}
	return m, nil
}

// publication is the message as it is written anew.
func (m message) publication() *nats.Msg {
	out := &nats.Msg{Subject: m.subject, Header: nats.Header{}, Data: m.data}
	for name, values := range m.header {
		if !isExpectation(name) { // it was met when the message was first written
			out.Header[name] = values
		}
	}
	return out
}

// belongs reports whether a subject is one of a bucket's or a queue's stream.
func belongs(subject, stream string) bool {
	if name, ok := strings.CutPrefix(stream, queuePrefix); ok {
		return strings.HasPrefix(subject, queueSubjects+name+".")
	}
	return strings.HasPrefix(subject, bucketSubjects+strings.TrimPrefix(stream, bucketPrefix)+".")
}

// renumber takes the gaps out of the log that failed writes have left: in the new one the messages follow each other.
func (u *unarchiver) renumber(group []byte) ([]byte, error) {
	r := groupReader{rest: group}
	if version := r.take(1); r.bad || version[0] != groupVersion {
		return nil, u.broken(nil, "the records are of a later version")
	}
	_ = number(&r, binary.Uvarint)
	if r.bad {
		return nil, u.broken(nil, "a group of records is malformed")
	}
	group = append(newGroup(u.last), r.rest...)
	u.last++
	return group, nil
}

func isExpectation(header string) bool {
	return strings.HasPrefix(header, "Nats-Expected-") || header == jetstream.MsgIDHeader
}

// settled waits until the engine has taken in what was published.
func (e *engine) settled(ctx context.Context, acks []jetstream.PubAckFuture) error {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return e.failure(ctx, "unpack", err)
		case <-ctx.Done():
			return e.failure(ctx, "unpack", ctx.Err())
		}
	}
	return nil
}

// settle moves what has been unpacked to its place. The last step is the one that makes the folder a registry's.
func settle(dir string, last uint64) error {
	m, err := openMark(dir)
	if err != nil {
		return err
	}
	m.write(last)
	if err := m.close(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	restoring := filepath.Join(dir, restoringFolder)
	err = os.Rename(filepath.Join(restoring, engineFolder), filepath.Join(dir, engineFolder))
	if err == nil {
		err = os.Remove(restoring)
	}
	if err == nil {
		err = syncTree(dir)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// syncFolders writes the folders of the engine to the disk. It makes them without doing so, and a file can only be found
// again in a folder that can.
func syncFolders(dir string) error {
	if err := syncFile(filepath.Dir(dir), true); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // temporary
		}
		if err != nil || !d.IsDir() {
			return err
		}
		if err := syncFile(path, true); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// syncTree writes all files and folders below dir to the disk.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == lockName {
			return nil
		}
		return syncFile(path, d.IsDir())
	})
}
