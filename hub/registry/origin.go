package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	originName = "origin"           // in the data folder: the archive of a single hub that is to become a cluster
	originPart = originName + ".in" // the same while it is written

	// originMark is in the description of the log as soon as the cluster holds all of its origin.
	originMark = "secretstack-origin"

	// carryInFlight bounds what is written to the cluster at a time.
	carryInFlight = 64
)

// IsSingle reports whether a folder is the data folder of a registry that is alone, and was never a node's.
func IsSingle(dir string) (bool, error) {
	alone, err := exists(filepath.Join(dir, engineFolder))
	if err != nil || !alone {
		return false, err
	}
	shared, err := exists(filepath.Join(dir, clusterFolder))
	return !shared, err
}

// MakeOrigin turns a single registry's data folder into what a cluster begins with: it writes everything to a file there, and
// gives the SHA-256 of that for [Cluster.Origin]. From then on the folder is not opened without a cluster; removing the file
// takes that back. The records stay as they are. Made again, it gives the same. Its error is that of Open, or why the file
// cannot be written.
func MakeOrigin(ctx context.Context, cfg Config) (sum [sha256.Size]byte, info Archive, err error) {
	path := filepath.Join(cfg.Dir, originName)
	if sum, info, err = sumArchive(path); !errors.Is(err, fs.ErrNotExist) {
		return sum, info, err
	}
	r, err := Open(ctx, cfg)
	if err != nil {
		return sum, info, err
	}
	err = r.writeOrigin(ctx)
	if err = errors.Join(err, r.Close()); err != nil {
		return sum, info, err
	}
	return sumArchive(path)
}

func (r *Registry) writeOrigin(ctx context.Context) error {
	part := filepath.Join(r.cfg.Dir, originPart)
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	_, err = r.Backup(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(part, filepath.Join(r.cfg.Dir, originName))
	}
	if err == nil {
		err = syncFile(r.cfg.Dir, true)
	}
	return err
}

// sumArchive checks an archive, and gives the SHA-256 of all of it.
func sumArchive(path string) (sum [sha256.Size]byte, info Archive, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, info, err
	}
	defer func() { _ = f.Close() }()
	u, info, err := newUnarchiver(f)
	if err != nil {
		return sum, info, err
	}
	for {
		kind, body, before, err := u.next()
		switch {
		case err != nil:
			return sum, info, err
		case kind == frameMessage:
			u.messages++
		case kind == frameEnd:
			info.Messages = u.messages
			return [sha256.Size]byte(u.sum.Sum(nil)), info, u.end(body, before, info.Hub)
		}
	}
}

// errOrigin says that the cluster does not hold all of its origin yet.
var errOrigin = errors.New("what the single hub had is not there yet")

// hasOrigin reports whether the cluster whose log is given, or which has none, holds all that it is to begin with.
func (e *engine) hasOrigin(log jetstream.Stream) bool {
	if e.cluster == nil || len(e.cluster.Origin) == 0 {
		return true
	}
	return log != nil && log.CachedInfo().Config.Metadata[originMark] == fmt.Sprintf("%x", e.cluster.Origin)
}

// bringOrigin writes what the single hub had to a cluster that does not hold it yet, if it is here. It goes on where it, or
// another node with the same file, has been interrupted, and tells how far it is. Its error is errOrigin if the file is at another
// node.
func (r *Registry) bringOrigin(ctx context.Context, n *run, wait Wait) error {
	if err := r.checkOrigin(); err != nil {
		return err
	}
	if r.mark.read() > 0 { // the cluster held its origin, and more
		return fmt.Errorf("%w: the nodes have lost the log that this one has seen%s", ErrDamaged, wayOut)
	}
	f, err := os.Open(filepath.Join(r.cfg.Dir, originName))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = f.Close() }()
	js, err := jetstream.New(n.conn, jetstream.WithPublishAsyncMaxPending(carryInFlight))
	if err != nil {
		return n.failure(ctx, "write", err)
	}
	defer js.CleanupPublisher()
	r.cfg.Logger.Info("registry: bringing what the single hub had")
	c := &carrier{engine: n.engine, out: js, carried: func(messages uint64) {
		wait.Brought = messages
		r.waits(wait)
	}}
	if err := c.carry(ctx, f); err != nil {
		return err
	}
	r.cfg.Logger.Info("registry: the cluster has what the single hub had", "messages", c.all)
	return n.markOrigin(ctx)
}

// checkOrigin sees that the file is what the cluster is to begin with. It is read once, however long others are waited for. The
// error is errOrigin if there is none.
func (r *Registry) checkOrigin() error {
	if r.checkedOrigin {
		return nil
	}
	path := filepath.Join(r.cfg.Dir, originName)
	sum, _, err := sumArchive(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errOrigin
	case err != nil:
		return err
	case !bytes.Equal(sum[:], r.cfg.Cluster.Origin):
		return fmt.Errorf("%w: %s is not what the cluster's credential was made with", ErrForeign, path)
	}
	r.checkedOrigin = true
	return nil
}

