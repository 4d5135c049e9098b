package hub_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/native"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/muxrpc"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/plugins/tunnel"
	"github.com/secretstack/secretstack/secrez"
)

// connect connects an app to the hub.
func connect(t testing.TB, app *secretstack.App, address string) *secretstack.Peer {
	t.Helper()
	p, err := app.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// call calls a method of the hub, and returns what it refuses as such.
func call[R any](t testing.TB, p *secretstack.Peer, method string, arg any) (R, error) {
	t.Helper()
	answer, err := muxrpc.Call[R](t.Context(), p, method, arg)
	if refusal, ok := native.FromPeer(err); ok {
		return answer, refusal
	}
	return answer, err
}

func wantCode(t testing.TB, err error, code native.Code) {
	t.Helper()
	if native.CodeOf(err) != code {
		t.Errorf("the error is %v, want the code %s", err, code)
	}
}

// signed is a statement of an identity.
func signed(t testing.TB, id *keys.Identity, s claim.Statement) claim.Signed {
	t.Helper()
	s.Key, s.Time = id.Public(), time.Now()
	out, err := s.Sign(id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTheIDStaysWhenCourierAndHubStartAgain(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	h := start(t, hub.Config{Dir: dir})
	c := courierIn(t, "alice", home, h, hubclient.Config{Handler: says("alice")})
	before := c.online(t)
	h.end()
	c.await(t, "offline", func(s hubclient.Status) bool { return !s.Online })
	again := start(t, hub.Config{Dir: dir, Listen: []string{h.addr}})
	after := c.online(t)
	if after.ID != before.ID || after.Sequence != 1 {
		t.Errorf("after the hub's restart it is %s, %d", after.ID, after.Sequence)
	}
	if status, _ := get(t, again.visitor(), "http://"+after.ID.String()+"."+domain); status != 200 {
		t.Errorf("a visitor gets %d", status)
	}
	if err := c.app.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s := courierIn(t, "alice", home, again, hubclient.Config{}).online(t); s.ID != before.ID {
		t.Errorf("after the courier's restart it is %s", s.ID)
	}
}

// TestAHubThatHasLostItsMemoryGivesTheIDBack: the courier shows what the hub has signed.
func TestAHubThatHasLostItsMemoryGivesTheIDBack(t *testing.T) {
	h := start(t, hub.Config{})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
	before := c.online(t)
	h.end()
	c.await(t, "offline", func(s hubclient.Status) bool { return !s.Online })
	again := start(t, hub.Config{Listen: []string{h.addr}})
	if after := c.online(t); after.ID != before.ID {
		t.Errorf("it was %s and is %s", before.ID, after.ID)
	}
	if status, body := get(t, again.visitor(), "http://"+before.ID.String()+"."+domain); status != 200 {
		t.Errorf("a visitor gets %d %s", status, body)
	}
}

func TestWhoisAndStatusTellWhatCouriersMayKnow(t *testing.T) {
	h := start(t, hub.Config{Name: "the hub", Version: "9.9"})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
	s := c.online(t)
	bob := connect(t, peer(t, "bob"), h.address())
	alice := identity(t, "alice").Public()
	for name, question := range map[string]native.WhoisRequest{"by id": {ID: s.ID}, "by key": {Key: alice}} {
		who, err := call[native.Who](t, bob, native.MethodWhois, question)
		if err != nil || who.ID != s.ID || !who.Key.Equal(alice) || !who.PublicKey.Identity().Equal(alice) || !who.Online ||
			who.URL != s.URL || !slices.Contains(who.Serves, native.ServesHTTP) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	for name, question := range map[string]native.WhoisRequest{"nothing": {}, "both": {ID: s.ID, Key: alice}} {
		_, err := call[native.Who](t, bob, native.MethodWhois, question)
		if native.CodeOf(err) != native.BadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := call[native.Who](t, bob, native.MethodWhois, native.WhoisRequest{Key: bob.App().ID()})
	wantCode(t, err, native.Unknown)

	status, err := call[native.Status](t, bob, native.MethodStatus, nil)
	if want := (native.Status{Hub: "the hub", Version: "9.9", Domain: domain, Admission: "open"}); err != nil || status != want {
		t.Errorf("%+v, %v", status, err)
	}
	if err := c.app.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "alice is away", func() bool {
		who, err := call[native.Who](t, bob, native.MethodWhois, native.WhoisRequest{ID: s.ID})
		return err == nil && !who.Online && len(who.Serves) == 0
	})
	if code, _ := get(t, h.visitor(), s.URL); code != 503 {
		t.Errorf("a visitor gets %d", code)
	}
}

func TestRefusalsSayWhatIsWrong(t *testing.T) {
	h := start(t, hub.Config{})
	self, other := identity(t, "alice"), identity(t, "other")
	p := connect(t, peer(t, "alice"), h.address())
	key := h.About().Key
	good := func() claim.Signed { return signed(t, self, claim.Statement{Hub: key, Action: claim.Register}) }
	forged := good()
	forged.Signature = bytes.Repeat([]byte{1}, 64)
	receipt := claim.Receipt{Key: other.Public(), ID: someID(t), Sequence: 1, Time: time.Now()}.Sign(other)
	for name, c := range map[string]struct {
		request any
		code    native.Code
	}{
		"nothing":               {nil, native.BadRequest},
		"no object":             {"please", native.BadRequest},
		"too long":              {map[string]string{"invite": strings.Repeat("x", 20<<10)}, native.BadRequest},
		"no statement":          {native.PublishRequest{}, native.Evidence},
		"wrong signature":       {native.PublishRequest{Signed: forged}, native.Evidence},
		"another key":           {native.PublishRequest{Signed: signed(t, other, claim.Statement{Hub: key, Action: claim.Register})}, native.BadRequest},
		"another hub":           {native.PublishRequest{Signed: signed(t, self, claim.Statement{Hub: other.Public(), Action: claim.Register})}, native.BadRequest},
		"a reset":               {native.PublishRequest{Signed: signed(t, self, claim.Statement{Hub: key, Action: claim.Reset, ID: someID(t), Sequence: 1})}, native.BadRequest},
		"an id out of thin air": {native.PublishRequest{Signed: signed(t, self, claim.Statement{Hub: key, Action: claim.Register, ID: someID(t), Sequence: 1})}, native.Claim},
		"a receipt of others":   {native.PublishRequest{Signed: signed(t, self, claim.Statement{Hub: key, Action: claim.Register, ID: receipt.ID, Sequence: 1}), Receipt: &receipt}, native.Evidence},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			if c.request == nil {
				_, err = muxrpc.Call[native.Published](t.Context(), p, native.MethodPublish)
			} else {
				_, err = call[native.Published](t, p, native.MethodPublish, c.request)
			}
			wantCode(t, err, c.code)
		})
	}
	answer, err := call[native.Published](t, p, native.MethodPublish, native.PublishRequest{Signed: good()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = call[native.Published](t, p, native.MethodReset, native.ResetRequest{
		Signed: signed(t, self, claim.Statement{Hub: key, Action: claim.Reset, ID: answer.ID, Sequence: 7}),
	})
	wantCode(t, err, native.Stale)
	_, err = call[native.Published](t, p, native.MethodPublish, native.PublishRequest{
		Signed: signed(t, self, claim.Statement{Hub: key, Action: claim.Register, Box: bytes.Repeat([]byte{9}, 32)}),
	})
	if err != nil {
		t.Errorf("a box half that nobody has stated before: %v", err)
	}
	_, err = call[native.Published](t, p, native.MethodPublish, native.PublishRequest{
		Signed: signed(t, self, claim.Statement{Hub: key, Action: claim.Register, Box: bytes.Repeat([]byte{8}, 32)}),
	})
	wantCode(t, err, native.BoxKey)
}

func someID(t testing.TB) secrez.ID {
	t.Helper()
	id, err := secrez.ParseID("7y-6ro-3z")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestResetMovesTheCourierToANewIDAtOnce(t *testing.T) {
	h := start(t, hub.Config{})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
	before := c.online(t)
	after, err := c.Reset(t.Context(), keys.PublicKey{})
	if err != nil || after.ID == before.ID || after.Sequence != 2 {
		t.Fatalf("%+v, %v", after, err)
	}
	visitor := h.visitor()
	if status, _ := get(t, visitor, before.URL); status != 404 {
		t.Errorf("the old id gives %d", status)
	}
	if status, _ := get(t, visitor, after.URL); status != 200 {
		t.Errorf("the new id gives %d", status)
	}
}

func TestTheNewerOfTwoConnectionsWinsAndTheOlderIsTold(t *testing.T) {
	h := start(t, hub.Config{})
	older := newCourier(t, "alice", h, hubclient.Config{Handler: says("older"), RetryMin: time.Hour, RetryMax: time.Hour})
	first := older.online(t)
	newer := newCourier(t, "alice", h, hubclient.Config{Handler: says("newer")})
	second := newer.online(t)
	if first.ID != second.ID {
		t.Errorf("one key has the ids %s and %s", first.ID, second.ID)
	}
	older.await(t, "told", func(s hubclient.Status) bool { return errors.Is(s.Err, hubclient.ErrReplaced) && !s.Online })
	_, body := get(t, h.visitor(), second.URL)
	contains(t, body, "newer")
	if s := newer.Hubs()[0]; !s.Online {
		t.Errorf("the newer is %+v", s)
	}
}

func TestAReplacedConnectionThatDoesNotLeaveIsEnded(t *testing.T) {
	h := start(t, hub.Config{Limits: hub.Limits{ReplacedGrace: 50 * time.Millisecond, NoticeTimeout: 50 * time.Millisecond}})
	app := peer(t, "alice")
	request := native.PublishRequest{Signed: signed(t, identity(t, "alice"), claim.Statement{Hub: h.About().Key, Action: claim.Register})}
	older := connect(t, app, h.address())
	if _, err := call[native.Published](t, older, native.MethodPublish, request); err != nil {
		t.Fatal(err)
	}
	newer := connect(t, app, h.address())
	if _, err := call[native.Published](t, newer, native.MethodPublish, request); err != nil {
		t.Fatal(err)
	}
	<-older.Done()
	status, err := call[native.Status](t, newer, native.MethodStatus, nil)
	if err != nil || !status.Published {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestInvitationsAreAskedForOnceAndSaid(t *testing.T) {
	h := start(t, hub.Config{Mode: admission.ModeInvite})
	code, _, err := h.Admission().CreateInvite(t.Context(), admission.Invite{})
	if err != nil {
		t.Fatal(err)
	}
	uninvited := newCourier(t, "bob", h, hubclient.Config{})
	s := uninvited.await(t, "refused", func(s hubclient.Status) bool { return s.Err != nil })
	wantCode(t, s.Err, native.InviteNeeded)

	link, err := native.ParseLink(h.InviteLink(code))
	if err != nil || link.Invite != code {
		t.Fatalf("%+v, %v", link, err)
	}
	invited := newCourier(t, "alice", h, hubclient.Config{Hubs: []hubclient.Hub{{Address: h.address(), Invite: link.Invite}}})
	invited.online(t)
	if err := invited.app.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	newCourier(t, "alice", h, hubclient.Config{}).online(t) // a member needs no invitation

	late := newCourier(t, "carol", h, hubclient.Config{Hubs: []hubclient.Hub{{Address: h.address(), Invite: code}}})
	s = late.await(t, "refused", func(s hubclient.Status) bool { return s.Err != nil })
	wantCode(t, s.Err, native.InviteBad)
}

func TestTooMuchAtOnceIsRefusedWithATime(t *testing.T) {
	h := start(t, hub.Config{
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Limits: hub.Limits{Admission: admission.Limits{
			Key: admission.Rates{Lookup: admission.Rate{Every: time.Hour, Burst: 1}, Registration: admission.Rate{Every: time.Hour, Burst: 1}},
		}},
	})
	p := connect(t, peerFrom(t, "alice", "192.0.2.7"), h.address())
	question := native.WhoisRequest{Key: identity(t, "bob").Public()}
	_, err := call[native.Who](t, p, native.MethodWhois, question)
	wantCode(t, err, native.Unknown)
	_, err = call[native.Who](t, p, native.MethodWhois, question)
	wantCode(t, err, native.RateLimited)
	if refusal, ok := errors.AsType[*native.Error](err); !ok || refusal.RetryAfter < 50*time.Minute || refusal.RetryAfter > time.Hour {
		t.Errorf("%+v", refusal)
	}
	request := native.PublishRequest{Signed: signed(t, identity(t, "alice"), claim.Statement{Hub: h.About().Key, Action: claim.Register})}
	if _, err := call[native.Published](t, p, native.MethodPublish, request); err != nil {
		t.Error(err)
	}
	_, err = call[native.Published](t, p, native.MethodPublish, request)
	wantCode(t, err, native.RateLimited)
}

func TestANetworkThatIsDeniedIsLeftWithNothing(t *testing.T) {
	h := start(t, hub.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: says("alice")})
	s := c.online(t)
	far := connect(t, peerFrom(t, "bob", "192.0.2.7"), h.address())
	if got := h.Couriers(); len(got) != 1 {
		t.Errorf("connected are %+v", got)
	}
	deny, err := admission.ParseRule("deny 192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Admission().SetRule(t.Context(), deny); err != nil {
		t.Fatal(err)
	}
	<-far.Done()
	if _, err := peerFrom(t, "bob", "192.0.2.8").Connect(t.Context(), h.address()); err == nil {
		t.Error("another address of the network is let in")
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Forwarded-For", "192.0.2.9")
	res, err := h.visitor().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("a visitor of the network gets %d", res.StatusCode)
	}
	if status, _ := get(t, h.visitor(), s.URL); status != 200 {
		t.Errorf("another visitor gets %d", status)
	}
}

func TestAdmissionReachesLiveConnections(t *testing.T) {
	h := start(t, hub.Config{})
	hanging := make(chan struct{})
	c := newCourier(t, "alice", h, hubclient.Config{Handler: waits(hanging)})
	s := c.online(t)
	answered := make(chan int, 1)
	go func() {
		status, _ := get(t, h.visitor(), s.URL)
		answered <- status
	}()
	<-hanging
	deny, err := admission.ParseRule("deny " + identity(t, "alice").Public().Ref())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Admission().SetRule(t.Context(), deny); err != nil {
		t.Fatal(err)
	}
	off := c.await(t, "offline", func(s hubclient.Status) bool { return !s.Online })
	if off.ID != s.ID {
		t.Errorf("%+v", off)
	}
	if status := <-answered; status != 502 && status != 503 && status != 404 {
		t.Errorf("the visitor of that moment gets %d", status)
	}
	if status, _ := get(t, h.visitor(), s.URL); status != 404 {
		t.Errorf("the next visitor gets %d", status)
	}
	if err := h.Admission().RemoveRule(t.Context(), admission.KeySubject(identity(t, "alice").Public())); err != nil {
		t.Fatal(err)
	}
	if again := c.online(t); again.ID != s.ID {
		t.Errorf("it comes back as %s", again.ID)
	}
}

func TestClosedHubsTakeThoseWhoAreAllowed(t *testing.T) {
	allow, err := admission.ParseRule("allow " + identity(t, "alice").Public().Ref())
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, hub.Config{Mode: admission.ModeClosed, Rules: []admission.Rule{allow}})
	newCourier(t, "alice", h, hubclient.Config{}).online(t)
	if p, err := peer(t, "bob").Connect(t.Context(), h.address()); err == nil {
		t.Errorf("%s is let in", p.Key().Short())
	}
	// Reloading reaches those who are there.
	bob := newCourier(t, "bob", h, hubclient.Config{})
	if unchanged, err := h.Reload(hub.Config{
		Dir: h.dir, Domain: domain, Listen: []string{"127.0.0.1:0"}, Mode: admission.ModeOpen,
	}); err != nil || strings.Join(unchanged, " ") != "TunnelAddress Limits" {
		t.Errorf("%v, %v", unchanged, err)
	}
	bob.online(t)
}

// TestPeersThatAreNoCouriersUseTheRoom: those who only meet here do so as before.
func TestPeersThatAreNoCouriersUseTheRoom(t *testing.T) {
	h := start(t, hub.Config{})
	greeter := secretstack.NewPlugin(secretstack.Info{Name: "greeter", Permissions: secretstack.Anonymous("hello")},
		func(_ context.Context, s *secretstack.Setup) error {
			return muxrpc.HandleAsync(s, "hello", func(_ context.Context, name string) (string, error) { return "hello " + name, nil })
		})
	alice := peer(t, "alice", greeter, tunnel.Plugin(tunnel.Config{Portals: []string{h.address()}}))
	bob := peer(t, "bob", tunnel.Plugin(tunnel.Config{Portals: []string{h.address()}}))
	attendant, _ := secretstack.Find[*tunnel.Attendant](bob)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for found := range attendant.Discovered(ctx) {
		if !found.Key.Equal(alice.ID()) {
			continue
		}
		p := connect(t, bob, found.Address.String())
		if got, err := muxrpc.Call[string](ctx, p, "greeter.hello", "bob"); err != nil || got != "hello bob" {
			t.Errorf("%q, %v", got, err)
		}
		break
	}
	if n := h.Status().Tunnels; n != 1 {
		t.Errorf("there are %d tunnels", n)
	}
	kinds := map[string]int{}
	for _, c := range h.Couriers() {
		kinds[string(c.Kind)]++
	}
	if kinds["room"] != 2 {
		t.Errorf("connected are %v", kinds)
	}
}
