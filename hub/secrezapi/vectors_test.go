package secrezapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/secrez"
)

// The recordings are of the JavaScript hub 0.2.1. Each exchange is replayed, byte for byte on the way in, or stands in
// notHere. Ours must answer in the same way, or as deviations says, for the reason it says; a line there that is not needed
// fails the test.

// notHere lists the recorded exchanges that are not with the API.
var notHere = map[string]string{
	"CLI stdout": "the command's output",
	"CLI -m 3: how many tunnel sockets stay open out of 13":        "hub/vhost: as many as -m says",
	"listening addresses (main port bound by -a, tunnel port not)": "TestSecurityRow24TunnelPortsListenWhereTheyAreTold",
}

// A deviation is an aspect of an answer that differs on purpose.
type deviation struct{ ours, why string }

var deviations = map[string]deviation{
	"tunnel status id=constructor (Map prototype leak)/status": {"404", "nobody has that id"},

	"new: signature missing/status":    {"400", "it is the request that is wrong, not the hub"},
	"new: signature not base64/status": {"400", "it is the request that is wrong, not the hub"},
	"new: signature wrong size/status": {"400", "it is the request that is wrong, not the hub"},
	"when missing => 500/status":       {"400", "it is the request that is wrong, not the hub"},

	"new: replay/status":                                                 {"200", "the same registration gets the same answer and does nothing: a client repeats itself until it hears one"},
	"replay test: identical (rejected)/status":                           {"200", "the same registration gets the same answer and does nothing"},
	"replay test: same payload, signature re-encoded (accepted!)/status": {"400", "a second spelling is no second signature"},

	"new: second registration while first client is alive (grace) => NO port/keys": {"id port max_conn_count url", "a client without a port cannot connect"},
	"new: registration while online => NO port/keys":                               {"id port max_conn_count url", "a client without a port cannot connect"},
	"new: reset= (empty) => no reset/keys":                                         {"id port max_conn_count url", "a client without a port cannot connect"},
	"new: bob locked out while squatted (no port)/keys":                            {"id port max_conn_count url", "nobody can take bob's port, or his id"},
	"secure=true => https url; no max_tcp_sockets => max_conn_count absent/keys":   {"id port max_conn_count url", "a client that is not told opens one socket"},

	"new: reset=true => new id, (old client still alive)/status":                {"400", "the reset is not signed: anybody on the way could have added it"},
	"new: reset=false (string is truthy => resets too)/id":                      {"the same", "false means no"},
	"new: reset= (empty) => no reset/id":                                        {"the same", "nothing has been reset"},
	"publickey of the old (reset) id/status":                                    {"200", "nothing has been reset"},
	"HEAD tunnel/new (koa-router GET matches HEAD)/status":                      {"405", "HEAD changes nothing"},
	"POST tunnel/new/status":                                                    {"400", "POST is allowed; this one says nothing"},
	"OPTIONS tunnel/new/allow":                                                  {"GET, POST", "HEAD is not, POST is"},
	"PROPFIND tunnel/new/type":                                                  {typeJSON, "every error is JSON"},
	"PROPFIND tunnel/new/allow":                                                 {"GET, POST", "HEAD is not, POST is"},
	"GET /api/v1/new (path in README)/status":                                   {"400", "the README's path is the same call; this one says nothing"},
	"GET /:id of an online tunnel (no auth) => no port/status":                  {"404", "nothing is done for who has not proved a key"},
	"GET /:id squatting of bob's offline id (no auth)/status":                   {"404", "nothing is done for who has not proved a key"},
	"GET /:id valid format, never registered/status":                            {"404", "nothing is done for who has not proved a key"},
	"POST /:id also creates/status":                                             {"404", "nothing is done for who has not proved a key"},
	"GET /:id with extra segment accepted/status":                               {"404", "nothing is done for who has not proved a key"},
	"X-Forwarded-Host ignored/status":                                           {"404", "nothing is done for who has not proved a key"},
	"GET /foo/status":                                                           {"404", "there is no such route"},
	"GET /favicon.ico/status":                                                   {"404", "there is no such route"},
	"GET /foo/bar/type":                                                         {typeJSON, "every error is JSON"},
	"no Host, HTTP/1.0/type":                                                    {typeJSON, "every error is JSON"},
	"empty Host/type":                                                           {typeJSON, "every error is JSON"},
	"Host is an unknown tunnel id/type":                                         {typeJSON, "every error is JSON"},
	"Host unknown id, api path/type":                                            {typeJSON, "every error is JSON"},
	"two Hosts/status":                                                          {"400", "RFC 9112: which of the two is meant depends on who reads"},
	"Host upper case id is NOT an id/status":                                    {"404", "host names have no case"},
	"absolute-form request target/status":                                       {"404", "RFC 9112: the target's host counts"},
	"Host header is echoed into url (evil host)/status":                         {"400", "not a host"},
	"upgrade without Host id/status":                                            {"200", "an upgrade that is not supported may be passed over"},
	"upgrade unknown id/status":                                                 {"404", "an answer instead of an end without a byte"},
	"header block > 16 KiB/status":                                              {"200", "the server's limit, and a hub's is higher"},
	"window bypass: when=\"x\"/status":                                          {"400", "a time that is no number has no age"},
	"third $ part: extra identity for the same key/status":                      {"400", "one account has one key"},
	"secure=true => https url; no max_tcp_sockets => max_conn_count absent/url": {"https://<id>.hub.test", "addresses are the domain's, whatever the Host header says"},
	"CLI -c s3cret: admin API still 404 (code not passed on)/status":            {"200", "the code works"},
	"prototype pollution: when=\"__proto__\"/status":                            {"400", "a time that is no number has no age"},
	"after pollution: normal registration of another key/status":                {"200", "nothing is broken"},
	"after pollution: registration of a new key/status":                         {"200", "nothing is broken"},
	"after pollution: status/numbers":                                           {"", "nothing is broken, so there are couriers"},
	"race: 6 concurrent first registrations of one key/status":                  {"200", "one key has one id, however many ask at once"},
}

