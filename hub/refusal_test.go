package hub_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admission"
)

// TestEveryRefusalOfThePortHasTheFormOfTheOriginal, which programs of Secrez read: docs/PROTOCOL.md §10.1.
func TestEveryRefusalOfThePortHasTheFormOfTheOriginal(t *testing.T) {
	h := start(t, hub.Config{})
	look := func(what string, status int, res *http.Response) {
		t.Helper()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		var said struct {
			Status  int    `json:"status_code"`
			Message string `json:"message"`
		}
		form := json.NewDecoder(strings.NewReader(string(body)))
		form.DisallowUnknownFields()
		if err := form.Decode(&said); err != nil || res.StatusCode != status || said.Status != status || said.Message == "" ||
			!strings.HasPrefix(string(body), `{"status_code":`) || res.Header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s: %d %q, %v", what, res.StatusCode, body, err)
		}
	}
	refused := func(method, url string, status int) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := h.visitor().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		look(method+" "+url, status, res)
	}
	own := "http://" + domain
	refused(http.MethodGet, own+"/nowhere", http.StatusNotFound)
	refused(http.MethodGet, own+"/api/v1/status", http.StatusNotFound)
	refused(http.MethodPut, own+"/api/v1/tunnel/new", http.StatusMethodNotAllowed)
	refused(http.MethodGet, own+"/api/v1/tunnel/new", http.StatusBadRequest)
	refused(http.MethodGet, "http://7y-6ro-3z."+domain+"/", http.StatusNotFound)
	rule, err := admission.ParseRule("deny 192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Admission().SetRule(t.Context(), rule); err != nil {
		t.Fatal(err)
	}
	denied, answer := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), httptest.NewRecorder()
	denied.RemoteAddr = "192.0.2.1:1234"
	h.ServeHTTP(answer, denied)
	look("a denied network", http.StatusForbidden, answer.Result())
}
