package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/secrez"
)

// A ledger has everything that was asked of nodes, and what they have said to it.
type ledger struct {
	f     *farNodes
	nodes []*hubProcess // as they were at first: where they are does not change

	recipients []*keys.Identity
	senders    []*keys.Identity

	next atomic.Uint64 // number of the next envelope or the next key

	mu      sync.Mutex
	kept    [3]int                    // deposits that each node has acknowledged lately
	asked   map[uint64]*keys.Identity // keys that were registered, acknowledged or not
	letters map[uint64]*letter
}

// A letter is an envelope that was deposited, acknowledged or not.
type letter struct {
	to                   int // of recipients
	kept, removing, gone bool
}

// Numbers of identities. Those of newcomers are higher.
const (
	firstRecipient = 10_000
	firstSender    = 20_000
	firstAsked     = 100_000
)

// newLedger begins with recipients that have got their ids at a node.
func newLedger(f *farNodes, node int) *ledger {
	l := &ledger{f: f, nodes: slices.Clone(f.nodes), asked: map[uint64]*keys.Identity{}, letters: map[uint64]*letter{}}
	l.next.Store(firstAsked)
	for i := range f.nodes {
		l.senders = append(l.senders, someone(f.t, firstSender+i))
		l.recipients = append(l.recipients, someone(f.t, firstRecipient+i))
	}
	for _, to := range l.recipients {
		f.eventually("a recipient has an id", func() bool { return f.ask(node, to, 10*time.Second) })
		r := native.AllowRequest{}
		for _, from := range l.senders {
			r.Keys = append(r.Keys, from.Public())
		}
		c := l.client(to, node)
		f.eventually("a recipient has a mailbox", func() bool {
			_, err := tell[native.MailboxStatus](c, native.MethodAllow, r)
			return err == nil
		})
	}
	return l
}

// A client speaks with one node.
type client struct {
	app     *secretstack.App
	address string
}

