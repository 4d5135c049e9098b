package secrezapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

func postBody(s secrez.Signed, more ...string) io.Reader {
	doc := map[string]any{"payload": s.Payload, "signature": s.Signature}
	for i := 0; i+1 < len(more); i += 2 {
		doc[more[i]] = json.RawMessage(more[i+1])
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return strings.NewReader(err.Error())
	}
	return strings.NewReader(string(b))
}

func TestAKeyKeepsItsIDWhicheverWayItRegisters(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	first := w.register(w.sign(alice, map[string]any{"id": 0}))
	if want := "http://" + first.ID.String() + ".hub.test:8433"; first.URL != want {
		t.Errorf("the courier is at %q, want %q", first.URL, want)
	}
	if first.MaxSockets != 4 {
		t.Errorf("max_conn_count is %d", first.MaxSockets)
	}
	for what, r := range map[string]reply{
		"again":       w.get(query(w.sign(alice, nil))),
		"the README":  w.get(strings.Replace(query(w.sign(alice, nil)), "tunnel/new", "new", 1)),
		"POST":        w.do(http.MethodPost, "/api/v1/tunnel/new", postBody(w.sign(alice, nil))),
		"POST to new": w.do(http.MethodPost, "/API/V1/New/", postBody(w.sign(alice, nil), "reset", "false")),
	} {
		if res := w.registered(r); res.ID != first.ID || res.Port != first.Port {
			t.Errorf("%s: %+v, want the id and port of %+v", what, res, first)
		}
	}
	if rec, ok := w.registry.LookupKey(alice.Identity().Public()); !ok || rec.ID != first.ID {
		t.Errorf("the registry has %v, %v", rec, ok)
	}
	if w.pools.Len() != 1 {
		t.Errorf("%d ports are open", w.pools.Len())
	}
}

func TestTheAnswerHasTheKeysOfTheOriginalInItsOrder(t *testing.T) {
	for host, want := range map[string]string{
		"":             "id port max_conn_count url",
		"tcp.hub.test": "id port max_conn_count url ip",
	} {
		w := newWorld(t, func(c *Config) { c.TunnelHost = host })
		r := w.get(query(w.sign(account(t, "alice"), nil)))
		if got := strings.Join(names(flatten(t, r.body)), " "); got != want {
			t.Errorf("keys %s, want %s", got, want)
		}
	}
}

func TestARegistrationServesVisitorsThroughItsTunnelSockets(t *testing.T) {
	w := newWorld(t, nil)
	res := w.register(w.sign(account(t, "alice"), nil))
	c := w.connect(res)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	})
	if r := w.get("/", "Host", res.ID.String()+".hub.test:8433"); r.status != 200 || r.body != "hi" {
		t.Errorf("got %d %s", r.status, r.body)
	}
	wg.Wait()
}

func TestASignedResetGivesAnotherID(t *testing.T) {
	var told [][2]secrez.ID
	w := newWorld(t, func(c *Config) {
		c.Registered = func(rec registry.Record, previous secrez.ID, _ netip.Addr) {
			told = append(told, [2]secrez.ID{previous, rec.ID})
		}
	})
	alice := account(t, "alice")
	old := w.register(w.sign(alice, nil))
	pool := w.pools.Pool(old.ID)
	reset := w.sign(alice, map[string]any{"reset": true})
	fresh := w.register(reset)
	if fresh.ID == old.ID {
		t.Fatal("the id is the same")
	}
	<-pool.Done() // nobody is led to the old id any more
	refuses(t, w.get("/api/v1/publickey/"+old.ID.String()), 404, "Not found")
	if again := w.register(reset); again != fresh {
		t.Errorf("repeated: %+v, want %+v", again, fresh)
	}
	if signedAndNot := w.get(query(w.sign(alice, map[string]any{"reset": true}), "reset", "true")); w.registered(signedAndNot).ID == fresh.ID {
		t.Error("a reset that is signed, and asked for in the query as well, did nothing")
	}
	if now := w.register(w.sign(alice, map[string]any{"reset": false})); now.ID == fresh.ID || now.ID == old.ID {
		t.Errorf("false is %v", now.ID)
	}
	if len(told) != 4 || told[0] != [2]secrez.ID{{}, old.ID} || told[1] != [2]secrez.ID{old.ID, fresh.ID} {
		t.Errorf("told of %v", told)
	}
	for _, wrong := range []any{"true", 1, []bool{true}} {
		refuses(t, w.get(query(w.sign(alice, map[string]any{"reset": wrong}))), 400, "Wrong parameters")
	}
}

