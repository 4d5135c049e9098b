package registry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	queuePrefix   = "QUEUE_" // with which the engine's names for queues begin
	queueSubjects = "queue." // and their subjects: queue.<name>.<box>.<label>

	maxWord = 64 // of a box or a label

	// MaxMessage is the most bytes of a message in a [Queue].
	MaxMessage = 1 << 20
)

// Queue is a durable sequence of messages on the same engine as the records: what Append returns is on disk, and a backup
// has it. Each message lies in a box, under a label. Boxes cost nothing but their names, and each is read without looking at
// others. Deleted messages give their room on the disk back, at the latest when half of the file that they are
// in is free; files have 8 MiB. The methods of a queue may be called concurrently.
//
// A queue goes on working when a failed engine has been replaced. In between, its methods fail with [ErrUnavailable].
// Without [ErrUntried], what was to be written may be written nonetheless.
type Queue struct {
	r      *Registry
	name   string
	opened atomic.Pointer[openedQueue]
}

// An openedQueue is a queue on one engine.
type openedQueue struct {
	run    *run
	stream jetstream.Stream
}

// Message is a message of a queue.
type Message struct {
	Box, Label string
	Data       []byte
	// Sequence grows with every message of the queue. It is another one after a restored backup.
	Sequence uint64
}

// Extent is how large a message of a queue is.
type Extent struct {
	Box, Label string
	Size       int // bytes of its data
}

// Queue opens the queue of a name, or makes it: names are those of buckets. Its error is ErrName, ErrUnavailable or
// ErrClosed.
func (r *Registry) Queue(ctx context.Context, name string) (*Queue, error) {
	if len(name) == 0 || len(name) > maxBucketName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, fmt.Errorf("%w: queue %q", ErrName, name)
	}
	q := &Queue{r: r, name: name}
	err := q.do(ctx, "open", func(context.Context, jetstream.Stream) error { return nil })
	if errors.Is(err, ErrNotFound) {
		err = q.make(ctx)
	}
	if err != nil {
		return nil, err
	}
	return q, nil
}

func (q *Queue) make(ctx context.Context) error {
	if err := q.r.writable(); err != nil {
		return err
	}
	return q.r.request(ctx, "make queue "+q.name, func(ctx context.Context, n *run) error {
		_, err := n.js.CreateStream(ctx, jetstream.StreamConfig{
			Name:              queuePrefix + q.name,
			Subjects:          []string{queueSubjects + q.name + ".*.*"},
			Storage:           jetstream.FileStorage,
			Discard:           jetstream.DiscardNew,
			MaxMsgs:           -1,
			MaxBytes:          -1,
			MaxMsgsPerSubject: -1,
			Replicas:          n.replicas,
			AllowDirect:       readsDirectly(n.replicas),
			Duplicates:        time.Second, // nothing is looked for; this keeps no table
		})
		if err == nil {
			err = n.syncFolders()
		}
		return err
	})
}

// readsDirectly reports whether a queue is read from any node that holds it: others may be behind the one that writes.
func readsDirectly(replicas int) bool { return replicas == 1 }

// Append writes a message, and gives its sequence when it is on disk. A box and a label have 1 to 64 of A to Z, a to z, 0
// to 9, "-" and "_". Its error is ErrName, ErrUnavailable or ErrClosed.
func (q *Queue) Append(ctx context.Context, box, label string, data []byte) (uint64, error) {
	if !isWord(box) || !isWord(label) || len(data) > MaxMessage {
		return 0, fmt.Errorf("%w: a message in queue %s", ErrName, q.name)
	}
	if err := q.untried(q.r.cfg.Limits.MinFree); err != nil {
		return 0, err
	}
	var sequence uint64
	err := q.r.request(ctx, "write to queue "+q.name, func(ctx context.Context, n *run) error {
		ack, err := n.js.Publish(ctx, q.subject(box, label), data,
			jetstream.WithExpectStream(queuePrefix+q.name), jetstream.WithRetryAttempts(0))
		if err == nil {
			sequence = ack.Sequence
		}
		return err
	})
	return sequence, err
}