// markOrigin says that the cluster holds its origin.
func (e *engine) markOrigin(ctx context.Context) error {
	ctx, cancel := e.guard(ctx)
	defer cancel()
	s, err := e.js.Stream(ctx, logStream)
	if err != nil {
		return e.failure(ctx, "open the log", err)
	}
	config := s.CachedInfo().Config
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	config.Metadata[originMark] = fmt.Sprintf("%x", e.cluster.Origin)
	if _, err := e.js.UpdateStream(ctx, config); err != nil {
		return e.failure(ctx, "mark the log", err)
	}
	return nil
}

// forgetOrigin removes the file when the cluster holds what is in it.
func (r *Registry) forgetOrigin() {
	err := os.Remove(filepath.Join(r.cfg.Dir, originName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.cfg.Logger.Warn("registry: the file of what the single hub had stays", "err", err)
	}
}

// A carrier writes an archive to a cluster. The messages of each stream get the numbers from 1 on, each on condition that the
// one before is the last: so whoever does it again, or at the same time, writes nothing twice.
type carrier struct {
	*engine
	out     jetstream.JetStream
	carried func(messages uint64)

	acks []jetstream.PubAckFuture
	at   uint64 // messages of the stream that have been read
	have uint64 // messages that the stream had at the start
	all  uint64 // messages that the cluster has
}

func (c *carrier) carry(ctx context.Context, from io.Reader) error {
	u, info, err := newUnarchiver(from)
	if err != nil {
		return err
	}
	for {
		kind, body, before, err := u.next()
		if err != nil {
			return err
		}
		switch kind {
		case frameStream:
			if err = c.written(ctx, u.stream); err == nil {
				err = c.stream(ctx, u, body)
			}
		case frameMessage:
			err = c.message(ctx, u, body)
		case frameEnd:
			if err = c.written(ctx, u.stream); err != nil {
				return err
			}
			return u.end(body, before, info.Hub)
		}
		if err != nil {
			return err
		}
	}
}

// stream opens a stream of the archive in the cluster, or makes it.
func (c *carrier) stream(ctx context.Context, u *unarchiver, body []byte) error {
	config, err := u.describe(body, c.replicas)
	if err != nil {
		return err
	}
	ctx, cancel := c.guard(ctx)
	defer cancel()
	s, err := c.js.Stream(ctx, config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = c.js.CreateStream(ctx, config)
	}
	if err != nil {
		return c.failure(ctx, "make stream "+config.Name, err)
	}
	c.at, c.have = 0, s.CachedInfo().State.Msgs
	return c.noGap(config.Name, s.CachedInfo().State)
}

// noGap sees that the messages of a stream are numbered without a gap: what is in it is the beginning of what it is to hold.
func (c *carrier) noGap(name string, state jetstream.StreamState) error {
	if state.Msgs != state.LastSeq {
		return fmt.Errorf("%w: %s holds %d messages up to number %d, which is not what the single hub had. Make a new cluster with "+
			"empty folders", ErrForeign, name, state.Msgs, state.LastSeq)
	}
	return nil
}

func (c *carrier) message(ctx context.Context, u *unarchiver, body []byte) error {
	m, err := u.unpack(body)
	if err != nil || isDeletion(m) {
		return err
	}
	c.at++
	if c.at <= c.have {
		c.all++
		return nil
	}
	ack, err := c.out.PublishMsgAsync(m.publication(), jetstream.WithExpectStream(u.stream),
		jetstream.WithExpectLastSequence(c.at-1), jetstream.WithRetryAttempts(0))
	if err != nil {
		return fmt.Errorf("%w: write to %s: %w", ErrUnavailable, u.stream, err)
	}
	c.acks = append(c.acks, ack)
	if len(c.acks) < carryInFlight {
		return nil
	}
	return c.acknowledged(ctx)
}

// acknowledged waits until what was written is safe.
func (c *carrier) acknowledged(ctx context.Context) error {
	acks := c.acks
	c.acks = nil
	if err := c.settled(ctx, acks); err != nil {
		return err
	}
	c.all += uint64(len(acks))
	c.carried(c.all)
	return nil
}

// written sees that a stream holds all that it is to hold.
func (c *carrier) written(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	if err := c.acknowledged(ctx); err != nil {
		return err
	}
	info, err := c.describe(ctx, name)
	if err != nil {
		return err
	}
	if info.State.Msgs < c.at {
		return fmt.Errorf("%w: %s holds %d messages and not %d", ErrUnavailable, name, info.State.Msgs, c.at)
	}
	return c.noGap(name, info.State)
}

// isDeletion reports whether a message is what a bucket remembers of a key that was deleted.
func isDeletion(m message) bool {
	return m.header.Get("KV-Operation") != "" || m.header.Get(jetstream.MarkerReasonHeader) != ""
}
