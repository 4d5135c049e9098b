package courier_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier"
	"github.com/secretstack/secretstack/hub"
	"github.com/secretstack/secretstack/internal/testkit"
	"github.com/secretstack/secretstack/plugins/hubclient"
	"github.com/secretstack/secretstack/secrez"
)

// newHub runs a hub until the test ends.
func newHub(t testing.TB) *hub.Hub {
	t.Helper()
	cfg := hub.Config{Dir: t.TempDir(), Listen: []string{"127.0.0.1:0"}, TunnelAddress: "127.0.0.1", Logger: slog.New(slog.DiscardHandler)}
	cfg.Limits.Registry.MinFree, cfg.Limits.Registry.WriteTimeout = -1, time.Minute // a machine with much to do is no failing disk
	return serveHub(t, cfg)
}

func serveHub(t testing.TB, cfg hub.Config) *hub.Hub {
	t.Helper()
	h, err := hub.New(t.Context(), cfg)
	check(t, err)
	served := make(chan error, 1)
	go func() { served <- h.Serve(context.Background()) }()
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
		defer stop()
		check(t, h.Close(ctx))
		<-served
	})
	return h
}

func hubAddress(h *hub.Hub) string {
	return "net:" + h.Addrs()[0].String() + "~shs:" + h.App().ID().Base64()
}

func hubURL(h *hub.Hub) string {
	_, port, _ := net.SplitHostPort(h.Addrs()[0].String())
	return "http://localhost:" + port
}

// jsCourier is a courier of Secrez, at a hub of which it is all.
type jsCourier struct {
	*httptest.Server
	account *secrez.Account

	mu   sync.Mutex
	got  []string // texts, opened
	down bool
	all  int // requests
}

func newJSCourier(t *testing.T) *jsCourier {
	t.Helper()
	account, err := secrez.ImportAccount(newIdentity(t).Seed(), newIdentity(t).Seed()) // two independent halves, as Secrez makes them
	check(t, err)
	js := &jsCourier{account: account}
	js.Server = httptest.NewServer(js)
	t.Cleanup(js.Close)
	return js
}