// Next reads the first message of a box, or of all boxes if it is "", whose sequence is at least from. Its error is
// ErrNotFound if there is none, ErrName, ErrUnavailable or ErrClosed.
func (q *Queue) Next(ctx context.Context, box string, from uint64) (Message, error) {
	if box != "" && !isWord(box) {
		return Message{}, fmt.Errorf("%w: a box in queue %s", ErrName, q.name)
	}
	if box == "" {
		box = "*"
	}
	var m Message
	err := q.do(ctx, "read from", func(ctx context.Context, s jetstream.Stream) error {
		raw, err := s.GetMsg(ctx, max(from, 1), jetstream.WithGetMsgSubject(q.subject(box, "*")))
		if err != nil {
			return err
		}
		m = Message{Data: raw.Data, Sequence: raw.Sequence}
		m.Box, m.Label = q.place(raw.Subject)
		return nil
	})
	return m, err
}

// Delete removes a message, and reports whether it was there. Its error is ErrUnavailable or ErrClosed. A deletion that was
// reported holds when the process is killed; a power cut may undo it.
func (q *Queue) Delete(ctx context.Context, sequence uint64) (was bool, err error) {
	if err := q.untried(q.r.cfg.Limits.MinFree / 2); err != nil { // it makes room
		return false, err
	}
	err = q.do(ctx, "delete from", func(ctx context.Context, s jetstream.Stream) error {
		err := s.DeleteMsg(ctx, sequence)
		if err == nil {
			was = true
			return nil
		}
		if _, missing := s.GetMsg(ctx, sequence); errors.Is(missing, jetstream.ErrMsgNotFound) {
			return nil
		}
		return err
	})
	return was, err
}

// Extents goes through the messages that there are, in their order and without their data. An error ends it.
func (q *Queue) Extents(ctx context.Context) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		n, err := q.r.engine()
		if err == nil {
			err = n.walk(ctx, queuePrefix+q.name, true, func(m message) error {
				x := Extent{Size: sizeOf(m)}
				x.Box, x.Label = q.place(m.subject)
				if !yield(x, nil) {
					return errStopped
				}
				return nil
			})
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(Extent{}, err)
		}
	}
}

// errStopped says that whoever looks at messages has seen enough.
var errStopped = errors.New("seen enough")

// untried says why a write that must leave so many bytes free is not even tried, if so.
func (q *Queue) untried(least int64) error {
	err := q.r.roomFor(least)
	if errors.Is(err, ErrUnavailable) {
		err = fmt.Errorf("%w: %w", ErrUntried, err)
	}
	return err
}

// do runs one request about the queue.
func (q *Queue) do(ctx context.Context, what string, fn func(context.Context, jetstream.Stream) error) error {
	return q.r.request(ctx, what+" queue "+q.name, func(ctx context.Context, n *run) error {
		opened := q.opened.Load()
		if opened == nil || opened.run != n {
			s, err := n.js.Stream(ctx, queuePrefix+q.name)
			if err != nil {
				return err
			}
			opened = &openedQueue{n, s}
			q.opened.Store(opened)
		}
		return fn(ctx, opened.stream)
	})
}

func (q *Queue) subject(box, label string) string {
	return queueSubjects + q.name + "." + box + "." + label
}

// place takes a subject apart.
func (q *Queue) place(subject string) (box, label string) {
	box, label, _ = strings.Cut(strings.TrimPrefix(subject, queueSubjects+q.name+"."), ".")
	return box, label
}

func isWord(s string) bool {
	for i := range len(s) {
		if !isPlain(s[i]) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= maxWord
}

// sizeHeader is what the engine says about the data of a message that it hands out without.
const sizeHeader = "Nats-Msg-Size"

// sizeOf is the length of a message's data, also if it came without.
func sizeOf(m message) int {
	if values := m.header[sizeHeader]; len(values) == 1 {
		if n, err := strconv.Atoi(values[0]); err == nil {
			return n
		}
	}
	return len(m.data)
}
