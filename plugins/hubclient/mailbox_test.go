package hubclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// fakeMail is the mailbox of one courier at a hub, and what is deposited for others.
type fakeMail struct {
	mu       sync.Mutex
	waiting  []native.Waiting
	lookedAt int
	allowed  *native.AllowRequest
	told     int // how often the list was sent
	most     int // keys and tokens that may be allowed
	refuse   error
	silent   bool // it begins to send, and stops
	deposits []native.DepositRequest
}

func (m *fakeMail) set(change func(m *fakeMail)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *fakeMail) mount(s *secretstack.Setup) error {
	return errors.Join(
		muxrpc.HandleAsync(s, "deposit", m.deposit),
		muxrpc.HandleAsync(s, "allow", m.allow),
		muxrpc.HandleAsync(s, "mailboxStatus", m.status),
		muxrpc.HandleAsync(s, "acknowledge", m.acknowledge),
		muxrpc.HandleSource(s, "mailbox", m.mailbox),
	)
}

func (m *fakeMail) deposit(_ context.Context, r native.DepositRequest) (native.Deposited, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		return native.Deposited{}, m.refuse
	}
	m.deposits = append(m.deposits, r)
	return native.Deposited{Expires: 1000}, nil
}

func (m *fakeMail) allow(_ context.Context, r native.AllowRequest) (native.MailboxStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told++
	if m.refuse != nil {
		return native.MailboxStatus{}, m.refuse
	}
	m.allowed = &r
	return m.statusLocked(), nil
}

func (m *fakeMail) status(context.Context, muxrpc.None) (native.MailboxStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statusLocked(), nil
}

func (m *fakeMail) statusLocked() native.MailboxStatus {
	s := native.MailboxStatus{MaxAllowed: m.most}
	if m.allowed != nil && !m.allowed.Close {
		s.Open, s.Digest = true, m.allowed.Digest()
	}
	return s
}

func (m *fakeMail) acknowledge(_ context.Context, r native.AcknowledgeRequest) (muxrpc.None, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var left []native.Waiting
	for _, w := range m.waiting {
		if !slices.Contains(r.IDs, w.ID) {
			left = append(left, w)
		}
	}
	m.waiting = left
	return muxrpc.None{}, nil
}

func (m *fakeMail) mailbox(ctx context.Context, _ native.MailboxRequest) iter.Seq2[native.Waiting, error] {
	return func(yield func(native.Waiting, error) bool) {
		m.mu.Lock()
		m.lookedAt++
		waiting, refuse, silent := m.waiting, m.refuse, m.silent
		m.mu.Unlock()
		if refuse != nil {
			yield(native.Waiting{}, refuse)
			return
		}
		for _, w := range waiting {
			if !yield(w, nil) {
				return
			}
		}
		if silent {
			<-ctx.Done()
		}
	}
}

// put leaves so many letters.
func (m *fakeMail) put(from, n, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range n {
		m.waiting = append(m.waiting, native.Waiting{ID: fmt.Sprint("id", from+i), Envelope: make([]byte, size), Time: int64(from + i)})
	}
}

// reader reads a mailbox until it is stopped.
type reader struct {
	batches chan []hubclient.Mail
	stop    context.CancelFunc
	done    sync.WaitGroup
}

