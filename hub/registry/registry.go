package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// readPause is how long reading rests after a failure.
const readPause = 200 * time.Millisecond

// tellEvery is how often the same failure is told.
const tellEvery = time.Minute

// Registry is an open registry. All its methods may be called concurrently.
type Registry struct {
	cfg  Config
	dir  *directory
	lock *os.File
	mark *mark

	life     context.Context // ends when Close is called
	end      context.CancelFunc
	requests chan *request
	suspects chan suspicion // from buckets and queues
	done     chan struct{}  // closed when the writer has ended and the folder is given back
	closeErr error          // set before done is closed

	mu      sync.Mutex
	run     *run          // the engine at work; nil while it is down; guarded by mu
	down    error         // why it is; guarded by mu
	changed chan struct{} // closed and replaced when run changes; guarded by mu
	failed  uint64        // how often an engine had to be taken down; guarded by mu
	cluster ClusterStatus // as last seen; guarded by mu
	alone   error         // why there is no majority of nodes; guarded by mu

	checkedOrigin bool // the file that the cluster is to begin with is sound; owned by open, then by the writer

	files *engine // the last one started, which may still have the files; owned by open, then by the writer
}

// A suspicion is that an engine has failed, from somebody else than the writer.
type suspicion struct {
	run *run
	err error
}

// A run is one engine at work with the goroutine that reads its log.
type run struct {
	*engine
	life   context.Context // ends with the run
	stop   context.CancelFunc
	loaded chan struct{} // closed when the directory has all that the log had at the start
	failed chan error    // buffered; why the log can no longer be read
	wg     sync.WaitGroup
}

// Open opens the registry in cfg.Dir, or makes a new one there. It reads all that is stored before the engine may touch it,
// and takes about a second for each gigabyte. Its error is ErrLocked, ErrDamaged or ErrUnavailable where the data folder is
// the reason.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	lock, err := openFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := cfg.rightFolder(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	m, err := openMark(cfg.store())
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	r := &Registry{
		cfg: cfg, dir: newDirectory(), lock: lock, mark: m,
		requests: make(chan *request, cfg.Limits.MaxWaiting),
		suspects: make(chan suspicion, 1),
		done:     make(chan struct{}),
		changed:  make(chan struct{}),
	}
	r.life, r.end = context.WithCancel(context.Background())
	if r.run, err = r.start(ctx); err != nil {
		r.end()
		return nil, errors.Join(err, r.release())
	}
	go r.work()
	return r, nil
}

// openFolder makes and locks the data folder.
func openFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w: a hub needs a folder that it may write to", ErrUnavailable, err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, restoringFolder)); !errors.Is(err, fs.ErrNotExist) {
		_ = lock.Close()
		return nil, fmt.Errorf("%w: restoring a backup into %s did not end. Empty the folder and restore again", ErrDamaged, dir)
	}
	return lock, nil
}

// release gives the data folder back, as soon as no engine has files in it.
func (r *Registry) release() error {
	err := r.mark.close()
	free := func() error { return errors.Join(err, r.lock.Close()) }
	if r.files == nil {
		return free()
	}
	select {
	case <-r.files.gone:
		return free()
	default:
		go func() {
			<-r.files.gone
			_ = free()
		}()
		return err
	}
}

// start inspects the files, starts an engine on them and brings the directory up to what the log holds.
func (r *Registry) start(ctx context.Context) (*run, error) {
	stored, err := inspectStore(ctx, r.cfg.store())
	if err != nil {
		return nil, err
	}
	if r.cfg.Cluster == nil { // in one, a node may lack what others have acknowledged
		if err := checkLog(stored, r.mark.read()); err != nil {
			return nil, err
		}
	}
	if stored, err = clearHalfMade(stored); err != nil {
		return nil, err
	}
	e, err := engineConfig{
		dir: r.cfg.store(), limits: r.cfg.Limits, logger: r.cfg.Logger, synced: true, replicas: r.cfg.Replicas, cluster: r.cfg.Cluster,
	}.start(ctx)
	r.files = e
	if err != nil {
		return nil, errors.Join(err, e.close())
	}
	n := &run{engine: e, loaded: make(chan struct{}), failed: make(chan error, 1)}
	n.life, n.stop = context.WithCancel(context.Background()) // not with the call that started it
	if err := r.load(ctx, n, stored); err != nil {
		return nil, errors.Join(err, n.end())
	}
	return n, nil
}

