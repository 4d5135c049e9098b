package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	maxBucketName = 32
	maxKey        = 256

	// deletionKept is how long a bucket remembers that a key was deleted.
	deletionKept = time.Hour
)

// Bucket is a small durable map from texts to values, for a hub's lists. It lives on the same engine as the records: what
// Put and its kind return is on disk, and a backup has it. Its methods may be called concurrently.
//
// A bucket goes on working when a failed engine has been replaced. In between, its methods fail with ErrUnavailable.
type Bucket struct {
	r    *Registry
	name string
	life time.Duration // of a key; 0: for ever
}

// Item is a key of a bucket with its value.
type Item struct {
	Key      string
	Value    []byte
	Revision uint64 // grows with every write to the bucket
}

// Change is one thing that Watch reports.
type Change struct {
	Item

	// Deleted says that the key is gone. Value is nil then.
	Deleted bool

	// Loaded says that everything that was in the bucket at the start has been reported. The rest of the change is empty.
	Loaded bool
}

// Bucket opens the bucket of a name, or makes it: 1 to 32 of a to z, 0 to 9, "-" and "_". Its error is ErrName,
// ErrUnavailable or ErrClosed.
func (r *Registry) Bucket(ctx context.Context, name string) (*Bucket, error) {
	return r.bucket(ctx, name, 0)
}

// TemporaryBucket is a Bucket that forgets each key by itself, some time after it was written. Nobody who watches is told.
func (r *Registry) TemporaryBucket(ctx context.Context, name string, life time.Duration) (*Bucket, error) {
	return r.bucket(ctx, name, life)
}

func (r *Registry) bucket(ctx context.Context, name string, life time.Duration) (*Bucket, error) {
	if len(name) == 0 || len(name) > maxBucketName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, fmt.Errorf("%w: bucket %q", ErrName, name)
	}
	b := &Bucket{r: r, name: name, life: life}
	err := b.do(ctx, "open", func(ctx context.Context, e *engine) error {
		_, err := e.js.KeyValue(ctx, name)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		err = b.make(ctx)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Bucket) make(ctx context.Context) error {
	if err := b.r.writable(); err != nil {
		return err
	}
	return b.do(ctx, "make", func(ctx context.Context, e *engine) error {
		cfg := jetstream.KeyValueConfig{
			Bucket:       b.name,
			History:      1,
			MaxValueSize: maxValue,
			Storage:      jetstream.FileStorage,
			Replicas:     e.replicas,
			TTL:          b.life,
		}
		if b.life == 0 {
			cfg.LimitMarkerTTL = deletionKept
		}
		_, err := e.js.CreateOrUpdateKeyValue(ctx, cfg)
		if err == nil {
			err = e.syncFolders()
		}
		return err
	})
}

// Get reads a value. Its error is ErrNotFound, ErrName, ErrUnavailable or ErrClosed.
func (b *Bucket) Get(ctx context.Context, key string) (Item, error) {
	var item Item
	err := b.key(ctx, "read", key, func(ctx context.Context, kv jetstream.KeyValue, encoded string) error {
		entry, err := kv.Get(ctx, encoded)
		if err != nil {
			return err
		}
		item = Item{Key: key, Value: entry.Value(), Revision: entry.Revision()}
		return nil
	})
	return item, err
}

// Put writes a value, whatever was there, and gives its revision. Its error is ErrName, ErrUnavailable or ErrClosed.
func (b *Bucket) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.write(ctx, key, value, func(ctx context.Context, kv jetstream.KeyValue, encoded string) (uint64, error) {
		return kv.Put(ctx, encoded, value)
	})
}

// Create writes a value if the key is not there, and gives its revision. Its error is that of Put, or ErrExists.
func (b *Bucket) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return b.write(ctx, key, value, func(ctx context.Context, kv jetstream.KeyValue, encoded string) (uint64, error) {
		revision, err := kv.Create(ctx, encoded, value)
		if errors.Is(err, jetstream.ErrKeyExists) {
			err = ErrExists
		}
		return revision, err
	})
}

// Update writes a value if the key still has the revision, and gives the new one. Its error is that of Put, or ErrConflict.
func (b *Bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return b.write(ctx, key, value, func(ctx context.Context, kv jetstream.KeyValue, encoded string) (uint64, error) {
		revision, err := kv.Update(ctx, encoded, value, revision)
		if isWrongSequence(err) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			err = ErrConflict
		}
		return revision, err
	})
}

