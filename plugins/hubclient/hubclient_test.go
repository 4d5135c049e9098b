package hubclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/internal/memnet"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

// bubble runs a test with a network in memory and timers that run at once.
func bubble(t *testing.T, f func(t *testing.T, w world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, world{memnet.New()}) })
}

func at(address string) []hubclient.Hub { return []hubclient.Hub{{Address: address}} }

func TestACourierGetsItsIDAndSignsForIt(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		s := await(t, c, "online", online)
		if s.ID.String() != ids[0] || s.Sequence != 1 || s.URL != "https://"+ids[0]+".hub.example.org" || s.Name != "the hub" ||
			s.Err != nil || !s.Hub.Equal(hub.id.Public()) || s.Address != hub.address("hub") {
			t.Errorf("the status is %+v", s)
		}
		if len(hub.statements) != 2 {
			t.Fatalf("it signed %d statements", len(hub.statements))
		}
		first, second := hub.statements[0], hub.statements[1]
		if !first.ID.IsZero() || first.Sequence != 0 || hub.receipts[0] != nil {
			t.Errorf("at first it says %+v", first)
		}
		if second.ID != s.ID || second.Sequence != 1 || second.Action != claim.Register || hub.receipts[1] == nil {
			t.Errorf("then it says %+v", second)
		}
	})
}

func TestTheReceiptIsKeptAndShownAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub, dir := w.hub(t, "hub"), t.TempDir()
		app, c := w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
		before := await(t, c, "online", online)
		if err := app.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "hubclient", "*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("it keeps %v, %v", files, err)
		}
		if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		hub.set(func(f *fakeHub) { f.statements, f.receipts = nil, nil })

		_, c = w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
		if s := c.Hubs()[0]; s.ID != before.ID || s.URL != before.URL || s.Sequence != 1 {
			t.Errorf("before it connects it knows %+v", s)
		}
		await(t, c, "online", online)
		if len(hub.statements) != 1 || hub.statements[0].ID != before.ID || hub.statements[0].Sequence != 1 {
			t.Errorf("it says %+v", hub.statements)
		}
		if r := hub.receipts[0]; r == nil || r.ID != before.ID || r.Verify(hub.id.Public()) != nil {
			t.Errorf("it shows %+v", r)
		}
	})
}

func TestDamagedAndForeignReceiptsAreNotShown(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, text []byte) []byte{
		"cut": func(_ *testing.T, text []byte) []byte { return text[:len(text)/2] },
		"another key": func(t *testing.T, _ []byte) []byte {
			return receiptFile(t, identity(t, "hub"), identity(t, "bob").Public())
		},
		"another hub": func(t *testing.T, _ []byte) []byte {
			return receiptFile(t, identity(t, "bob"), identity(t, "alice").Public())
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w world) {
				hub, dir := w.hub(t, "hub"), t.TempDir()
				app, c := w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
				await(t, c, "online", online)
				_ = app.Close(context.Background())
				files, _ := filepath.Glob(filepath.Join(dir, "hubclient", "*"))
				text, err := os.ReadFile(files[0])
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(files[0], damage(t, text), 0o600); err != nil {
					t.Fatal(err)
				}
				hub.set(func(f *fakeHub) { f.receipts = nil })
				_, c = w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
				if s := c.Hubs()[0]; !s.ID.IsZero() {
					t.Errorf("it believes in %+v", s)
				}
				await(t, c, "online", online)
				if hub.receipts[0] != nil {
					t.Errorf("it shows %+v", hub.receipts[0])
				}
			})
		})
	}
}

