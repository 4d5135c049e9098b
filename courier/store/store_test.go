package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/secrez"
)

func identity(t testing.TB, b byte) *keys.Identity {
	t.Helper()
	id, err := keys.FromSeed(bytes.Repeat([]byte{b}, keys.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// The people of these tests. The store is Alice's.
const alice, bob, carol, mallory = 1, 2, 3, 4

func open(t testing.TB, opts store.Options) *store.Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "courier", "courier.db"), opts)
}

func openAt(t testing.TB, path string, opts store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func add(t testing.TB, s *store.Store, who byte, name string) store.Contact {
	t.Helper()
	c, err := s.AddContact(t.Context(), store.Contact{Key: identity(t, who).Public(), Name: name})
	check(t, err)
	return c
}

// from signs a message to Alice.
func from(t testing.TB, who byte, number uint64, kind envelope.Kind, body []byte) *envelope.Signed {
	t.Helper()
	id := identity(t, who)
	m, err := envelope.Message{
		Sender: id.Public(), Recipient: identity(t, alice).Public(), Number: number, Time: time.UnixMilli(1000), Kind: kind, Body: body,
	}.Sign(id)
	check(t, err)
	return m
}

func text(t testing.TB, who byte, number uint64, words string) *envelope.Signed {
	t.Helper()
	return from(t, who, number, envelope.Text, []byte(words))
}

func receive(t testing.TB, s *store.Store, m *envelope.Signed, way store.Way) store.State {
	t.Helper()
	state, err := receiveOne(t, s, m, way)
	check(t, err)
	return state
}

func receiveOne(t testing.TB, s *store.Store, m *envelope.Signed, way store.Way) (store.State, error) {
	t.Helper()
	taken, err := s.Receive(t.Context(), way, m)
	check(t, err)
	if len(taken) != 1 {
		t.Fatalf("%d answers", len(taken))
	}
	return taken[0].State, taken[0].Err
}

func send(t testing.TB, s *store.Store, to store.Contact, words ...string) []store.Message {
	t.Helper()
	var drafts []store.Draft
	for _, w := range words {
		drafts = append(drafts, store.Draft{Kind: envelope.Text, Body: []byte(w)})
	}
	sent, err := s.Queue(t.Context(), identity(t, alice), to.ID, drafts...)
	check(t, err)
	return sent
}

func messages(t testing.TB, s *store.Store, q store.Query) []store.Message {
	t.Helper()
	found, err := s.Messages(t.Context(), q)
	check(t, err)
	return found
}

// texts joins what messages say.
func texts(all []store.Message) string {
	var words []string
	for _, m := range all {
		words = append(words, m.Text)
	}
	return strings.Join(words, " ")
}

func waiting(t testing.TB, s *store.Store, c store.Contact) []store.Outgoing {
	t.Helper()
	all, err := s.Waiting(t.Context(), c.ID, 0, 10000)
	check(t, err)
	return all
}

func TestTheFileIsForItsOwnerAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a system where files have permission bits")
	}
	path := filepath.Join(t.TempDir(), "a", "b", "courier.db")
	check(t, os.MkdirAll(filepath.Dir(filepath.Dir(path)), 0o755))
	s := openAt(t, path, store.Options{})
	add(t, s, bob, "bob")
	for _, name := range []string{path, path + "-wal"} {
		info, err := os.Stat(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		check(t, err)
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o", filepath.Base(name), mode)
		}
	}
	info, err := os.Stat(filepath.Dir(path))
	check(t, err)
	if mode := info.Mode().Perm(); mode != 0o700 {
		t.Errorf("the folder has mode %o", mode)
	}
}

func TestASecondCourierIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "courier.db")
	openAt(t, path, store.Options{})
	if _, err := store.Open(t.Context(), path, store.Options{}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("error is %v", err)
	}
}

func TestWhatIsNoStoreIsNotTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "courier.db")
	check(t, os.WriteFile(path, bytes.Repeat([]byte("poem "), 1000), 0o600))
	if _, err := store.Open(t.Context(), path, store.Options{}); err == nil {
		t.Fatal("a poem was opened")
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(b, []byte("poem ")) {
		t.Errorf("the poem is gone: %v", err)
	}
}

func TestEverythingIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "courier.db")
	s, err := store.Open(t.Context(), path, store.Options{})
	check(t, err)
	c := add(t, s, bob, "bob")
	send(t, s, c, "one")
	receive(t, s, text(t, bob, 1, "two"), store.Direct)
	receive(t, s, text(t, carol, 1, "let me in"), store.Direct)
	series := s.Series()
	check(t, s.SetSetting(t.Context(), "x", []byte("y")))
	check(t, s.Close())

	s = openAt(t, path, store.Options{})
	if got := texts(messages(t, s, store.Query{})); got != "one two" {
		t.Errorf("messages are %q", got)
	}
	if s.Series() != series {
		t.Error("the series is another")
	}
	if n := len(waiting(t, s, c)); n != 1 {
		t.Errorf("%d messages wait", n)
	}
	if requests, err := s.Requests(t.Context()); err != nil || len(requests) != 1 || string(requests[0].Messages[0].Body) != "let me in" {
		t.Errorf("requests are %v, %v", requests, err)
	}
	if v, err := s.Setting(t.Context(), "x"); err != nil || string(v) != "y" {
		t.Errorf("the setting is %q, %v", v, err)
	}
	if m := send(t, s, c, "three"); m[0].Number != 2 {
		t.Errorf("the next number is %d", m[0].Number)
	}
}