// load opens the log and reads it.
func (r *Registry) load(ctx context.Context, n *run, stored []storedStream) error {
	end, last, err := r.openLog(ctx, n, stored)
	if err != nil {
		return err
	}
	if known := max(r.dir.last(), r.mark.read()); last < known {
		return fmt.Errorf("%w: the engine has read only %d of %d writes%s", ErrDamaged, last, known, wayOut)
	}
	if last == r.dir.last() {
		close(n.loaded)
	}
	n.wg.Go(func() { n.failed <- r.read(n.life, n, last) })
	if r.cfg.Cluster != nil {
		n.wg.Go(func() { r.observe(n) })
	}
	select {
	case <-n.loaded:
		r.dir.skip(end)
		if err := n.syncFolders(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil
	case err := <-n.failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("registry: read the log: %w", context.Cause(ctx))
	}
}

// openLog opens the log, or makes it, when all is there that should be.
func (r *Registry) openLog(ctx context.Context, n *run, stored []storedStream) (end, last uint64, err error) {
	if r.cfg.Cluster != nil {
		return r.join(ctx, n)
	}
	if err := n.loadedAll(ctx, stored); err != nil {
		return 0, 0, err
	}
	return n.ensureLog(ctx)
}

// loadedAll checks that the engine knows every stream that there are files of. It passes over those that it cannot load.
func (n *run) loadedAll(ctx context.Context, stored []storedStream) error {
	names, err := n.streams(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
	}
	for _, s := range stored {
		if !known[s.name] {
			return fmt.Errorf("%w: the engine has not loaded %s%s", ErrUnavailable, s.name, n.alarm.said())
		}
	}
	return nil
}

// read applies the log to the directory as it grows, until ctx ends or the log cannot be understood. last is the message at
// which the directory has all that there was at the start.
func (r *Registry) read(ctx context.Context, n *run, last uint64) error {
	loading := r.dir.last() < last
	var told time.Time // without a majority it fails several times a second
	for {
		applied, _ := r.dir.position()
		err := n.follow(ctx, logStream, applied+1, false, func(m message) error {
			if err := r.applyMessage(m); err != nil {
				return err
			}
			if loading && m.sequence >= last {
				loading = false
				close(n.loaded)
			}
			return nil
		})
		if ctx.Err() != nil || errors.Is(err, ErrDamaged) {
			return err
		}
		level := slog.LevelDebug
		if time.Since(told) >= tellEvery {
			told, level = time.Now(), slog.LevelWarn
		}
		r.cfg.Logger.Log(ctx, level, "registry: the log cannot be read now", "err", err)
		if !pause.Sleep(ctx, readPause) {
			return err
		}
	}
}

// applyMessage is for what comes from the engine.
func (r *Registry) applyMessage(m message) error {
	previous, deeds, err := parseGroup(m.data)
	if err == nil {
		err = r.apply(m.sequence, previous, deeds)
	}
	if err != nil {
		return fmt.Errorf("%w: write %d: %w%s", ErrDamaged, m.sequence, err, wayOut)
	}
	return nil
}

func (r *Registry) apply(sequence, previous uint64, deeds []deed) error {
	lost, refused, err := r.dir.apply(sequence, previous, deeds)
	if refused > 0 {
		r.cfg.Logger.Warn("registry: the log contradicts itself; the earlier record stands", "write", sequence, "records", refused)
	}
	for _, e := range lost {
		r.cfg.Lost(e.record())
	}
	return err
}

// end stops reading the log and ends the engine.
func (n *run) end() error {
	n.stop()
	err := n.close()
	n.wg.Wait()
	return err
}

// engine gives the run at work.
func (r *Registry) engine() (*run, error) {
	if r.life.Err() != nil {
		return nil, ErrClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run == nil {
		return nil, r.down
	}
	return r.run, nil
}

// writable says why nothing can be written for now, if so.
func (r *Registry) writable() error {
	return r.roomFor(r.cfg.Limits.MinFree)
}

// roomFor says why nothing can be written that must leave so many bytes free, if so.
func (r *Registry) roomFor(least int64) error {
	n, err := r.engine()
	if err == nil {
		err = r.outvoted()
	}
	if err == nil {
		err = r.roomOnDisk(least)
	}
	if err == nil && r.cfg.Cluster != nil && n.alarm.rung() { // another one is on its way
		err = n.alarm.why()
	}
	return err
}

// roomOnDisk says why nothing can be written that must leave so many bytes free, if the disk is why.
func (r *Registry) roomOnDisk(least int64) error {
	if least < 0 {
		return nil
	}
	if free, known := freeBytes(r.cfg.Dir); known && free < least {
		return fmt.Errorf("%w: only %d bytes are free on the disk of %s, and %d must stay free", ErrUnavailable,
			free, r.cfg.Dir, least)
	}
	return nil
}

// request makes one request to the engine, says what its error means, and tells the writer of an engine that may have
// failed.
func (r *Registry) request(ctx context.Context, what string, fn func(context.Context, *run) error) error {
	n, err := r.engine()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // whoever has left already hears that, and never that it has been done
		return fmt.Errorf("registry: %s: %w", what, err)
	}
	ctx, cancel := n.guard(ctx)
	defer cancel()
	err = fn(ctx, n)
	switch {
	case err == nil, errors.Is(err, ErrExists), errors.Is(err, ErrConflict):
		return err
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrBucketNotFound),
		errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrMsgNotFound):
		return ErrNotFound
	}
	err = n.failure(ctx, what, err)
	if errors.Is(err, ErrUnavailable) {
		select {
		case r.suspects <- suspicion{n, err}:
		default: // somebody else has told
		}
	}
	return err
}

