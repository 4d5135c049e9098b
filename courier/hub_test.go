package courier_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/courier/card"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// hubFriends are two people who know each other and can be reached through a hub only.
func hubFriends(t *testing.T, address string) (alice, bob *person) {
	t.Helper()
	at := func(c *courier.Config) { c.Hubs = []hubclient.Hub{{Address: address}} }
	alice, bob = newPerson(t, "", at), newPerson(t, "", at)
	alice.atHub()
	bob.atHub()
	alice.knows(bob, "bob")
	bob.knows(alice, "alice")
	return alice, bob
}

func TestMessagesGoThroughAHub(t *testing.T) {
	alice, bob := hubFriends(t, hubAddress(newHub(t)))
	alice.waitState(alice.send("bob", "hello").ID, "delivered")
	bob.waitText("hello")
	bob.send("alice", "hello yourself")
	alice.waitText("hello yourself")
}

func TestACardSaysEachWayOnce(t *testing.T) {
	h := newHub(t)
	way := hubAddress(h)
	p := newPerson(t, "Alice", func(c *courier.Config) {
		c.Hubs = []hubclient.Hub{{Address: way + ";" + strings.Replace(way, "net:", "ws://", 1)}}
	})
	p.atHub()
	until(t, "the circuit's address", func() bool { return strings.Contains(p.run.App().Address("public"), "circuit:") })
	links, err := p.ctl.Card(t.Context())
	check(t, err)
	c, err := card.Parse(links.Link)
	check(t, err)
	kinds := map[card.Kind]int{}
	for _, place := range c.Places {
		kinds[place.Kind]++
		if place.Kind == card.Hub && place.Address != way || place.Kind == card.Peer && place.Address != p.address() {
			t.Errorf("a place is %s", place.Address)
		}
	}
	if kinds[card.Hub] != 1 || kinds[card.Peer] > 1 || kinds[card.URL] > 1 {
		t.Errorf("places are %+v", c.Places)
	}
	bob := newPerson(t, "", func(c *courier.Config) { c.Hubs = []hubclient.Hub{{Address: way}} })
	_, err = bob.ctl.AddContact(t.Context(), "alice", links.Link)
	check(t, err)
	p.knows(bob, "bob")
	bob.send("alice", "by your card")
	p.waitText("by your card")
}

func TestAContactIsAddedByItsIDAtTheHub(t *testing.T) {
	alice, bob := hubFriends(t, hubAddress(newHub(t)))
	check(t, alice.ctl.RemoveContact(t.Context(), "bob"))
	id := bob.atHub().ID.String()
	added, err := alice.ctl.AddContact(t.Context(), "bob", id)
	if err != nil || !added.Key.Equal(bob.id.Public()) || added.Card || !strings.Contains(added.Warning, "hub's word") {
		t.Fatalf("%+v, %v", added, err)
	}
	alice.send("bob", "by id")
	bob.waitText("by id")
	if _, err := alice.ctl.AddContact(t.Context(), "x", "yy-yyy-yy"); err == nil || !strings.Contains(err.Error(), "yy-yyy-yy") {
		t.Errorf("an id that nobody has: %v", err)
	}
	web := bob.atHub().URL
	if known, err := alice.ctl.AddContact(t.Context(), "bob", web); err != nil || !known.Key.Equal(bob.id.Public()) {
		t.Errorf("by web address: %+v, %v", known, err)
	}
}

func TestAHubThatRestartsLosesNothing(t *testing.T) {
	cfg := hub.Config{Dir: t.TempDir(), Listen: []string{"127.0.0.1:0"}, TunnelAddress: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)}
	cfg.Limits.Registry.MinFree = -1
	first, err := hub.New(t.Context(), cfg)
	check(t, err)
	served := make(chan error, 1)
	go func() { served <- first.Serve(context.Background()) }()
	alice, bob := hubFriends(t, hubAddress(first))
	alice.waitState(alice.send("bob", "before").ID, "delivered")

	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	check(t, first.Close(ctx))
	<-served
	var last courier.Message
	for _, text := range []string{"while", "it", "is", "away"} {
		last = alice.send("bob", text)
	}
	cfg.Listen = []string{first.Addrs()[0].String()}
	serveHub(t, cfg)
	alice.waitState(last.ID, "delivered")
	if got := bob.texts(courier.Query{}); strings.Join(got, " ") != "before while it is away" {
		t.Errorf("bob has %q", got)
	}
}

// inTouch waits until a courier has said at its hub who may leave mail.
func (p *person) inTouch() {
	p.t.Helper()
	until(p.t, "the mailbox", func() bool {
		status, err := p.ctl.Status(p.t.Context())
		check(p.t, err)
		return status.Hubs[0].Mailbox
	})
}

func TestMailWaitsAtTheHub(t *testing.T) {
	alice, bob := hubFriends(t, hubAddress(newHub(t)))
	alice.inTouch()
	bob.inTouch()
	bob.stop()
	sent := alice.send("bob", "one", "two", "three")
	alice.waitState(sent.ID, "at the hub")
	alice.stop()
	bob.start()
	bob.waitText("three") // although Alice is away
	if got := bob.texts(courier.Query{}); strings.Join(got, " ") != "one two three" {
		t.Errorf("bob has %q", got)
	}
	alice.start()
	alice.waitState(sent.ID, "delivered") // the receipt was left there, or comes directly
}

