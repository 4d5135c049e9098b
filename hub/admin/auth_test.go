package admin_test

import (
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/hub/admin"
)

func TestATokenIsMadeOnceAndForItsOwnerAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "admin-token")
	var group sync.WaitGroup
	tokens := make([]admin.Token, 8)
	for i := range tokens {
		group.Go(func() {
			var err error
			if tokens[i], err = admin.LoadToken(file); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i := range tokens {
		if tokens[i] != tokens[0] || tokens[i] == (admin.Token{}) {
			t.Errorf("token %d is another one", i)
		}
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode != 0o600 {
		t.Errorf("the file's mode is %v", mode)
	}
	if rest, err := filepath.Glob(filepath.Join(filepath.Dir(file), ".admin-token-*")); err != nil || len(rest) > 0 {
		t.Errorf("left behind: %v %v", rest, err)
	}
}

func TestAWeakTokenIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		mode fs.FileMode
	}{
		"empty":            {"", 0o600},
		"short":            {strings.Repeat("x", 31), 0o600},
		"two words":        {strings.Repeat("x", 31) + " " + strings.Repeat("y", 31), 0o600},
		"not ASCII":        {strings.Repeat("é", 40), 0o600},
		"others can read":  {strings.Repeat("x", 43), 0o640},
		"others can write": {strings.Repeat("x", 43), 0o602},
	} {
		t.Run(name, func(t *testing.T) {
			if c.mode != 0o600 && runtime.GOOS == "windows" {
				t.Skip("needs a system where files have permission bits")
			}
			file := filepath.Join(t.TempDir(), "admin-token")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, c.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := admin.LoadToken(file); err == nil {
				t.Error("it was taken")
			} else if c.text != "" && strings.Contains(err.Error(), c.text) {
				t.Errorf("the error repeats it: %v", err)
			}
		})
	}
}

// calls are all that the API offers.
var calls = []string{
	"GET /api/v1/status", "GET /api/v1/couriers", "POST /api/v1/disconnect", "GET /api/v1/refusals",
	"GET /api/v1/mode", "PUT /api/v1/mode", "GET /api/v1/rules", "POST /api/v1/rules", "DELETE /api/v1/rules",
	"GET /api/v1/invites", "POST /api/v1/invites", "DELETE /api/v1/invites/0", "GET /api/v1/nothing",
}

func TestTheAPINeedsTheToken(t *testing.T) {
	w := newWorld(t)
	for _, call := range calls {
		method, path, _ := strings.Cut(call, " ")
		answer := w.ask(t, method, path, nil)
		if answer.Code != http.StatusUnauthorized || answer.Header().Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s: %d", call, answer.Code)
		}
	}
	for name, authorization := range map[string]string{
		"another":           "Bearer " + strings.Repeat("x", len(w.token)),
		"shorter":           "Bearer " + w.token[:len(w.token)-1],
		"none":              "Bearer ",
		"of another scheme": "Basic " + w.token,
	} {
		answer := w.ask(t, http.MethodGet, "/api/v1/status", nil, header("Authorization", authorization))
		if answer.Code != http.StatusUnauthorized {
			t.Errorf("with the token %s: %d", name, answer.Code)
		}
	}
	w.call(t, http.MethodGet, "/api/v1/status", nil, http.StatusOK, nil)
	w.call(t, http.MethodGet, "/api/v1/nothing", nil, http.StatusNotFound, nil)
}

func TestPagesNeedALogin(t *testing.T) {
	w := newWorld(t)
	for _, call := range []string{
		"GET /", "GET /lists", "GET /invites", "GET /status",
		"POST /disconnect", "POST /lists", "POST /lists/remove", "POST /mode", "POST /invites", "POST /invites/revoke",
	} {
		method, path, _ := strings.Cut(call, " ")
		for name, option := range map[string]func(*http.Request){
			"no cookie":      func(*http.Request) {},
			"another cookie": header("Cookie", "secretstack-admin=guessed"),
			"the token":      header("Authorization", "Bearer "+w.token),
		} {
			answer := w.ask(t, method, path, nil, option)
			if answer.Code != http.StatusSeeOther || answer.Header().Get("Location") != "/login" {
				t.Errorf("%s with %s: %d", call, name, answer.Code)
			}
		}
	}
	if mode := w.admission.Mode(); mode != "open" {
		t.Errorf("a stranger changed the mode to %s", mode)
	}
}

