package mailbox

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/secretstack/secretstack/keys"
)

// friends allows senders of some names.
func friends(tb testing.TB, names ...string) Policy {
	p := Policy{Strangers: true}
	for _, name := range names {
		p.Keys = append(p.Keys, key(tb, name))
	}
	return p
}

func TestEveryLimitHasAnAnswer(t *testing.T) {
	type try struct {
		from, to string
		size     int
		want     error
	}
	repeat := func(n int, one try) []try {
		var all []try
		for range n {
			all = append(all, one)
		}
		return all
	}
	for what, c := range map[string]struct {
		limits Limits
		tries  []try
	}{
		"one sender's envelopes in one mailbox": {
			Limits{MaxPerSender: 2},
			append(repeat(2, try{"bob", "alice", 1024, nil}),
				try{"bob", "alice", 1024, ErrSenderFull}, try{"carol", "alice", 1024, nil}, try{"bob", "anna", 1024, nil}),
		},
		"one sender's bytes in one mailbox": {
			Limits{MaxBytesPerSender: 5 << 10},
			[]try{
				{"bob", "alice", 4 << 10, nil}, {"bob", "alice", 2 << 10, ErrSenderFull}, {"bob", "alice", 1 << 10, nil},
				{"bob", "alice", 1 << 10, ErrSenderFull}, {"carol", "alice", 4 << 10, nil}, {"bob", "anna", 4 << 10, nil},
			},
		},
		"one sender's envelopes in all mailboxes": {
			Limits{MaxSent: 2},
			[]try{
				{"bob", "alice", 1024, nil}, {"bob", "anna", 1024, nil}, {"bob", "amy", 1024, ErrSenderFull},
				{"carol", "amy", 1024, nil},
			},
		},
		"one sender's bytes in all mailboxes": {
			Limits{MaxSentBytes: 4 << 10},
			[]try{{"bob", "alice", 4096, nil}, {"bob", "anna", 1024, ErrSenderFull}, {"carol", "anna", 1024, nil}},
		},
		"a mailbox's envelopes": {
			Limits{MaxMessages: 2},
			[]try{
				{"bob", "alice", 1024, nil}, {"carol", "alice", 1024, nil}, {"bob", "alice", 1024, ErrMailboxFull},
				{"eve", "alice", 1024, nil}, {"bob", "anna", 1024, nil},
			},
		},
		"a mailbox's bytes": {
			Limits{MaxBytes: 4 << 10},
			[]try{{"bob", "alice", 4096, nil}, {"carol", "alice", 1024, ErrMailboxFull}, {"eve", "alice", 1024, nil}},
		},
		"a stranger's requests": {
			Limits{},
			append(repeat(2, try{"eve", "alice", 1024, nil}), try{"eve", "alice", 1024, ErrSenderFull},
				try{"mallory", "alice", 1024, nil}, try{"eve", "anna", 1024, nil}),
		},
		"a stranger's envelope": {
			Limits{},
			[]try{{"eve", "alice", 32 << 10, ErrSize}, {"eve", "alice", 16 << 10, nil}, {"bob", "alice", 256 << 10, nil}},
		},
		"a stranger's requests in all boxes": {
			Limits{MaxRequestsSent: 2},
			[]try{{"eve", "alice", 1024, nil}, {"eve", "anna", 1024, nil}, {"eve", "amy", 1024, ErrSenderFull}},
		},
		"a request box": {
			Limits{MaxRequests: 2},
			[]try{
				{"eve", "alice", 1024, nil}, {"mallory", "alice", 1024, nil}, {"trudy", "alice", 1024, ErrMailboxFull},
				{"bob", "alice", 1024, nil}, {"trudy", "anna", 1024, nil},
			},
		},
		"a request box's bytes": {
			Limits{MaxRequestBytes: 4096},
			[]try{{"eve", "alice", 4096, nil}, {"mallory", "alice", 1024, ErrMailboxFull}, {"bob", "alice", 1024, nil}},
		},
		"all request boxes": {
			Limits{MaxTotalRequests: 2},
			[]try{
				{"eve", "alice", 1024, nil}, {"mallory", "anna", 1024, nil}, {"trudy", "amy", 1024, ErrHubFull},
				{"bob", "amy", 1024, nil},
			},
		},
		"all mailboxes": {
			Limits{MaxTotalBytes: 4096},
			[]try{{"bob", "alice", 4096, nil}, {"bob", "anna", 1024, ErrHubFull}, {"eve", "anna", 1024, nil}},
		},
		// Alice lets her mail pile up. The last quarter is for those who do not.
		"the last quarter": {
			Limits{MaxTotalBytes: 8 << 10, SmallBytes: 2 << 10},
			append(repeat(6, try{"bob", "alice", 1024, nil}),
				try{"bob", "alice", 1024, ErrHubFull}, try{"bob", "anna", 1024, nil}, try{"bob", "anna", 1024, nil},
				try{"bob", "anna", 1024, ErrHubFull}, try{"bob", "amy", 1024, ErrHubFull}),
		},
	} {
		t.Run(what, func(t *testing.T) {
			m := opened(t, c.limits)
			for _, name := range []string{"alice", "anna", "amy"} {
				allow(t, m, key(t, name), friends(t, "bob", "carol"))
			}
			for i, one := range c.tries {
				d := Deposit{Sender: key(t, one.from), Recipient: key(t, one.to), Envelope: envelope(uint64(i), one.size)}
				if _, err := m.Deposit(t.Context(), d); !errors.Is(err, one.want) {
					t.Errorf("%d: from %s to %s: %v, want %v", i, one.from, one.to, err, one.want)
				}
			}
			balanced(t, m)
		})
	}
}

