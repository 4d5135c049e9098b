package admin_test

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/hub/circuits"
	"github.com/secretstack/secretstack/hub/mailbox"
	"github.com/secretstack/secretstack/hub/port"
	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
)

// scrape gives the lines of the metrics.
func (w *world) scrape(t *testing.T) []string {
	t.Helper()
	answer := w.get(t, "/metrics")
	if answer.Code != http.StatusOK {
		t.Fatalf("/metrics: %d %s", answer.Code, answer.Body)
	}
	return strings.Split(answer.Body.String(), "\n")
}

func TestMetricsSayWhatHappened(t *testing.T) {
	w := newWorld(t)
	w.hub.set(func(h *fakeHub) {
		h.about.Started = time.Unix(1000, 0)
		h.status = admin.Status{
			Registry: registry.Status{Records: 7, Retired: 2, Writes: 9, Failures: 2, Free: 12345},
			Certificates: []admin.Certificate{
				{Name: "hub.example.org", Expires: time.Unix(3000, 0)},
				{Name: "hub.example.org", Expires: time.Unix(2000, 0)},
				{Name: "*.hub.example.org"},
			},
			Pools: 3, Sockets: 5, Waiting: 4, Requests: 6, Tunnels: 1,
			Mailboxes: mailbox.Stats{
				Mailboxes: 4, Mail: mailbox.Amount{Count: 5, Bytes: 600}, Requests: mailbox.Amount{Count: 1}, Deposited: 9, Expired: 3,
			},
			Port:     port.Stats{Unproved: 11, Accepted: 12, Denied: 13, Crowded: 14, Malformed: 15, MadeRoom: 16},
			Circuits: circuits.Stats{Open: 8, Pending: 2, Offered: 20, Joined: 18, InKernel: 17, Failed: 1, BadTokens: 3, Bytes: 1000},
		}
		h.couriers = []admin.Courier{{Kind: admin.KindNative}, {Kind: admin.KindNative}, {Kind: admin.KindSecrez}}
	})
	o := w.observer
	o.Opened(admin.ProtocolWebSocket)
	o.Opened(admin.ProtocolWebSocket)
	o.Closed(admin.ProtocolWebSocket)
	o.Carried(admin.ProtocolHandshake, 10, 20)
	o.Registered(admin.KindSecrez, admin.ResultAccepted)
	o.Exchange(vhost.Exchange{Status: 204, Received: 1, Sent: 2, Duration: 20 * time.Millisecond})
	o.Exchange(vhost.Exchange{Status: 101, Upgraded: true, Received: 3, Sent: 4, Duration: time.Hour})
	o.Exchange(vhost.Exchange{})
	o.CircuitEnded(time.Second)
	o.Refused(admin.Refusal{Reason: admin.ReasonRate})

	rule, err := admission.ParseRule("deny 192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.admission.SetFixed([]admission.Rule{rule}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.admission.CreateInvite(t.Context(), admission.Invite{}); err != nil {
		t.Fatal(err)
	}
	few := admission.Rates{Lookup: admission.Rate{Every: time.Hour, Burst: 1}}
	if err := w.admission.SetLimits(admission.Limits{Address: few}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_ = w.admission.Allow(admission.Lookup, netip.MustParseAddr("192.0.2.1")) // the second and the third are too many
	}

	got := w.scrape(t)
	for _, line := range []string{
		`secretstack_hub_build_info{version="1.2.3"} 1`,
		`secretstack_hub_ready 1`,
		`secretstack_hub_draining 0`,
		`secretstack_hub_start_time_seconds 1000`,
		`secretstack_hub_connections{protocol="websocket"} 1`,
		`secretstack_hub_connections_total{protocol="websocket"} 2`,
		`secretstack_hub_connections_total{protocol="http"} 0`,
		`secretstack_hub_couriers{kind="native"} 2`,
		`secretstack_hub_couriers{kind="secrez"} 1`,
		`secretstack_hub_couriers{kind="room"} 0`,
		`secretstack_hub_received_bytes_total{protocol="handshake"} 10`,
		`secretstack_hub_sent_bytes_total{protocol="handshake"} 20`,
		`secretstack_hub_received_bytes_total{protocol="http"} 4`,
		`secretstack_hub_sent_bytes_total{protocol="http"} 6`,
		`secretstack_hub_registrations_total{kind="secrez",result="accepted"} 1`,
		`secretstack_hub_registrations_total{kind="native",result="failed"} 0`,
		`secretstack_hub_http_exchanges_total{status="2xx"} 1`,
		`secretstack_hub_http_exchanges_total{status="upgraded"} 1`,
		`secretstack_hub_http_exchanges_total{status="left"} 1`,
		`secretstack_hub_http_exchange_duration_seconds_bucket{le="0.025"} 2`,
		`secretstack_hub_http_exchange_duration_seconds_count 2`,
		`secretstack_hub_unproved_connections 11`,
		`secretstack_hub_accepted_connections_total 12`,
		`secretstack_hub_turned_away_connections_total{reason="denied"} 13`,
		`secretstack_hub_turned_away_connections_total{reason="crowded"} 14`,
		`secretstack_hub_turned_away_connections_total{reason="malformed"} 15`,
		`secretstack_hub_turned_away_connections_total{reason="made_room"} 16`,
		`secretstack_hub_circuits{state="pending"} 2`,
		`secretstack_hub_circuits_total{event="offered"} 20`,
		`secretstack_hub_circuits_total{event="joined"} 18`,
		`secretstack_hub_circuits_total{event="in_kernel"} 17`,
		`secretstack_hub_circuits_total{event="failed"} 1`,
		`secretstack_hub_circuits_total{event="bad_token"} 3`,
		`secretstack_hub_circuit_bytes_total 1000`,
		`secretstack_hub_circuit_duration_seconds_count 1`,
		`secretstack_hub_refusals_total{reason="rate"} 1`,
		`secretstack_hub_mailboxes 4`,
		`secretstack_hub_mailbox_envelopes{box="mail"} 5`,
		`secretstack_hub_mailbox_envelopes{box="requests"} 1`,
		`secretstack_hub_mailbox_bytes{box="mail"} 600`,
		`secretstack_hub_mailbox_events_total{event="deposited"} 9`,
		`secretstack_hub_mailbox_events_total{event="expired"} 3`,
		`secretstack_hub_rules 1`,
		`secretstack_hub_invites 1`,
		`secretstack_hub_members 0`,
		`secretstack_hub_rate_limited_total{kind="lookup"} 2`,
		`secretstack_hub_rate_limited_total{kind="new id"} 0`,
		`secretstack_hub_rate_buckets_evicted_total 0`,
		`secretstack_hub_pools 3`,
		`secretstack_hub_pool_sockets 5`,
		`secretstack_hub_http_waiting 4`,
		`secretstack_hub_http_exchanges_active 6`,
		`secretstack_hub_circuits{state="open"} 8`,
		`secretstack_hub_tunnels 1`,
		`secretstack_hub_registry_records 7`,
		`secretstack_hub_registry_retired 2`,
		`secretstack_hub_registry_writes_total 9`,
		`secretstack_hub_registry_write_errors_total 2`,
		`secretstack_hub_registry_writable 1`,
		`secretstack_hub_registry_free_bytes 12345`,
		`secretstack_hub_certificate_expiry_timestamp_seconds{name="hub.example.org"} 2000`,
		`secretstack_hub_certificate_expiry_timestamp_seconds{name="*.hub.example.org"} 0`,
	} {
		if !slices.Contains(got, line) {
			t.Errorf("no %s", line)
		}
	}
	for _, name := range []string{"go_goroutines ", "process_"} {
		if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, name) }) {
			t.Errorf("no %s", name)
		}
	}
}