// A client that does not hear the answer sends the same bytes again, every second.
func TestTheSameRegistrationGetsTheSameAnswerAndDoesNothing(t *testing.T) {
	asked := 0
	w := newWorld(t, func(c *Config) {
		c.Publish = func(context.Context, netip.Addr, keys.PublicKey, secrez.ID, string) error { asked++; return nil }
	})
	s := w.sign(account(t, "alice"), map[string]any{"reset": true})
	first := w.get(query(s))
	res := w.registered(first)
	c := w.connect(res)
	w.clock.advance(time.Minute) // the last moment at which it is fresh
	for range 3 {
		if again := w.get(query(s)); again.status != 200 || again.body != first.body {
			t.Errorf("got %d %s, want %s", again.status, again.body, first.body)
		}
	}
	if posted := w.do(http.MethodPost, "/api/v1/new", postBody(s)); posted.body != first.body {
		t.Errorf("by POST: %s", posted.body)
	}
	if asked != 1 {
		t.Errorf("%d times asked whether the key may have an id", asked)
	}
	if isReadable(c) {
		t.Error("the courier's socket was closed")
	}
	w.clock.advance(time.Millisecond)
	refuses(t, w.get(query(s)), 400, "Wrong signature: it was made too long ago")
}

func TestTheSameRegistrationIsRefusedWhenItsAnswerIsNoLongerTrue(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	gone := w.sign(alice, nil)
	res := w.register(gone)
	pool := w.pools.Pool(res.ID)
	w.pools.Remove(res.ID)
	<-pool.Done()
	refuses(t, w.get(query(gone)), 400, "Wrong signature: it has been used")
	if w.pools.Len() != 0 {
		t.Error("a used registration has opened a port")
	}

	before := w.sign(alice, nil)
	w.register(before)
	w.register(w.sign(alice, map[string]any{"reset": true}))
	refuses(t, w.get(query(before)), 400, "Wrong signature: it has been used")
}

func (as *attempts) len() int {
	as.mu.Lock()
	defer as.mu.Unlock()
	return len(as.known)
}

func TestAnswersAreForgottenWhenThereAreTooMany(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxAnswers = 2 })
	var all []secrez.Signed
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, w.sign(account(t, name), nil))
		w.register(all[len(all)-1])
	}
	refuses(t, w.get(query(all[0])), 400, "Wrong signature: it has been used")
	for _, s := range all[1:] {
		w.register(s)
	}
	w.clock.advance(2*window + time.Millisecond)
	w.register(w.sign(account(t, "d"), nil))
	if n := w.api.attempts.len(); n != 1 {
		t.Errorf("%d answers are kept after two windows", n)
	}
}

// slowRegistry holds registrations up.
type slowRegistry struct {
	Registry
	entered chan struct{}
	leave   chan error // nil: go on
}

func (r slowRegistry) Register(ctx context.Context, reg registry.Registration) (registry.Record, error) {
	r.entered <- struct{}{}
	if err := <-r.leave; err != nil {
		return registry.Record{}, err
	}
	return r.Registry.Register(ctx, reg)
}

func slowWorld(t *testing.T) (*world, slowRegistry) {
	t.Helper()
	slow := slowRegistry{entered: make(chan struct{}, 8), leave: make(chan error)}
	return newWorld(t, func(c *Config) {
		slow.Registry = c.Registry
		c.Registry = slow
	}), slow
}

func TestIdenticalRegistrationsThatRaceAreDoneOnce(t *testing.T) {
	w, slow := slowWorld(t)
	s := w.sign(account(t, "alice"), map[string]any{"reset": true})
	replies := make([]reply, 8)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() { replies[i] = w.get(query(s)) })
	}
	<-slow.entered
	slow.leave <- nil
	wg.Wait()
	for _, r := range replies {
		if r.body != replies[0].body {
			t.Errorf("got %s and %s", r.body, replies[0].body)
		}
	}
	w.registered(replies[0])
	select {
	case <-slow.entered:
		t.Error("done twice")
	default:
	}
}