// An exchange is one recorded request and its response.
type exchange struct {
	Name      string   `json:"name"`
	Hub       string   `json:"hub"`
	Request   string   `json:"request"`
	Response  recorded `json:"response"`
	Responses []struct {
		Status string `json:"status"`
	} `json:"responses"`
}

type recorded struct {
	Status  string   `json:"status_line"`
	Headers []string `json:"headers"`
	Body    string   `json:"body"`
}

func (r recorded) status() string {
	if r.Status == "" {
		return "" // the connection ended without a byte
	}
	return r.Status[len("HTTP/1.1 "):][:3]
}

func (r recorded) header(name string) string {
	for _, line := range r.Headers {
		if n, value, _ := strings.Cut(line, ": "); strings.EqualFold(n, name) {
			return value
		}
	}
	return ""
}

// A player replays exchanges in their order.
type player struct {
	*testing.T
	name   string
	worlds map[string]*world
	ids    map[string]*registeredCourier // by the recorded id
	used   map[string]bool
	tunnel net.Conn
}

// registeredCourier is ours where the recording has another.
type registeredCourier struct {
	registered
	pool *vhost.Pool
}

func readExchanges(t *testing.T) []exchange {
	t.Helper()
	b, err := os.ReadFile("testdata/hub_http.json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Exchanges []exchange `json:"exchanges"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Exchanges
}

func TestRecordedExchanges(t *testing.T) {
	p := &player{worlds: map[string]*world{}, ids: map[string]*registeredCourier{}, used: map[string]bool{}}
	all := readExchanges(t)
	for _, e := range all {
		if notHere[e.Name] != "" {
			continue
		}
		p.world(t, e.Hub) // lives as long as the whole test
		t.Run(e.Name, func(t *testing.T) {
			p.T, p.name = t, e.Name
			p.play(e)
		})
	}
	for name := range notHere {
		if !slices.ContainsFunc(all, func(e exchange) bool { return e.Name == name }) {
			t.Errorf("no such exchange: %s", name)
		}
	}
	for key := range deviations {
		if !p.used[key] {
			t.Errorf("no such deviation: %s", key)
		}
	}
}

func (p *player) world(t *testing.T, hub string) *world {
	if w := p.worlds[hub]; w != nil {
		return w
	}
	w := newWorldAt(t, time.Date(2026, 11, 22, 1, 26, 0, 0, time.UTC), func(c *Config) { // when they were recorded
		sockets := 0
		switch {
		case strings.Contains(hub, "landing"):
			c.Landing, c.Secure, c.Port, c.Code = "https://landing.example/x", true, 0, ""
		case strings.Contains(hub, "-m 3"):
			sockets = 3
		}
		c.Pools = vhost.NewPools(mustPorts(t), vhost.PoolConfig{MaxSockets: sockets, Grace: time.Hour}, nil)
	})
	p.worlds[hub] = w
	return w
}

func mustPorts(t *testing.T) *vhost.Ports {
	t.Helper()
	ports, err := vhost.NewPorts("127.0.0.1", vhost.PortRange{})
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

// same compares one aspect, and takes note of a deviation.
func (p *player) same(aspect, got, want string) bool {
	p.Helper()
	if got == want {
		return true
	}
	key := p.name + "/" + aspect
	p.used[key] = true
	if d, ok := deviations[key]; !ok || d.ours != got {
		p.Errorf("%s: got %q, recorded %q", aspect, got, want)
	}
	return false
}

// before says what happens before some of the exchanges.
func (p *player) before(w *world) {
	alice := p.ids["3d-nup-mm"]
	switch p.name {
	case "tunnel status with one socket":
		p.tunnel = w.connect(alice.registered)
	case "publickey found while offline":
		_ = p.tunnel.Close()
		w.pools.Remove(alice.ID)
		<-alice.pool.Done()
	}
}

func (p *player) play(e exchange) {
	w := p.world(p.T, e.Hub)
	p.before(w)
	defer func(whole *testing.T) { w.t = whole }(w.t)
	w.t = p.T
	switch {
	case e.Responses != nil:
		p.race(w, e)
		return
	case p.name == "header block > 16 KiB":
		e.Request = "GET / HTTP/1.1\r\nHost: hub.test:8433\r\nX-Long: " + strings.Repeat("x", 17000) + "\r\n\r\n"
	}
	if date, err := http.ParseTime(e.Response.header("Date")); err == nil {
		w.clock.set(date)
	}
	for theirs, ours := range p.ids {
		e.Request = strings.ReplaceAll(e.Request, theirs, ours.ID.String())
	}
	p.compare(w, e, p.exchange(w, e.Request))
}

// exchange sends bytes and reads a response.
func (p *player) exchange(w *world, request string) reply {
	p.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		p.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return reply{}
	} else if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(body)}
}

