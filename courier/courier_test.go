package courier_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/courier/envelope"
	"github.com/secretstack/secretstack/courier/store"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/multiserver"
	"github.com/secretstack/secretstack/muxrpc"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newIdentity(t testing.TB) *keys.Identity {
	t.Helper()
	id, err := keys.Generate()
	check(t, err)
	return id
}

// person is somebody with a courier that can be started and stopped.
type person struct {
	t    testing.TB
	id   *keys.Identity
	cfg  courier.Config
	run  *courier.Courier
	ctl  *courier.Client
	port uint16
	away bool // nobody can connect directly
}

// until waits for something that no message tells of.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
	}
}

// newPerson gives somebody a courier, which runs. Without a name, nobody can connect to it directly.
func newPerson(t testing.TB, name string, change ...func(*courier.Config)) *person {
	t.Helper()
	dir, err := os.MkdirTemp("", "courier") //nolint:usetesting // short, because it holds a socket
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	id := newIdentity(t)
	p := &person{t: t, id: id, away: name == "", cfg: courier.Config{
		Identity: id, Dir: dir, Name: name, RetryMin: 20 * time.Millisecond, RetryMax: 200 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	}}
	for _, f := range change {
		f(&p.cfg)
	}
	p.start()
	t.Cleanup(p.stop)
	return p
}

func (p *person) start() {
	p.t.Helper()
	if p.cfg.Incoming = nil; !p.away {
		p.listen()
	}
	var err error
	p.run, err = courier.Start(p.t.Context(), p.cfg)
	check(p.t, err)
	if p.port == 0 && !p.away {
		_, err := fmt.Sscanf(p.address(), "net:127.0.0.1:%d~", &p.port)
		check(p.t, err)
	}
	p.ctl, err = courier.Dial(p.t.Context(), p.cfg.Dir)
	check(p.t, err)
}

func (p *person) listen() {
	p.cfg.Incoming = map[string][]multiserver.Incoming{"net": {{
		Scope: multiserver.Scopes{multiserver.Device}, Transform: "shs", Host: "127.0.0.1", Port: p.port,
	}}}
}

func (p *person) stop() {
	p.t.Helper()
	if p.run == nil {
		return
	}
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	if err := errors.Join(p.ctl.Close(), p.run.Close(ctx)); err != nil {
		p.t.Error(err)
	}
	p.run = nil
}

func (p *person) address() string {
	for address := range strings.SplitSeq(p.run.App().Address(multiserver.Device), ";") {
		if strings.HasPrefix(address, "net:") {
			return address
		}
	}
	p.t.Fatal("no address")
	return ""
}

// knows makes another person a contact, by its card.
func (p *person) knows(other *person, name string) {
	p.t.Helper()
	links, err := other.ctl.Card(p.t.Context())
	check(p.t, err)
	_, err = p.ctl.AddContact(p.t.Context(), name, links.Link)
	check(p.t, err)
}

func (p *person) send(to string, texts ...string) (last courier.Message) {
	p.t.Helper()
	for _, text := range texts {
		var err error
		last, err = p.ctl.Send(p.t.Context(), to, text)
		check(p.t, err)
	}
	return last
}

// wait follows messages until one is as it should be.
func (p *person) wait(what string, until func(m courier.Message) bool) courier.Message {
	p.t.Helper()
	ctx, stop := context.WithTimeout(p.t.Context(), time.Minute)
	defer stop()
	var seen []string
	for m, err := range p.ctl.Messages(ctx, courier.Query{Follow: true}) {
		if err != nil {
			p.t.Fatalf("waiting for %s: %v; saw %v", what, err, seen)
		}
		if until(m) {
			return m
		}
		seen = append(seen, fmt.Sprintf("%s %s %.20s", m.Direction, m.State, m.Text))
	}
	p.t.Fatalf("waiting for %s: the messages ended; saw %v", what, seen)
	return courier.Message{}
}

func (p *person) waitState(id int64, state string) courier.Message {
	p.t.Helper()
	return p.wait(state, func(m courier.Message) bool { return m.ID == id && m.State == state })
}

