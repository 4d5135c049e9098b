package mailbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	sealed "github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/keys"
)

func TestSizeClassesAreThoseOfEnvelopes(t *testing.T) {
	if MinSize != sealed.MinSealed || MaxSize != sealed.MaxSealed {
		t.Error("couriers seal in other sizes")
	}
	for n, want := range map[int]bool{
		0: false, 512: false, 1023: false, 1024: true, 1025: false, 1536: false, 2048: true, 256 << 10: true, 512 << 10: false,
	} {
		if isSize(n) != want {
			t.Errorf("%d: %v", n, !want)
		}
	}
}

func TestWhatIsDepositedWaitsInOrderUntilItIsAcknowledged(t *testing.T) {
	dir := t.TempDir()
	r := openRegistry(t, registryConfig(t, dir))
	clock := newClock()
	m := open(t, Config{Registry: r, Now: clock.Now})
	alice, bob, carol := key(t, "alice"), key(t, "bob"), key(t, "carol")
	allow(t, m, alice, Policy{Keys: []keys.PublicKey{bob, carol}})
	allow(t, m, bob, Policy{Keys: []keys.PublicKey{alice}})
	if got := waiting(t, m, alice); got != nil {
		t.Errorf("a new mailbox has %v", got)
	}
	kept := deposit(t, m, bob, alice, 1, 1024)
	if want := clock.Now().Add(30 * 24 * time.Hour); !kept.Expires.Equal(want) || kept.Request {
		t.Errorf("got %+v", kept)
	}
	deposit(t, m, carol, alice, 2, 256<<10)
	deposit(t, m, alice, bob, 7, 1024)
	clock.move(time.Hour)
	deposit(t, m, bob, alice, 3, 2048)
	all := waiting(t, m, alice)
	if got := numbers(all); got != "[1 2 3]" {
		t.Fatalf("got %s", got)
	}
	if !bytes.Equal(all[1].Envelope, envelope(2, 256<<10)) || !all[2].Time.Equal(clock.Now()) || all[0].ID == all[1].ID {
		t.Error("an envelope is not as it was deposited")
	}
	acknowledge(t, m, alice, all[1])
	acknowledge(t, m, alice, all[1]) // again
	if got := numbers(waiting(t, m, alice)); got != "[1 3]" {
		t.Errorf("got %s", got)
	}
	balanced(t, m)
	closed(t, m)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	m = open(t, Config{Registry: openRegistry(t, registryConfig(t, dir)), Now: clock.Now})
	balanced(t, m)
	again := waiting(t, m, alice)
	if got := numbers(again); got != "[1 3]" || again[0].ID != all[0].ID || again[1].ID != all[2].ID {
		t.Errorf("got %s", got)
	}
	deposit(t, m, carol, alice, 4, 1024) // who may deposit is known as well
	acknowledge(t, m, alice, again...)
	if got := numbers(waiting(t, m, alice)); got != "[4]" {
		t.Errorf("got %s", got)
	}
	acknowledge(t, m, alice, waiting(t, m, alice)...)
	acknowledge(t, m, bob, waiting(t, m, bob)...)
	s := m.Stats()
	if s.Mailboxes != 0 || s.Mail != (Amount{}) || s.Deposited != 1 || s.Acknowledged != 4 {
		t.Errorf("got %+v", s)
	}
	balanced(t, m)
}

func TestNobodyHasAMailboxWithoutAskingForOne(t *testing.T) {
	m := opened(t, Limits{})
	alice, bob := key(t, "alice"), key(t, "bob")
	d := Deposit{Sender: bob, Recipient: alice, Envelope: envelope(1, 1024)}
	if _, err := m.Deposit(t.Context(), d); !errors.Is(err, ErrNoMailbox) {
		t.Errorf("got %v", err)
	}
	allow(t, m, alice, Policy{Keys: []keys.PublicKey{bob}, Strangers: true, Digest: []byte("mine")})
	deposit(t, m, bob, alice, 1, 1024)
	deposit(t, m, key(t, "carol"), alice, 2, 1024)
	s, err := m.Status(t.Context(), alice)
	if err != nil || !s.Open || string(s.Digest) != "mine" || s.Mail != (Amount{1, 1024}) || s.Requests != (Amount{1, 1024}) {
		t.Errorf("got %+v, %v", s, err)
	}
	if err := m.Remove(t.Context(), alice); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Deposit(t.Context(), d); !errors.Is(err, ErrNoMailbox) {
		t.Errorf("got %v", err)
	}
	s, err = m.Status(t.Context(), alice)
	if err != nil || s.Open || s.Mail != (Amount{}) || s.Requests != (Amount{}) {
		t.Errorf("got %+v, %v", s, err)
	}
	if got := waiting(t, m, alice); got != nil {
		t.Errorf("there is %v", got)
	}
	if err := m.Remove(t.Context(), alice); err != nil {
		t.Errorf("again: %v", err)
	}
	balanced(t, m)
}

