package secrezapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier/secrezapi"
	"github.com/secretstack/secretstack/secrez"
)

// The defects of the original, in the order of its specification, and what happens here instead.

const alice, bob, carol = 1, 2, 3

var noon = time.UnixMilli(1795311465000)

// bobs is Bob's office, who trusts Alice, and can open what is sealed for him.
func bobs(t *testing.T) *office {
	t.Helper()
	o := newOffice(account(t, bob).Public(), noon, nil)
	o.account = account(t, bob)
	_, _, err := o.Trust(t.Context(), secrezapi.Contact{PublicKey: account(t, alice).Public()})
	check(t, err)
	o.setPublished(secrezapi.Published{ID: mustID(t, "7y-6ro-3z"), URL: "http://7y-6ro-3z.localhost:8433"})
	return o
}

func (o *office) count(t *testing.T) int {
	t.Helper()
	all, err := o.Messages(t.Context(), secrezapi.Query{Max: noon.Add(1000 * time.Hour), Limit: 1000})
	check(t, err)
	return len(all)
}

func TestCourierBug01StrangersAreRefused(t *testing.T) {
	o := bobs(t)
	got := postSigned(t, o.api.Public(), "/", sealed(t, account(t, carol), account(t, bob).Public(), "buy", noon))
	if got != (reply{400, ""}) || o.count(t) != 0 {
		t.Errorf("%v, %d messages", got, o.count(t))
	}
	// Alice's sign half with another box half is not Alice.
	key, err := secrez.NewPublicKey(account(t, carol).Public().Box(), account(t, alice).Public().Identity().Bytes())
	check(t, err)
	if _, err := o.Trusted(t.Context(), key.Identity()); err != nil {
		t.Fatal(err)
	}
	mixed, err := secrez.ImportAccount(account(t, alice).Identity().Seed(), account(t, carol).BoxSecret())
	check(t, err)
	got = postSigned(t, o.api.Public(), "/", sealed(t, mixed, account(t, bob).Public(), "hi", noon))
	if got.status != 400 || o.count(t) != 0 {
		t.Errorf("%v, %d messages", got, o.count(t))
	}
}

func TestCourierBug02NothingIsGoodTwiceOrForEver(t *testing.T) {
	o := bobs(t)
	message := sealed(t, account(t, alice), account(t, bob).Public(), "hi", noon)
	for range 3 {
		if got := postSigned(t, o.api.Public(), "/", message); got != (reply{200, `{"success":true}`}) {
			t.Errorf("%v", got)
		}
	}
	if n := o.count(t); n != 1 {
		t.Errorf("%d messages are kept", n)
	}
	for name, when := range map[string]time.Time{"years old": noon.AddDate(-9, 0, 0), "from next week": noon.AddDate(0, 0, 7)} {
		if got := postSigned(t, o.api.Public(), "/", sealed(t, account(t, alice), account(t, bob).Public(), "x", when)); got.status != 400 {
			t.Errorf("a message %s: %v", name, got)
		}
	}
	call := signed(t, account(t, bob), action{"action": action{"name": "ready"}}, noon)
	if got := get(t, o.api.Local(), "/admin", call); got.status != 200 {
		t.Errorf("a call: %v", got)
	}
	if got := get(t, o.api.Local(), "/admin", call); got.status != 400 {
		t.Errorf("the same call again: %v", got)
	}
	for name, when := range map[string]time.Time{"too old": noon.Add(-61 * time.Second), "too new": noon.Add(61 * time.Second), "of the process before": noon.Add(-time.Second)} {
		if got := get(t, o.api.Local(), "/admin", signed(t, account(t, bob), action{"action": action{"name": "ready"}}, when)); got.status != 400 {
			t.Errorf("a call %s: %v", name, got)
		}
	}
}