func (p *player) compare(w *world, e exchange, got reply) {
	p.Helper()
	if !p.same("status", strconv.Itoa(got.status), e.Response.status()) {
		if got.status >= 400 && got.headers.Get("Content-Type") == typeJSON && got.body != "" {
			refuses(p.T, got, got.status, "")
		}
		p.learn(w, e, got)
		return
	}
	if e.Response.header("Content-Type") != "" || got.headers.Get("Content-Type") != typeText {
		p.same("type", got.headers.Get("Content-Type"), e.Response.header("Content-Type"))
	}
	p.same("allow", got.headers.Get("Allow"), e.Response.header("Allow"))
	p.same("location", got.headers.Get("Location"), e.Response.header("Location"))
	if got.headers.Get("Content-Type") != typeJSON || e.Response.header("Content-Type") != typeJSON {
		if got.status == http.StatusFound {
			p.same("body", got.body, e.Response.Body)
		}
		return
	}
	p.learn(w, e, got)
	p.documents(got.body, e.Response.Body)
}

// learn takes note of which id is ours where the recording has another.
func (p *player) learn(w *world, e exchange, got reply) {
	var theirs, ours registered
	if json.Unmarshal([]byte(e.Response.Body), &theirs) != nil || json.Unmarshal([]byte(got.body), &ours) != nil {
		return
	}
	if ours.ID.IsZero() || theirs.ID.IsZero() {
		return
	}
	if known := p.ids[theirs.ID.String()]; known != nil && known.ID != ours.ID {
		p.Errorf("the id is %v, and was %v", ours.ID, known.ID)
	}
	for old, known := range p.ids { // the recorded id has changed, ours has not
		if known.ID == ours.ID && old != theirs.ID.String() {
			p.same("id", "the same", "another")
		}
	}
	p.ids[theirs.ID.String()] = &registeredCourier{ours, w.pools.Pool(ours.ID)}
}

