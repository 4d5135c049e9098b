// Package circuits is the hub's half of circuits: it gives two tokens to two keys that are to be joined, matches the
// connections that present them, joins these, and keeps count. It never sees what passes: see package circuit, and
// docs/PROTOCOL.md §12.
//
//	table := circuits.New(circuits.Config{})
//	defer table.Close(ctx)
//
//	offer, err := table.Offer(visitor, target) // a visitor has asked for a target, and both have proved their keys
//	// give offer.Visitor to the one and offer.Target to the other over their own connections
//
//	go table.Serve(conn) // for every connection that begins with a preamble
//
// A token is good once, for one side of one circuit, and for a short time. What cannot be joined is answered, for every
// end that still comes, with the reason. Who may be offered a circuit is for the caller to say; afterwards [Table.Cut]
// ends those that should not be any more.
package circuits

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/secretstack/secretstack/circuit"
	"github.com/secretstack/secretstack/keys"
)

var (
	// ErrFull says that the hub has as many circuits as it can have.
	ErrFull = errors.New("circuits: the hub has no room for another circuit")
	// ErrVisitorLimit says that the visitor has as many circuits as one key may have.
	ErrVisitorLimit = errors.New("circuits: too many circuits of this visitor")
	// ErrTargetLimit says the same of the target.
	ErrTargetLimit = errors.New("circuits: too many circuits to this target")
	// ErrClosed says that the table is closed. Circuits that it cut off end with it.
	ErrClosed = errors.New("circuits: closed")
	// ErrUnwelcome ends circuits that were cut by [Table.Cut].
	ErrUnwelcome = errors.New("circuits: an end is not welcome any more")
)

// Limits are the bounds of a table. The zero value of each field means its default.
type Limits struct {
	// Max is how many circuits there may be, pending ones included. Zero: 16384.
	Max int
	// MaxPending is how many of them may wait for their ends. Zero: 4096.
	MaxPending int
	// MaxPerVisitor is how many one key may have asked for, pending ones included. Zero: 1024.
	MaxPerVisitor int
	// MaxPerTarget is how many may lead to one key, pending ones included. Zero: 4096.
	MaxPerTarget int
	// MaxPendingPerKey is how many of one key, on either side, may wait for their ends. Zero: 128.
	MaxPendingPerKey int

	// Setup is how long both ends may take to come once they were offered a circuit. Zero: 15 s.
	Setup time.Duration
	// Preamble is how long a connection may take to present its token. Zero: 5 s.
	Preamble time.Duration
	// Idle is how long a circuit may be without a byte either way. Zero: [circuit.DefaultIdle]. Negative: for ever.
	Idle time.Duration
	// Vanished is after how long without a sign of life an end counts as gone. Zero: [circuit.DefaultVanished].
	Vanished time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.Max, 16384}, {&l.MaxPending, 4096}, {&l.MaxPerVisitor, 1024}, {&l.MaxPerTarget, 4096},
		{&l.MaxPendingPerKey, 128},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.Setup == 0 {
		l.Setup = 15 * time.Second
	}
	if l.Preamble == 0 {
		l.Preamble = 5 * time.Second
	}
	return l
}

// Config configures [New]. The zero value is fit for use.
type Config struct {
	Limits Limits
	// Proved is told of connections that have presented a good token, which count among circuits from then on. It must
	// not block. Nil: nobody is.
	Proved func(conn net.Conn)
	// Elsewhere is asked about a connection with a token that is not this table's, and reports whether it has taken it over; it
	// may return when it is done with it. Nil: such connections are turned away.
	Elsewhere func(conn net.Conn, token circuit.Token) bool
	// Joined is called when a circuit has been joined, and Ended when one is over, joined or not. They are called one after
	// the other for each circuit, and must not block for long. Nil: nobody is told.
	Joined, Ended func(c Circuit)
	// Logger gets, at the level of debugging, how circuits went. Nil: nothing is logged.
	Logger *slog.Logger
}

// Circuit is what the table knows of a circuit at a moment.
type Circuit struct {
	Visitor, Target keys.PublicKey
	// Offered, Joined and Ended say when these happened. Zero: not, or not yet.
	Offered, Joined, Ended time.Time
	// FromVisitor and FromTarget are how many bytes have come from either.
	FromVisitor, FromTarget uint64
	// InKernel says that both connections are TCP. The system then moves the bytes between them, where it can do that.
	InKernel bool
	// Err is why the circuit ended; nil when both ends had ended. It is an [*circuit.AnswerError] for one that was never
	// joined.
	Err error
}

