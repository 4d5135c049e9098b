package admin_test

import (
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/secrez"
)

func TestThePageListsWhoIsConnected(t *testing.T) {
	b := newWorld(t).login(t)
	wantIn(t, b.page(t, "/"), "Nobody is connected.")
	c := newCourier(t, admin.KindNative, "192.0.2.1", 3*time.Hour, 1234567)
	guest := newCourier(t, admin.KindRoom, "2001:db8::1", time.Second, 0)
	guest.ID = secrez.ID{}
	b.hub.set(func(h *fakeHub) { h.couriers = []admin.Courier{c, guest} })
	page := b.page(t, "/")
	wantIn(t, page, c.ID.String(), escaped(c.Key.Ref()), "192.0.2.1", "3 h ago", "1.2 MB", "2001:db8::1", "1–2 of 2")
	found := b.page(t, "/?q="+c.ID.String())
	wantIn(t, found, "192.0.2.1", "1–1 of 1")
	wantNotIn(t, found, "2001:db8::1")
	wantIn(t, b.page(t, "/?q=nobody"), "Nobody who is online matches.")
}

func TestManyCouriersAreShownInParts(t *testing.T) {
	b := newWorld(t).login(t)
	b.hub.set(func(h *fakeHub) {
		for i := range 120 {
			h.couriers = append(h.couriers, newCourier(t, admin.KindNative, "192.0.2.1", time.Duration(i)*time.Minute, 0))
		}
	})
	wantIn(t, b.page(t, "/?q=192&kind=native"), "1–50 of 120", `href="/?from=50&amp;kind=native&amp;q=192" rel="next"`)
	wantIn(t, b.page(t, "/?from=50"), "51–100 of 120", `href="/?from=0" rel="prev"`, `href="/?from=100" rel="next"`)
	last := b.page(t, "/?from=100")
	wantIn(t, last, "101–120 of 120")
	wantNotIn(t, last, `rel="next"`)
	wantIn(t, b.page(t, "/?from=100000"), "120–120 of 120")
	wantIn(t, b.page(t, "/?from=nothing"), "1–50 of 120")
}

func TestManyRulesAndInvitesAreShownInParts(t *testing.T) {
	b := newWorld(t).login(t)
	var fixed []admission.Rule
	for i := range 120 {
		rule, err := admission.ParseRule(fmt.Sprintf("deny 10.0.%d.0/24 # number %d.", i, i))
		if err != nil {
			t.Fatal(err)
		}
		fixed = append(fixed, rule)
	}
	if err := b.admission.SetFixed(fixed); err != nil {
		t.Fatal(err)
	}
	for range 51 {
		if _, _, err := b.admission.CreateInvite(t.Context(), admission.Invite{}); err != nil {
			t.Fatal(err)
		}
	}
	wantIn(t, b.page(t, "/lists"), "1–50 of 120", `href="/lists?from=50" rel="next"`)
	found := b.page(t, "/lists?q=NUMBER+7.")
	wantIn(t, found, "10.0.7.0/24", "1–1 of 1", `value="NUMBER 7."`)
	wantNotIn(t, found, "10.0.8.0/24")
	wantIn(t, b.page(t, "/lists?q=nobody"), "No rule matches.")
	wantIn(t, b.page(t, "/invites?from=50"), "51–51 of 51", `href="/invites?from=0" rel="prev"`)

	var rules struct {
		Found, From int
		Rules       []admission.Rule
	}
	b.call(t, http.MethodGet, "/api/v1/rules?from=110&limit=5", nil, http.StatusOK, &rules)
	if rules.Found != 120 || rules.From != 110 || len(rules.Rules) != 5 {
		t.Errorf("rules: %+v", rules)
	}
	var invites struct {
		Found, From int
		Invites     []struct{ ID string }
	}
	b.call(t, http.MethodGet, "/api/v1/invites?from=50", nil, http.StatusOK, &invites)
	if invites.Found != 51 || invites.From != 50 || len(invites.Invites) != 1 {
		t.Errorf("invites: %+v", invites)
	}
	b.call(t, http.MethodGet, "/api/v1/rules?from=x", nil, http.StatusBadRequest, nil)
	b.call(t, http.MethodGet, "/api/v1/invites?limit=-1", nil, http.StatusBadRequest, nil)
}