func receiptFile(t *testing.T, hub *keys.Identity, key keys.PublicKey) []byte {
	t.Helper()
	r := claim.Receipt{Key: key, ID: parsedID(t, ids[1]), Sequence: 1, Time: time.Now()}.Sign(hub)
	text, err := json.Marshal(map[string]any{"receipt": r})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAnswersThatAreNotTrueAreNotTaken(t *testing.T) {
	other := identity(t, "other")
	for name, alter := range map[string]func(a *native.Published){
		"another id than the receipt's": func(a *native.Published) { a.ID = parsedID(t, ids[3]) },
		"another sequence":              func(a *native.Published) { a.Sequence++ },
		"a receipt of another hub":      func(a *native.Published) { a.Receipt = a.Receipt.Sign(other) },
		"a receipt for another key": func(a *native.Published) {
			a.Receipt.Key = other.Public()
			a.Receipt = a.Receipt.Sign(identity(t, "hub"))
		},
		"another public key": func(a *native.Published) { a.PublicKey = secrezKey(t, other.Public()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w world) {
				hub := w.hub(t, "hub")
				hub.alter = alter
				_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
				s := await(t, c, "in error", func(s hubclient.Status) bool { return s.Err != nil })
				if s.Online || !s.ID.IsZero() || !strings.Contains(s.Err.Error(), "not to be trusted") {
					t.Errorf("%+v", s)
				}
				hub.set(func(f *fakeHub) { f.alter = nil })
				await(t, c, "online", online)
			})
		})
	}
}

func TestAHubCannotGoBackBehindWhatItHasSigned(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		s := await(t, c, "online", online)
		if _, err := c.Reset(t.Context(), s.Hub); err != nil {
			t.Fatal(err)
		}
		key := identity(t, "alice").Public()
		hub.set(func(f *fakeHub) { f.nextID = 0; f.give(key, 1) })
		hub.peer(key).Abort(nil)
		s = await(t, c, "in error", func(s hubclient.Status) bool { return !s.Online && s.Err != nil && s.Retry.After(time.Now()) })
		await(t, c, "in error", func(s hubclient.Status) bool { return s.Err != nil && strings.Contains(s.Err.Error(), "goes back") })
		if s.Sequence != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAnIDThatTheHubDoesNotHonourIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		s := await(t, c, "online", online)
		key := identity(t, "alice").Public()
		refused := false
		hub.set(func(f *fakeHub) {
			f.give(key, 1)
			f.refuse = (&native.Error{Code: native.Claim, Text: "not yours"}).ForPeer()
		})
		hub.peer(key).Abort(nil)
		await(t, c, "refused", func(s hubclient.Status) bool {
			refused = refused || native.CodeOf(s.Err) == native.Claim
			if refused {
				hub.set(func(f *fakeHub) { f.refuse = nil })
			}
			return refused
		})
		again := await(t, c, "online", online)
		if again.ID == s.ID || again.ID.String() != ids[1] {
			t.Errorf("the id is %s", again.ID)
		}
	})
}

func TestResetGivesANewIDAndSignsForIt(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub, dir := w.hub(t, "hub"), t.TempDir()
		app, c := w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
		await(t, c, "online", online)
		s, err := c.Reset(t.Context(), keys.PublicKey{})
		if err != nil || s.ID.String() != ids[1] || s.Sequence != 2 || !s.Online {
			t.Errorf("%+v, %v", s, err)
		}
		last := hub.statements[len(hub.statements)-1]
		if last.ID != s.ID || last.Sequence != 2 || last.Action != claim.Register {
			t.Errorf("it ends with %+v", last)
		}
		if _, err := c.Reset(t.Context(), identity(t, "bob").Public()); err == nil {
			t.Error("a hub that is none was asked")
		}
		_ = app.Close(context.Background())
		if _, err := c.Reset(t.Context(), s.Hub); !errors.Is(err, hubclient.ErrOffline) {
			t.Errorf("after the end: %v", err)
		}
		_, c = w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
		if kept := c.Hubs()[0]; kept.ID != s.ID {
			t.Errorf("it kept %+v", kept)
		}
	})
}

func TestAHubThatKeepsTheIDInAResetIsNotBelieved(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		s := await(t, c, "online", online)
		hub.set(func(f *fakeHub) {
			before := f.records[identity(t, "alice").Public().Array()]
			f.alter = func(a *native.Published) { a.ID, a.Sequence, a.Receipt = before.ID, 1, before }
		})
		if _, err := c.Reset(t.Context(), s.Hub); err == nil {
			t.Error("it was believed")
		}
	})
}

