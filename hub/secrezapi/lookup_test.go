package secrezapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/registry/claim"
	"github.com/secretstack/secretstack/secrez"
)

func TestTheCodeOpensTheCounts(t *testing.T) {
	w := newWorld(t, nil)
	res := w.register(w.sign(account(t, "alice"), nil))
	w.connect(res)
	paths := map[string]string{
		"/api/v1/status": `{"tunnels":1,`,
		"/api/v1/tunnels/" + res.ID.String() + "/status": `{"connected_sockets":1}`,
	}
	for path, want := range paths {
		for what, r := range map[string]reply{
			"in the header":              w.get(path, "Authorization", "Bearer "+testCode),
			"in the header, other words": w.get(path, "Authorization", "bearer  "+testCode),
			"in the query":               w.get(path + "?code=" + testCode),
		} {
			if r.status != 200 || !strings.HasPrefix(r.body, want) {
				t.Errorf("%s, %s: %d %s", path, what, r.status, r.body)
			}
		}
		for what, r := range map[string]reply{
			"none":                  w.get(path),
			"empty":                 w.get(path + "?code="),
			"another":               w.get(path + "?code=" + testCode + "x"),
			"twice":                 w.get(path + "?code=" + testCode + "&code=" + testCode),
			"a prefix":              w.get(path, "Authorization", "Bearer "+testCode[:3]),
			"Basic":                 w.get(path, "Authorization", "Basic "+testCode),
			"another in the header": w.get(path+"?code="+testCode, "Authorization", "Bearer x"),
		} {
			t.Run(what, func(t *testing.T) { refuses(t, r, 404, "Not found") })
		}
	}
	w = newWorld(t, func(c *Config) { c.Code = "" })
	for _, r := range []reply{w.get("/api/v1/status"), w.get("/api/v1/status?code="), w.get("/api/v1/status", "Authorization", "Bearer ")} {
		refuses(t, r, 404, "Not found")
	}
}

func TestTheStatusHasTheNumbersOfTheOriginal(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Online = func() int { return 7 }
		c.Sockets = func(secrez.ID) (int, bool) { return 3, true }
	})
	r := w.get("/api/v1/status", "Authorization", "Bearer "+testCode)
	var doc struct {
		Tunnels int
		Mem     map[string]uint64
	}
	if err := json.Unmarshal([]byte(r.body), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Tunnels != 7 || doc.Mem["rss"] == 0 || doc.Mem["heapUsed"] == 0 || doc.Mem["heapTotal"] < doc.Mem["heapUsed"] {
		t.Errorf("got %s", r.body)
	}
	if r := w.get("/api/v1/tunnels/7y-6ro-3z/status?code=" + testCode); r.body != `{"connected_sockets":3}` {
		t.Errorf("got %s", r.body)
	}
	if got := resident(5); got == 0 {
		t.Error("no memory at all")
	}
}

// A courier that registered natively stands in the same directory.
func TestKeysOfNativeCouriersAreFoundToo(t *testing.T) {
	w := newWorld(t, nil)
	bob := identity(t, "bob")
	statement, err := claim.Statement{Hub: hubIdentity(t).Public(), Key: bob.Public(), Action: claim.Register, Sequence: 1, Time: w.clock.now()}.Sign(bob)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := w.registry.Register(t.Context(), registry.Registration{Statement: &statement})
	if err != nil {
		t.Fatal(err)
	}
	if r := w.get("/api/v1/publickey/" + rec.ID.String()); r.body != `{"publickey":"`+account(t, "bob").Public().String()+`"}` {
		t.Errorf("got %d %s", r.status, r.body)
	}
	if res := w.register(w.sign(account(t, "bob"), nil)); res.ID != rec.ID {
		t.Errorf("the id is %v over the API, and %v natively", res.ID, rec.ID)
	}
}