func (js *jsCourier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.all++
	if r.URL.Path == "/api/v1/publickey/7y-6ro-3z" {
		_ = json.NewEncoder(w).Encode(map[string]string{"publickey": js.account.Public().String()})
		return
	}
	if js.down {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	var s secrez.Signed
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p, err := s.Verify()
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var sealed string
	_, _ = p.Field("message", &sealed)
	text, err := js.account.Open(p.PublicKey(), sealed)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	js.got = append(js.got, string(text))
	_, _ = io.WriteString(w, `{"success":true}`)
}

func (js *jsCourier) set(down bool) {
	js.mu.Lock()
	defer js.mu.Unlock()
	js.down = down
}

func (js *jsCourier) texts() string {
	js.mu.Lock()
	defer js.mu.Unlock()
	return strings.Join(js.got, " ")
}

func (js *jsCourier) requests() int {
	js.mu.Lock()
	defer js.mu.Unlock()
	return js.all
}

func (js *jsCourier) hub() string {
	u, _ := url.Parse(js.URL)
	return "http://localhost:" + u.Port()
}

func (js *jsCourier) url() string {
	return strings.Replace(js.hub(), "localhost", "7y-6ro-3z.localhost", 1)
}

func TestACourierOfSecrezGetsMessages(t *testing.T) {
	js := newJSCourier(t)
	alice := newPerson(t, "Alice", func(c *courier.Config) { c.Secrez.Hub = js.hub() })
	added, err := alice.ctl.AddContact(t.Context(), "js", js.url())
	if err != nil || added.Warning == "" || added.Secrez != js.account.Public().String() {
		t.Fatalf("%+v, %v", added, err)
	}
	alice.waitState(alice.send("js", "hello", "js").ID, "delivered")
	js.set(true)
	last := alice.send("js", "again")
	until(t, "the attempt in vain", func() bool { return alice.contact("js").Trouble != "" })
	js.set(false)
	alice.waitState(last.ID, "delivered")
	if got := js.texts(); got != "hello js again" {
		t.Errorf("got %q", got)
	}
	file, err := alice.ctl.SendFile(t.Context(), "js", "x", 1, strings.NewReader("x"))
	check(t, err)
	if m := alice.waitState(file.ID, "failed"); !strings.Contains(m.Note, "texts only") {
		t.Errorf("%+v", m)
	}
	js.Close()
	if _, err := alice.ctl.AddContact(t.Context(), "other", js.url()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a hub that has ended: %v", err)
	}
}

// A contact's address that leads to this machine, where its owner has no hub, must not be followed: neither when it is
// added nor when something is sent.
func TestAddressesOfContactsDoNotLeadToThisMachine(t *testing.T) {
	js := newJSCourier(t)
	alice := newPerson(t, "Alice", func(c *courier.Config) { c.Secrez.Hub = js.hub() })
	_, err := alice.ctl.AddContact(t.Context(), "js", js.url())
	check(t, err)
	alice.stop()
	alice.cfg.Secrez.Hub = ""
	alice.start()
	before := js.requests()
	_, err = alice.ctl.AddContact(t.Context(), "other", js.url())
	if err == nil || !strings.Contains(err.Error(), "private network") {
		t.Errorf("added: %v", err)
	}
	alice.send("js", "hello")
	until(t, "the attempt in vain", func() bool { return strings.Contains(alice.contact("js").Trouble, "private network") })
	if after := js.requests(); after != before {
		t.Errorf("%d requests have come", after-before)
	}
}

// post gives a message to the courier at an id of a hub.
func post(t *testing.T, h *hub.Hub, host string, s secrez.Signed) int {
	t.Helper()
	body, err := json.Marshal(s)
	check(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.Addrs()[0].String()+"/", bytes.NewReader(body))
	check(t, err)
	r.Host = host
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	check(t, err)
	_ = response.Body.Close()
	return response.StatusCode
}

func seal(t *testing.T, a *secrez.Account, to secrez.PublicKey, text string) secrez.Signed {
	t.Helper()
	sealed, err := a.Seal(to, []byte(text))
	check(t, err)
	s, err := a.SignPayload(map[string]string{"message": sealed}, time.Now())
	check(t, err)
	return s
}

// atHub waits until a courier is at its hub.
func (p *person) atHub() (at courier.HubStatus) {
	p.t.Helper()
	until(p.t, "the hub", func() bool {
		status, err := p.ctl.Status(p.t.Context())
		check(p.t, err)
		if len(status.Hubs) > 0 {
			at = status.Hubs[0]
		}
		return at.Online && at.URL != ""
	})
	return at
}

func TestACourierOfSecrezWritesToUsThroughTheHub(t *testing.T) {
	h := newHub(t)
	for name, change := range map[string]func(*courier.Config){
		"natively":           func(c *courier.Config) { c.Hubs = []hubclient.Hub{{Address: hubAddress(h)}} },
		"as Secrez's tunnel": func(c *courier.Config) { c.Secrez.Hub = hubURL(h) },
	} {
		t.Run(name, func(t *testing.T) {
			alice, js := newPerson(t, "Alice", change), newJSCourier(t)
			u, err := url.Parse(alice.atHub().URL)
			check(t, err)
			own, err := secrez.DerivePublicKey(alice.id.Public())
			check(t, err)
			hello := seal(t, js.account, own, "hello alice")
			if status := post(t, h, u.Host, hello); status != http.StatusBadRequest {
				t.Errorf("a stranger's: %d", status)
			}
			_, err = alice.ctl.AddContact(t.Context(), "js", js.account.Public().String())
			check(t, err)
			for range 2 {
				if status := post(t, h, u.Host, hello); status != http.StatusOK {
					t.Errorf("a contact's: %d", status)
				}
			}
			if got := alice.texts(courier.Query{}); strings.Join(got, ",") != "hello alice" {
				t.Errorf("alice has %q", got)
			}
			other, err := secrez.DerivePublicKey(newIdentity(t).Public())
			check(t, err)
			if status := post(t, h, u.Host, seal(t, js.account, other, "for another")); status != http.StatusBadRequest {
				t.Errorf("for another: %d", status)
			}
			check(t, alice.ctl.BlockContact(t.Context(), "js", true))
			if status := post(t, h, u.Host, seal(t, js.account, own, "blocked")); status != http.StatusOK {
				t.Errorf("who is blocked is told: %d", status)
			}
			if got := alice.texts(courier.Query{}); len(got) != 1 {
				t.Errorf("alice has %q", got)
			}
			links, err := alice.ctl.Card(t.Context())
			if err != nil || !strings.HasPrefix(links.Web, hubURL(h)+"/s/") {
				t.Errorf("card %+v, %v", links, err)
			}
		})
	}
}

// cli is Secrez's command line, with an account of its own.
type cli struct {
	t       *testing.T
	account *secrez.Account
	base    string
	client  *http.Client
}

func newCLI(t *testing.T, port uint16) *cli {
	t.Helper()
	account, err := secrez.ImportAccount(newIdentity(t).Seed(), newIdentity(t).Seed())
	check(t, err)
	c := &cli{t: t, account: account, base: "https://localhost:" + itoa(port), client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the first contact; see pin
	}}}
	return c
}