// documents compares keys and their order, texts, and numbers that mean the same here.
func (p *player) documents(got, want string) {
	p.Helper()
	if want == "" {
		return // HEAD
	}
	ours, theirs := flatten(p.T, got), flatten(p.T, want)
	p.same("keys", strings.Join(names(ours), " "), strings.Join(names(theirs), " "))
	values := map[string]string{}
	for _, m := range theirs {
		values[m.name] = m.value
	}
	for _, m := range ours {
		want := values[m.name]
		switch m.name {
		case "id", "port", "rss", "heapTotal", "heapUsed", "external", "arrayBuffers":
		case "welcome_to":
			if !strings.Contains(m.value, "secretstack") {
				p.Errorf("welcome_to is %q", m.value)
			}
		case "more_info_at":
			if !strings.HasPrefix(m.value, "https://") {
				p.Errorf("more_info_at is %q", m.value)
			}
		case "message":
			if !strings.HasPrefix(m.value, want) {
				p.Errorf("the message is %q, recorded %q", m.value, want)
			}
		case "tunnels":
			if m.value != want {
				p.same("numbers", "", want)
			}
		case "url":
			p.same("url", withoutID(m.value), withoutID(want))
		case "max_conn_count":
			if want != "" {
				p.same(m.name, m.value, want)
			} else if m.value != "4" {
				p.Errorf("max_conn_count is %s by default", m.value)
			}
		default:
			p.same(m.name, m.value, want)
		}
	}
}

// withoutID puts a mark where the id is in an address.
func withoutID(address string) string {
	u, err := secrez.ParseContactURL(address)
	if err != nil {
		return address
	}
	return strings.Replace(address, u.ID.String(), "<id>", 1)
}

type member struct{ name, value string }

// flatten lists the members of a document in their order, those of inner documents after the one that holds them.
func flatten(t *testing.T, text string) []member {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var all []member
	name := ""
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		switch d, isDelim := token.(json.Delim); {
		case isDelim && d == '{' && name != "":
			all = append(all, member{name, ""})
			name = ""
		case isDelim:
		case name == "":
			name = fmt.Sprint(token)
		default:
			all = append(all, member{name, fmt.Sprint(token)})
			name = ""
		}
	}
}

func names(all []member) []string {
	var list []string
	for _, m := range all {
		list = append(list, m.name)
	}
	return list
}

// race plays the exchange in which one of six first registrations of a key succeeds.
func (p *player) race(w *world, e exchange) {
	p.Helper()
	newcomer := account(p.T, "newcomer")
	replies := make([]reply, len(e.Responses))
	var wg sync.WaitGroup
	for i := range replies {
		target := query(w.sign(newcomer, nil))
		wg.Go(func() { replies[i] = w.get(target) })
	}
	wg.Wait()
	ids := map[secrez.ID]bool{}
	for i, r := range replies {
		ids[w.registered(r).ID] = true
		p.same("status", strconv.Itoa(r.status), recorded{Status: e.Responses[i].Status}.status())
	}
	if len(ids) != 1 {
		p.Errorf("one key has got %d ids: %v", len(ids), slices.Collect(maps.Keys(ids)))
	}
}