// outvoted says why there is no majority of nodes, if so.
func (r *Registry) outvoted() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alone
}

// setRun replaces the engine at work, or says why there is none.
func (r *Registry) setRun(n *run, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.run, r.down = n, why
	close(r.changed)
	r.changed = make(chan struct{})
}

// current gives the engine at work, or none, and a channel that is closed when that changes.
func (r *Registry) current() (*run, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run, r.changed
}

// Close writes what waits, ends the engine and gives the data folder back. It waits for that, for a bounded time. Whoever
// calls it again gets the same answer.
func (r *Registry) Close() error {
	r.end()
	<-r.done
	return r.closeErr
}

// Lookup finds the record of an id without looking at the disk. An id that was given up is not found.
func (r *Registry) Lookup(id secrez.ID) (Record, bool) {
	e := r.dir.identified(id)
	if e == nil || e.retired {
		return Record{}, false
	}
	return e.record(), true
}

// LookupKey finds the record of a key without looking at the disk.
func (r *Registry) LookupKey(key keys.PublicKey) (Record, bool) {
	e := r.dir.keyed(key.Array())
	if e == nil {
		return Record{}, false
	}
	return e.record(), true
}

// Heir finds the record of the key for which another was given up, over any number of such changes, without looking at the
// disk.
func (r *Registry) Heir(key keys.PublicKey) (Record, bool) {
	if !r.dir.givenUp(key.Array()) {
		return Record{}, false
	}
	e := r.dir.heir(key.Array())
	if e == nil {
		return Record{}, false
	}
	return e.record(), true
}