func TestARegistrationThatFailsIsNotUsed(t *testing.T) {
	w, slow := slowWorld(t)
	s := w.sign(account(t, "alice"), nil)
	for _, c := range []struct {
		err     error
		status  int
		message string
	}{
		{registry.ErrUnavailable, 503, "The hub cannot do that now"},
		{context.DeadlineExceeded, 503, "The hub cannot do that now"},
		{registry.ErrBoxKey, 400, "Wrong public key"},
		{registry.ErrGivenUp, 400, "Wrong public key"},
		{registry.ErrEvidence, 400, "Wrong parameters"},
	} {
		var wg sync.WaitGroup
		var got reply
		wg.Go(func() { got = w.get(query(s)) })
		<-slow.entered
		slow.leave <- c.err
		wg.Wait()
		refuses(t, got, c.status, c.message)
		if (got.headers.Get("Retry-After") != "") != (c.status == 503) {
			t.Errorf("%v: Retry-After is %q", c.err, got.headers.Get("Retry-After"))
		}
	}
	go func() { slow.leave <- nil }()
	w.register(s)
}

// The client has a short time-out and asks again; what it began must not be lost, or done twice.
func TestARegistrationIsFinishedWhenItsClientHasHungUp(t *testing.T) {
	w, slow := slowWorld(t)
	s := w.sign(account(t, "alice"), map[string]any{"reset": true})
	ctx, hangUp := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.addr+query(s), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "hub.test"
	var wg sync.WaitGroup
	wg.Go(func() {
		if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
			_ = res.Body.Close()
			t.Error("it has an answer")
		}
	})
	<-slow.entered
	hangUp()
	wg.Wait()
	slow.leave <- nil
	w.register(s)
	select {
	case <-slow.entered:
		t.Error("done twice")
	default:
	}
}