func TestOnlyThoseWhoAreAllowedDeposit(t *testing.T) {
	m := opened(t, Limits{})
	alice, bob, carol := key(t, "alice"), key(t, "bob"), key(t, "carol")
	token := []byte("a token that alice has given to somebody")
	hash := sha256.Sum256(token)
	try := func(from keys.PublicKey, token []byte) (bool, error) {
		kept, err := m.Deposit(t.Context(), Deposit{Sender: from, Recipient: alice, Token: token, Envelope: envelope(1, 1024)})
		return kept.Request, err
	}
	allow(t, m, alice, Policy{Keys: []keys.PublicKey{bob}, Tokens: [][]byte{hash[:]}})
	for what, c := range map[string]struct {
		from  keys.PublicKey
		token []byte
		want  error
	}{
		"a key":                     {bob, nil, nil},
		"a key with a wrong token":  {bob, []byte("?"), nil},
		"another key":               {carol, nil, ErrNotAllowed},
		"another key with a token":  {carol, token, nil},
		"another key, wrong token":  {carol, []byte("?"), ErrNotAllowed},
		"another key, hash as such": {carol, hash[:], ErrNotAllowed},
		"the recipient":             {alice, nil, ErrNotAllowed},
	} {
		if request, err := try(c.from, c.token); !errors.Is(err, c.want) || request {
			t.Errorf("%s: %v", what, err)
		}
	}
	allow(t, m, alice, Policy{Strangers: true}) // instead
	for _, from := range []keys.PublicKey{bob, carol} {
		if request, err := try(from, token); err != nil || !request {
			t.Errorf("got %v, %v", request, err)
		}
	}
	allow(t, m, alice, Policy{})
	if _, err := try(bob, token); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("got %v", err)
	}
	if got := numbers(waiting(t, m, alice)); got != "[1 1 1 r1 r1]" {
		t.Errorf("got %s", got)
	}
}

func TestAListOfSendersIsChecked(t *testing.T) {
	m := opened(t, Limits{MaxAllowed: 3})
	alice := key(t, "alice")
	hash := make([]byte, 32)
	for what, p := range map[string]Policy{
		"too many":      {Keys: []keys.PublicKey{key(t, "1"), key(t, "2")}, Tokens: [][]byte{hash, hash}},
		"no key":        {Keys: []keys.PublicKey{{}}},
		"a short hash":  {Tokens: [][]byte{hash[1:]}},
		"a long hash":   {Tokens: [][]byte{append(hash, 1)}},
		"a long digest": {Digest: make([]byte, 65)},
	} {
		if err := m.Allow(t.Context(), alice, p); !errors.Is(err, ErrList) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s, err := m.Status(t.Context(), alice); err != nil || s.Open {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestAFullListOfSendersWorks(t *testing.T) {
	m := opened(t, Limits{})
	alice := key(t, "alice")
	var p Policy
	for i := range mostAllowed {
		hash := sha256.Sum256([]byte(fmt.Sprint(i)))
		if i%2 == 0 {
			p.Tokens = append(p.Tokens, hash[:])
			continue
		}
		k, err := keys.NewPublicKey(hash[:])
		if err != nil {
			t.Fatal(err)
		}
		p.Keys = append(p.Keys, k)
	}
	allow(t, m, alice, p)
	for _, i := range []int{1, 2047, 4095} {
		if kept := deposit(t, m, p.Keys[i/2], alice, 1, 1024); kept.Request {
			t.Error("a request")
		}
	}
	d := Deposit{Sender: alice, Recipient: alice, Token: []byte("4094"), Envelope: envelope(1, 1024)}
	if _, err := m.Deposit(t.Context(), d); err != nil {
		t.Error(err)
	}
}

// An id is of use to its recipient alone, for this envelope alone.
func TestAnIDDeletesOneEnvelopeOfItsRecipientOnly(t *testing.T) {
	m := opened(t, Limits{})
	alice, bob, carol := key(t, "alice"), key(t, "bob"), key(t, "carol")
	for _, k := range []keys.PublicKey{alice, bob} {
		allow(t, m, k, Policy{Keys: []keys.PublicKey{carol}, Strangers: true})
		deposit(t, m, carol, k, 1, 1024)
		deposit(t, m, key(t, "dave"), k, 2, 1024)
	}
	of := waiting(t, m, alice)
	acknowledge(t, m, bob, of...)
	if got := numbers(waiting(t, m, alice)) + numbers(waiting(t, m, bob)); got != "[1 r2][1 r2]" {
		t.Errorf("got %s", got)
	}
	for i := range len(ID{}) {
		altered := of[0]
		altered.ID[i] ^= 1
		acknowledge(t, m, alice, altered)
	}
	p, ok := m.placeOfID(of[0].ID)
	if !ok {
		t.Fatal("an id names no place")
	}
	p.hash[0] ^= 1 // as after a restored backup, when the place is another envelope's
	if err := m.Acknowledge(t.Context(), alice, m.idOf(p), ID{}); err != nil {
		t.Error(err)
	}
	if got := numbers(waiting(t, m, alice)); got != "[1 r2]" {
		t.Errorf("got %s", got)
	}
	for _, text := range []string{"", "x", of[0].ID.String() + "A", of[0].ID.String()[1:]} {
		if _, ok := ParseID(text); ok {
			t.Errorf("%q is taken for an id", text)
		}
	}
	parsed, ok := ParseID(of[0].ID.String())
	if !ok || parsed != of[0].ID {
		t.Error("an id does not survive being written")
	}
}

func TestALiveReaderGetsWhatComes(t *testing.T) {
	m := opened(t, Limits{})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, Policy{Keys: []keys.PublicKey{bob}, Strangers: true})
	deposit(t, m, bob, alice, 1, 1024)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan Envelope)
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			for e, err := range m.Waiting(ctx, alice, true) {
				if err != nil {
					ended <- err
					return
				}
				got <- e
			}
		}()
	}
	take := func() string { return numbers([]Envelope{<-got, <-got}) }
	if got := take(); got != "[1 1]" {
		t.Errorf("got %s", got)
	}
	for n := uint64(2); n < 20; n++ {
		deposit(t, m, bob, alice, n, 1024)
		if got, want := take(), fmt.Sprintf("[%d %d]", n, n); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	deposit(t, m, key(t, "carol"), alice, 20, 1024)
	if got := take(); got != "[r20 r20]" {
		t.Errorf("got %s", got)
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.bells) != 0 {
		t.Errorf("%d bells are left", len(m.bells))
	}
}

