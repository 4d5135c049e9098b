package hub_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/keys/rotation"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

func rotated(t testing.TB, from, to string) *rotation.Statement {
	t.Helper()
	s, err := rotation.New(identity(t, from), identity(t, to), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func changed(t testing.TB, from, to string) hubclient.Config {
	t.Helper()
	return hubclient.Config{Handler: says(to), Rotations: []*rotation.Statement{rotated(t, from, to)}}
}

func TestAnIDMovesToTheNewKeyAndTheOldOneIsPutOut(t *testing.T) {
	dir := t.TempDir()
	h := start(t, hub.Config{Dir: dir, Limits: hub.Limits{ReplacedGrace: 50 * time.Millisecond, NoticeTimeout: 50 * time.Millisecond}})
	home := t.TempDir()
	old := courierIn(t, "old", home, h, hubclient.Config{Handler: says("old")})
	before := old.online(t)
	young := newCourier(t, "new", h, changed(t, "old", "new"))
	after := young.online(t)
	if after.ID != before.ID || after.Sequence != 2 {
		t.Fatalf("it was %s and is %s, %d", before.ID, after.ID, after.Sequence)
	}
	s := old.await(t, "put out", func(s hubclient.Status) bool { return native.CodeOf(s.Err) == native.GivenUp })
	if s.Online {
		t.Error("the old key is still there")
	}
	_, body := get(t, h.visitor(), before.URL)
	contains(t, body, "new")
	if _, err := call[native.Who](t, connect(t, peer(t, "asks"), h.address()), native.MethodWhois,
		native.WhoisRequest{Key: old.key()}); native.CodeOf(err) != native.Unknown {
		t.Errorf("whois of the old key: %v", err)
	}
	h.end()
	young.await(t, "offline", func(s hubclient.Status) bool { return !s.Online })
	again := start(t, hub.Config{Dir: dir, Listen: []string{h.addr}})
	if s := young.online(t); s.ID != before.ID || s.Sequence != 2 {
		t.Errorf("after a restart it is %s, %d", s.ID, s.Sequence)
	}
	s = courierIn(t, "old", t.TempDir(), again, hubclient.Config{}).await(t, "refused", func(s hubclient.Status) bool { return s.Err != nil })
	wantCode(t, s.Err, native.GivenUp)
	if s := newCourier(t, "newest", again, changed(t, "new", "newest")).online(t); s.ID != before.ID || s.Sequence != 3 {
		t.Errorf("after another change it is %s, %d", s.ID, s.Sequence)
	}
}

func TestAChangeOfKeysThatIsNotProvedIsRefusedByTheHub(t *testing.T) {
	h := start(t, hub.Config{})
	before := newCourier(t, "old", h, hubclient.Config{}).online(t)
	p := connect(t, peer(t, "thief"), h.address())
	statement := signed(t, identity(t, "thief"), claim.Statement{Hub: h.About().Key, Action: claim.Register})
	forged := bytes.Clone(rotated(t, "other", "thief").Bytes())
	copy(forged[len("secretstack key rotation v1\x00"):], identity(t, "old").Public().Bytes())
	cut := rotated(t, "old", "thief").Bytes()[:rotation.Size-1]
	good := rotated(t, "other", "thief").Bytes()
	for name, c := range map[string]struct {
		rotations [][]byte
		code      native.Code
	}{
		"forged":      {[][]byte{forged}, native.Evidence},
		"cut":         {[][]byte{cut}, native.Evidence},
		"another's":   {[][]byte{rotated(t, "old", "new").Bytes()}, native.Evidence},
		"one of many": {[][]byte{good, forged}, native.Evidence},
		"too many":    {slices.Repeat([][]byte{good}, native.MaxRotations+1), native.BadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := call[native.Published](t, p, native.MethodPublish, native.PublishRequest{Signed: statement, Rotations: c.rotations})
			wantCode(t, err, c.code)
		})
	}
	answer, err := call[native.Published](t, p, native.MethodPublish, native.PublishRequest{Signed: statement, Rotations: [][]byte{good}})
	if err != nil || answer.ID == before.ID {
		t.Errorf("%v, %v", answer.ID, err)
	}
}

func TestNobodyGetsAwayFromADenialWithANewKey(t *testing.T) {
	for what, mode := range map[string]admission.Mode{"open": admission.ModeOpen, "invite": admission.ModeInvite} {
		t.Run(what, func(t *testing.T) {
			h := start(t, hub.Config{})
			old := newCourier(t, "old", h, hubclient.Config{})
			before := old.online(t)
			if err := h.Admission().SetMode(mode); err != nil {
				t.Fatal(err)
			}
			deny := admission.Rule{Subject: admission.KeySubject(identity(t, "old").Public()), Effect: admission.Deny}
			if err := h.Admission().SetRule(t.Context(), deny); err != nil {
				t.Fatal(err)
			}
			young := newCourier(t, "new", h, changed(t, "old", "new"))
			wantCode(t, young.await(t, "refused", func(s hubclient.Status) bool { return s.Err != nil }).Err, native.Denied)
			if err := young.app.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := h.Admission().RemoveRule(t.Context(), deny.Subject); err != nil {
				t.Fatal(err)
			}
			// It is welcome again. Whoever was invited needs no other invitation for the new key.
			if s := newCourier(t, "newer", h, changed(t, "old", "newer")).online(t); s.ID != before.ID {
				t.Errorf("it was %s and is %s", before.ID, s.ID)
			}
		})
	}
}

func TestMailForAKeyThatWasGivenUpIsReadByTheNewOne(t *testing.T) {
	r := start(t, hub.Config{})
	alice, old := newCourier(t, "alice", r, hubclient.Config{}), newCourier(t, "old", r, hubclient.Config{})
	alice.online(t)
	old.online(t)
	old.takesMail(t, native.AllowRequest{Keys: []keys.PublicKey{alice.key()}})
	if _, err := alice.deposit(r, old.key(), "before"); err != nil {
		t.Fatal(err)
	}
	if err := old.app.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	young := newCourier(t, "new", r, changed(t, "old", "new"))
	young.online(t)
	if got := young.mail(t, r, 1); !slices.Equal(got, []string{"before"}) {
		t.Errorf("got %q", got)
	}
	if _, err := alice.deposit(r, old.key(), "after"); err != nil { // who does not know it yet
		t.Fatal(err)
	}
	if got := young.mail(t, r, 1); !slices.Equal(got, []string{"after"}) {
		t.Errorf("got %q", got)
	}
	_, err := call[native.MailboxStatus](t, connect(t, peer(t, "old"), r.address()), native.MethodMailboxStatus, nil)
	wantCode(t, err, native.BadRequest)
}

func TestChangesOfKeysAreLimitedAsNewIDsAre(t *testing.T) {
	h := start(t, hub.Config{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Limits: hub.Limits{Admission: admission.Limits{
			Address: admission.Rates{NewID: admission.Rate{Every: time.Hour, Burst: 2}},
		}},
	})
	publish := func(name string, from ...string) (native.Published, error) {
		p := connect(t, peerFrom(t, name, "192.0.2.7"), h.address())
		r := native.PublishRequest{Signed: signed(t, identity(t, name), claim.Statement{Hub: h.About().Key, Action: claim.Register})}
		for _, f := range from {
			r.Rotations = append(r.Rotations, rotated(t, f, name).Bytes())
		}
		return call[native.Published](t, p, native.MethodPublish, r)
	}
	first, err := publish("a")
	if err != nil {
		t.Fatal(err)
	}
	if second, err := publish("b", "a"); err != nil || second.ID != first.ID {
		t.Fatalf("%v, %v", second.ID, err)
	}
	_, err = publish("c", "b")
	wantCode(t, err, native.RateLimited)
	if again, err := publish("b", "a"); err != nil || again.Sequence != 2 { // which does nothing
		t.Errorf("%d, %v", again.Sequence, err)
	}
}

func TestOfBothKeysAtOnceTheNewOneIsLeft(t *testing.T) {
	h := start(t, hub.Config{Limits: hub.Limits{ReplacedGrace: time.Millisecond, NoticeTimeout: time.Second}})
	publish := func(p *secretstack.Peer, name string, from ...string) (native.Published, error) {
		r := native.PublishRequest{
			Signed: signed(t, identity(t, name), claim.Statement{Hub: h.About().Key, Action: claim.Register}), Serves: []string{native.ServesCircuits},
		}
		for _, f := range from {
			r.Rotations = append(r.Rotations, rotated(t, f, name).Bytes())
		}
		return call[native.Published](t, p, native.MethodPublish, r)
	}
	for n := range 5 {
		from, to := fmt.Sprint("old ", n), fmt.Sprint("new ", n)
		old, young := connect(t, peer(t, from), h.address()), connect(t, peer(t, to), h.address())
		first, err := publish(old, from)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 20 {
				if _, err := publish(old, from); err != nil {
					return // given up, or ended
				}
			}
		})
		after, err := publish(young, to, from)
		wg.Wait()
		if err != nil || after.ID != first.ID {
			t.Fatalf("%v, %v", after.ID, err)
		}
		asks := connect(t, peer(t, fmt.Sprint("asks ", n)), h.address())
		who, err := call[native.Who](t, asks, native.MethodWhois, native.WhoisRequest{ID: first.ID})
		if err != nil || !who.Key.Equal(identity(t, to).Public()) || !who.Online {
			t.Errorf("%+v, %v", who, err)
		}
		_, err = call[native.Connected](t, asks, native.MethodConnect, native.ConnectRequest{Key: identity(t, from).Public()})
		if code := native.CodeOf(err); code != native.GivenUp && code != native.Unknown && code != native.NoCircuits { // it may be here still, but nobody is led to it
			t.Errorf("the old key: %v", err)
		}
	}
}

func TestWhoAsksForAKeyThatWasGivenUpIsToldSo(t *testing.T) {
	h := start(t, hub.Config{})
	old := newCourier(t, "old", h, hubclient.Config{})
	id := old.online(t).ID
	if err := old.app.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	young := newCourier(t, "new", h, changed(t, "old", "new"))
	young.online(t)
	bob := connect(t, peer(t, "bob"), h.address())
	_, err := call[native.Connected](t, bob, native.MethodConnect, native.ConnectRequest{Key: old.key()})
	wantCode(t, err, native.GivenUp)
	answer, err := call[native.Connected](t, bob, native.MethodConnect, native.ConnectRequest{ID: id})
	if err != nil || !answer.Key.Equal(young.key()) {
		t.Errorf("the id leads to %s, %v", answer.Key, err)
	}
}