func TestWhoWaitsForAnotherIsNotKept(t *testing.T) {
	as := newAttempts(10, time.Now)
	at, mine := as.begin([32]byte{1})
	if !mine {
		t.Fatal("somebody else's")
	}
	h := &Handler{attempts: as}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.repeat(ctx, at, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	as.end(at, registered{}, errInterrupted)
	if _, err := h.repeat(t.Context(), at, nil); !errors.Is(err, errInterrupted) {
		t.Errorf("got %v", err)
	}
	if as.len() != 0 {
		t.Error("a failure is remembered")
	}
}

func TestAnInterruptedRegistrationAnswersThoseWhoWait(t *testing.T) {
	var interrupt atomic.Bool
	interrupt.Store(true)
	w := newWorld(t, func(c *Config) {
		c.Publish = func(context.Context, netip.Addr, keys.PublicKey, secrez.ID, string) error {
			if interrupt.Load() {
				panic(http.ErrAbortHandler) //nolint:forbidigo // a defect in what the hub is given must not outlast its request
			}
			return nil
		}
	})
	s := w.sign(account(t, "alice"), nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.addr+query(s), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "hub.test"
	if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
		_ = res.Body.Close()
		t.Error("it has an answer")
	}
	waitFor(t, "the attempt has ended", func() bool { return w.api.attempts.len() == 0 })
	interrupt.Store(false)
	w.register(w.sign(account(t, "alice"), nil))
}

func TestAdmissionDecidesOnWhoseKeyIsProved(t *testing.T) {
	type question struct {
		key    string
		id     secrez.ID
		invite string
	}
	var asked []question
	var say error
	w := newWorld(t, func(c *Config) {
		c.Publish = func(_ context.Context, addr netip.Addr, key keys.PublicKey, id secrez.ID, invite string) error {
			if !addr.IsLoopback() {
				t.Errorf("the address is %v", addr)
			}
			asked = append(asked, question{key.String(), id, invite})
			return say
		}
	})
	alice := account(t, "alice")
	forged := w.sign(alice, nil)
	forged.Signature = account(t, "mallory").Sign([]byte(forged.Payload))
	refuses(t, w.get(query(forged)), 400, "Wrong signature")
	if len(asked) != 0 {
		t.Fatal("asked about a key that is not proved")
	}

	say = &Refusal{Status: 403, Message: "This hub is for invited people"}
	denied := w.sign(alice, nil)
	refuses(t, w.get(query(denied)), 403, "This hub is for invited people")
	if w.registry.Count() != 0 || w.pools.Len() != 0 {
		t.Error("whoever is refused has got something")
	}
	say = errors.New("the list cannot be read from /var/lib/hub")
	if r := w.get(query(denied)); strings.Contains(r.body, "/var") {
		t.Errorf("the answer has the hub's own error: %s", r.body)
	} else {
		refuses(t, r, 503, "The hub cannot do that now")
	}
	say = nil
	res := w.register(denied) // once it is allowed, the same registration works
	w.registered(w.get(query(w.sign(alice, nil), "invite", "in the query")))
	w.registered(w.do(http.MethodPost, "/api/v1/new", postBody(w.sign(alice, nil), "invite", `"in the body"`)))
	w.registered(w.get(query(w.sign(alice, map[string]any{"invite": "signed"}), "invite", "in the query")))

	key := alice.Identity().Public().String()
	want := []question{
		{key, secrez.ID{}, ""}, {key, secrez.ID{}, ""}, {key, secrez.ID{}, ""},
		{key, res.ID, "in the query"}, {key, res.ID, "in the body"}, {key, res.ID, "signed"},
	}
	if len(asked) != len(want) {
		t.Fatalf("asked %+v", asked)
	}
	for i := range want {
		if asked[i] != want[i] {
			t.Errorf("asked %+v, want %+v", asked[i], want[i])
		}
	}
	refuses(t, w.get(query(w.sign(alice, map[string]any{"invite": 5}))), 400, "Wrong parameters")
}

func TestResetsAreAskedForByThemselves(t *testing.T) {
	asked := 0
	var say error
	w := newWorld(t, func(c *Config) {
		c.Reset = func(addr netip.Addr, key keys.PublicKey) error {
			if !addr.IsLoopback() || !key.Equal(identity(t, "alice").Public()) {
				t.Errorf("asked about %v at %v", key, addr)
			}
			asked++
			return say
		}
	})
	alice := account(t, "alice")
	first := w.register(w.sign(alice, map[string]any{"reset": true})) // there is nothing to reset
	w.register(w.sign(alice, nil))
	if asked != 0 {
		t.Errorf("%d times asked", asked)
	}
	say = &Refusal{Status: 429, Message: "Too many new ids", RetryAfter: time.Hour}
	reset := w.sign(alice, map[string]any{"reset": true})
	refuses(t, w.get(query(reset)), 429, "Too many new ids")
	if rec, _ := w.registry.LookupKey(alice.Identity().Public()); rec.ID != first.ID {
		t.Error("the id has changed nonetheless")
	}
	say = nil
	if res := w.register(reset); res.ID == first.ID || asked != 2 {
		t.Errorf("the id is %v, after %d questions", res.ID, asked)
	}
}

func TestRegistrationsThatAreWrongAreRefused(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxBody = 20000 })
	alice := account(t, "alice")
	good := w.sign(alice, nil)
	long := w.sign(alice, map[string]any{"note": strings.Repeat("x", 17000)})
	post := func(body string) reply {
		return w.do(http.MethodPost, "/api/v1/tunnel/new", strings.NewReader(body), "Content-Type", "application/json")
	}
	for what, r := range map[string]reply{
		"twice the payload":   w.get(query(good, "payload", good.Payload)),
		"a broken query":      w.get("/api/v1/tunnel/new?payload=%zz&signature=x"),
		"no body":             post(""),
		"no JSON":             post("payload=x"),
		"a list":              post("[]"),
		"a payload unquoted":  post(`{"payload":{},"signature":"x"}`),
		"no payload":          post(`{"signature":"x"}`),
		"too long to be kept": w.get(query(long)),
	} {
		t.Run(what, func(t *testing.T) { refuses(t, r, 400, "Wrong parameters") })
	}
	refuses(t, post(`{"payload":"`+strings.Repeat("x", 20000)), 413, "Request body too large")
	w.register(good)
}