func TestWhoisAsksAHub(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		key := identity(t, "alice").Public()
		if _, err := c.WhoisKey(t.Context(), keys.PublicKey{}, key); !errors.Is(err, hubclient.ErrOffline) {
			t.Errorf("before it is online: %v", err)
		}
		s := await(t, c, "online", online)
		who, err := c.WhoisID(t.Context(), keys.PublicKey{}, s.ID)
		if err != nil || !who.Key.Equal(key) || !who.Online {
			t.Errorf("%+v, %v", who, err)
		}
		who, err = c.WhoisKey(t.Context(), s.Hub, key)
		if err != nil || who.ID != s.ID {
			t.Errorf("%+v, %v", who, err)
		}
		if _, err = c.WhoisID(t.Context(), s.Hub, parsedID(t, ids[3])); native.CodeOf(err) != native.Unknown {
			t.Errorf("of nobody: %v", err)
		}
	})
}

func TestAnInvitationIsShownToTheHubThatAsks(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		open, closed := w.hub(t, "open"), w.hub(t, "closed")
		closed.invite = "code"
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: []hubclient.Hub{
			{Address: native.Link{Address: closed.address("closed"), Invite: "code"}.String()}, {Address: open.address("open"), Invite: "other"},
		}})
		await(t, c, "online", online)
		for range c.Watch(t.Context()) {
			if c.Hubs()[1].Online {
				break
			}
		}
		for _, r := range open.requests {
			if r.Invite != "" {
				t.Error("a hub that did not ask has seen an invitation")
			}
		}
		if closed.requests[0].Invite != "" || closed.requests[1].Invite != "code" {
			t.Errorf("invitations %q, %q", closed.requests[0].Invite, closed.requests[1].Invite)
		}
	})
}

func TestRefusalsShowAndAreTriedAgainNotTooSoon(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		hub.refuse = (&native.Error{Code: native.RateLimited, Text: "slowly", RetryAfter: time.Hour}).ForPeer()
		began := time.Now()
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		s := await(t, c, "refused", func(s hubclient.Status) bool { return !s.Retry.IsZero() })
		refusal, ok := errors.AsType[*native.Error](s.Err)
		if !ok || refusal.Code != native.RateLimited || s.Online {
			t.Errorf("%+v", s)
		}
		hub.set(func(f *fakeHub) { f.refuse = nil })
		await(t, c, "online", online)
		if waited := time.Since(began); waited < time.Hour || waited > 2*time.Hour {
			t.Errorf("it came back after %v", waited)
		}
		if n := len(hub.requests); n != 3 {
			t.Errorf("it asked %d times", n)
		}
	})
}

func TestAnAddressThatTheAppHasNoTransportForIsPassedOver(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		ways := "ws://127.0.0.1:1~shs:" + hub.id.Public().Base64() + ";" + hub.address("hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(ways)})
		await(t, c, "online", online)
	})
}

func TestAHubThatComesBackIsFoundAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		s := await(t, c, "online", online)
		if err := hub.app.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		off := await(t, c, "offline", offline)
		if off.Since.Before(s.Since) || off.ID != s.ID {
			t.Errorf("%+v", off)
		}
		await(t, c, "in error", func(s hubclient.Status) bool { return s.Err != nil && !s.Retry.IsZero() })
		hub.start(w, "hub")
		again := await(t, c, "online", online)
		if again.ID != s.ID || again.Err != nil || !again.Retry.IsZero() {
			t.Errorf("%+v", again)
		}
	})
}

func TestASilentHubIsLeftWithinTheTime(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub")), DeadAfter: 30 * time.Second})
		await(t, c, "online", online)
		time.Sleep(time.Hour) // an hour of answers changes nothing, nor is the connection idle for anybody
		if s := c.Hubs()[0]; !s.Online || time.Since(s.Since) < time.Hour {
			t.Errorf("%+v", s)
		}
		close(hub.dead)
		began := time.Now()
		await(t, c, "offline", offline)
		if took := time.Since(began); took > 31*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestAHubThatDrainsIsFollowedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "old")
		key := identity(t, "alice").Public()
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("old"))})
		await(t, c, "online", online)
		old := hub.peer(key)
		hub.start(w, "new")
		began := time.Now()
		if err := notify(t, old, native.Notice{Type: native.NoticeDrain, Address: hub.address("new")}); err != nil {
			t.Fatal(err)
		}
		for hub.peer(key) == old {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
		await(t, c, "online", online)
		select {
		case <-old.Done():
			t.Error("the old connection was cut")
		default:
		}
		time.Sleep(2 * time.Minute)
		select {
		case <-old.Done():
		default:
			t.Error("the old connection is kept for ever")
		}
		if s := c.Hubs()[0]; !s.Online {
			t.Errorf("%+v", s)
		}
	})
}