func TestCourierBug03AStrangerAfterARestartIsRefused(t *testing.T) {
	o := bobs(t)
	if got := o.admin(t, account(t, carol), action{"name": "ready"}); got.status != 401 {
		t.Errorf("%v", got)
	}
	if got := o.admin(t, account(t, bob), action{"name": "ready"}); got.status != 200 {
		t.Errorf("the owner: %v", got)
	}
}

func TestCourierBug04ReadyTellsWhetherTheTunnelIsThere(t *testing.T) {
	o := bobs(t)
	if got := o.admin(t, account(t, bob), action{"name": "ready"}); !strings.Contains(got.body, `"tunnel":{"clientId":"7y-6ro-3z","url":"http://7y-6ro-3z.localhost:8433"}}`) {
		t.Errorf("%v", got)
	}
	o.setPublished(secrezapi.Published{}) // the hub has ended
	if got := o.admin(t, account(t, bob), action{"name": "ready"}); !strings.HasSuffix(got.body, `"tunnel":{}}`) {
		t.Errorf("%v", got)
	}
	if got := o.admin(t, account(t, bob), action{"name": "publish"}); !strings.Contains(got.body, "Tunnel server offline") {
		t.Errorf("%v", got)
	}
}

func TestCourierBug05EveryActionIsAnswered(t *testing.T) {
	o := bobs(t)
	for _, do := range []any{action{"name": "nope"}, action{"name": "__proto__"}, action{}, action{"name": 1}, "ready", nil, []string{"ready"}} {
		got := get(t, o.api.Local(), "/admin", signed(t, account(t, bob), action{"action": do}, noon))
		if got.status != 400 {
			t.Errorf("%v: %v", do, got)
		}
	}
}

func TestCourierBug06OnlyALocalProgramBecomesTheOwner(t *testing.T) {
	o := newOffice(secrez.PublicKey{}, noon, nil)
	call := signed(t, account(t, carol), action{"action": action{"name": "ready"}}, noon)
	if got := get(t, o.api.Public(), "/admin", call); got.status != 404 {
		t.Errorf("from outside: %v", got)
	}
	if got := get(t, o.api.Local(), "/admin", signed(t, account(t, carol), action{"action": action{"name": "ready"}}, noon.Add(-time.Hour))); got.status != 401 {
		t.Errorf("with an old payload: %v", got)
	}
	if got := o.admin(t, account(t, bob), action{"name": "ready"}); got.status != 200 {
		t.Errorf("the first on this machine: %v", got)
	}
	if got := o.admin(t, account(t, carol), action{"name": "ready"}); got.status != 401 {
		t.Errorf("the second: %v", got)
	}
}

func TestCourierBug07AMessageForSomebodyElseIsRefused(t *testing.T) {
	o := bobs(t)
	forCarol := sealed(t, account(t, alice), account(t, carol).Public(), "for carol", noon)
	if got := postSigned(t, o.api.Public(), "/", forCarol); got.status != 400 || o.count(t) != 0 {
		t.Errorf("%v, %d messages", got, o.count(t))
	}
}

func TestCourierBug08AddSaysWhatIsWrong(t *testing.T) {
	o := bobs(t)
	key := account(t, carol).Public().String()
	for _, c := range []struct{ key, url, want string }{
		{"abc", "", "The public key is not a valid one"},
		{key + "$AAAA", "", "The public key is not a valid one"},
		{key, "http://example.com", "The url does not look valid"},
		{key, "file:///etc/passwd", "The url does not look valid"},
		{key, "javascript:alert(1)", "The url does not look valid"},
	} {
		got := o.admin(t, account(t, bob), action{"name": "add", "publicKey": c.key, "url": c.url})
		if got != (reply{200, `{"success":false,"error":"` + c.want + `"}`}) {
			t.Errorf("%q, %q: %v", c.key, c.url, got)
		}
	}
	for _, want := range []string{`{"success":true,"result":[1]}`, `{"success":true}`} {
		if got := o.admin(t, account(t, bob), action{"name": "add", "publicKey": key, "url": "https://uz-3ms-cm.example.com"}); got.body != want {
			t.Errorf("%v", got)
		}
	}
	mixed, err := secrez.NewPublicKey(account(t, alice).Public().Box(), account(t, carol).Public().Identity().Bytes())
	check(t, err)
	if got := o.admin(t, account(t, bob), action{"name": "add", "publicKey": mixed.String()}); !strings.Contains(got.body, "different public key") {
		t.Errorf("another box half: %v", got)
	}
}

