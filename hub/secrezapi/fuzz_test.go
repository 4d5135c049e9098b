package secrezapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// emptyRegistry knows nobody and cannot be written to.
type emptyRegistry struct{}

func (emptyRegistry) Register(context.Context, registry.Registration) (registry.Record, error) {
	return registry.Record{}, registry.ErrUnavailable
}
func (emptyRegistry) Lookup(secrez.ID) (registry.Record, bool) { return registry.Record{}, false }
func (emptyRegistry) LookupKey(keys.PublicKey) (registry.Record, bool) {
	return registry.Record{}, false
}

// FuzzRequests sends what anybody may send: the answer is never an internal error, and always one of the API's.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/api/v1/tunnel/new?payload=%7B%22when%22:1,%22publicKey%22:%22a$b%22%7D&signature=AA==&reset=1", "", "hub.test", "")
	f.Add("POST", "/api/v1/new", `{"payload":"{\"when\":1}","signature":"","reset":{},"invite":"x"}`, "localhost:1", "*/*")
	f.Add("GET", "/s/7y-6ro-3z", "", "[::1]:8433", "text/html;q=0.9,*/*")
	f.Add("OPTIONS", "/API/V1/tunnels/7y-6ro-3z/status/?code=s3cret", "", "x", "text/*")
	f.Add("BREW", "/%2e%2e/%00", "x", "", ";")
	api, err := New(Config{Registry: emptyRegistry{}, Pools: vhost.NewPools(nil, vhost.PoolConfig{}, nil), Code: testCode, Timeout: time.Second})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, target, body, host, accept string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r := &http.Request{
			Method: method, URL: u, Host: host, RemoteAddr: "127.0.0.1:1", Header: http.Header{"Accept": {accept}},
			Body: http.NoBody, ContentLength: int64(len(body)),
		}
		if body != "" {
			r.Body = httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)).Body
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		if w.Code < 400 {
			return
		}
		var doc struct {
			Status int `json:"status_code"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.Status != w.Code || w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s: %d %s", method, target, w.Code, w.Body)
		}
	})
}