func TestABodyThatDoesNotArriveIsNotWaitedFor(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "POST /api/v1/new HTTP/1.1\r\nHost: hub.test\r\nContent-Length: 100\r\n\r\n{")
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 408 ") || !strings.Contains(string(b), `{"status_code":408,`) {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestAHubWithoutTunnelPortsSaysSo(t *testing.T) {
	w := newWorld(t, func(c *Config) { _ = c.Pools.Close(); c.Pools = nil })
	refuses(t, w.get(query(w.sign(account(t, "alice"), nil))), 501, "This hub gives no tunnel ports")
	if r := w.get("/api/v1/status?code=" + testCode); r.status != 200 || !strings.HasPrefix(r.body, `{"tunnels":0,`) {
		t.Errorf("got %d %s", r.status, r.body)
	}
	refuses(t, w.get("/api/v1/tunnels/7y-6ro-3z/status?code="+testCode), 404, "Not found")
}

// raceRegistry gives the key another id between a registration and its port.
type raceRegistry struct {
	Registry
	other secrez.ID
}

func (r *raceRegistry) LookupKey(key keys.PublicKey) (registry.Record, bool) {
	rec, ok := r.Registry.LookupKey(key)
	if ok && !r.other.IsZero() {
		rec.ID = r.other
	}
	return rec, ok
}

func TestAPortIsOpenedForTheIDThatTheKeyHas(t *testing.T) {
	race := &raceRegistry{other: secrez.NewID()}
	w := newWorld(t, func(c *Config) {
		race.Registry = c.Registry
		c.Registry = race
	})
	res := w.register(w.sign(account(t, "alice"), nil))
	if res.ID != race.other {
		t.Errorf("the id is %v, and the key has %v", res.ID, race.other)
	}
	waitFor(t, "the other port is closed", func() bool { return w.pools.Len() == 1 })
	if w.pools.Pool(race.other) == nil {
		t.Error("the open port is not that of the id")
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	reg := &raceRegistry{}
	for what, cfg := range map[string]Config{
		"no registry":                           {},
		"a domain with a scheme":                {Registry: reg, Domain: "https://hub.test"},
		"a domain with a port":                  {Registry: reg, Domain: "hub.test:8433"},
		"a domain that is too long":             {Registry: reg, Domain: strings.Repeat("a.", 120) + "test"},
		"a port out of range":                   {Registry: reg, Port: 65536},
		"a landing page that is none":           {Registry: reg, Landing: "landing.example"},
		"a landing page that runs":              {Registry: reg, Landing: "javascript:alert(1)"},
		"a landing page that is not an address": {Registry: reg, Landing: "http://[::1"},
		"a landing page that is not escaped":    {Registry: reg, Landing: `https://landing.example/"<x>`},
	} {
		if _, err := New(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := New(Config{Registry: reg, Domain: "Hub.Test."}); err != nil {
		t.Error(err)
	}
}

func TestNoPortIsFree(t *testing.T) {
	for what, change := range map[string]func(*world, *Config){
		"a hub that is alone": func(w *world, c *Config) { c.Used = w.used() },
		"one of several":      func(w *world, c *Config) { c.Shared = w.shared() },
	} {
		t.Run(what, func(t *testing.T) { noPortIsFree(t, change) })
	}
}

// noPortIsFree sees that what fails is not used.
func noPortIsFree(t *testing.T, change func(*world, *Config)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := uint16(l.Addr().(*net.TCPAddr).Port)
	w := newWorld(t, nil)
	w.restart(func(c *Config) {
		_ = c.Pools.Close()
		c.Pools = w.newPools(vhost.PortRange{First: taken, Last: taken}, vhost.PoolConfig{})
		change(w, c)
	})
	s := w.sign(account(t, "alice"), nil)
	r := w.get(query(s))
	refuses(t, r, 503, "No tunnel port is free")
	if r.headers.Get("Retry-After") == "" {
		t.Error("nothing is said of when to ask again")
	}
	_ = l.Close()
	if res := w.register(s); res.Port != int(taken) {
		t.Errorf("the port is %d", res.Port)
	}
}
