package admin_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// fakeHub is a hub of which a test decides everything.
type fakeHub struct {
	mu       sync.Mutex
	about    admin.About
	status   admin.Status
	couriers []admin.Courier
}

func (h *fakeHub) About() admin.About {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.about
}

func (h *fakeHub) Status() admin.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status
}

func (h *fakeHub) Couriers() []admin.Courier {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.couriers)
}

func (h *fakeHub) Disconnect(key keys.PublicKey) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := len(h.couriers)
	h.couriers = slices.DeleteFunc(h.couriers, func(c admin.Courier) bool { return c.Key.Equal(key) })
	return before - len(h.couriers)
}

const inviteLink = "https://hub.example.org/invite#"

func (h *fakeHub) InviteLink(code string) string { return inviteLink + code }

// set changes how the hub is doing.
func (h *fakeHub) set(change func(*fakeHub)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

// world is a handler with everything that belongs to it.
type world struct {
	*admin.Handler
	hub       *fakeHub
	observer  *admin.Observer
	registry  *registry.Registry
	admission *admission.Admission
	token     string
	log       *testkit.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{hub: &fakeHub{}, observer: admin.NewObserver(), log: &testkit.Buffer{}}
	identity := newIdentity(t)
	w.hub.about = admin.About{Version: "1.2.3", Key: identity.Public(), Domain: "hub.example.org"}
	var err error
	w.registry, err = registry.Open(t.Context(), registry.Config{Dir: filepath.Join(t.TempDir(), "registry"), Identity: identity})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.registry.Close() })
	rules, err := w.registry.Bucket(t.Context(), admission.RulesBucket)
	if err != nil {
		t.Fatal(err)
	}
	invites, err := w.registry.Bucket(t.Context(), admission.InvitesBucket)
	if err != nil {
		t.Fatal(err)
	}
	w.admission, err = admission.Open(t.Context(), admission.Config{
		Rules: rules, Invites: invites, IDOf: func(keys.PublicKey) secrez.ID { return secrez.ID{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.admission.Close() })
	file := filepath.Join(t.TempDir(), "admin-token")
	token, err := admin.LoadToken(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w.token = strings.TrimSpace(string(text))
	w.Handler, err = admin.New(admin.Config{
		Hub: w.hub, Admission: w.admission, Observer: w.observer, Token: token, Names: []string{"admin.example.org"}, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func newIdentity(t *testing.T) *keys.Identity {
	t.Helper()
	identity, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// ask sends a request that the options have changed.
func (w *world) ask(
	t *testing.T, method, path string, body io.Reader, options ...func(*http.Request),
) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, body)
	r.Host = "localhost"
	for _, option := range options {
		option(r)
	}
	answer := httptest.NewRecorder()
	w.ServeHTTP(answer, r)
	return answer
}

func (w *world) get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	return w.ask(t, http.MethodGet, path, nil)
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// call asks the API with the token, wants a status and reads the answer into an answer, if there is one.
func (w *world) call(t *testing.T, method, path string, body any, status int, into any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	answer := w.ask(t, method, path, bytes.NewReader(text),
		header("Authorization", "Bearer "+w.token), header("Content-Type", "application/json"))
	if answer.Code != status {
		t.Fatalf("%s %s: %d %s, want %d", method, path, answer.Code, answer.Body, status)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(answer.Body.Bytes(), into); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, answer.Body)
	}
}

// message is what an answer of the API says no with.
type message struct {
	Error struct {
		Message string `json:"message"`
	} `json:"error"`
}

// browser is somebody who is logged in on the page.
type browser struct {
	*world
	cookie *http.Cookie
}

func (w *world) login(t *testing.T) *browser {
	t.Helper()
	b := &browser{world: w}
	answer := b.post(t, "/login", url.Values{"token": {w.token}})
	if answer.Code != http.StatusSeeOther || answer.Header().Get("Location") != "/" || len(answer.Result().Cookies()) != 1 {
		t.Fatalf("login: %d to %q with %d cookies", answer.Code, answer.Header().Get("Location"), len(answer.Result().Cookies()))
	}
	b.cookie = answer.Result().Cookies()[0]
	return b
}

func (b *browser) session(r *http.Request) {
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
}

func (b *browser) post(t *testing.T, path string, form url.Values) *httptest.ResponseRecorder {
	t.Helper()
	return b.ask(t, http.MethodPost, path, strings.NewReader(form.Encode()),
		header("Content-Type", "application/x-www-form-urlencoded"), header("Sec-Fetch-Site", "same-origin"), b.session)
}

// page gives the text of a page.
func (b *browser) page(t *testing.T, path string) string {
	t.Helper()
	answer := b.ask(t, http.MethodGet, path, nil, b.session)
	if answer.Code != http.StatusOK {
		t.Fatalf("%s: %d to %q", path, answer.Code, answer.Header().Get("Location"))
	}
	return answer.Body.String()
}

// submit sends a form that works, and gives the page that comes then.
func (b *browser) submit(t *testing.T, path string, form url.Values) string {
	t.Helper()
	answer := b.post(t, path, form)
	if answer.Code != http.StatusSeeOther {
		t.Fatalf("%s: %d %s", path, answer.Code, answer.Body)
	}
	return b.page(t, answer.Header().Get("Location"))
}

func wantIn(t *testing.T, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			t.Errorf("there is no %s in\n%s", text, page)
		}
	}
}

func wantNotIn(t *testing.T, page string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(page, text) {
			t.Errorf("there is %s in\n%s", text, page)
		}
	}
}