func TestAStrangersMailWaitsForHisAcceptance(t *testing.T) {
	alice, bob := hubFriends(t, hubAddress(newHub(t)))
	bob.inTouch()
	check(t, bob.ctl.RemoveContact(t.Context(), "alice"))
	bob.stop()
	sent := alice.send("bob", "do you know me?")
	alice.waitState(sent.ID, "at the hub")
	bob.start()
	until(t, "the request", func() bool {
		requests, err := bob.ctl.Requests(t.Context())
		check(t, err)
		return len(requests) == 1
	})
	_, err := bob.ctl.Accept(t.Context(), alice.id.Public(), "alice")
	check(t, err)
	bob.waitText("do you know me?")
	alice.waitState(sent.ID, "delivered")
}

// TestABlockedContactIsNotTold, not by a state either: its mail is at the hub until the hub throws such mail away.
func TestABlockedContactIsNotTold(t *testing.T) {
	h := newHub(t)
	alice, bob := hubFriends(t, hubAddress(h))
	check(t, bob.ctl.BlockContact(t.Context(), "alice", true))
	bob.stop()
	sent := alice.send("bob", "are you there?")
	alice.waitState(sent.ID, "at the hub")
	bob.start()
	until(t, "bob to fetch it", func() bool { return h.Status().Mailboxes.Acknowledged > 0 })
	if m := alice.waitState(sent.ID, "at the hub"); m.Note != "" {
		t.Errorf("alice reads %q", m.Note)
	}
	if got := bob.texts(courier.Query{}); len(got) != 0 {
		t.Errorf("bob has %q", got)
	}
	bob.stop()
	alice.stop()
	alice.cfg.Store.Now = func() time.Time { return time.Now().Add(40 * 24 * time.Hour) }
	alice.start()
	if m := alice.waitState(sent.ID, "failed"); m.Note != "expired at the hub, and no receipt has come" {
		t.Errorf("alice reads %q", m.Note)
	}
}

// TestAQueuedMessageGoesOutWhenTheHubIsBack, however long the pause was that was due.
func TestAQueuedMessageGoesOutWhenTheHubIsBack(t *testing.T) {
	cfg := hub.Config{Dir: t.TempDir(), Listen: []string{"127.0.0.1:0"}, TunnelAddress: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)}
	cfg.Limits.Registry.MinFree = -1
	first, err := hub.New(t.Context(), cfg)
	check(t, err)
	served := make(chan error, 1)
	go func() { served <- first.Serve(context.Background()) }()
	alice, bob := hubFriends(t, hubAddress(first))
	alice.stop()
	alice.cfg.RetryMin, alice.cfg.RetryMax = time.Hour, time.Hour
	alice.start()
	alice.atHub()
	check(t, first.Close(t.Context()))
	<-served
	sent := alice.send("bob", "as soon as you can")
	until(t, "an attempt in vain", func() bool { return alice.contact("bob").Trouble != "" })
	cfg.Listen = []string{first.Addrs()[0].String()}
	serveHub(t, cfg)
	bob.waitText("as soon as you can")
	alice.waitState(sent.ID, "delivered")
}

func TestTheSameMessageFromTheHubAndDirectlyIsShownOnce(t *testing.T) {
	alice, bob := hubFriends(t, hubAddress(newHub(t)))
	alice.inTouch()
	bob.inTouch()
	for range 5 {
		bob.stop()
		sent := alice.send("bob", "again", "and again")
		alice.waitState(sent.ID, "at the hub")
		bob.start()
		alice.send("bob", "now") // goes directly, with what waits at the hub before it
		bob.waitText("now")
		alice.waitState(sent.ID, "delivered")
		check(t, alice.ctl.RemoveContact(t.Context(), "bob")) // and with it what nobody will ask for
		alice.knows(bob, "bob")
	}
	counts := map[string]int{}
	for _, text := range bob.texts(courier.Query{}) {
		counts[text]++
	}
	if counts["again"] != 5 || counts["and again"] != 5 || counts["now"] != 5 {
		t.Errorf("bob has %v", counts)
	}
}

func TestAChangeOfKeysTakesTheIDAndTheMailAlong(t *testing.T) {
	alice, bob := hubFriends(t, hubAddress(newHub(t)))
	alice.inTouch()
	bob.inTouch()
	before := bob.atHub()
	bob.stop()
	sent := alice.send("bob", "before")
	alice.waitState(sent.ID, "at the hub")
	for n := range 2 { // the second follows the first
		bob.cfg.Former = append(bob.cfg.Former, bob.id)
		bob.id = newIdentity(t)
		bob.cfg.Identity = bob.id
		bob.start()
		if now := bob.atHub(); now.ID != before.ID {
			t.Errorf("after %d changes it was %s and is %s", n+1, before.ID, now.ID)
		}
		if n == 0 {
			bob.stop() // before anybody has heard of it
		}
	}
	bob.waitText("before")
	alice.waitState(sent.ID, "delivered")
	bob.send("alice", "it is me")
	alice.waitText("it is me")
	alice.waitState(alice.send("bob", "I see").ID, "delivered")
}