func TestALoginLastsUntilTheLogout(t *testing.T) {
	b := newWorld(t).login(t)
	if c := b.cookie; !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Secure || c.Value == b.token {
		t.Errorf("the cookie is %v", c)
	}
	wantIn(t, b.page(t, "/"), "Log out", "hub.example.org")
	if answer := b.ask(t, http.MethodGet, "/api/v1/status", nil, b.session); answer.Code != http.StatusOK {
		t.Errorf("the page's script may not use the API: %d", answer.Code)
	}
	answer := b.post(t, "/logout", nil)
	if cookies := answer.Result().Cookies(); answer.Code != http.StatusSeeOther || len(cookies) != 1 || cookies[0].MaxAge >= 0 {
		t.Errorf("logout: %d %v", answer.Code, cookies)
	}
	if answer := b.ask(t, http.MethodGet, "/", nil, b.session); answer.Code != http.StatusSeeOther {
		t.Errorf("the cookie still works: %d", answer.Code)
	}
}

func TestACookieIsForTLSAloneWhereThereIsTLS(t *testing.T) {
	w := newWorld(t)
	answer := w.ask(t, http.MethodPost, "/login", strings.NewReader(url.Values{"token": {w.token}}.Encode()),
		header("Content-Type", "application/x-www-form-urlencoded"), header("X-Forwarded-Proto", "https"))
	if cookies := answer.Result().Cookies(); len(cookies) != 1 || !cookies[0].Secure {
		t.Errorf("behind a proxy with TLS: %v", cookies)
	}
}

func TestOtherSitesCanDoNothing(t *testing.T) {
	b := newWorld(t).login(t)
	form := strings.NewReader(url.Values{"mode": {"closed"}}.Encode())
	answer := b.ask(t, http.MethodPost, "/mode", form, b.session,
		header("Content-Type", "application/x-www-form-urlencoded"), header("Sec-Fetch-Site", "cross-site"))
	if answer.Code != http.StatusForbidden || b.admission.Mode() != "open" {
		t.Errorf("a form of another site: %d, the mode is %s", answer.Code, b.admission.Mode())
	}
	answer = b.ask(t, http.MethodPut, "/api/v1/mode", strings.NewReader(`{"mode":"closed"}`), b.session,
		header("Content-Type", "application/json"), header("Origin", "https://evil.example"))
	if answer.Code != http.StatusForbidden || b.admission.Mode() != "open" {
		t.Errorf("a script of another site: %d, the mode is %s", answer.Code, b.admission.Mode())
	}
}

func TestWhoGuessesTokensHasToWait(t *testing.T) {
	w := newWorld(t)
	from := func(addr string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = addr } }
	try := func(addr, token string) int {
		return w.ask(t, http.MethodGet, "/api/v1/status", nil, from(addr), header("Authorization", "Bearer "+token)).Code
	}
	for i := range 10 {
		if code := try("[2001:db8::1]:1", "wrong"); code != http.StatusUnauthorized {
			t.Fatalf("guess %d: %d", i, code)
		}
	}
	for name, c := range map[string]struct {
		addr, token string
		want        int
	}{
		"another guess":                 {"[2001:db8::1]:1", "wrong", http.StatusTooManyRequests},
		"a guess from the same network": {"[2001:db8::2]:1", "wrong", http.StatusTooManyRequests},
		"even the right one":            {"[2001:db8::1]:1", w.token, http.StatusTooManyRequests},
		"the right one from elsewhere":  {"[2001:db8:0:1::1]:1", w.token, http.StatusOK},
	} {
		if code := try(c.addr, c.token); code != c.want {
			t.Errorf("%s: %d, want %d", name, code, c.want)
		}
	}
	login := w.ask(t, http.MethodPost, "/login", strings.NewReader(url.Values{"token": {w.token}}.Encode()),
		header("Content-Type", "application/x-www-form-urlencoded"), from("[2001:db8::1]:1"))
	if login.Code != http.StatusTooManyRequests || login.Header().Get("Retry-After") == "" {
		t.Errorf("login: %d, again after %q s", login.Code, login.Header().Get("Retry-After"))
	}
	wantIn(t, login.Body.String(), "Too many wrong tokens")
	if answer := w.ask(t, http.MethodGet, "/healthz", nil, from("[2001:db8::1]:1")); answer.Code != http.StatusOK {
		t.Errorf("health is told to everybody, but here: %d", answer.Code)
	}
}

func TestNoTokenIsEverLogged(t *testing.T) {
	w := newWorld(t)
	const guess = "a-wrong-token-that-may-be-nearly-right"
	w.ask(t, http.MethodGet, "/api/v1/status", nil, header("Authorization", "Bearer "+guess))
	b := w.login(t)
	b.submit(t, "/invites", url.Values{"uses": {"1"}, "expires": {"24h"}})
	var made struct{ Code, Link string }
	w.call(t, http.MethodPost, "/api/v1/invites", map[string]int{"uses": 1}, http.StatusOK, &made)
	b.post(t, "/logout", nil)
	log := w.log.String()
	wantIn(t, log, "wrong token", "logged in", "invite made")
	wantNotIn(t, log, w.token, guess, b.cookie.Value, made.Code, inviteLink)
}