func (p *person) waitText(text string) courier.Message {
	p.t.Helper()
	return p.wait(text, func(m courier.Message) bool { return m.Direction == "received" && m.Text == text })
}

func (p *person) texts(q courier.Query) []string {
	p.t.Helper()
	var all []string
	for m, err := range p.ctl.Messages(p.t.Context(), q) {
		check(p.t, err)
		all = append(all, m.Text)
	}
	return all
}

func (p *person) contact(name string) courier.Contact {
	p.t.Helper()
	all, err := p.ctl.Contacts(p.t.Context())
	check(p.t, err)
	for _, c := range all {
		if c.Name == name {
			return c
		}
	}
	p.t.Fatalf("no contact %s", name)
	return courier.Contact{}
}

// friends are two people who know each other.
func friends(t testing.TB, change ...func(*courier.Config)) (alice, bob *person) {
	t.Helper()
	alice, bob = newPerson(t, "Alice", change...), newPerson(t, "Bob", change...)
	alice.knows(bob, "bob")
	bob.knows(alice, "alice")
	return alice, bob
}

func TestAMessageIsDelivered(t *testing.T) {
	alice, bob := friends(t)
	sent := alice.send("bob", "hello\nbob")
	got := bob.waitText("hello\nbob")
	if got.Contact != "alice" || !got.Key.Equal(alice.id.Public()) || got.State != "delivered" || got.Hash != sent.Hash || got.Number != 1 {
		t.Errorf("%+v", got)
	}
	alice.waitState(sent.ID, "delivered")
	bob.send("alice", "hello alice")
	alice.waitText("hello alice")
}

func TestAContactIsAddedByItsAddress(t *testing.T) {
	alice, bob := newPerson(t, "Alice"), newPerson(t, "Bob")
	if _, err := alice.ctl.AddContact(t.Context(), "bob", bob.address()); err != nil {
		t.Fatal(err)
	}
	if c := alice.contact("bob"); c.Card || len(c.Places) != 1 || c.Places[0].Kind != card.Peer {
		t.Errorf("%+v", c)
	}
	bob.knows(alice, "alice")
	alice.send("bob", "hi")
	bob.waitText("hi")
}

func TestAMessageWaitsUntilItsRecipientIsBack(t *testing.T) {
	alice, bob := friends(t)
	bob.stop()
	sent := alice.send("bob", "one", "two")
	if sent.State != "queued" {
		t.Errorf("state is %s", sent.State)
	}
	alice.stop()
	alice.start()
	bob.start()
	alice.waitState(sent.ID, "delivered")
	if got := bob.texts(courier.Query{}); strings.Join(got, " ") != "one two" {
		t.Errorf("bob has %q", got)
	}
}

func TestWhoConnectsGetsWhatWaitsForHim(t *testing.T) {
	alice, bob := friends(t, func(c *courier.Config) { c.RetryMin, c.RetryMax = time.Hour, time.Hour })
	bob.stop()
	first := alice.send("bob", "are you there?")
	until(t, "the attempt in vain", func() bool { return alice.contact("bob").Trouble != "" })
	bob.start()
	bob.send("alice", "I am back") // connects
	alice.waitState(first.ID, "delivered")
	bob.waitText("are you there?")
}

func TestManyMessagesArriveInOrder(t *testing.T) {
	alice, bob := friends(t)
	const n = manyMessages
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint("message ", i))
		if i == n/2 {
			bob.stop()
			bob.start()
		}
		alice.send("bob", want[i])
	}
	bob.waitText(want[n-1])
	got := bob.texts(courier.Query{})
	if len(got) != n {
		t.Fatalf("%d messages arrived", len(got))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("message %d is %q", i, got[i])
		}
	}
}

func TestALongTextArrivesWhole(t *testing.T) {
	alice, bob := friends(t)
	long := strings.Repeat("ä1234567", 64<<10/9) + strings.Repeat("x", 64<<10%9)
	alice.send("bob", long)
	bob.waitText(long)
	if _, err := alice.ctl.Send(t.Context(), "bob", strings.Repeat("x", envelope.MaxText+1)); err == nil || !strings.Contains(err.Error(), "send it as a file") {
		t.Errorf("a text too long: %v", err)
	}
	if _, err := alice.ctl.Send(t.Context(), "bob", ""); err == nil {
		t.Error("an empty text was sent")
	}
}

