package hub_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// letter is an envelope that says what it is.
func letter(text string) []byte {
	b := make([]byte, 1024)
	copy(b, text)
	return b
}

func textOf(envelope []byte) string { return string(bytes.TrimRight(envelope, "\x00")) }

func (r *running) parsed() multiserver.Address { return multiserver.ParseLoose(r.address())[0] }

// deposit leaves a letter.
func (c *courier) deposit(r *running, to keys.PublicKey, text string) (native.Deposited, error) {
	return c.Deposit(context.Background(), r.parsed(), native.DepositRequest{Recipient: to, Envelope: letter(text)})
}

// takesMail says who may leave mail, and waits until the hub knows.
func (c *courier) takesMail(t testing.TB, r native.AllowRequest) {
	t.Helper()
	c.AllowMail(r)
	c.await(t, "known for whom it takes mail from", func(s hubclient.Status) bool {
		return s.Mailbox.Open != r.Close && (r.Close || bytes.Equal(s.Mailbox.Digest, r.Digest()))
	})
}

// mail collects so many letters and acknowledges them.
func (c *courier) mail(t testing.TB, r *running, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var got []string
	for batch := range c.Mail(ctx, r.About().Key) {
		for _, m := range batch {
			text := textOf(m.Envelope)
			if m.Request {
				text = "stranger: " + text
			}
			got = append(got, text)
		}
		if err := c.Acknowledge(ctx, batch...); err != nil {
			t.Fatal(err)
		}
		if len(got) >= n {
			break
		}
	}
	if len(got) != n {
		t.Fatalf("there are %q, want %d", got, n)
	}
	return got
}

func (c *courier) key() keys.PublicKey { return c.app.ID() }

func TestMailWaitsForACourierThatIsAway(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	r := start(t, hub.Config{Dir: dir})
	bob := courierIn(t, "bob", home, r, hubclient.Config{})
	bob.online(t)
	alice := newCourier(t, "alice", r, hubclient.Config{})
	alice.online(t)
	bob.takesMail(t, native.AllowRequest{Keys: []keys.PublicKey{alice.key()}, Strangers: true})
	if err := bob.app.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	stranger := &courier{app: peer(t, "stranger", hubclient.Plugin(hubclient.Config{}))}
	stranger.Client, _ = secretstack.Find[*hubclient.Client](stranger.app)
	for _, text := range []string{"one", "two", "three"} {
		kept, err := alice.deposit(r, bob.key(), text)
		if err != nil || kept.Request || time.Until(kept.Keep()) < 29*24*time.Hour {
			t.Fatalf("%+v, %v", kept, err)
		}
	}
	if kept, err := stranger.deposit(r, bob.key(), "hello"); err != nil || !kept.Request {
		t.Fatalf("%+v, %v", kept, err)
	}

	r.end() // the hub is restarted as well
	again := start(t, hub.Config{Dir: dir})
	bob = courierIn(t, "bob", home, again, hubclient.Config{})
	if got := strings.Join(bob.mail(t, again, 4), ", "); got != "one, two, three, stranger: hello" {
		t.Errorf("bob gets %s", got)
	}
	alice = newCourier(t, "alice", again, hubclient.Config{})
	alice.online(t)
	if _, err := alice.deposit(again, bob.key(), "four"); err != nil { // bob says nothing: the hub remembers
		t.Fatal(err)
	}
	if got := bob.mail(t, again, 1); got[0] != "four" {
		t.Errorf("bob gets %q", got)
	}
}