func (l *ledger) client(id *keys.Identity, node int) *client {
	l.f.t.Helper()
	app, err := secretstack.New(secretstack.Options{}).Start(context.Background(), secretstack.Config{
		Identity: id, Host: "127.0.0.1", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		l.f.t.Fatal(err)
	}
	l.f.t.Cleanup(func() { _ = app.Close(canceled()) })
	return &client{app, l.nodes[node].address()}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// patience is how long a client waits for an answer while nodes come and go.
const patience = 3 * time.Second

// tell calls a method of a node.
func tell[R any](c *client, method string, arg any) (r R, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := c.app.Connect(ctx, c.address)
	if err != nil {
		return r, err
	}
	r, err = muxrpc.Call[R](ctx, p, method, arg)
	if ctx.Err() != nil {
		p.Abort(ctx.Err()) // the next call is to have a connection that works
	}
	return r, err
}

// pace is how long each client rests between two calls.
const pace = 50 * time.Millisecond

// work lets clients of all nodes deposit, fetch, remove and register until what it returns is called, which waits for them.
func (l *ledger) work() (stop func()) {
	over, end := context.WithCancel(context.Background())
	var all sync.WaitGroup
	again := func(do func()) {
		all.Go(func() {
			for over.Err() == nil {
				do()
				time.Sleep(pace)
			}
		})
	}
	for i := range l.nodes {
		for range 2 {
			from := l.client(l.senders[i], i)
			again(func() { l.deposit(from, i) })
			again(func() { l.register(i) })
		}
		to := l.client(l.recipients[i], i)
		again(func() { l.remove(to, i) })
	}
	return func() { end(); all.Wait() }
}

// deposit leaves an envelope for one recipient after the other.
func (l *ledger) deposit(from *client, node int) {
	n := l.next.Add(1)
	one := &letter{to: int(n) % len(l.recipients)}
	l.mu.Lock()
	l.letters[n] = one
	l.mu.Unlock()
	envelope := make([]byte, 1024)
	binary.BigEndian.PutUint64(envelope, n)
	_, err := tell[native.Deposited](from, native.MethodDeposit, native.DepositRequest{Recipient: l.recipients[one.to].Public(), Envelope: envelope})
	l.mu.Lock()
	if one.kept = err == nil; one.kept {
		l.kept[node]++
	}
	l.mu.Unlock()
}

// register gets an id for somebody new.
func (l *ledger) register(node int) {
	n := l.next.Add(1)
	id := someone(l.f.t, int(n))
	l.mu.Lock()
	l.asked[n] = id
	l.mu.Unlock()
	_ = l.f.askAt(l.nodes[node], id, patience)
}

// remove acknowledges the first third of what waits.
func (l *ledger) remove(c *client, recipient int) {
	waiting, err := l.waiting(c)
	if err != nil {
		return
	}
	for _, w := range waiting[:(len(waiting)+2)/3] {
		one := l.letter(w)
		if one == nil {
			continue
		}
		l.mu.Lock()
		one.removing = true
		l.mu.Unlock()
		if _, err := tell[muxrpc.None](c, native.MethodAcknowledge, native.AcknowledgeRequest{IDs: []string{w.ID}}); err != nil {
			return
		}
		l.mu.Lock()
		one.gone = true
		l.mu.Unlock()
	}
}

// waiting is what a node says that waits for a client.
func (l *ledger) waiting(c *client) (all []native.Waiting, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := c.app.Connect(ctx, c.address)
	if err != nil {
		return nil, err
	}
	for w, err := range muxrpc.Source[native.Waiting](ctx, p, native.MethodMailbox, native.MailboxRequest{}) {
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	return all, nil
}

// letter finds what was deposited.
func (l *ledger) letter(w native.Waiting) *letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(w.Envelope) != 1024 {
		return nil
	}
	return l.letters[binary.BigEndian.Uint64(w.Envelope)]
}

// balance sees that all nodes agree, and that everything that was acknowledged is so.
func (l *ledger) balance() {
	l.f.t.Helper()
	kept, gone, extra := 0, 0, 0
	for i, to := range l.recipients {
		there := l.agreed(i, to)
		for n, one := range l.letters {
			switch {
			case one.to != i:
				continue
			case there[n] > 1:
				l.f.t.Errorf("envelope %d is there %d times", n, there[n])
			case one.gone && there[n] > 0:
				l.f.t.Errorf("envelope %d was acknowledged, and is there", n)
			case one.kept && !one.removing && there[n] == 0:
				l.f.t.Errorf("envelope %d was kept, and is gone", n)
			case !one.kept && there[n] > 0:
				extra++
			}
			if one.gone {
				gone++
			} else if one.kept {
				kept++
			}
			delete(there, n)
		}
		for n := range there {
			l.f.t.Errorf("envelope %d is in another's mailbox", n)
		}
	}
	if kept == 0 || gone == 0 || len(l.f.given) == 0 {
		l.f.t.Errorf("nothing was shown: %d envelopes kept, %d acknowledged, %d ids", kept, gone, len(l.f.given))
	}
	l.f.t.Logf("%d envelopes were asked for: %d kept and %d acknowledged; %d are there of which nobody was told. Of %d keys %d were given ids",
		len(l.letters), kept, gone, extra, len(l.asked), len(l.f.given))
	l.owners()
}

// agreed counts what waits for a recipient, which must be the same at all nodes, and in the same order.
func (l *ledger) agreed(recipient int, id *keys.Identity) map[uint64]int {
	l.f.t.Helper()
	var views [3][]native.Waiting
	var clients [3]*client
	for i := range clients {
		clients[i] = l.client(id, i)
	}
	same := func(a, b native.Waiting) bool {
		return a.ID == b.ID && a.Time == b.Time && bytes.Equal(a.Envelope, b.Envelope)
	}
	l.f.eventually("nodes agree on a mailbox", func() bool {
		for i, c := range clients {
			var err error
			if views[i], err = l.waiting(c); err != nil {
				return false
			}
		}
		return slices.EqualFunc(views[0], views[1], same) && slices.EqualFunc(views[0], views[2], same)
	})
	there := map[uint64]int{}
	for _, w := range views[0] {
		if one := l.letter(w); one == nil || one.to != recipient {
			l.f.t.Errorf("recipient %d has an envelope that nobody has left", recipient)
			continue
		}
		there[binary.BigEndian.Uint64(w.Envelope)]++
	}
	return there
}

// owners sees that all nodes know the same id of each key, and that it is no other key's; also of those that were not acknowledged.
func (l *ledger) owners() {
	l.f.t.Helper()
	var clients [3]*client
	for i := range clients {
		clients[i] = l.client(someone(l.f.t, 1), i)
	}
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	idOf := map[string]secrez.ID{}
	for id, owner := range l.f.given {
		idOf[owner.Public().Ref()] = id
	}
	extra := 0
	for _, owner := range l.asked {
		var views [3]secrez.ID
		l.f.eventually("nodes agree on a key", func() bool {
			for i, c := range clients {
				who, err := tell[native.Who](c, native.MethodWhois, native.WhoisRequest{Key: owner.Public()})
				if err != nil && native.CodeOf(err) != native.Unknown {
					return false
				}
				views[i] = who.ID
			}
			return views[0] == views[1] && views[0] == views[2]
		})
		want, given := idOf[owner.Public().Ref()]
		switch {
		case given && views[0] != want:
			l.f.t.Errorf("the owner of %v has %v now", want, views[0])
		case views[0].IsZero():
			continue
		case !given:
			extra++
		}
		for i, c := range clients {
			who, err := tell[native.Who](c, native.MethodWhois, native.WhoisRequest{ID: views[0]})
			if err != nil || !who.Key.Equal(owner.Public()) {
				l.f.t.Errorf("node %d does not know that %v is the id of its owner: %v", i+1, views[0], err)
			}
		}
	}
	l.f.t.Logf("%d keys have ids that nobody was told", extra)
}

// rounds is how often each thing happens: SECRETSTACK_TEST_FAULTS, or once.
func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("SECRETSTACK_TEST_FAULTS")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatal("SECRETSTACK_TEST_FAULTS is a number of rounds")
	}
	return n
}

