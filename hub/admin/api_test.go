package admin_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/secrez"
)

func newCourier(t *testing.T, kind admin.Kind, addr string, age time.Duration, bytes int64) admin.Courier {
	t.Helper()
	return admin.Courier{
		Key: newIdentity(t).Public(), ID: secrez.NewID(), Kind: kind, Addr: netip.MustParseAddr(addr),
		Since: time.Now().Add(-age), Received: bytes, Sent: bytes,
	}
}

func TestTheAPITellsHowTheHubIs(t *testing.T) {
	w := newWorld(t)
	w.hub.set(func(h *fakeHub) {
		h.about.Limits = []admin.Limit{{Name: "connections", Value: "65536"}}
		h.status = admin.Status{
			Registry:     registry.Status{Records: 3, Free: -1},
			Certificates: []admin.Certificate{{Name: "hub.example.org", Expires: time.Unix(2000, 0)}},
			Circuits:     circuits.Stats{Open: 2},
		}
		h.couriers = []admin.Courier{newCourier(t, admin.KindSecrez, "192.0.2.1", 0, 0)}
	})
	var got struct {
		Ready    bool
		Version  string
		Key      string
		Couriers map[string]int
		Registry struct {
			Records  int
			Writable bool
			Free     *int64
		}
		Certificates []struct {
			Name    string
			Expires time.Time
		}
		Circuits int
		Limits   map[string]string
	}
	w.call(t, http.MethodGet, "/api/v1/status", nil, http.StatusOK, &got)
	if !got.Ready || got.Version != "1.2.3" || got.Key != w.hub.about.Key.Ref() || got.Couriers["secrez"] != 1 ||
		got.Couriers["native"] != 0 || got.Registry.Records != 3 || !got.Registry.Writable || got.Registry.Free != nil ||
		len(got.Certificates) != 1 || !got.Certificates[0].Expires.Equal(time.Unix(2000, 0)) || got.Circuits != 2 ||
		got.Limits["connections"] != "65536" {
		t.Errorf("got %+v", got)
	}
}

func TestCouriersAreFoundByIdKeyAddressAndKind(t *testing.T) {
	w := newWorld(t)
	old := newCourier(t, admin.KindNative, "192.0.2.1", time.Hour, 1)
	busy := newCourier(t, admin.KindSecrez, "2001:db8::7", time.Minute, 1000)
	fresh := newCourier(t, admin.KindRoom, "198.51.100.3", time.Second, 10)
	fresh.ID = secrez.ID{}
	w.hub.set(func(h *fakeHub) { h.couriers = []admin.Courier{busy, old, fresh} })
	for query, want := range map[string][]admin.Courier{
		"":                                       {fresh, busy, old},
		"?order=oldest":                          {old, busy, fresh},
		"?order=traffic":                         {busy, fresh, old},
		"?kind=room":                             {fresh},
		"?kind=ROOM":                             {},
		"?q=" + strings.ToUpper(old.ID.String()): {old},
		"?q=%20192.0.2.1%20":                     {old},
		"?q=2001:db8":                            {busy},
		"?q=" + queryEscape(busy.Key.Ref()):      {busy},
		"?q=nobody":                              {},
		"?from=1&limit=1":                        {busy},
		"?from=99":                               {},
		"?limit=0":                               {},
	} {
		var got struct {
			Online   int
			Couriers []struct{ Key, ID, Kind, Address string }
		}
		w.call(t, http.MethodGet, "/api/v1/couriers"+query, nil, http.StatusOK, &got)
		if got.Online != 3 || len(got.Couriers) != len(want) {
			t.Errorf("%q finds %d of %d, want %d", query, len(got.Couriers), got.Online, len(want))
			continue
		}
		for i, c := range got.Couriers {
			if c.Key != want[i].Key.Ref() || c.Kind != string(want[i].Kind) || c.Address != want[i].Addr.String() {
				t.Errorf("%q: %d is %+v", query, i, c)
			}
		}
	}
	w.call(t, http.MethodGet, "/api/v1/couriers?from=-1", nil, http.StatusBadRequest, nil)
	w.call(t, http.MethodGet, "/api/v1/couriers?limit=x", nil, http.StatusBadRequest, nil)
}

func queryEscape(s string) string {
	return strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D", "@", "%40").Replace(s)
}