func TestRoutesAreThoseOfTheOriginal(t *testing.T) {
	w := newWorld(t, nil)
	id := w.register(w.sign(account(t, "alice"), nil)).ID.String()
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/api/v1/publickey/" + id, 200, ""},
		{"GET", "/API/v1/PublicKey/" + id + "/", 200, ""},
		{"GET", "/api/v1/publickey/" + strings.ToUpper(id), 404, ""},
		{"GET", "/api/v1/publickey/" + id + "//", 404, ""},
		{"GET", "//api/v1/publickey/" + id, 404, ""},
		{"GET", "/api%2Fv1/publickey/" + id, 404, ""},
		{"GET", "/api/v1/publickey", 404, ""},
		{"GET", "/api/v1", 404, ""},
		{"GET", "/s", 404, ""},
		{"POST", "/api/v1/publickey/" + id, 405, "HEAD, GET"},
		{"DELETE", "/s/" + id, 405, "HEAD, GET"},
		{"PATCH", "/api/v1/tunnel/new", 405, "GET, POST"},
		{"PUT", "/api/v1/status", 405, "HEAD, GET"},
		{"OPTIONS", "/api/v1/status", 200, "HEAD, GET"},
		{"OPTIONS", "/api/v1/new", 200, "GET, POST"},
		{"BREW", "/api/v1/status", 501, "HEAD, GET"},
		{"BREW", "/elsewhere", 404, ""},
		{"BREW", "/", 200, ""},
	} {
		r := w.do(c.method, c.path, nil)
		if r.status != c.status || r.headers.Get("Allow") != c.allow {
			t.Errorf("%s %s: %d, Allow %q; want %d, %q", c.method, c.path, r.status, r.headers.Get("Allow"), c.status, c.allow)
		}
		if r.headers.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: browsers may guess the type", c.method, c.path)
		}
		if c.status >= 400 {
			refuses(t, r, c.status, "")
		}
	}
}

func TestTheRootWelcomesOrLeadsOn(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Version = "1.2.3" })
	if r := w.get("/"); r.body != `{"welcome_to":"a secretstack hub, through which peers and the couriers of Secrez reach each other","version":"1.2.3","more_info_at":"https://github.com/secretstack/secretstack"}` {
		t.Errorf("got %s", r.body)
	}
	key := account(t, "hub").Public().Identity()
	w = newWorld(t, func(c *Config) { c.Key = key })
	if r := w.get("/"); !strings.HasSuffix(r.body, `,"key":"`+key.Ref()+`"}`) {
		t.Errorf("with a key: %s", r.body)
	}
	const location = "https://landing.example/x?a=1&b='2'"
	w = newWorld(t, func(c *Config) { c.Landing = location })
	for accept, kind := range map[string]string{
		"": typeHTML, "*/*": typeHTML, "text/html": typeHTML, "text/*": typeHTML, "application/json, text/html;q=0.1": typeHTML,
		"text/plain": typeText, "application/json": typeText, "text/html;q=0": typeText, "text/html;q=0, */*": typeText,
	} {
		var headers []string
		if accept != "" {
			headers = []string{"Accept", accept}
		}
		r := w.get("/", headers...)
		if r.status != 302 || r.headers.Get("Location") != location || r.headers.Get("Vary") != "Accept" {
			t.Errorf("Accept %q: %d to %q", accept, r.status, r.headers.Get("Location"))
		}
		if r.headers.Get("Content-Type") != kind {
			t.Errorf("Accept %q: %d, %s", accept, r.status, r.headers.Get("Content-Type"))
		}
		if kind == typeHTML && !strings.Contains(r.body, `<a href="https://landing.example/x?a=1&amp;b=&#39;2&#39;">`) {
			t.Errorf("not escaped: %s", r.body)
		}
	}
}

func TestRequestsAreObserved(t *testing.T) {
	type seen struct {
		call   string
		status int
	}
	var mu sync.Mutex
	var all []seen
	w := newWorld(t, func(c *Config) {
		c.Observe = func(call string, status int) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, seen{call, status})
		}
	})
	id := w.register(w.sign(account(t, "alice"), nil)).ID.String()
	for _, path := range []string{"/", "/elsewhere", "/api/v1/publickey/" + id, "/api/v1/status", "/api/v1/tunnels/" + id + "/status", "/s/" + id} {
		w.get(path)
	}
	w.do(http.MethodPut, "/s/"+id, nil)
	want := []seen{
		{"new", 200}, {"root", 200}, {"other", 404}, {"publickey", 200}, {"status", 404}, {"tunnel status", 404}, {"contact", 200}, {"contact", 405},
	}
	waitFor(t, "all are observed", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(all, want)
	})
}