// dwell lets a fault last until the nodes that are left have acknowledged something, but not for as long as an election may take: what is
// half done when a node comes back is of interest as well.
func (l *ledger) dwell(nodes ...int) {
	for end := time.Now().Add(2 * time.Second); !l.advanced(20, nodes...) && time.Now().Before(end); {
		time.Sleep(pace)
	}
}

// advanced reports whether so many deposits were acknowledged by each of some nodes since it said so before.
func (l *ledger) advanced(by int, nodes ...int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range nodes {
		if l.kept[i] < by {
			return false
		}
	}
	clear(l.kept[:])
	return true
}

// TestNothingAcknowledgedIsLost has clients at all nodes deposit, fetch, acknowledge and register while one node is killed and starts
// again, one is cut off, and one is parted from the others; then it compares what every node knows with what was acknowledged.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	f := newFarNodes(t, acknowledged)
	f.configure("")
	f.begin()
	l := newLedger(f, 0)
	for round := range rounds(t) {
		stop := l.work()
		healthy := func() {
			f.eventually("all nodes acknowledge", func() bool { return l.advanced(20, 0, 1, 2) })
		}
		killed, cut, parted := round%3, (round+1)%3, (round+2)%3
		healthy()
		f.nodes[killed].signal(syscall.SIGKILL)
		l.dwell(cut, parted)
		f.start(killed)
		f.Cut(cut + 1)
		l.dwell(killed, parted)
		f.mend(cut)
		heal := f.part(parted)
		l.dwell(killed, cut)
		heal()
		healthy()
		stop()
		l.balance()
	}
}