// TestAPlaceThatCannotServeYetIsTriedAgain: other nodes may need some seconds when one leaves them.
func TestAPlaceThatCannotServeYetIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "old")
		key := identity(t, "alice").Public()
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("old"))})
		await(t, c, "online", online)
		leaves, old := hub.app, hub.peer(key)
		hub.start(w, "new")
		hub.set(func(f *fakeHub) {
			f.refuse = (&native.Error{Code: native.Unavailable, RetryAfter: time.Second}).ForPeer()
		})
		if err := notify(t, old, native.Notice{Type: native.NoticeDrain, Address: hub.address("new")}); err != nil {
			t.Fatal(err)
		}
		if err := leaves.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, c, "refused", func(s hubclient.Status) bool { return native.CodeOf(s.Err) == native.Unavailable })
		time.Sleep(10 * time.Second)
		hub.set(func(f *fakeHub) { f.refuse = nil })
		began := time.Now()
		await(t, c, "online", online)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestAHubThatDrainsIsComeBackToWhenItSays(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		key := identity(t, "alice").Public()
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		await(t, c, "online", online)
		began := time.Now()
		if err := notify(t, hub.peer(key), native.Notice{Type: native.NoticeDrain, After: 10_000}); err != nil {
			t.Fatal(err)
		}
		await(t, c, "offline", offline)
		await(t, c, "online", online)
		if took := time.Since(began); took < 10*time.Second || took > 16*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestAPlaceThatIsNotTheHubIsNotFollowed(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub, thief := w.hub(t, "hub"), w.hub(t, "thief")
		key := identity(t, "alice").Public()
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		await(t, c, "online", online)
		for _, address := range []string{thief.address("thief"), "mem:nowhere~shs:x", "nonsense", "~", strings.Repeat("a", 1<<15)} {
			old := hub.peer(key)
			if err := notify(t, old, native.Notice{Type: native.NoticeDrain, Address: address}); err != nil {
				t.Fatal(err)
			}
			for hub.peer(key) == old {
				time.Sleep(time.Millisecond)
			}
			await(t, c, "online", online)
		}
		if len(thief.requests) > 0 {
			t.Error("it has published itself elsewhere")
		}
	})
}

func TestTheOlderOfTwoWithOneKeyKeepsAway(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		key := identity(t, "alice").Public()
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		await(t, c, "online", online)
		began := time.Now()
		if err := notify(t, hub.peer(key), native.Notice{Type: native.NoticeReplaced}); err != nil {
			t.Fatal(err)
		}
		s := await(t, c, "replaced", func(s hubclient.Status) bool { return errors.Is(s.Err, hubclient.ErrReplaced) && !s.Online })
		if s.ID.IsZero() {
			t.Errorf("%+v", s)
		}
		await(t, c, "online", online)
		if took := time.Since(began); took < 5*time.Minute {
			t.Errorf("it came back after %v", took)
		}
	})
}

// notify gives a courier a notice, as a hub does.
func notify(t *testing.T, p *secretstack.Peer, n native.Notice) error {
	t.Helper()
	_, err := muxrpc.Call[muxrpc.None](t.Context(), p, native.MethodNotice, n)
	return err
}

// TestOnlyHubsThatWereDialledMayCall: the key is not enough.
func TestOnlyHubsThatWereDialledMayCall(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub, stranger := w.hub(t, "hub"), w.hub(t, "stranger")
		app, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		await(t, c, "online", online)
		for _, from := range []*secretstack.App{stranger.app, hub.app} { // the hub itself, over a connection of its own making
			p, err := from.Connect(t.Context(), app.Address("device"))
			if err != nil {
				t.Fatal(err)
			}
			err = notify(t, p, native.Notice{Type: native.NoticeDrain})
			if remote, ok := errors.AsType[*muxrpc.RemoteError](err); !ok || !strings.Contains(remote.Message, "not in list of allowed methods") {
				t.Errorf("%s is told %v", from.ID().Short(), err)
			}
		}
		// A peer that the app has dialled for another reason is no hub either.
		p, err := app.Connect(t.Context(), stranger.app.Address("device"))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		err = notify(t, stranger.app.PeersOf(app.ID())[0], native.Notice{Type: native.NoticeDrain})
		if err == nil {
			t.Error("a peer that was dialled is taken for a hub")
		}
		_ = p.Close(t.Context())
		if s := c.Hubs()[0]; !s.Online {
			t.Errorf("%+v", s)
		}
	})
}