// Stats counts what a table has done. The first two go up and down.
type Stats struct {
	Pending, Open int
	Offered       uint64 // circuits
	Joined        uint64 // circuits
	InKernel      uint64 // of these, between two TCP connections
	Failed        uint64 // circuits that were offered and never joined
	Limited       uint64 // circuits that were not offered because of a limit
	BadTokens     uint64 // connections whose token was unknown, or used
	BadPreambles  uint64 // connections that presented none
	Bytes         uint64 // from ends, of all circuits
}

// Table is the circuits of a hub. All its methods may be called concurrently.
type Table struct {
	cfg    Config
	limits Limits
	log    *slog.Logger
	pool   circuit.Pool
	wg     sync.WaitGroup // calls of Serve and everything else that Close waits for

	mu        sync.Mutex
	closed    bool                        // guarded by mu
	doors     map[circuit.TokenName]*door // guarded by mu: by token, as long as that can be presented
	pairs     map[*pair]struct{}          // guarded by mu: circuits that are not over
	pending   int                         // guarded by mu: of these, those that are not joined
	lingering int                         // guarded by mu: circuits that are over, and whose tokens still get an answer
	accounts  accounts                    // guarded by mu
	stats     Stats                       // guarded by mu, without what can be counted now
	arriving  map[net.Conn]struct{}       // guarded by mu: connections that have not presented a token yet
	idle      chan struct{}               // guarded by mu: closed when the last circuit is over; nil: nobody waits
}

// New returns a table without circuits.
func New(cfg Config) *Table {
	limits := cfg.Limits.withDefaults()
	t := &Table{
		cfg: cfg, limits: limits, log: cfg.Logger,
		doors: map[circuit.TokenName]*door{}, pairs: map[*pair]struct{}{}, arriving: map[net.Conn]struct{}{},
		accounts: accounts{},
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if t.cfg.Proved == nil {
		t.cfg.Proved = func(net.Conn) {}
	}
	return t
}

// Limits returns the bounds of the table, with the defaults put in.
func (t *Table) Limits() Limits { return t.limits }

// All goes through the circuits that there are when it is called, pending ones included.
func (t *Table) All() iter.Seq[Circuit] {
	t.mu.Lock()
	all := make([]Circuit, 0, len(t.pairs))
	for p := range t.pairs {
		all = append(all, p.view())
	}
	t.mu.Unlock()
	return func(yield func(Circuit) bool) {
		for _, c := range all {
			if !yield(c) {
				return
			}
		}
	}
}

// Stats returns what has been counted so far.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.Pending, s.Open = t.pending, len(t.pairs)-t.pending
	for p := range t.pairs {
		c := p.view()
		s.Bytes += c.FromVisitor + c.FromTarget
	}
	return s
}

// Cut ends the circuits for which match says so, and returns how many those are. match must not block.
func (t *Table) Cut(match func(visitor, target keys.PublicKey) bool) int {
	n := 0
	for _, p := range t.all() {
		if match(p.visitor.key, p.target.key) {
			n++
			t.cut(p, circuit.Unwelcome, ErrUnwelcome)
		}
	}
	return n
}

func (t *Table) all() []*pair {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*pair, 0, len(t.pairs))
	for p := range t.pairs {
		all = append(all, p)
	}
	return all
}

// cut ends a circuit, pending or joined.
func (t *Table) cut(p *pair, answer circuit.Answer, reason error) {
	t.mu.Lock()
	matched, link := p.matched, p.link
	if p.unwanted == nil {
		p.unwanted = reason
	}
	t.mu.Unlock()
	switch {
	case link != nil:
		link.Cut(reason)
	case !matched:
		t.fail(p, answer)
	}
}

// Close offers no more circuits, tells the ends that wait, and gives the circuits that are joined until ctx ends before it
// cuts them. It returns when all is over, and an error when something had to be cut. It may be called again: all wait
// for the same end, and the first context to end is the end of patience.
func (t *Table) Close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	if t.idle == nil {
		t.idle = make(chan struct{})
		t.signalIdle()
	}
	idle := t.idle
	for conn := range t.arriving {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	}
	t.mu.Unlock()
	for _, p := range t.all() {
		t.fail(p, circuit.Closing)
	}
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = t.cutAll()
	}
	t.wg.Wait()
	t.forget()
	_ = t.pool.Close()
	return err
}

func (t *Table) cutAll() error {
	all := t.all()
	for _, p := range all {
		t.cut(p, circuit.Closing, ErrClosed)
	}
	if len(all) == 0 {
		return nil
	}
	return ErrClosed
}

// forget lets go of what is kept for ends that come too late.
func (t *Table) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.doors {
		d.pair.timer.Stop()
	}
	clear(t.doors)
}

// signalIdle tells Close that nothing is left. The caller holds mu.
func (t *Table) signalIdle() {
	if t.idle == nil || len(t.pairs) > 0 {
		return
	}
	select {
	case <-t.idle:
	default:
		close(t.idle)
	}
}
