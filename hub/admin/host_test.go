package admin_test

import (
	"net/http"
	"testing"
)

func at(host string) func(*http.Request) { return func(r *http.Request) { r.Host = host } }

// A page whose name has been made to lead to the listener, after the browser had loaded it, sends its own name as the host
// and no Origin.
func TestAPageOfSomebodyElseReadsNothingByARebindingOfItsName(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/login", "/", "/static/style.css", "/api/v1/status"} {
		for _, host := range []string{
			"evil.example", "evil.example:8434", "localhost.evil.example", "127.0.0.1.evil.example:8434", "7y-6ro-3z.hub.example.org",
			"evil.localhost", "[evil.example]", "hub.example.org.evil.example", "127.1", "2130706433", "0x7f000001",
		} {
			if answer := w.ask(t, http.MethodGet, path, nil, at(host)); answer.Code != http.StatusMisdirectedRequest {
				t.Errorf("%s at %s: %d", path, host, answer.Code)
			}
		}
	}
}

func TestTheListenerAnswersByItsNamesAndAddresses(t *testing.T) {
	w := newWorld(t)
	for _, host := range []string{
		"", "localhost", "LOCALHOST:8434", "localhost.:8434", "127.0.0.1:8434", "192.0.2.7", "[::1]:8434", "[::1]", "[fe80::1%25eth0]:8434",
		"hub.example.org", "hub.example.org.:8434", "Admin.example.org:8434",
	} {
		if answer := w.ask(t, http.MethodGet, "/metrics", nil, at(host)); answer.Code != http.StatusOK {
			t.Errorf("%s: %d", host, answer.Code)
		}
	}
}