// Delete removes a key. That there is none is no error. Its error is ErrName, ErrUnavailable or ErrClosed.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := b.r.writable(); err != nil {
		return err
	}
	return b.key(ctx, "delete", key, func(ctx context.Context, kv jetstream.KeyValue, encoded string) error {
		if _, err := kv.Get(ctx, encoded); errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil // nothing to leave a mark of
		}
		return kv.Purge(ctx, encoded, b.marked()...)
	})
}

// DeleteIf removes a key if it still has the revision. Its error is that of Delete, or ErrConflict.
func (b *Bucket) DeleteIf(ctx context.Context, key string, revision uint64) error {
	if revision == 0 {
		return ErrConflict // the engine would take it for "any"
	}
	if err := b.r.writable(); err != nil {
		return err
	}
	return b.key(ctx, "delete", key, func(ctx context.Context, kv jetstream.KeyValue, encoded string) error {
		err := kv.Purge(ctx, encoded, append(b.marked(), jetstream.LastRevision(revision))...)
		if isWrongSequence(err) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			err = ErrConflict
		}
		return err
	})
}

// marked says for how long the mark of a deletion is kept. In a temporary bucket it goes with the time of everything.
func (b *Bucket) marked() []jetstream.KVDeleteOpt {
	if b.life > 0 {
		return nil
	}
	return []jetstream.KVDeleteOpt{jetstream.PurgeTTL(deletionKept)}
}

// All goes through the keys that there are, in no order. An error ends it.
func (b *Bucket) All(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for change, err := range b.Watch(ctx) {
			if err != nil {
				yield(Item{}, err)
				return
			}
			if change.Loaded || !change.Deleted && !yield(change.Item, nil) {
				return
			}
		}
	}
}

// Watch reports every key with its value, then that this is all (Change.Loaded), then every change as it happens, until the
// loop is left or ctx ends. It gets over a replaced engine, and reports then what changed in between. It ends with an error:
// that of ctx, or ErrClosed.
func (b *Bucket) Watch(ctx context.Context) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		w := watch{bucket: b, yield: yield, known: map[string]uint64{}}
		if err := w.run(ctx); !errors.Is(err, errLeft) {
			yield(Change{}, err)
		}
	}
}

// key runs something with one key of the bucket.
func (b *Bucket) key(ctx context.Context, what, key string, fn func(context.Context, jetstream.KeyValue, string) error) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("%w: a key has 1 to %d bytes", ErrName, maxKey)
	}
	return b.do(ctx, what, func(ctx context.Context, e *engine) error {
		kv, err := e.js.KeyValue(ctx, b.name)
		if err != nil {
			return err
		}
		return fn(ctx, kv, encodeKey(key))
	})
}

func (b *Bucket) write(ctx context.Context, key string, value []byte,
	fn func(context.Context, jetstream.KeyValue, string) (uint64, error),
) (revision uint64, err error) {
	if limit := b.r.cfg.Limits.MaxValue; len(value) > limit {
		return 0, fmt.Errorf("%w: a value has at most %d bytes", ErrName, limit)
	}
	if err := b.r.writable(); err != nil {
		return 0, err
	}
	err = b.key(ctx, "write", key, func(ctx context.Context, kv jetstream.KeyValue, encoded string) error {
		revision, err = fn(ctx, kv, encoded)
		return err
	})
	return revision, err
}

// do runs one request about the bucket.
func (b *Bucket) do(ctx context.Context, what string, fn func(context.Context, *engine) error) error {
	return b.r.request(ctx, what+" in bucket "+b.name, func(ctx context.Context, n *run) error { return fn(ctx, n.engine) })
}

// The engine allows few characters in a key. All others, and the "=" that begins an escape, are written "=xx".

func encodeKey(key string) string {
	var out strings.Builder
	for i := range len(key) {
		if c := key[i]; isPlain(c) {
			out.WriteByte(c)
		} else {
			out.WriteByte('=')
			out.WriteString(hex.EncodeToString([]byte{c}))
		}
	}
	return out.String()
}

func decodeKey(encoded string) (string, bool) {
	var out strings.Builder
	for i := 0; i < len(encoded); i++ {
		c := encoded[i]
		if c != '=' {
			out.WriteByte(c)
			continue
		}
		if i+2 >= len(encoded) {
			return "", false
		}
		b, err := hex.DecodeString(encoded[i+1 : i+3])
		if err != nil {
			return "", false
		}
		out.WriteByte(b[0])
		i += 2
	}
	return out.String(), true
}

