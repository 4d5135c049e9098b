package courier_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier"
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
