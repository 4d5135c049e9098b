package mailbox

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/internal/pause"
	"github.com/secretstack/secretstack/keys"
)

const (
	// shards is how many queues mail is spread over. It must not change: who looks for mail looks into one.
	shards = 4

	mailQueue     = "mail-" // and the number of the shard
	requestQueue  = "requests"
	policyBucket  = "mailboxes"
	recountPause  = time.Second // between two attempts to count what there is
	mostRecounts  = 5           // how often it is counted at most because something was entered meanwhile
	sweepEvery    = time.Minute
	sweepAtMost   = 4096 // messages of a queue in one sweep; another one follows at once
	recipientSize = keys.PublicKeySize
)

// kind says in which part of a mailbox an envelope lies.
type kind uint8

const (
	mail    kind = iota // of those who are allowed
	request             // of strangers
	kinds
)

// Mailboxes are those of a hub. All methods may be called concurrently.
type Mailboxes struct {
	cfg      Config
	limits   Limits
	policies *registry.Bucket
	queues   [shards + 1]*registry.Queue // the last has the requests
	places   [kinds]chan struct{}        // of those that write
	tagKey   [sha256.Size]byte
	ids      cipher.Block
	shared   bool   // other nodes have the same mailboxes
	node     string // names this process among them

	life  context.Context // ends when Close is called
	end   context.CancelFunc
	jobs  sync.WaitGroup
	check chan struct{} // what there is must be counted; holds one

	mu     sync.Mutex
	closed bool                         // guarded by mu
	doubt  bool                         // guarded by mu: accounts may be wrong; nothing is changed until they are right
	busy   int                          // guarded by mu: calls that may change what is stored
	quiet  chan struct{}                // guarded by mu: closed when busy is zero next; nil: nobody waits for that
	books  books                        // guarded by mu
	bells  map[[recipientSize]byte]bell // guarded by mu: of those who wait for something to come
	stats  Stats                        // guarded by mu, without what books tell
}

// Open opens the mailboxes, and counts what is in them. Its error is ErrUnavailable, or that of ctx.
func Open(ctx context.Context, cfg Config) (*Mailboxes, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Mailboxes{
		cfg: cfg, limits: cfg.Limits, check: make(chan struct{}, 1), books: newBooks(), bells: map[[recipientSize]byte]bell{},
		shared: cfg.Registry.Status().Cluster != nil, node: rand.Text(),
	}
	m.places[mail] = make(chan struct{}, cfg.Limits.MaxWriting)
	m.places[request] = make(chan struct{}, cfg.Limits.MaxWritingRequests)
	m.tagKey = m.derive("mailbox tags")
	idKey := m.derive("mailbox ids")
	if m.ids, err = aes.NewCipher(idKey[:aes.BlockSize]); err != nil {
		return nil, err
	}
	if err := m.open(ctx); err != nil {
		return nil, m.unavailable(err)
	}
	m.life, m.end = context.WithCancel(context.Background())
	m.jobs.Go(m.recount)
	m.jobs.Go(m.sweep)
	if m.shared {
		m.jobs.Go(m.follow)
	}
	return m, nil
}

// derive makes a key for one purpose.
func (m *Mailboxes) derive(purpose string) (key [sha256.Size]byte) {
	h := hmac.New(sha256.New, m.cfg.Secret[:])
	h.Write([]byte("secretstack " + purpose))
	copy(key[:], h.Sum(nil))
	return key
}

func (m *Mailboxes) open(ctx context.Context) (err error) {
	if m.policies, err = m.cfg.Registry.Bucket(ctx, policyBucket); err != nil {
		return err
	}
	for i := range m.queues {
		name := requestQueue
		if i < shards {
			name = fmt.Sprint(mailQueue, i)
		}
		if m.queues[i], err = m.cfg.Registry.Queue(ctx, name); err != nil {
			return err
		}
	}
	m.books, err = m.count(ctx)
	return err
}

// queueOf tells in which queue a part of a mailbox is.
func queueOf(recipient keys.PublicKey, k kind) int {
	if k == request {
		return shards
	}
	key := recipient.Array()
	return int(key[recipientSize-2]) % shards // the last bit of the last byte is a sign
}

// kindOf is the kind of what is in a queue.
func kindOf(queue int) kind {
	if queue == shards {
		return request
	}
	return mail
}

// Close ends everything that runs, and waits for it. The registry stays open. It may be called again.
func (m *Mailboxes) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.end()
	m.jobs.Wait()
	<-m.stillness()
	return nil
}

// enter begins something that may change what is stored. Its error is ErrUnavailable or ErrClosed.
func (m *Mailboxes) enter() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return ErrClosed
	case m.doubt:
		return fmt.Errorf("%w: what is stored has to be counted first", ErrUnavailable)
	}
	m.busy++
	return nil
}

// leave ends it. After an error it is not known what is stored, unless nothing was tried.
func (m *Mailboxes) leave(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.busy--
	if m.busy == 0 && m.quiet != nil {
		close(m.quiet)
		m.quiet = nil
	}
	if err == nil || errors.Is(err, registry.ErrUntried) || errors.Is(err, registry.ErrClosed) {
		return
	}
	m.doubt = true
	select {
	case m.check <- struct{}{}:
	default:
	}
}

// stillness returns a channel that is closed as soon as nothing is being changed. What begins after doubt or the end was
// declared does not prolong that.
func (m *Mailboxes) stillness() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.busy > 0 {
		if m.quiet == nil {
			m.quiet = make(chan struct{})
		}
		return m.quiet
	}
	still := make(chan struct{})
	close(still)
	return still
}

// recount makes the books right again whenever they may be wrong.
func (m *Mailboxes) recount() {
	for {
		select {
		case <-m.check:
		case <-m.life.Done():
			return
		}
		<-m.stillness() // writes are bounded
		m.countAnew()
	}
}

// countAnew counts as soon as that is possible. What is entered meanwhile may be missing afterwards, or be there twice: then it is
// counted again, a few times.
func (m *Mailboxes) countAnew() {
	for range mostRecounts {
		counted, sure := m.counted()
		for ; !counted; counted, sure = m.counted() {
			if !pause.Sleep(m.life, recountPause) {
				return
			}
		}
		if sure || !pause.Sleep(m.life, recountPause) {
			return
		}
	}
}

// counted counts once, and reports whether that was possible, and whether nothing was entered meanwhile.
func (m *Mailboxes) counted() (counted, sure bool) {
	m.mu.Lock()
	turns := m.books.turns
	m.mu.Unlock()
	b, err := m.count(m.life)
	if err != nil {
		if m.life.Err() == nil {
			m.cfg.Logger.Warn("mailbox: what is stored cannot be counted yet", "err", err)
		}
		return false, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	sure = m.books.turns == turns
	m.books, m.doubt = b, false
	return true, sure
}

// count goes through everything that is stored.
func (m *Mailboxes) count(ctx context.Context) (books, error) {
	b := newBooks()
	for i, q := range m.queues {
		for x, err := range q.Extents(ctx) {
			if err != nil {
				return b, err
			}
			recipient, ok := parseBox(x.Box)
			if !ok {
				continue // nobody will ask for it; it expires
			}
			b.add(recipient.Array(), kindOf(i), parseLabel(x.Label), x.Size-messageHead)
		}
	}
	return b, nil
}

// unavailable says of an error of the registry what it means here.
func (m *Mailboxes) unavailable(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, registry.ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