func TestSettingsNameHubs(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		app := w.start(t, "alice", secretstack.Config{Settings: secretstack.Settings{"hubclient": map[string]any{
			"hubs": []any{hub.address("hub")},
		}}}, hubclient.Plugin(hubclient.Config{}))
		c, _ := secretstack.Find[*hubclient.Client](app)
		await(t, c, "online", online)
	})
	var h hubclient.Hub
	if err := json.Unmarshal([]byte(`{"address":"a","invite":"b"}`), &h); err != nil || h.Address != "a" || h.Invite != "b" {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestConfigurationsThatCannotBeAreErrors(t *testing.T) {
	w := world{memnet.New()}
	hub := w.hub(t, "hub")
	own := "mem:x~shs:" + identity(t, "alice").Public().Base64()
	for says, cfg := range map[string]hubclient.Config{
		"add ~shs:":      {Hubs: at("mem:hub~claim")},
		"another key":    {Hubs: at(hub.address("a") + ";" + own)},
		"no hub's":       {Hubs: at(own)},
		"there twice":    {Hubs: append(at(hub.address("a")), at(hub.address("b"))...)},
		"does not begin": {Hubs: at("hub.example.org")},
		"has 32 bytes":   {Box: bytes.Repeat([]byte{1}, 5)},
	} {
		stack := secretstack.New(secretstack.Options{Bare: true})
		if err := stack.Use(hubclient.Plugin(cfg), memnet.Plugin(memnet.New()), secretstack.SHSPlugin()); err != nil {
			t.Fatal(err)
		}
		_, err := stack.Start(t.Context(), secretstack.Config{Identity: identity(t, "alice")})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestTextsOfHubsAreMadePrintable(t *testing.T) {
	bubble(t, func(t *testing.T, w world) {
		hub := w.hub(t, "hub")
		hub.alter = func(a *native.Published) {
			a.Hub = "evil\x1b[2J\xffhub" + strings.Repeat("x", 5000)
			a.URL = "javascript:alert(1)"
		}
		_, c := w.courier(t, "alice", "", hubclient.Config{Hubs: at(hub.address("hub"))})
		s := await(t, c, "online", online)
		if !strings.HasPrefix(s.Name, "evil[2J") || strings.ContainsAny(s.Name, "\x1b\n") || len(s.Name) > 1024 || s.URL != "" {
			t.Errorf("%q, %q", s.Name, s.URL)
		}
	})
}

func TestAReceiptThatCannotBeKeptIsSaidAndTheCourierIsOnline(t *testing.T) {
	// Not even root puts a file in the place of a folder.
	bubble(t, func(t *testing.T, w world) {
		hub, dir := w.hub(t, "hub"), t.TempDir()
		key := hub.id.Public().Array()
		blocked := filepath.Join(dir, "hubclient", hexOf(key[:])+".json", "x")
		if err := os.MkdirAll(blocked, 0o700); err != nil {
			t.Fatal(err)
		}
		_, c := w.courier(t, "alice", dir, hubclient.Config{Hubs: at(hub.address("hub"))})
		s := await(t, c, "online", online)
		if s.Err == nil || !strings.Contains(s.Err.Error(), "cannot be kept") {
			t.Errorf("%+v", s)
		}
		if err := os.RemoveAll(filepath.Dir(blocked)); err != nil {
			t.Fatal(err)
		}
		hub.peer(identity(t, "alice").Public()).Abort(nil)
		await(t, c, "offline", offline)
		if s := await(t, c, "online", online); s.Err != nil {
			t.Errorf("then %+v", s)
		}
	})
}