func TestACourierIsDisconnectedFromThePage(t *testing.T) {
	b := newWorld(t).login(t)
	c := newCourier(t, admin.KindNative, "192.0.2.1", 0, 0)
	b.hub.set(func(h *fakeHub) { h.couriers = []admin.Courier{c} })
	page := b.submit(t, "/disconnect", url.Values{"key": {c.Key.Ref()}})
	wantIn(t, page, "The connections were closed.", "Nobody is connected.")
	wantIn(t, b.submit(t, "/disconnect", url.Values{"key": {c.Key.Ref()}}), "It was not connected any more.")
	if answer := b.post(t, "/disconnect", url.Values{"key": {"x"}}); answer.Code != http.StatusBadRequest {
		t.Errorf("nobody: %d", answer.Code)
	}
}

var denyLink = regexp.MustCompile(`href="(/lists\?who=[^"]*)"`)

func TestRulesAreMadeAndRemovedOnThePage(t *testing.T) {
	b := newWorld(t).login(t)
	fixed, err := admission.ParseRule("deny 203.0.113.0/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.admission.SetFixed([]admission.Rule{fixed}); err != nil {
		t.Fatal(err)
	}
	c := newCourier(t, admin.KindNative, "192.0.2.1", 0, 0)
	b.hub.set(func(h *fakeHub) { h.couriers = []admin.Courier{c} })
	if link := denyLink.FindStringSubmatch(b.page(t, "/")); link == nil {
		t.Error("there is no way from a courier to a rule about it")
	} else if u, err := url.Parse(html.UnescapeString(link[1])); err != nil || u.Query().Get("who") != c.Key.Ref() {
		t.Errorf("the way from a courier to a rule about it is %s", link[1])
	}
	wantIn(t, b.page(t, "/lists?who="+url.QueryEscape(c.Key.Ref())), `name="who" value="`+escaped(c.Key.Ref())+`"`)

	page := b.submit(t, "/lists", url.Values{
		"effect": {"deny"}, "who": {" " + c.Key.Ref()}, "expires": {"24h"}, "note": {`<script>alert("x")</script>`},
	})
	wantIn(t, page, "The rule was added.", escaped(c.Key.Ref()), "in 24 h", "&lt;script&gt;", "from the configuration")
	wantNotIn(t, page, "<script>")
	if err := b.admission.Visit(netip.Addr{}, c.Key); err == nil {
		t.Error("the rule does not hold")
	}
	page = b.submit(t, "/lists/remove", url.Values{"subject": {c.Key.Ref()}})
	wantIn(t, page, "The rule was removed.")
	if err := b.admission.Visit(netip.Addr{}, c.Key); err != nil {
		t.Errorf("it still holds: %v", err)
	}
}

func TestAFormThatIsWrongKeepsWhatWasTyped(t *testing.T) {
	b := newWorld(t).login(t)
	answer := b.post(t, "/lists", url.Values{"effect": {"allow"}, "who": {`"bob"`}, "note": {"a friend"}, "expires": {"24h"}})
	if answer.Code != http.StatusBadRequest {
		t.Errorf("a rule about nobody: %d", answer.Code)
	}
	page := answer.Body.String()
	wantIn(t, page, `role="alert"`, "Neither a key",
		`value="&#34;bob&#34;"`, `value="a friend"`, `value="allow" checked`, `value="24h" selected`)
	wantNotIn(t, page, "admission:")
	for _, uses := range []string{"", "0", "-1", "many", "1001"} {
		if answer := b.post(t, "/invites", url.Values{"uses": {uses}}); answer.Code != http.StatusBadRequest {
			t.Errorf("an invite with %q uses: %d", uses, answer.Code)
		}
	}
	for _, span := range []string{"x", "-1h", "0s"} {
		if answer := b.post(t, "/invites", url.Values{"uses": {"1"}, "expires": {span}}); answer.Code != http.StatusBadRequest {
			t.Errorf("an invite for %q: %d", span, answer.Code)
		}
	}
	if answer := b.post(t, "/mode", url.Values{"mode": {"ajar"}}); answer.Code != http.StatusBadRequest {
		t.Errorf("a mode: %d", answer.Code)
	}
}

func TestTheModeChangesOnThePage(t *testing.T) {
	b := newWorld(t).login(t)
	page := b.submit(t, "/mode", url.Values{"mode": {"closed"}})
	wantIn(t, page, "The mode was changed.", `value="closed" checked`)
	if mode := b.admission.Mode(); mode != admission.ModeClosed {
		t.Errorf("the mode is %s", mode)
	}
}