func TestMessagesHaveNumbersAndAreSignedForTheirContact(t *testing.T) {
	s := open(t, store.Options{})
	toBob, toCarol := add(t, s, bob, "bob"), add(t, s, carol, "carol")
	send(t, s, toBob, "a", "b")
	send(t, s, toCarol, "c")
	send(t, s, toBob, "d")
	var got []string
	for _, c := range []store.Contact{toBob, toCarol} {
		for _, o := range waiting(t, s, c) {
			m, err := envelope.Parse(o.Signed)
			check(t, err)
			if !m.Recipient.Equal(c.Key) || m.Series != s.Series() || m.Hash() != o.Hash {
				t.Errorf("%+v is signed for somebody else", m.Message)
			}
			got = append(got, fmt.Sprintf("%s:%d:%s", c.Name, m.Number, m.Body))
		}
	}
	if want := "bob:1:a bob:2:b bob:3:d carol:1:c"; strings.Join(got, " ") != want {
		t.Errorf("outbox is %v", got)
	}
}

func TestAMessageIsShownOnceHoweverOftenItComes(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	m := text(t, bob, 1, "hi")
	for _, way := range []store.Way{store.Direct, store.Mailbox, store.Direct} {
		if state := receive(t, s, m, way); state != store.Delivered {
			t.Errorf("state is %v", state)
		}
	}
	if got := messages(t, s, store.Query{Contact: c.ID}); len(got) != 1 || got[0].Direction != store.Received || got[0].State != store.Delivered {
		t.Errorf("messages are %+v", got)
	}
}

func TestTheStateOfAMessageFollowsItsWay(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	m := send(t, s, c, "hi")[0]
	if m.State != store.Queued {
		t.Errorf("a new message is %v", m.State)
	}
	o := waiting(t, s, c)[0]
	for _, state := range []store.State{store.AtHub, store.Held, store.AtHub, store.Delivered} {
		check(t, s.Settle(t.Context(), store.Settlement{ID: o.ID, State: state, Note: ""}))
		got, err := s.Message(t.Context(), m.ID)
		check(t, err)
		if got.State != state || got.Change <= m.Change {
			t.Errorf("message is %v, change %d, not %v after %d", got.State, got.Change, state, m.Change)
		}
		m = got
	}
	if left := waiting(t, s, c); len(left) != 0 {
		t.Errorf("%v waits", left)
	}
	check(t, s.Settle(t.Context(), store.Settlement{ID: o.ID, State: store.Failed, Note: "late"})) // settled before
	if got, err := s.Message(t.Context(), m.ID); err != nil || got.State != store.Delivered {
		t.Errorf("message is %v, %v", got.State, err)
	}
}

func TestReceiptsSettleWhatTheyName(t *testing.T) {
	s := open(t, store.Options{})
	toBob, toCarol := add(t, s, bob, "bob"), add(t, s, carol, "carol")
	send(t, s, toBob, "a", "b")
	send(t, s, toCarol, "c")
	body, err := envelope.Receipts([]envelope.Hash{waiting(t, s, toBob)[0].Hash, waiting(t, s, toCarol)[0].Hash, {9}})
	check(t, err)
	receive(t, s, from(t, bob, 1, envelope.Receipt, body), store.Mailbox)
	states := ""
	for _, m := range messages(t, s, store.Query{}) {
		states += m.Text + ":" + m.State.String() + " "
	}
	if states != "a:delivered b:queued c:queued " {
		t.Errorf("states are %s", states)
	}
	if owed, err := s.QueueReceipts(t.Context(), identity(t, alice)); err != nil || owed {
		t.Errorf("a receipt is owed a receipt: %v, %v", owed, err)
	}
}

func TestWhoUsesTheMailboxIsOwedAReceipt(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	want := text(t, bob, 1, "a")
	receive(t, s, want, store.Mailbox)
	receive(t, s, text(t, bob, 2, "b"), store.Direct)
	if owed, err := s.QueueReceipts(t.Context(), identity(t, alice)); err != nil || !owed {
		t.Fatalf("owed %v, %v", owed, err)
	}
	out := waiting(t, s, c)
	if len(out) != 1 || out[0].Kind != envelope.Receipt {
		t.Fatalf("outbox is %+v", out)
	}
	m, err := envelope.Parse(out[0].Signed)
	check(t, err)
	hashes, err := envelope.ParseReceipts(m.Body)
	if err != nil || len(hashes) != 1 || hashes[0] != want.Hash() {
		t.Errorf("receipt names %v, %v", hashes, err)
	}
	check(t, s.Settle(t.Context(), store.Settlement{ID: out[0].ID, State: store.AtHub, Note: ""})) // nobody answers a receipt
	if left := waiting(t, s, c); len(left) != 0 {
		t.Errorf("%v waits", left)
	}
	if got := texts(messages(t, s, store.Query{})); got != "a b" {
		t.Errorf("shown is %q", got)
	}
}