// What is fetched, and what has expired, makes room: for the sender, the mailbox and the hub.
func TestWhatIsAcknowledgedMakesRoom(t *testing.T) {
	m := opened(t, Limits{MaxPerSender: 2, MaxSent: 2, MaxMessages: 2, MaxTotal: 2, SmallMessages: 2})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, friends(t, "bob"))
	for n := range uint64(10) {
		deposit(t, m, bob, alice, n, 1024)
		if n == 0 {
			continue
		}
		_, err := m.Deposit(t.Context(), Deposit{Sender: bob, Recipient: alice, Envelope: envelope(99, 1024)})
		if !errors.Is(err, ErrSenderFull) {
			t.Fatalf("got %v", err)
		}
		acknowledge(t, m, alice, waiting(t, m, alice)[0])
	}
	if got := numbers(waiting(t, m, alice)); got != "[9]" {
		t.Errorf("got %s", got)
	}
	balanced(t, m)
}

// Everybody deposits, reads and acknowledges at once. No limit is passed, no envelope is lost, and the books stay right.
func TestManyAtOnceKeepWithinTheLimits(t *testing.T) {
	m := opened(t, Limits{MaxMessages: 50, MaxPerSender: 10, MaxRequests: 5, MaxWriting: 4, MaxWritingRequests: 2})
	recipients := []keys.PublicKey{key(t, "alice"), key(t, "anna"), key(t, "amy")}
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprint("friend ", i))
	}
	for _, to := range recipients {
		allow(t, m, to, friends(t, names...))
	}
	var kept atomic.Int64
	storm := func(each int) {
		var wg sync.WaitGroup
		for i := range 16 {
			from := key(t, fmt.Sprint("friend ", i)) // every other one a stranger
			wg.Go(func() {
				for n := range each {
					d := Deposit{Sender: from, Recipient: recipients[n%3], Envelope: envelope(uint64(i*1000+n), 1024)}
					_, err := m.Deposit(context.Background(), d)
					switch {
					case err == nil:
						kept.Add(1)
					case !errors.Is(err, ErrSenderFull) && !errors.Is(err, ErrMailboxFull):
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	storm(60)
	if got := kept.Load(); got != 3*(50+5) {
		t.Errorf("%d were kept", got)
	}
	balanced(t, m)
	var gone atomic.Int64
	var wg sync.WaitGroup
	for _, to := range recipients {
		for range 2 {
			wg.Go(func() { // twice each
				for _, e := range waiting(t, m, to) {
					acknowledge(t, m, to, e)
					gone.Add(1)
				}
			})
		}
	}
	wg.Go(func() { storm(30) })
	wg.Wait()
	balanced(t, m)
	s := m.Stats()
	if left := int64(s.Mail.Count + s.Requests.Count); left != kept.Load()-int64(s.Acknowledged) {
		t.Errorf("%d were kept, %d acknowledged, %d are left", kept.Load(), s.Acknowledged, left)
	}
	if s.Acknowledged < 3*(50+5) {
		t.Errorf("%d were acknowledged", s.Acknowledged)
	}
}

// A depositor that leaves while it waits leaves nothing behind.
func TestADepositIsGivenUpWhileItWaits(t *testing.T) {
	m := opened(t, Limits{MaxWriting: 1})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, friends(t, "bob"))
	m.places[mail] <- struct{}{} // somebody writes
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := m.Deposit(ctx, Deposit{Sender: bob, Recipient: alice, Envelope: envelope(1, 1024)})
		done <- err
	}()
	if _, err := m.Deposit(t.Context(), Deposit{Sender: key(t, "eve"), Recipient: alice, Envelope: envelope(2, 1024)}); err != nil {
		t.Errorf("a stranger waits behind friends: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-m.places[mail]
	deposit(t, m, bob, alice, 3, 1024)
	if got := numbers(waiting(t, m, alice)); got != "[3 r2]" {
		t.Errorf("got %s", got)
	}
	balanced(t, m)
}

func TestTheBooksOfManyMailboxesAreSmall(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector needs memory of its own")
	}
	const many = 100_000
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := heap()
	b := newBooks()
	var recipient [recipientSize]byte
	for i := range many {
		recipient[0], recipient[1], recipient[2] = byte(i), byte(i>>8), byte(i>>16)
		b.add(recipient, mail, tag(recipient[:]), 1024)
	}
	if each := (heap() - before) / many; each > 512 {
		t.Errorf("a mailbox takes %d bytes", each)
	} else {
		t.Logf("a mailbox takes %d bytes", each)
	}
	for i := range many {
		recipient[0], recipient[1], recipient[2] = byte(i), byte(i>>8), byte(i>>16)
		b.remove(recipient, mail, tag(recipient[:]), 1024)
	}
	if len(b.accounts) != 0 || len(b.senders) != 0 || b.totals != [kinds]amount{} {
		t.Error("something is left in the books")
	}
}