func TestClosingEndsLiveReaders(t *testing.T) {
	m := opened(t, Limits{})
	alice := key(t, "alice")
	ended := make(chan error)
	go func() {
		for _, err := range m.Waiting(t.Context(), alice, true) {
			ended <- err
		}
	}()
	closed(t, m)
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := m.Deposit(t.Context(), Deposit{Sender: alice, Recipient: alice, Envelope: envelope(1, 1024)}); err == nil {
		t.Error("something is deposited")
	}
	if err := m.Allow(t.Context(), alice, Policy{}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := m.Acknowledge(t.Context(), alice, ID{}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	closed(t, m)
}

func TestWhoHasTheWrongSecretKnowsNobody(t *testing.T) {
	r := openRegistry(t, registryConfig(t, t.TempDir()))
	m := open(t, Config{Registry: r})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, Policy{Keys: []keys.PublicKey{bob}})
	deposit(t, m, bob, alice, 1, 1024)
	closed(t, m)
	other := secret()
	other[0] ^= 1
	m, err := Open(t.Context(), Config{Registry: r, Secret: other})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, m)
	_, err = m.Deposit(t.Context(), Deposit{Sender: bob, Recipient: alice, Envelope: envelope(2, 1024)})
	if !errors.Is(err, ErrNotAllowed) {
		t.Errorf("got %v", err)
	}
	if got := numbers(waiting(t, m, alice)); got != "[1]" { // whatever happens, mail is not lost
		t.Errorf("got %s", got)
	}
}

func TestABackupHasMailboxes(t *testing.T) {
	r := openRegistry(t, registryConfig(t, t.TempDir()))
	clock := newClock()
	m := open(t, Config{Registry: r, Now: clock.Now})
	alice, bob := key(t, "alice"), key(t, "bob")
	allow(t, m, alice, Policy{Keys: []keys.PublicKey{bob}, Strangers: true})
	for n := range uint64(5) {
		deposit(t, m, bob, alice, n, 1024)
	}
	deposit(t, m, key(t, "carol"), alice, 5, 1024)
	before := waiting(t, m, alice)
	acknowledge(t, m, alice, before[0], before[2])
	var archive bytes.Buffer
	if _, err := r.Backup(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	cfg := registryConfig(t, filepath.Join(t.TempDir(), "restored"))
	if _, err := registry.Restore(t.Context(), &archive, cfg.Dir); err != nil {
		t.Fatal(err)
	}
	m = open(t, Config{Registry: openRegistry(t, cfg), Now: clock.Now})
	balanced(t, m)
	after := waiting(t, m, alice)
	if got := numbers(after); got != "[1 3 4 r5]" || !after[0].Time.Equal(clock.Now()) {
		t.Errorf("got %s", got)
	}
	acknowledge(t, m, alice, before...) // ids from before it
	if got := numbers(waiting(t, m, alice)); got != "[1 3 4 r5]" && got != "[1 3 4]" {
		t.Errorf("an old id has deleted something else: %s", got)
	}
	deposit(t, m, bob, alice, 6, 1024)
}