// Nothing polls: the hub says that something has come.
func TestMailComesAtOnceToACourierThatIsHere(t *testing.T) {
	r := start(t, hub.Config{})
	alice, bob := newCourier(t, "alice", r, hubclient.Config{}), newCourier(t, "bob", r, hubclient.Config{})
	alice.online(t)
	bob.online(t)
	bob.takesMail(t, native.AllowRequest{Keys: []keys.PublicKey{alice.key()}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	came := make(chan string, 64)
	go func() {
		defer close(came)
		for batch := range bob.Mail(ctx, r.About().Key) {
			for _, m := range batch {
				if err := bob.Acknowledge(ctx, m); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				came <- textOf(m.Envelope)
			}
		}
	}()
	for i := range 30 {
		text := fmt.Sprint("letter ", i)
		if _, err := alice.deposit(r, bob.key(), text); err != nil {
			t.Fatal(err)
		}
		if got := <-came; got != text {
			t.Fatalf("got %q, want %q", got, text)
		}
	}
	cancel()
	for range came {
	}
}

// Peers that speak nothing but muxrpc read their mailbox live.
func TestAMailboxIsReadLive(t *testing.T) {
	r := start(t, hub.Config{})
	alice, bob := newCourier(t, "alice", r, hubclient.Config{}), newCourier(t, "bob", r, hubclient.Config{})
	alice.online(t)
	bob.online(t)
	bob.takesMail(t, native.AllowRequest{Keys: []keys.PublicKey{alice.key()}})
	if _, err := alice.deposit(r, bob.key(), "0"); err != nil {
		t.Fatal(err)
	}
	p := bob.app.PeersOf(r.About().Key)[0]
	n := 0
	for w, err := range muxrpc.Source[native.Waiting](t.Context(), p, native.MethodMailbox, native.MailboxRequest{Live: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if got := textOf(w.Envelope); got != fmt.Sprint(n) {
			t.Fatalf("got %q, want %d", got, n)
		}
		if n++; n == 10 {
			break
		}
		if _, err := alice.deposit(r, bob.key(), fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	var again []string
	for w, err := range muxrpc.Source[native.Waiting](t.Context(), p, native.MethodMailbox) {
		if err != nil {
			t.Fatal(err)
		}
		again = append(again, textOf(w.Envelope))
	}
	if len(again) != 10 {
		t.Errorf("without acknowledgement there are %q", again)
	}
	for i := range 9 { // all open at the same time
		next, stop := iter.Pull2(muxrpc.Source[native.Waiting](t.Context(), p, native.MethodMailbox, native.MailboxRequest{Live: true}))
		defer stop()
		if _, err, ok := next(); !ok || i < 8 && err != nil || i == 8 && native.CodeOf(err) != native.RateLimited {
			t.Errorf("source %d: %v", i, err)
		}
	}
}

func TestDepositsAreRefusedWithAReason(t *testing.T) {
	r := start(t, hub.Config{Limits: hub.Limits{Mailboxes: mailbox.Limits{MaxPerSender: 3, MaxMessages: 4, MaxRequests: 1}}})
	alice, bob := newCourier(t, "alice", r, hubclient.Config{}), newCourier(t, "bob", r, hubclient.Config{})
	carol := newCourier(t, "carol", r, hubclient.Config{})
	for _, c := range []*courier{alice, bob, carol} {
		c.online(t)
	}
	refused := func(from *courier, to keys.PublicKey, want native.Code) {
		t.Helper()
		_, err := from.deposit(r, to, "x")
		var e *native.Error
		if native.CodeOf(err) != want || !errors.As(err, &e) || e.Text == "" {
			t.Errorf("got %v, want %s", err, want)
		}
		if full := want == native.MailboxFull || want == native.SenderFull; full && e.RetryAfter == 0 {
			t.Errorf("%v does not say when to come again", err)
		}
	}
	refused(alice, bob.key(), native.NoMailbox)
	refused(alice, identity(t, "nobody").Public(), native.NoMailbox)
	bob.takesMail(t, native.AllowRequest{Keys: []keys.PublicKey{alice.key(), carol.key()}})
	refused(bob, bob.key(), native.NotAllowed)
	for range 3 {
		if _, err := alice.deposit(r, bob.key(), "x"); err != nil {
			t.Fatal(err)
		}
	}
	refused(alice, bob.key(), native.SenderFull)
	if _, err := carol.deposit(r, bob.key(), "x"); err != nil {
		t.Fatal(err)
	}
	refused(carol, bob.key(), native.MailboxFull)
	bob.mail(t, r, 4)
	if _, err := carol.deposit(r, bob.key(), "x"); err != nil {
		t.Errorf("after it was fetched: %v", err)
	}
	bob.takesMail(t, native.AllowRequest{Strangers: true})
	if _, err := carol.deposit(r, bob.key(), "x"); err != nil {
		t.Fatal(err)
	}
	refused(alice, bob.key(), native.MailboxFull)
	for what, d := range map[string]native.DepositRequest{
		"no size class":  {Recipient: bob.key(), Envelope: make([]byte, 1025)},
		"empty":          {Recipient: bob.key()},
		"too large":      {Recipient: bob.key(), Envelope: make([]byte, 512<<10)},
		"large, request": {Recipient: bob.key(), Envelope: make([]byte, 32<<10)},
		"a long token":   {Recipient: bob.key(), Envelope: letter("x"), Token: make([]byte, 65)},
	} {
		if _, err := alice.Deposit(t.Context(), r.parsed(), d); native.CodeOf(err) != native.BadRequest {
			t.Errorf("%s: %v", what, err)
		}
	}
	bob.takesMail(t, native.AllowRequest{Close: true})
	refused(carol, bob.key(), native.NoMailbox)
}

func TestATokenOpensAMailbox(t *testing.T) {
	r := start(t, hub.Config{})
	alice, bob := newCourier(t, "alice", r, hubclient.Config{}), newCourier(t, "bob", r, hubclient.Config{})
	alice.online(t)
	bob.online(t)
	token := []byte("given by bob")
	hash := sha256.Sum256(token)
	bob.takesMail(t, native.AllowRequest{Tokens: [][]byte{hash[:]}})
	d := native.DepositRequest{Recipient: bob.key(), Envelope: letter("hello"), Token: []byte("guessed")}
	if _, err := alice.Deposit(t.Context(), r.parsed(), d); native.CodeOf(err) != native.NotAllowed {
		t.Errorf("got %v", err)
	}
	d.Token = token
	if kept, err := alice.Deposit(t.Context(), r.parsed(), d); err != nil || kept.Request {
		t.Errorf("%+v, %v", kept, err)
	}
	if got := bob.mail(t, r, 1); got[0] != "hello" {
		t.Errorf("got %q", got)
	}
}

// A mailbox belongs to the key that was proved, and to nobody without an id.
func TestOnlyThoseWithAnIDHaveAMailbox(t *testing.T) {
	r := start(t, hub.Config{})
	visitor := peer(t, "visitor")
	p, err := visitor.Connect(t.Context(), r.address())
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]any{
		native.MethodAllow: native.AllowRequest{Strangers: true}, native.MethodMailboxStatus: nil,
	}
	for method, arg := range calls {
		if _, err := muxrpc.Call[native.MailboxStatus](t.Context(), p, method, arg); native.CodeOf(err) != native.BadRequest {
			t.Errorf("%s: %v", method, err)
		}
	}
	for _, err := range muxrpc.Source[native.Waiting](t.Context(), p, native.MethodMailbox) {
		if native.CodeOf(err) != native.BadRequest {
			t.Errorf("mailbox: %v", err)
		}
	}
	many := native.AcknowledgeRequest{IDs: make([]string, 257)}
	if _, err := muxrpc.Call[muxrpc.None](t.Context(), p, native.MethodAcknowledge, many); native.CodeOf(err) != native.BadRequest {
		t.Errorf("acknowledge: %v", err)
	}
	for _, bad := range []any{nil, "x", 7, map[string]any{"recipient": "nobody"}, map[string]any{"envelope": 7}} {
		if _, err := muxrpc.Call[native.Deposited](t.Context(), p, native.MethodDeposit, bad); native.CodeOf(err) == "" {
			t.Errorf("deposit of %v: %v", bad, err)
		}
	}
}

func TestARecipientThatIsNotWelcomeGetsNoMail(t *testing.T) {
	r := start(t, hub.Config{})
	alice, bob := newCourier(t, "alice", r, hubclient.Config{}), newCourier(t, "bob", r, hubclient.Config{})
	alice.online(t)
	before := bob.online(t)
	bob.takesMail(t, native.AllowRequest{Keys: []keys.PublicKey{alice.key()}})
	if _, err := alice.deposit(r, bob.key(), "one"); err != nil {
		t.Fatal(err)
	}
	deny := admission.Rule{Effect: admission.Deny, Subject: admission.KeySubject(bob.key())}
	if err := r.Admission().SetRule(t.Context(), deny); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.deposit(r, bob.key(), "two"); native.CodeOf(err) != native.NoMailbox {
		t.Errorf("got %v", err)
	}
	bob.await(t, "offline", func(s hubclient.Status) bool { return !s.Online })
	if err := r.Admission().RemoveRule(t.Context(), deny.Subject); err != nil {
		t.Fatal(err)
	}
	bob.online(t)
	if got := bob.mail(t, r, 1); got[0] != "one" {
		t.Errorf("welcome again, it gets %q", got)
	}

	after, err := bob.Reset(t.Context(), r.About().Key)
	if err != nil || after.ID == before.ID {
		t.Fatalf("%+v, %v", after, err)
	}
	if _, err := alice.deposit(r, bob.key(), "three"); err != nil {
		t.Errorf("after a reset of the id: %v", err)
	}
	if got := bob.mail(t, r, 1); got[0] != "three" {
		t.Errorf("got %q", got)
	}
}

// Whoever deposits too much is told when to come again, and nobody else feels it.
func TestAFloodOfDepositsIsLimitedForItsSenderAlone(t *testing.T) {
	r := start(t, hub.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	bob := newCourier(t, "bob", r, hubclient.Config{})
	bob.online(t)
	bob.takesMail(t, native.AllowRequest{Strangers: true})
	flood := func(name, addr string, n int) (kept, full, limited int) {
		app := peerFrom(t, name, addr)
		p, err := app.Connect(t.Context(), r.address())
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			_, err := muxrpc.Call[native.Deposited](t.Context(), p, native.MethodDeposit,
				native.DepositRequest{Recipient: bob.key(), Envelope: letter(name)})
			switch native.CodeOf(err) {
			case "":
				if err != nil {
					t.Fatal(err)
				}
				kept++
			case native.SenderFull:
				full++
			case native.RateLimited:
				if e, _ := native.FromPeer(err); e.RetryAfter == 0 {
					t.Error("it is not told when to come again")
				}
				limited++
			default:
				t.Fatal(err)
			}
		}
		return kept, full, limited
	}
	if kept, full, limited := flood("eve", "192.0.2.1", 400); kept != 2 || full < 150 || limited < 100 {
		t.Errorf("the flood: %d kept, %d full, %d limited", kept, full, limited)
	}
	if kept, _, limited := flood("dave", "192.0.2.2", 3); kept != 2 || limited != 0 {
		t.Errorf("another stranger: %d kept, %d limited", kept, limited)
	}
	if got := bob.mail(t, r, 4); got[3] != "stranger: dave" {
		t.Errorf("bob gets %q", got)
	}
}