func TestAChangedKeyIsRefusedLoudly(t *testing.T) {
	s := open(t, store.Options{})
	add(t, s, bob, "bob")
	_, err := s.AddContact(t.Context(), store.Contact{Key: identity(t, mallory).Public(), Name: "Bob"})
	if !errors.Is(err, store.ErrKeyChanged) || !strings.Contains(err.Error(), identity(t, bob).Public().Ref()) ||
		!strings.Contains(err.Error(), identity(t, mallory).Public().Ref()) {
		t.Errorf("error is %v", err)
	}
	if _, err := s.AddContact(t.Context(), store.Contact{Key: identity(t, bob).Public(), Name: "robert"}); !errors.Is(err, store.ErrKnown) {
		t.Errorf("the same key again: %v", err)
	}
}

func TestNamesThatNobodyCanHave(t *testing.T) {
	for _, name := range []string{"", "@x", "-x", "a b", "a:b", "a/b", "a\x1b", "\xff", strings.Repeat("x", 65)} {
		if err := store.CheckName(name); !errors.Is(err, store.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"bob", "Bob_2", "Jürgen", "李"} {
		check(t, store.CheckName(name))
	}
}

func TestContactsAreRenamedRemovedAndComeBack(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	add(t, s, carol, "carol")
	send(t, s, c, "hi")
	if err := s.RenameContact(t.Context(), c.ID, "CAROL"); !errors.Is(err, store.ErrName) {
		t.Errorf("a taken name: %v", err)
	}
	check(t, s.RenameContact(t.Context(), c.ID, "robert"))
	check(t, s.RemoveContact(t.Context(), c.ID))
	if _, err := s.Contact(t.Context(), "robert"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	if m := messages(t, s, store.Query{}); len(m) != 1 || m[0].State != store.Failed || m[0].Name != "" {
		t.Errorf("history is %+v", m)
	}
	if state := receive(t, s, text(t, bob, 1, "still there?"), store.Direct); state != store.Held {
		t.Errorf("a removed contact's message is %v", state)
	}
	back := add(t, s, bob, "bob")
	if back.ID != c.ID {
		t.Error("the contact came back without its history")
	}
	if got := texts(messages(t, s, store.Query{Contact: back.ID})); got != "hi still there?" {
		t.Errorf("history is %q", got)
	}
}

func TestBlockedContactsAreNotHeard(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	send(t, s, c, "hi")
	check(t, s.BlockContact(t.Context(), c.ID, true))
	if state := receive(t, s, text(t, bob, 1, "hello?"), store.Direct); state != store.Delivered {
		t.Errorf("the answer shows the block: %v", state)
	}
	if got := messages(t, s, store.Query{}); len(got) != 1 || got[0].State != store.Failed {
		t.Errorf("messages are %+v", got)
	}
	if _, err := s.Queue(t.Context(), identity(t, alice), c.ID, store.Draft{Kind: envelope.Text, Body: []byte("x")}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("writing to a blocked contact: %v", err)
	}
	check(t, s.BlockContact(t.Context(), c.ID, false))
	receive(t, s, text(t, bob, 1, "hello?"), store.Mailbox) // a copy of what was thrown away
	receive(t, s, text(t, bob, 2, "again"), store.Direct)
	if got := texts(messages(t, s, store.Query{Direction: store.Received})); got != "again" {
		t.Errorf("received %q", got)
	}
}

func TestTheRequestBoxIsBounded(t *testing.T) {
	s := open(t, store.Options{MaxRequests: 5, MaxRequestsPerSender: 2, MaxRequestBytes: 3000})
	for i := range uint64(2) {
		if state := receive(t, s, text(t, mallory, i+1, fmt.Sprint("m", i)), store.Direct); state != store.Held {
			t.Errorf("state is %v", state)
		}
	}
	if _, err := receiveOne(t, s, text(t, mallory, 3, "m3"), store.Direct); !errors.Is(err, store.ErrFull) {
		t.Errorf("a third message: %v", err)
	}
	if state := receive(t, s, text(t, mallory, 1, "m0"), store.Direct); state != store.Held {
		t.Errorf("a repeated message: %v", state)
	}
	if _, err := receiveOne(t, s, text(t, 10, 1, strings.Repeat("x", 3000)), store.Direct); !errors.Is(err, store.ErrFull) {
		t.Errorf("a large message: %v", err)
	}
	for who := byte(10); who < 13; who++ {
		receive(t, s, text(t, who, 1, "x"), store.Direct)
	}
	if _, err := receiveOne(t, s, text(t, 13, 1, "x"), store.Direct); !errors.Is(err, store.ErrFull) {
		t.Errorf("a sixth message: %v", err)
	}
	if _, err := receiveOne(t, s, from(t, 14, 1, envelope.Chunk, append(make([]byte, 20), 1)), store.Direct); !errors.Is(err, store.ErrRefused) {
		t.Errorf("a stranger's file: %v", err)
	}
	if n := len(messages(t, s, store.Query{})); n != 0 {
		t.Errorf("%d messages of strangers are shown", n)
	}
}

func TestARequestIsAcceptedOrDropped(t *testing.T) {
	s := open(t, store.Options{})
	receive(t, s, text(t, bob, 1, "one"), store.Direct)
	receive(t, s, text(t, mallory, 1, "spam"), store.Direct)
	receive(t, s, text(t, bob, 2, "two"), store.Direct)
	requests, err := s.Requests(t.Context())
	if err != nil || len(requests) != 2 || len(requests[0].Messages) != 2 || !requests[0].Key.Equal(identity(t, bob).Public()) {
		t.Fatalf("requests are %+v, %v", requests, err)
	}
	c := add(t, s, bob, "bob")
	if got := texts(messages(t, s, store.Query{Contact: c.ID})); got != "one two" {
		t.Errorf("accepted %q", got)
	}
	if owed, err := s.QueueReceipts(t.Context(), identity(t, alice)); err != nil || !owed {
		t.Errorf("who was accepted hears nothing: %v", err)
	}
	check(t, s.DropRequest(t.Context(), identity(t, mallory).Public(), true))
	if state := receive(t, s, text(t, mallory, 2, "more spam"), store.Direct); state != store.Held {
		t.Errorf("the answer shows the block: %v", state)
	}
	if requests, err := s.Requests(t.Context()); err != nil || len(requests) != 0 {
		t.Errorf("requests are %+v, %v", requests, err)
	}
	if err := s.DropRequest(t.Context(), identity(t, carol).Public(), false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("nothing to drop: %v", err)
	}
}

func TestOldRequestsAreForgotten(t *testing.T) {
	now := time.UnixMilli(1e12)
	opts := store.Options{Now: func() time.Time { return now }, RequestAge: time.Hour}
	path := filepath.Join(t.TempDir(), "courier.db")
	s, err := store.Open(t.Context(), path, opts)
	check(t, err)
	receive(t, s, text(t, bob, 1, "one"), store.Direct)
	check(t, s.Close())
	now = now.Add(2 * time.Hour)
	s = openAt(t, path, opts)
	if requests, err := s.Requests(t.Context()); err != nil || len(requests) != 0 {
		t.Errorf("requests are %+v, %v", requests, err)
	}
}

func TestQueriesSelectByContactDirectionAndTime(t *testing.T) {
	now := time.UnixMilli(0)
	s := open(t, store.Options{Now: func() time.Time { now = now.Add(time.Second); return now }})
	toBob, toCarol := add(t, s, bob, "bob"), add(t, s, carol, "carol")
	send(t, s, toBob, "1")
	mark := now
	receive(t, s, text(t, bob, 1, "2"), store.Direct)
	send(t, s, toCarol, "3")
	receive(t, s, text(t, carol, 1, "4"), store.Direct)
	send(t, s, toBob, "5")
	for name, c := range map[string]struct {
		query store.Query
		want  string
	}{
		"all":           {store.Query{}, "1 2 3 4 5"},
		"contact":       {store.Query{Contact: toBob.ID}, "1 2 5"},
		"received":      {store.Query{Direction: store.Received}, "2 4"},
		"sent to carol": {store.Query{Direction: store.Sent, Contact: toCarol.ID}, "3"},
		"since":         {store.Query{Since: mark.Add(time.Millisecond)}, "2 3 4 5"},
		"until":         {store.Query{Until: mark.Add(time.Millisecond)}, "1"},
		"first two":     {store.Query{Limit: 2}, "1 2"},
		"last two":      {store.Query{Last: true, Limit: 2}, "4 5"},
		"after":         {store.Query{After: 3}, "4 5"},
		"changed":       {store.Query{Changed: 4}, "5"},
	} {
		if got := texts(messages(t, s, c.query)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestWhoFollowsSeesEachChange(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	send(t, s, c, "a", "b")
	last, err := s.LastChange(t.Context())
	check(t, err)
	changed := s.Changed()
	check(t, s.Settle(t.Context(), store.Settlement{ID: waiting(t, s, c)[0].ID, State: store.AtHub}))
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	got, err := s.Changes(t.Context(), store.Query{Changed: last})
	check(t, err)
	if len(got) != 1 || got[0].Text != "a" || got[0].State != store.AtHub {
		t.Errorf("changes are %+v", got)
	}
}

func TestDeliveryIsDueWhenItsTimeHasCome(t *testing.T) {
	now := time.UnixMilli(1e12)
	s := open(t, store.Options{Now: func() time.Time { return now }})
	toBob, toCarol := add(t, s, bob, "bob"), add(t, s, carol, "carol")
	if due, next, err := s.Due(t.Context()); err != nil || len(due) != 0 || !next.IsZero() {
		t.Errorf("nothing waits: %v, %v, %v", due, next, err)
	}
	send(t, s, toBob, "a")
	send(t, s, toCarol, "b")
	check(t, s.Retry(t.Context(), toBob.ID, 2, now.Add(time.Minute), "nobody is there"))
	due, next, err := s.Due(t.Context())
	if err != nil || len(due) != 1 || due[0].ID != toCarol.ID || !next.Equal(now.Add(time.Minute)) {
		t.Errorf("due are %+v, next %v, %v", due, next, err)
	}
	now = now.Add(time.Minute)
	if due, _, err = s.Due(t.Context()); err != nil || len(due) != 2 || due[1].Attempts != 1 || due[1].Trouble != "nobody is there" {
		t.Errorf("due are %+v, %v", due, err)
	}
	send(t, s, toBob, "c") // while an attempt is made
	check(t, s.Retry(t.Context(), toBob.ID, 2, now.Add(time.Hour), "still nobody"))
	if due, _, err = s.Due(t.Context()); err != nil || len(due) != 2 {
		t.Errorf("due are %+v, %v", due, err)
	}
	check(t, s.Retry(t.Context(), toBob.ID, 3, now.Add(time.Hour), "still nobody"))
	if due, _, err = s.Due(t.Context()); err != nil || len(due) != 1 {
		t.Errorf("due are %+v, %v", due, err)
	}
	check(t, s.Hurry(t.Context(), toBob.ID)) // he is back
	if due, _, err = s.Due(t.Context()); err != nil || len(due) != 2 {
		t.Errorf("due are %+v, %v", due, err)
	}
	now = now.Add(time.Hour)
	check(t, s.GiveUp(t.Context(), now))
	if got := messages(t, s, store.Query{}); got[0].State != store.Failed || got[0].Note == "" {
		t.Errorf("given up: %+v", got[0])
	}
}

func TestAllThatWasInVainIsDueWhenAWayIsOpen(t *testing.T) {
	now := time.UnixMilli(1e12)
	s := open(t, store.Options{Now: func() time.Time { return now }})
	toBob, toCarol := add(t, s, bob, "bob"), add(t, s, carol, "carol")
	send(t, s, toBob, "a")
	send(t, s, toCarol, "b")
	check(t, s.Retry(t.Context(), toBob.ID, 2, now.Add(time.Hour), "nobody is there"))
	check(t, s.Retry(t.Context(), toCarol.ID, 2, now.Add(time.Hour), "")) // it waits at a hub
	check(t, s.HurryAll(t.Context()))
	if due, _, err := s.Due(t.Context()); err != nil || len(due) != 1 || due[0].ID != toBob.ID {
		t.Errorf("due are %+v, %v", due, err)
	}
}

func TestWhatAHubHasThrownAwayHasFailed(t *testing.T) {
	now := time.UnixMilli(1e12)
	s := open(t, store.Options{Now: func() time.Time { return now }})
	c := add(t, s, bob, "bob")
	send(t, s, c, "kept until then", "longer", "who knows", "with him")
	out := waiting(t, s, c)
	keep := now.Add(30 * 24 * time.Hour)
	check(t, s.Settle(t.Context(),
		store.Settlement{ID: out[0].ID, State: store.AtHub, Expires: keep}, store.Settlement{ID: out[1].ID, State: store.AtHub, Expires: keep.Add(time.Hour)},
		store.Settlement{ID: out[2].ID, State: store.AtHub}, store.Settlement{ID: out[3].ID, State: store.Held}))
	states := func() (all []string) {
		for _, m := range messages(t, s, store.Query{}) {
			all = append(all, m.State.String()+m.Note)
		}
		return all
	}
	now = keep.Add(-time.Second)
	check(t, s.GiveUp(t.Context(), now.Add(-60*24*time.Hour)))
	if got := states(); got[0] != "at the hub" {
		t.Errorf("too early: %q", got)
	}
	now = keep
	check(t, s.GiveUp(t.Context(), now.Add(-60*24*time.Hour)))
	if got := states(); got[0] != "failedexpired at the hub, and no receipt has come" || got[1] != "at the hub" || got[2] != "at the hub" || got[3] != "held" {
		t.Errorf("in time: %q", got)
	}
	if n := len(waiting(t, s, c)); n != 3 {
		t.Errorf("%d wait", n)
	}
	check(t, s.GiveUp(t.Context(), now))
	if got := states(); got[1] != "failedno receipt has come in time" || got[3] != "failednot accepted in time" {
		t.Errorf("in the end: %q", got)
	}
}

func TestWhatARemovedContactWasSentSaysHowFarItCame(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	send(t, s, c, "here", "at the hub", "with him")
	out := waiting(t, s, c)
	check(t, s.Settle(t.Context(), store.Settlement{ID: out[1].ID, State: store.AtHub}, store.Settlement{ID: out[2].ID, State: store.Held}))
	check(t, s.RemoveContact(t.Context(), c.ID))
	for i, want := range []string{"the contact was removed", "the contact was removed; it may still be fetched from the hub", "the contact was removed; it may still be accepted"} {
		if m := messages(t, s, store.Query{})[i]; m.State != store.Failed || m.Note != want {
			t.Errorf("%s: %v, %q", m.Text, m.State, m.Note)
		}
	}
	if n := len(waiting(t, s, c)); n != 0 {
		t.Errorf("%d wait", n)
	}
}

func TestAStoreOfBeforeIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "courier.db")
	s := openAt(t, path, store.Options{})
	c := add(t, s, bob, "bob")
	send(t, s, c, "from before")
	check(t, s.Close())
	db, err := sql.Open("sqlite", path)
	check(t, err)
	for _, change := range []string{`ALTER TABLE outbox DROP COLUMN expires`, `UPDATE version SET number = 1`} {
		_, err := db.ExecContext(t.Context(), change)
		check(t, err)
	}
	check(t, db.Close())
	s = openAt(t, path, store.Options{})
	check(t, s.Settle(t.Context(), store.Settlement{ID: waiting(t, s, c)[0].ID, State: store.AtHub, Expires: time.UnixMilli(1)}))
	check(t, s.GiveUp(t.Context(), time.UnixMilli(1)))
	if m := messages(t, s, store.Query{})[0]; m.Text != "from before" || m.State != store.Failed {
		t.Errorf("%+v", m)
	}
}

// file makes the messages of a file to Alice.
func file(t testing.TB, who byte, name string, content []byte) []*envelope.Signed {
	t.Helper()
	info := envelope.FileInfo{ID: envelope.FileID{byte(len(name))}, Size: uint64(len(content)), Hash: sha256.Sum256(content), Name: name}
	body, err := info.Body()
	check(t, err)
	parts := []*envelope.Signed{from(t, who, 1, envelope.File, body)}
	for i := 0; i*envelope.ChunkSize < len(content); i++ {
		data := content[i*envelope.ChunkSize : min(len(content), (i+1)*envelope.ChunkSize)]
		body, err := envelope.FileChunk{ID: info.ID, Index: uint32(i), Data: data}.Body()
		check(t, err)
		parts = append(parts, from(t, who, uint64(i)+2, envelope.Chunk, body))
	}
	return parts
}

func TestAFileIsWholeWhenAllChunksHaveCome(t *testing.T) {
	s := open(t, store.Options{})
	add(t, s, bob, "bob")
	content := bytes.Repeat([]byte("0123456789"), 60000)
	parts := file(t, bob, "digits.txt", content)
	receive(t, s, parts[0], store.Direct)
	for _, i := range []int{3, 1, 1, 2} {
		if err := s.WriteFile(t.Context(), 1, &bytes.Buffer{}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a file that is not whole: %v", err)
		}
		receive(t, s, parts[i], store.Direct)
	}
	m := messages(t, s, store.Query{})[0]
	if m.State != store.Delivered || m.File.Name != "digits.txt" || m.File.Done != 3 || m.File.Size != int64(len(content)) {
		t.Errorf("%+v, %+v", m, m.File)
	}
	var got bytes.Buffer
	check(t, s.WriteFile(t.Context(), m.ID, &got))
	if !bytes.Equal(got.Bytes(), content) {
		t.Error("the content is another")
	}
}

func TestAnEmptyFileIsWholeAtOnce(t *testing.T) {
	s := open(t, store.Options{})
	add(t, s, bob, "bob")
	receive(t, s, file(t, bob, "empty", nil)[0], store.Direct)
	if m := messages(t, s, store.Query{})[0]; m.State != store.Delivered {
		t.Errorf("%+v", m)
	}
}

func TestADamagedFileIsNotGivenOut(t *testing.T) {
	s := open(t, store.Options{})
	add(t, s, bob, "bob")
	parts, other := file(t, bob, "x", []byte("good")), file(t, bob, "x", []byte("evil"))
	receive(t, s, parts[0], store.Direct)
	receive(t, s, other[1], store.Direct)
	if m := messages(t, s, store.Query{})[0]; m.State != store.Failed || m.Note == "" {
		t.Errorf("%+v", m)
	}
	if err := s.WriteFile(t.Context(), 1, &bytes.Buffer{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
}

func TestFilesThatAreNotTaken(t *testing.T) {
	s := open(t, store.Options{MaxFile: 1 << 20})
	add(t, s, bob, "bob")
	big, err := envelope.FileInfo{Size: 1<<20 + 1, Name: "big"}.Body()
	check(t, err)
	stray, err := envelope.FileChunk{ID: envelope.FileID{9}, Data: []byte("x")}.Body()
	check(t, err)
	short, err := envelope.FileChunk{ID: envelope.FileID{1}, Data: []byte("x")}.Body()
	check(t, err)
	beyond, err := envelope.FileChunk{ID: envelope.FileID{1}, Index: 1 << 31, Data: []byte("x")}.Body()
	check(t, err)
	receive(t, s, file(t, bob, "f", []byte("content"))[0], store.Direct)
	for name, m := range map[string]*envelope.Signed{
		"a file too large":     from(t, bob, 1, envelope.File, big),
		"a chunk of no file":   from(t, bob, 2, envelope.Chunk, stray),
		"a chunk too short":    from(t, bob, 3, envelope.Chunk, short),
		"a chunk beyond":       from(t, bob, 4, envelope.Chunk, beyond),
		"another file, one id": file(t, bob, "g", []byte("x"))[0],
	} {
		if _, err := receiveOne(t, s, m, store.Direct); !errors.Is(err, store.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := s.Contact(t.Context(), "bob")
	check(t, err)
	if _, err := s.Queue(t.Context(), identity(t, alice), c.ID, store.Draft{Kind: envelope.File, Body: big}); !errors.Is(err, store.ErrRefused) {
		t.Errorf("sending a file too large: %v", err)
	}
}

func TestASentFileShowsHowFarItHasCome(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	var drafts []store.Draft
	for _, p := range file(t, bob, "f", make([]byte, envelope.ChunkSize+1)) {
		drafts = append(drafts, store.Draft{Kind: p.Kind, Body: p.Body})
	}
	sent, err := s.Queue(t.Context(), identity(t, alice), c.ID, drafts...)
	if err != nil || len(sent) != 1 || sent[0].File == nil {
		t.Fatalf("%+v, %v", sent, err)
	}
	var states []string
	for _, o := range waiting(t, s, c) {
		check(t, s.Settle(t.Context(), store.Settlement{ID: o.ID, State: store.Delivered, Note: ""}))
		m, err := s.Message(t.Context(), sent[0].ID)
		check(t, err)
		states = append(states, fmt.Sprintf("%d of %d %v", m.File.Done, m.File.Chunks, m.State))
	}
	if got := strings.Join(states, ", "); got != "0 of 2 queued, 1 of 2 queued, 2 of 2 delivered" {
		t.Error(got)
	}
}

func rotate(t testing.TB, from, to byte) []byte {
	t.Helper()
	st, err := rotation.New(identity(t, from), identity(t, to), time.UnixMilli(1))
	check(t, err)
	return st.Bytes()
}

func TestAContactMayChangeItsKeyWithTheOldKeysLeave(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	const newBob, newerBob, thief = 20, 21, 22
	receive(t, s, from(t, newBob, 1, envelope.Rotation, rotate(t, bob, newBob)), store.Direct)
	got, err := s.Contact(t.Context(), "bob")
	if err != nil || !got.Key.Equal(identity(t, newBob).Public()) || got.ID != c.ID || got.Alert == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	receive(t, s, text(t, bob, 1, "written before"), store.Direct)
	receive(t, s, text(t, newBob, 2, "written after"), store.Direct)
	if got := texts(messages(t, s, store.Query{Contact: c.ID})); got != "written before written after" {
		t.Errorf("messages are %q", got)
	}
	check(t, s.Alert(t.Context(), c.ID, ""))

	receive(t, s, from(t, thief, 1, envelope.Rotation, rotate(t, bob, thief)), store.Direct)
	got, err = s.Contact(t.Context(), "bob")
	if err != nil || !got.Key.Equal(identity(t, newBob).Public()) || !strings.Contains(got.Alert, "stolen") {
		t.Errorf("a second successor: %+v, %v", got, err)
	}
	receive(t, s, from(t, newerBob, 1, envelope.Rotation, rotate(t, newBob, newerBob)), store.Direct)
	receive(t, s, from(t, newBob, 9, envelope.Rotation, rotate(t, bob, newBob)), store.Direct) // comes late
	if got, err = s.Contact(t.Context(), "bob"); err != nil || !got.Key.Equal(identity(t, newerBob).Public()) {
		t.Errorf("a second change: %+v, %v", got, err)
	}
}

func TestNobodyTakesAKeyThatIsSomebodyElses(t *testing.T) {
	s := open(t, store.Options{})
	add(t, s, bob, "bob")
	add(t, s, carol, "carol")
	if _, err := receiveOne(t, s, from(t, carol, 1, envelope.Rotation, rotate(t, bob, carol)), store.Direct); !errors.Is(err, store.ErrRefused) {
		t.Errorf("two contacts with one key: %v", err)
	}
	if _, err := receiveOne(t, s, from(t, mallory, 1, envelope.Rotation, rotate(t, bob, 20)), store.Direct); !errors.Is(err, store.ErrRefused) {
		t.Errorf("a statement brought by a third: %v", err)
	}
	if state := receive(t, s, from(t, 30, 1, envelope.Rotation, rotate(t, mallory, 30)), store.Direct); state != store.Held {
		t.Errorf("a stranger's statement: %v", state)
	}
}

func TestACardSaysWhereAContactIsUnlessALaterOneDid(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	sign := func(who byte, when int64, address string) []byte {
		b, err := card.Card{Key: identity(t, who).Public(), Time: time.UnixMilli(when), Places: []card.Place{{Kind: card.Peer, Address: address}}}.Sign(identity(t, who))
		check(t, err)
		return b
	}
	for _, step := range []struct {
		when int64
		want bool
	}{{2000, true}, {1000, false}, {2000, false}, {3000, true}} {
		if newer, err := s.SetCard(t.Context(), c.ID, sign(bob, step.when, fmt.Sprint("net:x:", step.when))); err != nil || newer != step.want {
			t.Errorf("card of %d: %v, %v", step.when, newer, err)
		}
	}
	if got, err := s.Contact(t.Context(), "bob"); err != nil || len(got.Places) != 1 || got.Places[0].Address != "net:x:3000~shs:"+identity(t, bob).Public().Base64() {
		t.Errorf("%+v, %v", got.Places, err)
	}
	if _, err := s.SetCard(t.Context(), c.ID, sign(mallory, 9000, "net:evil:1")); !errors.Is(err, store.ErrKeyChanged) {
		t.Errorf("another's card: %v", err)
	}
}

func account(t testing.TB, who byte) *secrez.Account {
	t.Helper()
	a, err := secrez.FromIdentity(identity(t, who))
	check(t, err)
	return a
}

func TestSecrezMessagesAreKeptOnce(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	signed, err := account(t, bob).SignPayload(map[string]string{"message": "x"}, time.UnixMilli(5000))
	check(t, err)
	p, err := signed.Verify()
	check(t, err)
	m := store.SecrezMessage{Direction: store.Received, Peer: p.PublicKey(), Signed: signed, Digest: p.Digest()}
	for i := range 2 {
		if added, err := s.ReceiveSecrez(t.Context(), c.ID, m, "opened", p.When()); err != nil || added != (i == 0) {
			t.Errorf("time %d: %v, %v", i, added, err)
		}
	}
	if added, err := s.AddSecrez(t.Context(), m); err != nil || added {
		t.Errorf("again: %v, %v", added, err)
	}
	if got := texts(messages(t, s, store.Query{Contact: c.ID})); got != "opened" {
		t.Errorf("shown is %q", got)
	}
	query := store.SecrezQuery{Max: time.Now().Add(time.Hour), Limit: 10}
	for name, q := range map[string]struct {
		change func(*store.SecrezQuery)
		want   int
	}{
		"all":         {func(*store.SecrezQuery) {}, 1},
		"from bob":    {func(q *store.SecrezQuery) { q.Peer, q.Direction = p.PublicKey(), store.Received }, 1},
		"sent":        {func(q *store.SecrezQuery) { q.Direction = store.Sent }, 0},
		"from others": {func(q *store.SecrezQuery) { q.Peer = account(t, carol).Public() }, 0},
		"later":       {func(q *store.SecrezQuery) { q.Min = time.Now().Add(time.Minute) }, 0},
	} {
		asked := query
		q.change(&asked)
		got, err := s.SecrezMessages(t.Context(), asked)
		if err != nil || len(got) != q.want {
			t.Errorf("%s: %d, %v", name, len(got), err)
		}
		if len(got) == 1 && (got[0].Signed != signed || got[0].Digest != p.Digest()) {
			t.Errorf("%+v", got[0])
		}
	}
}

func TestSecrezContactsHaveOneURLEach(t *testing.T) {
	s := open(t, store.Options{})
	trust := func(who byte, url string) (added, changed bool, err error) {
		return s.TrustSecrez(t.Context(), store.SecrezContact{PublicKey: account(t, who).Public(), URL: url})
	}
	for i, step := range []struct {
		who            byte
		url            string
		added, changed bool
		err            error
	}{
		{bob, "", true, false, nil}, {bob, "http://a", false, true, nil}, {bob, "http://a", false, false, nil}, {bob, "", false, false, nil},
		{carol, "http://a", false, false, store.ErrName}, {carol, "http://b", true, false, nil}, {bob, "http://c", false, true, nil}, {carol, "http://a", false, true, nil},
	} {
		added, changed, err := trust(step.who, step.url)
		if added != step.added || changed != step.changed || !errors.Is(err, step.err) {
			t.Errorf("step %d: %v, %v, %v", i, added, changed, err)
		}
	}
	if c, err := s.TrustedSecrez(t.Context(), identity(t, bob).Public()); err != nil || c.URL != "http://c" || !c.PublicKey.Equal(account(t, bob).Public()) {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := s.TrustedSecrez(t.Context(), identity(t, mallory).Public()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a stranger: %v", err)
	}
}

func TestTheFormForSecrezIsMadeOnce(t *testing.T) {
	s := open(t, store.Options{})
	c := add(t, s, bob, "bob")
	send(t, s, c, "hi")
	o := waiting(t, s, c)[0]
	for _, wire := range []string{"first", "second"} {
		if got, err := s.SetWire(t.Context(), o.ID, []byte(wire)); err != nil || string(got) != "first" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if got := waiting(t, s, c)[0].Wire; string(got) != "first" {
		t.Errorf("%q", got)
	}
	if _, err := s.SetWire(t.Context(), 99, []byte("x")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a message that is gone: %v", err)
	}
}

func TestAnIdentityIsAdoptedOnlyWithLeave(t *testing.T) {
	s := open(t, store.Options{})
	check(t, s.AdoptIdentity(t.Context(), identity(t, alice), nil))
	c := add(t, s, bob, "bob")
	send(t, s, c, "before")
	if err := s.AdoptIdentity(t.Context(), identity(t, 20), []*keys.Identity{identity(t, 21)}); !errors.Is(err, store.ErrIdentity) {
		t.Errorf("a stranger's store: %v", err)
	}
	for range 2 {
		check(t, s.AdoptIdentity(t.Context(), identity(t, 20), []*keys.Identity{identity(t, 21), identity(t, alice)}))
	}
	out := waiting(t, s, c)
	if len(out) != 2 || out[0].Kind != envelope.Text || out[1].Kind != envelope.Rotation {
		t.Fatalf("outbox is %+v", out)
	}
	m, err := envelope.Parse(out[1].Signed)
	check(t, err)
	st, err := rotation.Parse(m.Body)
	if err != nil || !st.Old.Equal(identity(t, alice).Public()) || !m.Sender.Equal(identity(t, 20).Public()) {
		t.Errorf("statement %+v, %v", st, err)
	}
}

func TestABatchIsTakenExceptWhatIsRefused(t *testing.T) {
	s := open(t, store.Options{MaxRequests: 1})
	add(t, s, bob, "bob")
	stray, err := envelope.FileChunk{ID: envelope.FileID{9}, Data: []byte("x")}.Body()
	check(t, err)
	taken, err := s.Receive(t.Context(), store.Mailbox, text(t, bob, 1, "one"), from(t, bob, 2, envelope.Chunk, stray), text(t, bob, 3, "two"),
		text(t, carol, 1, "let me in"), text(t, mallory, 1, "me too"), text(t, bob, 4, "not looked at"))
	check(t, err)
	got := ""
	for _, one := range taken {
		got += fmt.Sprint(one.State, " ", one.Err, "; ")
	}
	if len(taken) != 5 || taken[0].State != store.Delivered || !errors.Is(taken[1].Err, store.ErrRefused) || taken[2].State != store.Delivered ||
		taken[3].State != store.Held || !errors.Is(taken[4].Err, store.ErrFull) {
		t.Error(got)
	}
	if got := texts(messages(t, s, store.Query{})); got != "one two" {
		t.Errorf("shown is %q", got)
	}
	if _, err := s.QueueReceipts(t.Context(), identity(t, alice)); err != nil {
		t.Fatal(err)
	}
	c, err := s.Contact(t.Context(), "bob")
	check(t, err)
	m, err := envelope.Parse(waiting(t, s, c)[0].Signed)
	check(t, err)
	if hashes, err := envelope.ParseReceipts(m.Body); err != nil || len(hashes) != 2 {
		t.Errorf("%d receipts, %v", len(hashes), err)
	}
}