// Ancestors lists the keys that were given up for one, the latest first.
func (r *Registry) Ancestors(key keys.PublicKey) []keys.PublicKey {
	var all []keys.PublicKey
	for _, old := range r.dir.ancestors(key.Array()) {
		k, _ := keys.NewPublicKey(old[:]) // it has the length
		all = append(all, k)
	}
	return all
}

// Retired reports whether an id was somebody's who has given it up. Nobody gets it again.
func (r *Registry) Retired(id secrez.ID) bool {
	e := r.dir.identified(id)
	return e != nil && e.retired
}

// Count tells how many keys have an id.
func (r *Registry) Count() int {
	live, _, _ := r.dir.counts()
	return live
}

// All goes through the records that there are when it is called, oldest first.
func (r *Registry) All() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		for _, e := range r.dir.all() {
			if !yield(e.record()) {
				return
			}
		}
	}
}

// Status is how the registry is doing.
type Status struct {
	Records int    // keys with an id
	Retired int    // ids that were given up
	Writes  uint64 // where the log ends; each write holds one or more registrations

	// Failures is how often writing has failed since Open, so that the engine had to be replaced.
	Failures uint64

	// Free is how many bytes may be written to the disk, or -1 if the system does not tell.
	Free int64

	// Cluster is how the other nodes are doing. Nil: there are none.
	Cluster *ClusterStatus

	// Err is why nothing can be written for now, or nil. It is ErrUnavailable, ErrDamaged or ErrClosed.
	Err error
}

// Status tells how the registry is doing, without waiting for anything.
func (r *Registry) Status() Status {
	live, ids, applied := r.dir.counts()
	s := Status{Records: live, Retired: ids - live, Writes: applied, Free: -1, Err: r.writable()}
	if free, known := freeBytes(r.cfg.Dir); known {
		s.Free = free
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Failures = r.failed
	if r.cfg.Cluster != nil {
		seen := r.cluster
		seen.Replicas = slices.Clone(seen.Replicas)
		s.Cluster = &seen
	}
	return s
}

// Receipt gives what a courier should keep: the hub's word for its id.
func (r *Registry) Receipt(rec Record) claim.Receipt {
	return claim.Receipt{Key: rec.Key, ID: rec.ID, Sequence: rec.Sequence, Time: rec.Since}.Sign(r.cfg.Identity)
}

// Evidence reads from the disk why the registry holds the record of an id. Its error is ErrNotFound for an id that nobody
// has.
func (r *Registry) Evidence(ctx context.Context, id secrez.ID) (Evidence, error) {
	d, err := r.deed(ctx, id)
	if err != nil {
		return Evidence{}, err
	}
	return d.evidence, nil
}

// Verify reads the record of an id from the disk and checks that its owner signed it, and that it is the one in memory. Its
// error is ErrNotFound, ErrEvidence, or why the disk could not be read.
func (r *Registry) Verify(ctx context.Context, id secrez.ID) error {
	d, err := r.deed(ctx, id)
	if err != nil {
		return err
	}
	return d.verify(r.cfg.Identity.Public())
}

func (r *Registry) deed(ctx context.Context, id secrez.ID) (*deed, error) {
	e := r.dir.identified(id)
	if e == nil || e.retired {
		return nil, ErrNotFound
	}
	n, err := r.engine()
	if err != nil {
		return nil, err
	}
	b, err := n.readLog(ctx, e.message)
	if err != nil {
		return nil, err
	}
	_, deeds, err := parseGroup(b)
	if err != nil || int(e.index) >= len(deeds) {
		return nil, fmt.Errorf("%w: write %d cannot be read%s", ErrDamaged, e.message, wayOut)
	}
	d := &deeds[e.index]
	if d.key != e.key || d.id != e.id || d.sequence != e.sequence {
		return nil, fmt.Errorf("%w: write %d is not what was read before%s", ErrDamaged, e.message, wayOut)
	}
	return d, nil
}

func (r *Registry) nowMilli() int64 { return r.cfg.Now().UnixMilli() }
