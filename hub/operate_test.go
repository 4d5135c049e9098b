package hub_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/hub/admin"
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
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, nil)
		request.Header.Set("Authorization", "Bearer "+token)
		answer := httptest.NewRecorder()
		operator.ServeHTTP(answer, request)
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

// samples gives the metrics of a hub by what stands before their values.
func samples(t *testing.T, operator http.Handler) map[string]float64 {
	t.Helper()
	answer := httptest.NewRecorder()
	operator.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost/metrics", nil))
	all := map[string]float64{}
	for line := range strings.Lines(answer.Body.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[strings.TrimPrefix(name, "secretstack_hub_")] = v
		}
	}
	return all
}

func TestTrafficIsCountedWhileItFlows(t *testing.T) {
	r := start(t, hub.Config{})
	operator, err := r.Operator()
	if err != nil {
		t.Fatal(err)
	}
	c := newCourier(t, "alice", r, hubclient.Config{Handler: says("native")})
	c.online(t)
	_, g := register(t, r, "bob", nil)
	serveSocket(t, g, says("guest"))
	_, body := get(t, r.visitor(), g.URL)
	contains(t, body, "guest")

	// What has been sent is counted some moments after it has arrived.
	var before map[string]float64
	for _, name := range []string{
		`received_bytes_total{protocol="handshake"}`, `sent_bytes_total{protocol="handshake"}`, `sent_bytes_total{protocol="http"}`,
		`connections_total{protocol="http"}`, `accepted_connections_total`, `registrations_total{kind="secrez",result="accepted"}`,
	} {
		eventually(t, name+" is counted", func() bool {
			before = samples(t, operator)
			return before[name] > 0
		})
	}
	eventually(t, "the traffic of each courier is counted", func() bool {
		return !slices.ContainsFunc(r.Couriers(), func(c admin.Courier) bool {
			return c.Received <= 0 || c.Kind == admin.KindNative && c.Sent <= 0
		})
	})
	eventually(t, "nothing grows by itself", func() bool {
		const name = `sent_bytes_total{protocol="http"}`
		last := before[name]
		before = samples(t, operator)
		return before[name] == last
	})
	if err := c.app.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is counted out", func() bool {
		return samples(t, operator)[`connections{protocol="handshake"}`] == 0
	})
	if name := `received_bytes_total{protocol="handshake"}`; samples(t, operator)[name] < before[name] {
		t.Errorf("%s went down", name)
	}
}