func read(t *testing.T, c *hubclient.Client, hub keys.PublicKey) *reader {
	ctx, stop := context.WithCancel(context.Background())
	r := &reader{batches: make(chan []hubclient.Mail), stop: stop}
	r.done.Go(func() {
		for batch := range c.Mail(ctx, hub) {
			select {
			case r.batches <- batch:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(r.end)
	return r
}

func (r *reader) end() {
	r.stop()
	r.done.Wait()
}

func noticeMail(t *testing.T, hub *fakeHub, to keys.PublicKey) {
	t.Helper()
	_, err := muxrpc.Call[muxrpc.None](t.Context(), hub.peer(to), native.MethodNotice, native.Notice{Type: native.NoticeMail})
	if err != nil {
		t.Error(err)
	}
}

func TestMailIsReadWhenTheAppConnectsAndWhenTheHubSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		m := &fakeMail{most: 10}
		hub := w.hubWith(t, "hub", m.mount)
		m.put(0, 100, 1024)
		app, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		r := read(t, c, hub.id.Public())
		var all []hubclient.Mail
		for len(all) < 100 {
			batch := <-r.batches
			if len(batch) > 64 {
				t.Errorf("%d in a batch", len(batch))
			}
			all = append(all, batch...)
		}
		for i, mail := range all {
			if mail.ID != fmt.Sprint("id", i) || mail.Time.UnixMilli() != int64(i) || !mail.Hub.Equal(hub.id.Public()) || mail.Request {
				t.Fatalf("at %d there is %+v", i, mail)
			}
		}
		if err := c.Acknowledge(t.Context(), all...); err != nil {
			t.Fatal(err)
		}
		m.put(100, 1, 1024)
		began := time.Now()
		noticeMail(t, hub, app.ID())
		if batch := <-r.batches; len(batch) != 1 || batch[0].ID != "id100" {
			t.Errorf("after the notice there is %v", batch)
		}
		if time.Since(began) > time.Minute {
			t.Error("the notice was not heeded")
		}
		// What was not acknowledged comes again. A notice may be lost.
		if batch := <-r.batches; len(batch) != 1 || batch[0].ID != "id100" {
			t.Errorf("later there is %v", batch)
		}
		if waited := time.Since(began); waited < 5*time.Minute || waited > 16*time.Minute {
			t.Errorf("it was looked for after %v", waited)
		}
	})
}

func TestLargeMailComesInSmallBatches(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		m := &fakeMail{}
		hub := w.hubWith(t, "hub", m.mount)
		m.put(0, 12, 256<<10)
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		r := read(t, c, hub.id.Public())
		for n := 0; n < 12; {
			batch := <-r.batches
			if len(batch) > 4 {
				t.Errorf("%d in a batch", len(batch))
			}
			n += len(batch)
		}
	})
}

func TestAHubThatStopsSendingMailIsAskedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		m := &fakeMail{silent: true}
		hub := w.hubWith(t, "hub", m.mount)
		m.put(0, 3, 1024)
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		r := read(t, c, hub.id.Public())
		if batch := <-r.batches; len(batch) != 3 { // what has come counts
			t.Errorf("there is %v", batch)
		}
		m.set(func(m *fakeMail) {
			m.silent, m.refuse = false, (&native.Error{Code: native.Unavailable, RetryAfter: time.Hour}).ForPeer()
		})
		began := time.Now()
		time.Sleep(30 * time.Minute)
		m.set(func(m *fakeMail) { m.refuse = nil })
		if batch := <-r.batches; len(batch) != 3 {
			t.Errorf("there is %v", batch)
		}
		if waited := time.Since(began); waited < time.Hour {
			t.Errorf("it came again after %v", waited)
		}
	})
}

func TestHubsLearnWhoMayLeaveMail(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		m := &fakeMail{most: 10}
		hub := w.hubWith(t, "hub", m.mount)
		dir := t.TempDir()
		app, c := w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
		allow := native.AllowRequest{Keys: []keys.PublicKey{identity(t, "bob").Public()}, Strangers: true}
		c.AllowMail(allow)
		knows := func(what string, want native.AllowRequest, open bool) {
			t.Helper()
			await(t, c, what, func(s hubclient.Status) bool {
				return s.Mailbox.Open == open && (!open || bytes.Equal(s.Mailbox.Digest, want.Digest()))
			})
		}
		knows("known", allow, true)
		if err := app.Close(context.Background()); err != nil {
			t.Fatal(err)
		}

		app, c = w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
		c.AllowMail(native.AllowRequest{Keys: allow.Keys, Strangers: true})
		knows("known again", allow, true)
		if m.told != 1 {
			t.Errorf("the same list was sent %d times", m.told)
		}
		m.set(func(m *fakeMail) { m.refuse = (&native.Error{Code: native.Unavailable}).ForPeer() })
		for i := range 12 {
			allow.Keys = append(allow.Keys, identity(t, fmt.Sprint("friend ", i)).Public())
		}
		c.AllowMail(allow)
		time.Sleep(time.Minute)
		m.set(func(m *fakeMail) { m.refuse = nil })
		shorter := allow
		shorter.Keys = allow.Keys[:10]
		knows("known in part", shorter, true)

		m.set(func(m *fakeMail) { m.allowed = nil }) // the hub has lost its memory
		hub.peer(app.ID()).Abort(nil)
		await(t, c, "offline", offline)
		await(t, c, "online", online)
		knows("told again", shorter, true)
		c.AllowMail(native.AllowRequest{Close: true})
		knows("closed", native.AllowRequest{}, false)
	})
}