func TestAFileArrivesWithProgress(t *testing.T) {
	alice, bob := friends(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 100000)
	sent, err := alice.ctl.SendFile(t.Context(), "bob", "data.bin", int64(len(content)), bytes.NewReader(content))
	check(t, err)
	if sent.File == nil || sent.File.Chunks != 7 {
		t.Errorf("%+v", sent.File)
	}
	done := alice.waitState(sent.ID, "delivered")
	if done.File.Done != 7 {
		t.Errorf("%+v", done.File)
	}
	got := bob.wait("the file", func(m courier.Message) bool { return m.File != nil && m.State == "delivered" })
	if got.File.Name != "data.bin" || got.File.Size != int64(len(content)) {
		t.Errorf("%+v", got.File)
	}
	var read []byte
	for b, err := range bob.ctl.File(t.Context(), got.ID) {
		check(t, err)
		read = append(read, b...)
	}
	if !bytes.Equal(read, content) {
		t.Error("the content is another")
	}
	for _, err := range bob.ctl.File(t.Context(), 99) {
		if err == nil || !strings.Contains(err.Error(), "no file in message 99") {
			t.Errorf("no such file: %v", err)
		}
	}
}

func TestFilesThatAreNotSent(t *testing.T) {
	alice, _ := friends(t, func(c *courier.Config) { c.Store.MaxFile = 1000 })
	for name, f := range map[string]struct {
		name    string
		size    int64
		content string
		want    string
	}{
		"too large":     {"x", 1001, strings.Repeat("x", 1001), "1000 are allowed"},
		"a bad name":    {"../x", 1, "x", "cannot be called"},
		"ends early":    {"x", 10, "x", "EOF"},
		"negative size": {"x", -1, "x", "allowed"},
	} {
		if _, err := alice.ctl.SendFile(t.Context(), "bob", f.name, f.size, strings.NewReader(f.content)); err == nil || !strings.Contains(err.Error(), f.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := alice.texts(courier.Query{}); len(got) != 0 {
		t.Errorf("%d messages were sent", len(got))
	}
}

func TestAStrangerWaitsInTheRequestBox(t *testing.T) {
	alice, bob := newPerson(t, "Alice"), newPerson(t, "Bob")
	alice.knows(bob, "bob")
	sent := alice.send("bob", "do you know me?")
	alice.waitState(sent.ID, "held")
	if got := bob.texts(courier.Query{}); len(got) != 0 {
		t.Errorf("bob sees %q", got)
	}
	requests, err := bob.ctl.Requests(t.Context())
	if err != nil || len(requests) != 1 || !requests[0].Key.Equal(alice.id.Public()) || requests[0].Texts[0] != "do you know me?" {
		t.Fatalf("%+v, %v", requests, err)
	}
	_, err = bob.ctl.Accept(t.Context(), alice.id.Public(), "alice")
	check(t, err)
	bob.waitText("do you know me?")
	alice.waitState(sent.ID, "delivered")
}

func TestABlockedStrangerIsNotHeardAndNotTold(t *testing.T) {
	alice, bob := newPerson(t, "Alice"), newPerson(t, "Bob")
	alice.knows(bob, "bob")
	alice.waitState(alice.send("bob", "one").ID, "held")
	check(t, bob.ctl.Drop(t.Context(), alice.id.Public(), true))
	alice.waitState(alice.send("bob", "two").ID, "held")
	if requests, err := bob.ctl.Requests(t.Context()); err != nil || len(requests) != 0 {
		t.Errorf("%+v, %v", requests, err)
	}
	if err := bob.ctl.Drop(t.Context(), alice.id.Public(), false); err == nil || !strings.Contains(err.Error(), "nobody with this key") {
		t.Errorf("nothing to drop: %v", err)
	}
}

func TestAFullRequestBoxIsToldAtOnce(t *testing.T) {
	alice := newPerson(t, "Alice")
	bob := newPerson(t, "Bob", func(c *courier.Config) { c.Store.MaxRequestsPerSender = 3 })
	alice.knows(bob, "bob")
	for range 3 {
		alice.send("bob", "hello?")
	}
	last := alice.send("bob", "hello??")
	until(t, "a full box", func() bool { return alice.contact("bob").Trouble == "the recipient takes no more for now" })
	_, err := bob.ctl.Accept(t.Context(), alice.id.Public(), "alice")
	check(t, err)
	alice.waitState(last.ID, "delivered")
	if got := bob.texts(courier.Query{}); len(got) != 4 {
		t.Errorf("bob has %q", got)
	}
}

func TestAMessageIsShownOnceAfterAnyNumberOfRestarts(t *testing.T) {
	alice, bob := friends(t)
	for i := range 5 {
		alice.send("bob", fmt.Sprint(i))
		bob.stop()
		alice.stop()
		bob.start()
		alice.start()
	}
	bob.waitText("4")
	if got := bob.texts(courier.Query{}); strings.Join(got, "") != "01234" {
		t.Errorf("bob has %q", got)
	}
}

func TestAWrongClockLosesNothing(t *testing.T) {
	alice := newPerson(t, "Alice", func(c *courier.Config) {
		c.Store.Now = func() time.Time { return time.Now().Add(-40 * 365 * 24 * time.Hour) }
	})
	bob := newPerson(t, "Bob")
	alice.knows(bob, "bob")
	bob.knows(alice, "alice")
	alice.send("bob", "from the past")
	got := bob.waitText("from the past")
	if d := time.Since(got.Time); d > time.Hour || d < -time.Hour {
		t.Errorf("bob's clock says %v", got.Time)
	}
	if d := time.Since(got.Signed); d < 39*365*24*time.Hour {
		t.Errorf("alice's clock says %v", got.Signed)
	}
	alice.waitState(bob.sendAndName("alice", "from the future", alice), "delivered")
}

// sendAndName sends a text and gives the ID that it has with its recipient.
func (p *person) sendAndName(to, text string, recipient *person) int64 {
	p.t.Helper()
	p.send(to, text)
	return recipient.waitText(text).ID
}

func TestAKeyIsChangedWithTheOldOnesLeave(t *testing.T) {
	alice, bob := friends(t)
	bob.send("alice", "before")
	alice.waitText("before")
	bob.stop()
	alice.send("bob", "for the old key")
	queued := bob.id
	bob.id = newIdentity(t)
	bob.cfg.Identity, bob.cfg.Former = bob.id, []*keys.Identity{queued}
	bob.start()
	bob.send("alice", "after")
	got := alice.waitText("after")
	if got.Contact != "bob" || !got.Key.Equal(bob.id.Public()) {
		t.Errorf("%+v", got)
	}
	if c := alice.contact("bob"); !strings.Contains(c.Alert, "changed the key") {
		t.Errorf("alert is %q", c.Alert)
	}
	check(t, alice.ctl.Seen(t.Context(), "bob"))
	if c := alice.contact("bob"); c.Alert != "" {
		t.Errorf("alert is %q", c.Alert)
	}
	bob.waitText("for the old key")
	bob.waitText(alice.send("bob", "for the new key").Text)
}

func TestAFolderBelongsToOneIdentityAndOneCourier(t *testing.T) {
	alice := newPerson(t, "Alice")
	if _, err := courier.Start(t.Context(), alice.cfg); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second courier: %v", err)
	}
	alice.stop()
	other := alice.cfg
	other.Identity = newIdentity(t)
	if _, err := courier.Start(t.Context(), other); !errors.Is(err, store.ErrIdentity) {
		t.Errorf("another identity: %v", err)
	}
	if _, err := courier.Dial(t.Context(), alice.cfg.Dir); !errors.Is(err, courier.ErrNotRunning) {
		t.Errorf("no courier: %v", err)
	}
}

// stranger is a peer that is no courier.
func stranger(t testing.TB, id *keys.Identity) *secretstack.App {
	t.Helper()
	app, err := secretstack.New(secretstack.Options{}).Start(t.Context(), secretstack.Config{Identity: id, Logger: slog.New(slog.DiscardHandler),
		Connections: &multiserver.Config{Outgoing: map[string][]multiserver.Outgoing{"net": {{Transform: "shs"}}}}})
	check(t, err)
	t.Cleanup(func() { check(t, app.Close(context.Background())) })
	return app
}

func TestPeersCannotControlACourier(t *testing.T) {
	bob := newPerson(t, "Bob")
	for name, id := range map[string]*keys.Identity{"a stranger": newIdentity(t), "his own key": bob.id} {
		p, err := stranger(t, id).Connect(t.Context(), bob.address())
		check(t, err)
		for _, method := range []string{"control.status", "control.contacts", "control.card"} {
			if _, err := muxrpc.Call[muxrpc.Value](t.Context(), p, method); err == nil {
				t.Errorf("%s may call %s", name, method)
			}
		}
		for _, err := range muxrpc.Source[muxrpc.Value](t.Context(), p, "control.messages", courier.Query{}) {
			if err == nil {
				t.Errorf("%s may read messages", name)
			}
		}
	}
}

type request struct {
	Messages [][]byte `json:"messages"`
}

type answer struct {
	States []string `json:"states"`
}

func TestWhatAPeerCannotDeliver(t *testing.T) {
	alice, bob := friends(t)
	mallory := newIdentity(t)
	p, err := stranger(t, mallory).Connect(t.Context(), bob.address())
	check(t, err)
	message := func(from *keys.Identity, to keys.PublicKey) []byte {
		m, err := envelope.Message{Sender: from.Public(), Recipient: to, Number: 1, Time: time.Now(), Kind: envelope.Text, Body: []byte("x")}.Sign(from)
		check(t, err)
		return m.Bytes()
	}
	forged := message(mallory, bob.id.Public())
	forged[1] ^= 1
	for name, b := range map[string][]byte{
		"alice's message, brought by another": message(alice.id, bob.id.Public()),
		"a message for somebody else":         message(mallory, alice.id.Public()),
		"a forged message":                    forged,
		"nothing":                             {},
	} {
		got, err := muxrpc.Call[answer](t.Context(), p, "courier.deliver", request{[][]byte{b}})
		if err != nil || len(got.States) != 1 || got.States[0] != "refused" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	good := message(mallory, bob.id.Public())
	got, err := muxrpc.Call[answer](t.Context(), p, "courier.deliver", request{[][]byte{good, good}})
	if err != nil || strings.Join(got.States, " ") != "held held" {
		t.Errorf("a stranger's message: %v, %v", got, err)
	}
	if _, err := muxrpc.Call[answer](t.Context(), p, "courier.deliver", request{make([][]byte, 65)}); err == nil {
		t.Error("65 messages at once were taken")
	}
	if got := bob.texts(courier.Query{}); len(got) != 0 {
		t.Errorf("bob sees %q", got)
	}
}

func TestAFloodOfStrangersLeavesContactsAlone(t *testing.T) {
	alice, bob := friends(t, func(c *courier.Config) { c.Store.MaxRequests = 20 })
	for range 10 {
		id := newIdentity(t)
		p, err := stranger(t, id).Connect(t.Context(), bob.address())
		check(t, err)
		for i := range uint64(12) {
			m, err := envelope.Message{Sender: id.Public(), Recipient: bob.id.Public(), Number: i + 1, Time: time.Now(), Kind: envelope.Text, Body: []byte("buy")}.Sign(id)
			check(t, err)
			_, err = muxrpc.Call[answer](t.Context(), p, "courier.deliver", request{[][]byte{m.Bytes()}})
			check(t, err)
		}
	}
	status, err := bob.ctl.Status(t.Context())
	if err != nil || status.Requests != 2 { // ten of the first stranger, ten of the second
		t.Errorf("%+v, %v", status, err)
	}
	alice.send("bob", "still fine?")
	bob.waitText("still fine?")
}

func TestQueriesOverTheSocket(t *testing.T) {
	alice, bob := friends(t)
	carol := newPerson(t, "Carol")
	alice.knows(carol, "carol")
	carol.knows(alice, "alice")
	alice.send("bob", "1", "2")
	alice.send("carol", "3")
	bob.send("alice", "4")
	alice.waitText("4")
	for name, c := range map[string]struct {
		q    courier.Query
		want string
	}{
		"all":        {courier.Query{}, "1 2 3 4"},
		"bob":        {courier.Query{Contact: "BOB"}, "1 2 4"},
		"sent":       {courier.Query{Direction: "sent"}, "1 2 3"},
		"received":   {courier.Query{Direction: "received"}, "4"},
		"last":       {courier.Query{Last: 2}, "3 4"},
		"none":       {courier.Query{Last: -1}, ""},
		"the future": {courier.Query{Since: time.Now().Add(time.Hour)}, ""},
		"the past":   {courier.Query{Until: time.Now().Add(-time.Hour)}, ""},
	} {
		if got := strings.Join(alice.texts(c.q), " "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	for _, q := range []courier.Query{{Contact: "nobody"}, {Direction: "sideways"}} {
		for _, err := range alice.ctl.Messages(t.Context(), q) {
			if _, ok := errors.AsType[*muxrpc.RemoteError](err); !ok {
				t.Errorf("%+v: %v", q, err)
			}
		}
	}
}

func TestContactsOverTheSocket(t *testing.T) {
	alice, bob := friends(t)
	mallory := newPerson(t, "Mallory")
	links, err := mallory.ctl.Card(t.Context())
	check(t, err)
	const web = "http://127.0.0.1:1/s/7y-6ro-3z#"
	card := strings.TrimPrefix(links.Link, "secretstack:")
	for name, c := range map[string]struct{ name, what, want string }{
		"another key for a name": {"bob", links.Link, "the key has changed"},
		"another name for a key": {"robert", bob.address(), `your contact "bob"`},
		"oneself":                {"me", alice.id.Public().Ref(), "your own key"},
		"an altered card":        {"m", altered(links.Link, 60), "altered"},
		"half a card":            {"m", links.Link[:60], "contact card"},
		"nothing that is known":  {"m", "hello", "no contact card"},
		"an address without key": {"m", "net:host:1~noauth", "no key"},
		"an id without a hub":    {"m", "7y-6ro-3z", "not connected"},
		"a name that nobody has": {"a b", links.Link, "no spaces"},
		"somebody else's hub":    {"m", "http://127.0.0.1:1/s/7y-6ro-3z", "private network"},
		"half a web link":        {"m", web + card[:60], "not a contact card"},
		"a web link cut at #":    {"m", web, "not a contact card"},
		"a web link with dirt":   {"m", web + card + "%zz", "not a contact card"},
	} {
		if _, err := alice.ctl.AddContact(t.Context(), c.name, c.what); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	alice.knows(bob, "BOB") // again, with a newer card
	check(t, alice.ctl.RenameContact(t.Context(), "bob", "robert"))
	check(t, alice.ctl.BlockContact(t.Context(), "robert", true))
	if c := alice.contact("robert"); !c.Blocked || !c.Card || !c.Key.Equal(bob.id.Public()) || c.Secrez == "" {
		t.Errorf("%+v", c)
	}
	check(t, alice.ctl.RemoveContact(t.Context(), "robert"))
	if err := alice.ctl.RemoveContact(t.Context(), "robert"); err == nil || !strings.Contains(err.Error(), `no contact "robert"`) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestTheControlSocketIsForTheOwnerAlone(t *testing.T) {
	alice := newPerson(t, "Alice")
	info, err := os.Stat(filepath.Join(alice.cfg.Dir, "control", "socket"))
	check(t, err)
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		t.Errorf("mode is %o", mode)
	}
}

// altered is a text with another letter at i.
func altered(text string, i int) string {
	other := "A"
	if text[i] == 'A' {
		other = "B"
	}
	return text[:i] + other + text[i+1:]
}