func TestOnlyPostIsReachedFromOutside(t *testing.T) {
	o := bobs(t)
	for _, c := range []struct{ method, path string }{
		{"GET", "/"}, {"GET", "/admin"}, {"POST", "/admin"}, {"GET", "/messages"}, {"POST", "/messages"}, {"PUT", "/"}, {"HEAD", "/"}, {"POST", "//"},
		{"POST", "/x"}, {"DELETE", "/"},
	} {
		got := serve(t, o.api.Public(), httptest.NewRequest(c.method, c.path, nil))
		if got.status != http.StatusNotFound || got.body != `{"error":"Error"}` {
			t.Errorf("%s %s: %v", c.method, c.path, got)
		}
	}
}

func TestAPayloadMayBeLarge(t *testing.T) {
	o := bobs(t)
	long := strings.Repeat("x", 500<<10)
	if got := postSigned(t, o.api.Public(), "/", sealed(t, account(t, alice), account(t, bob).Public(), long, noon)); got.status != 200 {
		t.Errorf("%v", got)
	}
	// The query of a GET has no room for it: the call may be posted.
	message := sealed(t, account(t, bob), account(t, alice).Public(), long[:300<<10], noon)
	call := signed(t, account(t, bob), action{"action": action{"name": "send", "recipient": account(t, carol).Public().String(), "message": message}}, noon)
	if got := postSigned(t, o.api.Local(), "/admin", call); got.body != `{"success":false,"error":"No url found for the public key"}` {
		t.Errorf("%v", got)
	}
	if got := post(t, o.api.Public(), "/", `{"payload":"`+strings.Repeat("x", 5<<20)+`"}`); got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("5 MiB: %v", got)
	}
}

func TestMessagesAreGivenToTheOwnerAlone(t *testing.T) {
	o := bobs(t)
	for _, text := range []string{"one", "two", "three"} {
		postSigned(t, o.api.Public(), "/", sealed(t, account(t, alice), account(t, bob).Public(), text, noon))
	}
	for name, c := range map[string]struct {
		ask  action
		want int
	}{
		"all":          {action{}, 3},
		"two":          {action{"limit": 2}, 2},
		"from alice":   {action{"from": account(t, alice).Public().String()}, 3},
		"from carol":   {action{"from": account(t, carol).Public().String()}, 0},
		"sent":         {action{"direction": 2}, 0},
		"of the past":  {action{"maxTimestamp": noon.UnixMilli() - 1}, 0},
		"of this time": {action{"minTimestamp": noon.UnixMilli(), "maxTimestamp": noon.UnixMilli()}, 3},
	} {
		got := get(t, o.api.Local(), "/messages", signed(t, account(t, bob), c.ask, noon))
		if n := strings.Count(got.body, `"timestamp":`); got.status != 200 || n != c.want || !strings.HasPrefix(got.body, `{"success":true,"result":[`) {
			t.Errorf("%s: %v", name, got)
		}
	}
	for _, ask := range []action{{"limit": 0}, {"limit": "1"}, {"direction": 3}, {"from": "x"}, {"minTimestamp": 1.5}} {
		if got := get(t, o.api.Local(), "/messages", signed(t, account(t, bob), ask, noon)); got.status != 400 {
			t.Errorf("%v: %v", ask, got)
		}
	}
	if got := get(t, o.api.Local(), "/messages", signed(t, account(t, alice), action{}, noon)); got.status != 401 {
		t.Errorf("a contact: %v", got)
	}
}