func TestDisconnectTakesAKeyOrAnId(t *testing.T) {
	w := newWorld(t)
	one, two := newCourier(t, admin.KindNative, "192.0.2.1", 0, 0), newCourier(t, admin.KindNative, "192.0.2.2", 0, 0)
	w.hub.set(func(h *fakeHub) { h.couriers = []admin.Courier{one, two} })
	var got struct{ Closed int }
	w.call(t, http.MethodPost, "/api/v1/disconnect", map[string]string{"key": one.Key.Ref()}, http.StatusOK, &got)
	if left := w.hub.Couriers(); got.Closed != 1 || len(left) != 1 || !left[0].Key.Equal(two.Key) {
		t.Errorf("by key: closed %d, left %v", got.Closed, left)
	}
	w.call(t, http.MethodPost, "/api/v1/disconnect", map[string]string{"id": two.ID.String()}, http.StatusOK, &got)
	if left := w.hub.Couriers(); got.Closed != 1 || len(left) != 0 {
		t.Errorf("by id: closed %d, left %v", got.Closed, left)
	}
	w.call(t, http.MethodPost, "/api/v1/disconnect", map[string]string{"id": two.ID.String()}, http.StatusOK, &got)
	if got.Closed != 0 {
		t.Errorf("closed %d of nobody", got.Closed)
	}
	for _, body := range []map[string]string{{}, {"key": "x"}, {"id": "x"}, {"key": one.Key.Ref(), "id": one.ID.String()}} {
		w.call(t, http.MethodPost, "/api/v1/disconnect", body, http.StatusBadRequest, nil)
	}
}

func TestRulesAreSetListedAndRemoved(t *testing.T) {
	w := newWorld(t)
	addr := netip.MustParseAddr("192.0.2.9")
	until := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	w.call(t, http.MethodPost, "/api/v1/rules", map[string]any{
		"effect": "deny", "subject": "192.0.2.0/24", "note": "noise", "expires": until,
	}, http.StatusOK, nil)
	if err := w.admission.Network(addr); err == nil {
		t.Error("the rule does not hold")
	}
	var got struct{ Rules []admission.Rule }
	w.call(t, http.MethodGet, "/api/v1/rules", nil, http.StatusOK, &got)
	if len(got.Rules) != 1 || got.Rules[0].Effect != admission.Deny || got.Rules[0].Subject.String() != "192.0.2.0/24" ||
		got.Rules[0].Note != "noise" || !got.Rules[0].Expires.Equal(until) {
		t.Errorf("listed: %+v", got.Rules)
	}
	w.call(t, http.MethodDelete, "/api/v1/rules?subject=192.0.2.0/24", nil, http.StatusOK, nil)
	if err := w.admission.Network(addr); err != nil {
		t.Errorf("it still holds: %v", err)
	}
	w.call(t, http.MethodDelete, "/api/v1/rules?subject=192.0.2.0/24", nil, http.StatusNotFound, nil)
}

func TestWhatIsNotUnderstoodIsExplained(t *testing.T) {
	w := newWorld(t)
	type rule map[string]any
	const rules = "/api/v1/rules"
	past := time.Unix(1e9, 0)
	for name, c := range map[string]struct {
		method, path string
		body         any
		want         string
	}{
		"a subject":       {http.MethodPost, rules, rule{"effect": "deny", "subject": "bob"}, "neither a key"},
		"host bits":       {http.MethodPost, rules, rule{"effect": "deny", "subject": "10.1.2.3/8"}, "10.0.0.0/8"},
		"an effect":       {http.MethodPost, rules, rule{"effect": "drop", "subject": "10.0.0.0/8"}, "allow or deny"},
		"a past end":      {http.MethodPost, rules, rule{"effect": "deny", "subject": "10.0.0.0/8", "expires": past}, "expired"},
		"a misspelt name": {http.MethodPost, rules, rule{"effect": "deny", "subject": "10.0.0.0/8", "expire": "x"}, "expire"},
		"a mode":          {http.MethodPut, "/api/v1/mode", map[string]string{"mode": "ajar"}, "open, invite or closed"},
		"no mode":         {http.MethodPut, "/api/v1/mode", map[string]string{}, "name a mode"},
		"uses":            {http.MethodPost, "/api/v1/invites", map[string]int{"uses": 5000}, "1 to 1000"},
		"a removal":       {http.MethodDelete, "/api/v1/rules?subject=bob", nil, "neither a key"},
	} {
		t.Run(name, func(t *testing.T) {
			var got message
			w.call(t, c.method, c.path, c.body, http.StatusBadRequest, &got)
			if !strings.Contains(got.Error.Message, c.want) || strings.Contains(got.Error.Message, "admission:") {
				t.Errorf("the answer is %q", got.Error.Message)
			}
		})
	}
	if rules := w.admission.Rules(); len(rules) > 0 || w.admission.Mode() != admission.ModeOpen {
		t.Errorf("something has changed: %v", rules)
	}
}

func TestABodyIsJSONAndNotTooLong(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		kind, body string
		want       int
	}{
		"a form":          {"application/x-www-form-urlencoded", "mode=closed", http.StatusUnsupportedMediaType},
		"no type":         {"", `{"mode":"closed"}`, http.StatusUnsupportedMediaType},
		"cut off":         {"application/json", `{"mode":"closed"`, http.StatusBadRequest},
		"two values":      {"application/json", `{"mode":"closed"}{}`, http.StatusBadRequest},
		"too long":        {"application/json", `{"mode":"` + strings.Repeat("x", 70000) + `"}`, http.StatusBadRequest},
		"with parameters": {"application/json; charset=utf-8", `{"mode":"closed"}`, http.StatusOK},
	} {
		answer := w.ask(t, http.MethodPut, "/api/v1/mode", strings.NewReader(c.body),
			header("Authorization", "Bearer "+w.token), header("Content-Type", c.kind))
		if answer.Code != c.want {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
		}
	}
}