func TestAHubWithoutMailboxesIsNoTrouble(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		c.AllowMail(native.AllowRequest{Strangers: true})
		await(t, c, "online", online)
		r := read(t, c, hub.id.Public())
		time.Sleep(time.Hour)
		select {
		case batch := <-r.batches:
			t.Errorf("there is %v", batch)
		default:
		}
		_, err := c.Deposit(t.Context(), parsed(t, hub.address("hub")), native.DepositRequest{})
		if native.CodeOf(err) != native.NoMailbox {
			t.Errorf("got %v", err)
		}
		if s := c.Hubs()[0]; !s.Online || s.Err != nil || s.Mailbox.Open {
			t.Errorf("the status is %+v", s)
		}
	})
}

func parsed(t *testing.T, address string) multiserver.Address {
	t.Helper()
	all := multiserver.ParseLoose(address)
	if len(all) != 1 {
		t.Fatal(address)
	}
	return all[0]
}

func TestMailIsLeftAtAnyHub(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		own, other := &fakeMail{}, &fakeMail{}
		near, far := w.hubWith(t, "near", own.mount), w.hubWith(t, "far", other.mount)
		app, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(near.address("near"))})
		await(t, c, "online", online)
		request := native.DepositRequest{Recipient: identity(t, "bob").Public(), Envelope: []byte("sealed"), Token: []byte("token")}
		for _, hub := range []*fakeHub{near, far, far, near} {
			name := "near"
			if hub == far {
				name = "far"
			}
			kept, err := c.Deposit(t.Context(), parsed(t, hub.address(name)), request)
			if err != nil || kept.Keep().UnixMilli() != 1000 {
				t.Errorf("%s: %+v, %v", name, kept, err)
			}
		}
		for name, m := range map[string]*fakeMail{"near": own, "far": other} {
			if len(m.deposits) != 2 || !m.deposits[0].Recipient.Equal(request.Recipient) || string(m.deposits[1].Token) != "token" {
				t.Errorf("%s has %+v", name, m.deposits)
			}
		}
		if n := len(app.PeersOf(far.id.Public())); n != 1 {
			t.Errorf("there are %d connections to the other hub", n)
		}
		other.set(func(m *fakeMail) {
			m.refuse = (&native.Error{Code: native.MailboxFull, Text: "full", RetryAfter: time.Minute}).ForPeer()
		})
		_, err := c.Deposit(t.Context(), parsed(t, far.address("far")), request)
		if refusal, ok := errors.AsType[*native.Error](err); !ok || refusal.Code != native.MailboxFull || refusal.RetryAfter != time.Minute {
			t.Errorf("got %v", err)
		}
		keyless := multiserver.Address{parsed(t, far.address("far")).Transport()}
		if _, err := c.Deposit(t.Context(), keyless, request); err == nil {
			t.Error("a hub without a key is asked")
		}
	})
}

func TestMailOfNoHubIsNone(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		_, c := w.courier(t, "alice", "", hubclient.Config{})
		for batch := range c.Mail(t.Context(), identity(t, "nobody").Public()) {
			t.Errorf("there is %v", batch)
		}
		if err := c.Acknowledge(t.Context(), hubclient.Mail{Hub: identity(t, "nobody").Public()}); err == nil {
			t.Error("it is acknowledged")
		}
		if err := c.Acknowledge(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