func TestNothingThatAStrangerSendsBecomesALabel(t *testing.T) {
	w := newWorld(t)
	w.hub.set(func(h *fakeHub) { h.couriers = []admin.Courier{{Kind: "stranger"}} })
	o := w.observer
	before := len(w.scrape(t))
	o.Opened("stranger")
	o.Carried("stranger", 1, 1)
	o.Registered("stranger", "stranger")
	o.Registered(admin.KindNative, "stranger")
	o.Exchange(vhost.Exchange{Status: 999})
	o.Refused(admin.Refusal{Reason: "stranger", What: "stranger", Addr: netip.MustParseAddr("192.0.2.1")})
	after := w.scrape(t)
	if len(after) != before {
		t.Errorf("%d lines became %d", before, len(after))
	}
	for _, line := range after {
		if strings.Contains(line, "stranger") || strings.Contains(line, "192.0.2.1") {
			t.Errorf("there is %s", line)
		}
	}
	if want := `secretstack_hub_refusals_total{reason="other"} 1`; !slices.Contains(after, want) {
		t.Errorf("no %s", want)
	}
}

func TestTwoHubsOfAProcessShareNoMetrics(t *testing.T) {
	one, other := newWorld(t), newWorld(t)
	one.observer.Refused(admin.Refusal{Reason: admin.ReasonFull})
	const counted = `secretstack_hub_refusals_total{reason="full"} 1`
	if !slices.Contains(one.scrape(t), counted) || slices.Contains(other.scrape(t), counted) {
		t.Error("a refusal is not counted at the hub that refused, and there alone")
	}
}

func TestReadinessSaysWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	const ready = `{"ready":true,"serving":true,"reasons":[]}`
	if got := w.get(t, "/readyz"); got.Code != http.StatusOK || strings.TrimSpace(got.Body.String()) != ready {
		t.Errorf("ready: %d %s", got.Code, got.Body)
	}
	w.hub.set(func(h *fakeHub) {
		h.status.Draining = true
		h.status.Registry.Err = errors.New("/secret/path is full")
		h.status.Problems = []string{"the certificate ran out"}
	})
	got := w.get(t, "/readyz")
	want := `{"ready":false,"serving":false,"reasons":["the hub is about to end",` +
		`"the registry cannot write; the log says why","the certificate ran out"]}`
	if got.Code != http.StatusServiceUnavailable || strings.TrimSpace(got.Body.String()) != want {
		t.Errorf("not ready: %d %s", got.Code, got.Body)
	}
	if got := w.get(t, "/healthz"); got.Code != http.StatusOK {
		t.Errorf("a hub that drains is dead: %d %s", got.Code, got.Body)
	}
	lines := w.scrape(t)
	if !slices.Contains(lines, "secretstack_hub_ready 0") || !slices.Contains(lines, "secretstack_hub_draining 1") {
		t.Error("the metrics say something else")
	}
}