func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

var (
	errLeft  = errors.New("the loop was left")
	errLapse = errors.New("the engine is gone")
)

// A watch is one Bucket.Watch. It belongs to the goroutine of the loop.
type watch struct {
	bucket *Bucket
	yield  func(Change, error) bool
	known  map[string]uint64 // keys that have been reported, with their revisions
	loaded bool
}

// run watches one engine after another.
func (w *watch) run(ctx context.Context) error {
	for {
		n, changed := w.bucket.r.current()
		var pause <-chan time.Time
		if n != nil {
			if err := w.one(ctx, n, changed); !errors.Is(err, errLapse) {
				return err
			}
			pause = time.After(readPause) // the watch may have ended without the engine
		}
		select {
		case <-changed:
		case <-pause:
		case <-w.bucket.r.life.Done():
		case <-ctx.Done():
		}
		if err := w.over(ctx); err != nil {
			return err
		}
	}
}

func (w *watch) over(ctx context.Context) error {
	if w.bucket.r.life.Err() != nil {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return fmt.Errorf("registry: watch bucket %s: %w", w.bucket.name, context.Cause(ctx))
	}
	return nil
}

// one watches one engine, and reports what is new in it.
func (w *watch) one(ctx context.Context, n *run, changed <-chan struct{}) error {
	end, err := n.lastOf(ctx, bucketPrefix+w.bucket.name)
	if err != nil {
		return errLapse
	}
	kv, err := n.js.KeyValue(ctx, w.bucket.name)
	if err != nil {
		return errLapse
	}
	watcher, err := kv.WatchAll(ctx)
	if err != nil {
		return errLapse
	}
	defer func() { _ = watcher.Stop() }()
	seen := map[string]bool{} // nil as soon as everything has been seen
	waiting := true           // for the engine to say that this is all it has
	var top uint64
	for {
		select {
		case entry, ok := <-watcher.Updates():
			if !ok {
				return errLapse
			}
			if entry == nil {
				waiting = false
			} else if err := w.report(entry, seen); err != nil {
				return err
			} else {
				top = max(top, entry.Revision())
			}
			if waiting || seen == nil {
				continue
			}
			// Of a cluster's nodes, this may be all that one has, which does not have yet what others have acknowledged.
			if more, err := n.hasAfter(ctx, bucketPrefix+w.bucket.name, top, end); err != nil {
				return errLapse
			} else if more {
				continue
			}
			if err := w.load(ctx, kv, seen); err != nil {
				return err
			}
			seen = nil
		case <-changed:
			return errLapse
		case <-w.bucket.r.life.Done():
			return ErrClosed
		case <-ctx.Done():
			return w.over(ctx)
		}
	}
}

// report reports one entry of the engine, unless that is known.
func (w *watch) report(entry jetstream.KeyValueEntry, seen map[string]bool) error {
	key, ok := decodeKey(entry.Key())
	if !ok {
		return nil
	}
	deleted := entry.Operation() != jetstream.KeyValuePut
	if seen != nil {
		seen[key] = !deleted
	}
	if deleted {
		return w.gone(key, entry.Revision())
	}
	if w.known[key] == entry.Revision() {
		return nil
	}
	w.known[key] = entry.Revision()
	return w.tell(Change{Item: Item{Key: key, Value: entry.Value(), Revision: entry.Revision()}})
}

func (w *watch) gone(key string, revision uint64) error {
	if _, reported := w.known[key]; !reported {
		return nil
	}
	delete(w.known, key)
	return w.tell(Change{Item: Item{Key: key, Revision: revision}, Deleted: true})
}

// load ends the reading of what is there. What had been reported from an earlier engine and is not there was deleted, unless
// it was written anew meanwhile: then it follows as a change.
func (w *watch) load(ctx context.Context, kv jetstream.KeyValue, seen map[string]bool) error {
	for key := range w.known {
		if seen[key] {
			continue
		}
		_, err := kv.Get(ctx, encodeKey(key))
		if err == nil {
			continue
		}
		if !errors.Is(err, jetstream.ErrKeyNotFound) {
			return errLapse
		}
		if err := w.gone(key, 0); err != nil {
			return err
		}
	}
	if w.loaded {
		return nil
	}
	w.loaded = true
	return w.tell(Change{Loaded: true})
}

func (w *watch) tell(c Change) error {
	if !w.yield(c, nil) {
		return errLeft
	}
	return nil
}
