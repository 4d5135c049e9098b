package admin_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// TestEveryRefusalHasOneForm: {"error":{"message":"…"}}, as docs/OPERATING.md says.
func TestEveryRefusalHasOneForm(t *testing.T) {
	w := newWorld(t)
	token := header("Authorization", "Bearer "+w.token)
	for _, c := range []struct {
		method, path, body string
		options            []func(*http.Request)
		status             int
	}{
		{"GET", "/nowhere", "", nil, http.StatusNotFound},
		{"POST", "/healthz", "", nil, http.StatusNotFound},
		{"GET", "/api/v1/status", "", nil, http.StatusUnauthorized},
		{"GET", "/api/v1/nothing", "", []func(*http.Request){token}, http.StatusNotFound},
		{"POST", "/api/v1/rules", "{}", []func(*http.Request){token}, http.StatusUnsupportedMediaType},
		{"POST", "/api/v1/rules", "{", []func(*http.Request){token, header("Content-Type", "application/json")}, http.StatusBadRequest},
		{"POST", "/login", "", []func(*http.Request){header("Sec-Fetch-Site", "cross-site")}, http.StatusForbidden},
		{"GET", "/healthz", "", []func(*http.Request){func(r *http.Request) { r.Host = "evil.example" }}, http.StatusMisdirectedRequest},
	} {
		answer := w.ask(t, c.method, c.path, strings.NewReader(c.body), c.options...)
		var said map[string]map[string]string
		err := json.Unmarshal(answer.Body.Bytes(), &said)
		if answer.Code != c.status || err != nil || len(said) != 1 || len(said["error"]) != 1 || said["error"]["message"] == "" ||
			!strings.HasPrefix(answer.Header().Get("Content-Type"), "application/json") {
			t.Errorf("%s %s: %d %s, %v", c.method, c.path, answer.Code, answer.Body, err)
		}
	}
}