func itoa(port uint16) string { return (&net.TCPAddr{Port: int(port)}).String()[1:] }

// ask makes a signed call.
func (c *cli) ask(path string, body map[string]any) map[string]any {
	c.t.Helper()
	s, err := c.account.SignPayload(body, time.Now())
	check(c.t, err)
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.base+path+"?"+url.Values{"payload": {s.Payload}, "signature": {s.Signature}}.Encode(), nil)
	check(c.t, err)
	response, err := c.client.Do(r)
	check(c.t, err)
	defer func() { _ = response.Body.Close() }()
	var answer map[string]any
	check(c.t, json.NewDecoder(response.Body).Decode(&answer))
	answer["status"] = response.StatusCode
	return answer
}

func (c *cli) admin(action map[string]any) map[string]any {
	c.t.Helper()
	return c.ask("/admin", map[string]any{"action": action})
}

// pin trusts the certificate that "ready" has named, and nothing else.
func (c *cli) pin(ca string) {
	c.t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca)) {
		c.t.Fatal("no certificate")
	}
	c.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func TestSecrezCommandLinesTalkThroughOurCouriers(t *testing.T) {
	h := newHub(t)
	var people []*person
	var clis []*cli
	for range 2 {
		port := testkit.FreePort(t)
		p := newPerson(t, "", func(c *courier.Config) { c.Secrez.Hub, c.Secrez.Port = hubURL(h), port })
		c := newCLI(t, port)
		ready := c.admin(map[string]any{"name": "ready"})
		if ready["success"] != true {
			t.Fatalf("ready: %v", ready)
		}
		c.pin(ready["caCrt"].(string))
		people, clis = append(people, p), append(clis, c)
	}
	urls := make([]string, 2)
	for i, c := range clis {
		published := c.admin(map[string]any{"name": "publish"})
		info, _ := published["info"].(map[string]any)
		urls[i], _ = info["url"].(string)
		if urls[i] == "" {
			t.Fatalf("publish: %v", published)
		}
	}
	add := func(i, j int) {
		got := clis[i].admin(map[string]any{"name": "add", "publicKey": clis[j].account.Public().String(), "url": urls[j]})
		if got["success"] != true {
			t.Fatalf("add: %v", got)
		}
	}
	add(0, 1)
	message := seal(t, clis[0].account, clis[1].account.Public(), "hi from the command line")
	send := func() map[string]any {
		return clis[0].admin(map[string]any{"name": "send", "recipient": clis[1].account.Public().String(), "message": message})
	}
	if got := send(); got["success"] != false {
		t.Errorf("sent to somebody who does not know us: %v", got)
	}
	add(1, 0)
	if got := send(); got["success"] != true {
		t.Errorf("send: %v", got)
	}
	for i, direction := range []float64{2, 1} {
		got := clis[i].ask("/messages", map[string]any{})
		result, _ := got["result"].([]any)
		if len(result) != 1 || result[0].(map[string]any)["direction"] != direction || result[0].(map[string]any)["payload"] != message.Payload {
			t.Errorf("messages of %d: %v", i, got)
		}
	}
	// The owner stays the owner, and a restart does not change that.
	people[0].stop()
	people[0].start()
	stranger := newCLI(t, people[0].cfg.Secrez.Port)
	if got := stranger.admin(map[string]any{"name": "ready"}); got["status"] != http.StatusUnauthorized {
		t.Errorf("a stranger after a restart: %v", got)
	}
	if got := clis[0].admin(map[string]any{"name": "ready"}); got["success"] != true {
		t.Errorf("the owner, with the pinned certificate: %v", got)
	}
}
