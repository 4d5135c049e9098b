package hub_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/plugins/hubclient"
)

func TestTheOperatorIsServedWithTheTokenOfTheDataFolder(t *testing.T) {
	r := start(t, hub.Config{})
	id := newCourier(t, "alice", r, hubclient.Config{}).online(t).ID.String()
	operator, err := r.Operator()
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(r.dir, "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path, token string) (int, string) {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		request.Header.Set("Authorization", "Bearer "+token)
		answer := httptest.NewRecorder()
		operator.Handler.ServeHTTP(answer, request)
		return answer.Code, answer.Body.String()
	}
	if code, body := ask("/api/v1/couriers", strings.TrimSpace(string(token))); code != http.StatusOK || !strings.Contains(body, id) {
		t.Errorf("the couriers: %d %s", code, body)
	}
	if code, _ := ask("/api/v1/couriers", "guessed"); code != http.StatusUnauthorized {
		t.Errorf("with a guess: %d", code)
	}
	if code, body := ask("/readyz", ""); code != http.StatusOK {
		t.Errorf("readiness: %d %s", code, body)
	}
	_, metrics := ask("/metrics", "")
	for _, line := range []string{`secretstack_hub_couriers{kind="native"} 1`, `secretstack_hub_connections{protocol="handshake"} 1`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics have no %s", line)
		}
	}
	if none := `secretstack_hub_registrations_total{kind="native",result="accepted"} 0`; strings.Contains(metrics, none) {
		t.Errorf("the metrics have %s", none)
	}
}
