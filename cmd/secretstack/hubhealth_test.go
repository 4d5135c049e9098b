package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// answering is the address of a server that gives one answer to /readyz.
func answering(t *testing.T, status int, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
		w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestHubHealthEndsAsTheHubIs(t *testing.T) {
	const ready, not = `{"ready":true,"serving":true,"reasons":[]}`, `{"ready":false,"serving":false,"reasons":["the disk is full","it drains\u001b[2J"]}`
	const cut = `{"ready":false,"serving":true,"reasons":["alone"]}`
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, c := range map[string]struct {
		address  string
		args     []string
		code     int
		out, err string
	}{
		"ready":            {answering(t, 200, ready), nil, exitOK, "ready\n", ""},
		"ready, as JSON":   {answering(t, 200, ready), []string{"--json"}, exitOK, ready, ""},
		"not ready":        {answering(t, 503, not), nil, exitFailed, "", `not ready: the disk is full; it drains\x1b[2J`},
		"not ready either": {answering(t, 503, not), []string{"--json"}, exitFailed, not, "not ready"},
		"cut off":          {answering(t, 503, cut), nil, exitFailed, "", "not ready, serving what it knows: alone"},
		"another server":   {answering(t, 200, "hello"), nil, exitFailed, "", "not the admin listener"},
		"nobody":           {strings.TrimPrefix(gone.URL, "http://"), nil, exitFailed, "", "is it running with --admin?"},
		"no address":       {"here", nil, exitUsage, "", "--admin takes an address such as 127.0.0.1:8434"},
		"a bad host":       {"a b:1", nil, exitUsage, "", "--admin takes an address"},
	} {
		t.Run(name, func(t *testing.T) {
			got := command(t, "", append([]string{"hub", "health", "--admin", c.address}, c.args...)...)
			if got.code != c.code || !strings.HasPrefix(got.out, c.out) || (c.out == "") != (got.out == "") || !strings.Contains(got.err, c.err) {
				t.Errorf("%d %q %q", got.code, got.out, got.err)
			}
		})
	}
}