func TestTheLinkOfAnInviteIsShownToWhoeverMadeItAlone(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.login(t), w.login(t)
	page := alice.submit(t, "/invites", url.Values{"uses": {"3"}, "expires": {"168h"}, "note": {"the team"}})
	wantIn(t, page, "Invite for the team", "3 times", inviteLink, "<svg", "0 of 3", "in 7 days")
	invites := w.admission.Invites()
	if len(invites) != 1 {
		t.Fatalf("%d invites", len(invites))
	}
	shown := "/invites?show=" + invites[0].ID
	wantIn(t, alice.page(t, "/invites"), `href="`+shown+`"`)
	wantIn(t, alice.page(t, shown), inviteLink)
	wantNotIn(t, alice.page(t, "/invites"), inviteLink)
	wantNotIn(t, bob.page(t, shown), inviteLink, "<svg")

	wantIn(t, bob.submit(t, "/invites/revoke", url.Values{"id": {invites[0].ID}}), "The invite was revoked.")
	if answer := bob.post(t, "/invites/revoke", url.Values{"id": {invites[0].ID}}); answer.Code != http.StatusNotFound {
		t.Errorf("revoked twice: %d", answer.Code)
	}
}

func TestTheStatusPageTellsWhatIsWrong(t *testing.T) {
	b := newWorld(t).login(t)
	wantIn(t, b.page(t, "/status"), "Ready:", "Nobody was refused anything", b.hub.about.Version)
	b.hub.set(func(h *fakeHub) {
		h.about.Limits = []admin.Limit{{Name: "handshake", Value: "10 s"}}
		h.status = admin.Status{
			Problems:     []string{"the listener failed"},
			Registry:     registry.Status{Records: 1234567, Free: 5e9},
			Mailboxes:    mailbox.Stats{Mailboxes: 2, Mail: mailbox.Amount{Count: 1200, Bytes: 3e6}, Requests: mailbox.Amount{Count: 34}},
			Certificates: []admin.Certificate{{Name: "*.hub.example.org", Expires: time.Now().Add(240 * time.Hour), Problem: "no answer"}},
		}
	})
	b.observer.Refused(admin.Refusal{Reason: admin.ReasonSlow, What: "connect", Addr: netip.MustParseAddr("192.0.2.77")})
	page := b.page(t, "/status")
	wantIn(t, page, "not ready", "the listener failed", "1,234,567 registered", "5.0 GB",
		"1,234 in 2 mailboxes, 3.0 MB",
		"*.hub.example.org", "in 10 days", "no answer", "192.0.2.77", "slow", "handshake", "10 s")
}

func TestEveryAnswerForbidsWhatThePageDoesNotNeed(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/", "/login", "/static/style.css", "/static/nothing", "/api/v1/status", "/readyz", "/metrics"} {
		header := w.get(t, path).Header()
		policy := header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") ||
			strings.Contains(policy, "unsafe") || header.Get("X-Content-Type-Options") != "nosniff" ||
			header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: %v", path, header)
		}
		if cache := header.Get("Cache-Control"); strings.HasPrefix(path, "/static/style") == (cache == "no-store") {
			t.Errorf("%s: Cache-Control %q", path, cache)
		}
	}
}

func TestThePageNeedsNothingFromElsewhere(t *testing.T) {
	w := newWorld(t)
	for name, kind := range map[string]string{
		"style.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml", "copy.svg": "image/svg+xml",
	} {
		answer := w.get(t, "/static/"+name)
		if answer.Code != http.StatusOK || !strings.HasPrefix(answer.Header().Get("Content-Type"), kind) {
			t.Errorf("%s: %d %s", name, answer.Code, answer.Header().Get("Content-Type"))
		}
		text := strings.ReplaceAll(answer.Body.String(), "http://www.w3.org/2000/svg", "")
		wantNotIn(t, text, "http://", "https://")
	}
	for _, name := range []string{"layout.html", "..%2fpage.go", "%2e%2e", "nothing"} {
		if answer := w.get(t, "/static/"+name); answer.Code == http.StatusOK {
			t.Errorf("%s is served", name)
		}
	}
	page := w.login(t).page(t, "/")
	wantNotIn(t, page, "http://", "https://", "style=", "onclick", "<style")
}

func TestTextsAreFixedWhateverTheAddressSays(t *testing.T) {
	b := newWorld(t).login(t)
	wantIn(t, b.page(t, "/?said=disconnected"), "The connections were closed.")
	wantNotIn(t, b.page(t, "/?said=your+account+was+stolen"), "stolen", `role="status"`)
}

func TestTheServerBoundsEveryWait(t *testing.T) {
	s := admin.NewServer(newWorld(t), slog.New(slog.DiscardHandler))
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("%s", fmt.Sprint(s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout, s.MaxHeaderBytes))
	}
}

// escaped is a text as it stands in a page.
func escaped(text string) string { return strings.ReplaceAll(html.EscapeString(text), "+", "&#43;") }