func TestTheModeChanges(t *testing.T) {
	w := newWorld(t)
	var got struct{ Mode admission.Mode }
	w.call(t, http.MethodPut, "/api/v1/mode", map[string]string{"mode": "invite"}, http.StatusOK, &got)
	if got.Mode != admission.ModeInvite || w.admission.Mode() != admission.ModeInvite {
		t.Errorf("the mode is %q, told %q", w.admission.Mode(), got.Mode)
	}
	w.call(t, http.MethodGet, "/api/v1/mode", nil, http.StatusOK, &got)
	if got.Mode != admission.ModeInvite {
		t.Errorf("told %q", got.Mode)
	}
}

func TestAnInviteWorksUntilItIsRevoked(t *testing.T) {
	w := newWorld(t)
	w.call(t, http.MethodPut, "/api/v1/mode", map[string]string{"mode": "invite"}, http.StatusOK, nil)
	var made struct {
		ID, Code, Link, Note string
		Uses, Left           int
	}
	w.call(t, http.MethodPost, "/api/v1/invites", map[string]any{"uses": 2, "note": "for Alice"}, http.StatusOK, &made)
	if made.Link != inviteLink+made.Code || made.Uses != 2 || made.Left != 2 || made.Note != "for Alice" {
		t.Errorf("made %+v", made)
	}
	alice, bob := newIdentity(t).Public(), newIdentity(t).Public()
	if err := w.admission.Publish(t.Context(), netip.Addr{}, alice, secrez.ID{}, made.Code); err != nil {
		t.Fatal(err)
	}
	var listed struct {
		Invites []struct {
			ID, Code, Link string
			Left           int
			Members        []struct{ Key string }
		}
	}
	w.call(t, http.MethodGet, "/api/v1/invites", nil, http.StatusOK, &listed)
	if len(listed.Invites) != 1 || listed.Invites[0].ID != made.ID || listed.Invites[0].Left != 1 ||
		listed.Invites[0].Code+listed.Invites[0].Link != "" ||
		len(listed.Invites[0].Members) != 1 || listed.Invites[0].Members[0].Key != alice.Ref() {
		t.Errorf("listed %+v", listed)
	}
	w.call(t, http.MethodDelete, "/api/v1/invites/"+made.ID, nil, http.StatusOK, nil)
	if err := w.admission.Publish(t.Context(), netip.Addr{}, bob, secrez.ID{}, made.Code); err == nil {
		t.Error("a revoked invite works")
	}
	w.call(t, http.MethodDelete, "/api/v1/invites/ffffffffffff", nil, http.StatusNotFound, nil)
}

func TestWhatCannotBeWrittenIsSaidAndNothingLocalIsTold(t *testing.T) {
	w := newWorld(t)
	if err := w.registry.Close(); err != nil {
		t.Fatal(err)
	}
	var got message
	w.call(t, http.MethodPost, "/api/v1/rules", map[string]string{"effect": "deny", "subject": "192.0.2.0/24"},
		http.StatusServiceUnavailable, &got)
	if !strings.Contains(got.Error.Message, "nothing has changed") || strings.Contains(got.Error.Message, "registry:") {
		t.Errorf("the answer is %q", got.Error.Message)
	}
	wantIn(t, w.log.String(), "registry:")
}

func TestTheLatestRefusalsAreTold(t *testing.T) {
	w := newWorld(t)
	key := newIdentity(t).Public()
	for i := range 250 {
		w.observer.Refused(admin.Refusal{Time: time.Unix(int64(i), 0), Reason: admin.ReasonRate, What: "connect"})
	}
	w.observer.Refused(admin.Refusal{
		Reason: admin.ReasonDenied, What: "publish", Addr: netip.MustParseAddr("192.0.2.1"), Key: key,
	})
	var got struct {
		Refusals []struct {
			Time                       time.Time
			Reason, What, Address, Key string
		}
	}
	w.call(t, http.MethodGet, "/api/v1/refusals", nil, http.StatusOK, &got)
	if len(got.Refusals) != 100 {
		t.Fatalf("told %d", len(got.Refusals))
	}
	first, second, last := got.Refusals[0], got.Refusals[1], got.Refusals[99]
	if first.Reason != "denied" || first.Time.IsZero() || first.What != "publish" || first.Address != "192.0.2.1" || first.Key != key.Ref() {
		t.Errorf("the first is %+v", first)
	}
	if !second.Time.Equal(time.Unix(249, 0)) || !last.Time.Equal(time.Unix(151, 0)) || second.Address+second.Key != "" {
		t.Errorf("the others are %+v to %+v", second, last)
	}
}
