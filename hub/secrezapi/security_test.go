package secrezapi

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/secrez"
)

// The tests of this file try the attacks of the original's security review, row by row, as far as they are the API's to
// withstand. docs/ACCEPTANCE.md has the whole table.

func TestSecurityRow01ATimeThatIsNoneBreaksNothing(t *testing.T) {
	w := newWorld(t, nil)
	mallory := account(t, "mallory")
	for _, when := range []string{
		`"__proto__"`, `"constructor"`, `"x"`, `""`, `null`, `{}`, `[]`, `[1]`, `true`, `1e400`, `-0.5`, `"1795310788048"`, `NaN`, `9007199254740993`,
	} {
		payload := fmt.Sprintf(`{"when":%s,"publicKey":"%s","salt":"s"}`, when, mallory.Public())
		refuses(t, w.get(query(signText(mallory, payload))), 400, "Wrong parameters")
	}
	refuses(t, w.get(query(signText(mallory, fmt.Sprintf(`{"publicKey":"%s"}`, mallory.Public())))), 400, "Wrong parameters")
	if w.registry.Count() != 0 {
		t.Error("somebody was registered")
	}
	w.register(w.sign(account(t, "alice"), nil))
	w.register(w.sign(mallory, nil))
}

func TestSecurityRow02NobodyGetsAnIDByAskingForIt(t *testing.T) {
	w := newWorld(t, nil)
	bob := account(t, "bob")
	res := w.register(w.sign(bob, nil))
	pool := w.pools.Pool(res.ID)
	w.pools.Remove(res.ID)
	<-pool.Done() // bob is away
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		for _, path := range []string{"/" + res.ID.String(), "/" + res.ID.String() + "/", "/7y-6ro-3z", "/" + res.ID.String() + "-yyy"} {
			refuses(t, w.do(method, path, nil), 404, "Not found")
		}
	}
	if w.pools.Len() != 0 {
		t.Fatal("a stranger has got a port")
	}
	if again := w.register(w.sign(bob, nil)); again.ID != res.ID || again.Port == 0 {
		t.Errorf("bob is locked out: %+v", again)
	}
}

func TestSecurityRow05ReplaysAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	s := w.sign(alice, map[string]any{"reset": true})
	res := w.register(s)

	raw, err := base64.StdEncoding.DecodeString(s.Signature)
	if err != nil {
		t.Fatal(err)
	}
	for what, signature := range map[string]string{
		"spare bits":  spareBits(s.Signature),
		"no padding":  strings.TrimRight(s.Signature, "="),
		"a line end":  s.Signature + "\n",
		"S plus L":    base64.StdEncoding.EncodeToString(plusL(raw)),
		"hexadecimal": fmt.Sprintf("%x", raw),
	} {
		r := w.get(query(secrez.Signed{Payload: s.Payload, Signature: signature}))
		t.Run(what, func(t *testing.T) { refuses(t, r, 400, "Wrong signature") })
	}
	refuses(t, w.get(query(secrez.Signed{Payload: s.Payload + " ", Signature: s.Signature})), 400, "Wrong signature")

	// The same bytes again are answered, and do nothing.
	if again := w.register(s); again != res {
		t.Errorf("again: %+v, want %+v", again, res)
	}
	// Restarts are in TestReplaysAcrossARestartAreRefusedAndHonestClientsAreNot.
}

// Whoever has overheard a registration cannot make himself the courier by repeating it from elsewhere.
func TestSecurityRow05AReplayFromElsewhereDoesNotTakeTheTunnel(t *testing.T) {
	from := netip.MustParseAddr("127.0.0.1")
	w := newWorld(t, func(c *Config) { c.Addr = func(*http.Request) netip.Addr { return from } })
	s := w.sign(account(t, "alice"), nil)
	res := w.register(s)
	own := w.connect(res)
	from = netip.MustParseAddr("127.0.0.2")
	if again := w.register(s); again != res {
		t.Errorf("got %+v", again)
	}
	stranger, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", w.tunnel(res))
	if err != nil {
		t.Skipf("this system has no second loopback address: %v", err)
	}
	defer func() { _ = stranger.Close() }()
	if b, err := io.ReadAll(stranger); len(b) != 0 && err == nil {
		t.Errorf("the stranger has read %q", b)
	}
	if isReadable(own) {
		t.Error("the courier's own socket was closed")
	}
}

// spareBits gives another spelling of 64 bytes in base64.
func spareBits(text string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	last := len(text) - len("==") - 1
	return text[:last] + string(alphabet[strings.IndexByte(alphabet, text[last])+1]) + "=="
}

// plusL raises the scalar of a signature by the group's order.
func plusL(signature []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	le := slices.Clone(signature[32:])
	slices.Reverse(le)
	sum := new(big.Int).Add(new(big.Int).SetBytes(le), order).FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	return append(slices.Clone(signature[:32]), sum...)
}

func TestSecurityRow10RegistrationsAreBounded(t *testing.T) {
	var asked []Kind
	limited := false
	w := newWorld(t, func(c *Config) {
		c.Allow = func(kind Kind, addr netip.Addr) error {
			asked = append(asked, kind)
			if limited {
				return &Refusal{Status: 429, Message: "Too many registrations", RetryAfter: 1500 * time.Millisecond}
			}
			return nil
		}
	})
	alice := account(t, "alice")
	for range 20 {
		w.register(w.sign(alice, nil))
	}
	if w.registry.Count() != 1 || w.pools.Len() != 1 {
		t.Errorf("one key has %d records and %d ports", w.registry.Count(), w.pools.Len())
	}
	limited = true
	r := w.get(query(w.sign(account(t, "bob"), nil)))
	refuses(t, r, 429, "Too many registrations")
	if got := r.headers.Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After is %q", got)
	}
	if w.registry.Count() != 1 || asked[len(asked)-1] != Registration {
		t.Errorf("%d records, asked for %s", w.registry.Count(), asked[len(asked)-1])
	}
	limited = false

	// Ports run out without harm to those who have one.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	one := uint16(l.Addr().(*net.TCPAddr).Port)
	_ = l.Close()
	w.restart(func(c *Config) {
		_ = c.Pools.Close()
		c.Pools = w.newPools(vhost.PortRange{First: one, Last: one}, vhost.PoolConfig{})
	})
	w.register(w.sign(alice, nil))
	refuses(t, w.get(query(w.sign(account(t, "bob"), nil))), 503, "No tunnel port is free")
	w.register(w.sign(alice, nil))
}

func TestSecurityRow11TheCheapChecksComeFirst(t *testing.T) {
	limited := true
	w := newWorld(t, func(c *Config) {
		c.Allow = func(Kind, netip.Addr) error {
			if limited {
				return &Refusal{Status: 429, Message: "Slow down"}
			}
			return nil
		}
	})
	mallory := account(t, "mallory")
	refuses(t, w.get("/api/v1/tunnel/new?payload=garbage"), 429, "Slow down") // before anything is looked at
	limited = false
	forged := w.signAt(mallory, nil, w.clock.now().Add(-time.Hour))
	forged.Signature = account(t, "bob").Sign([]byte(forged.Payload))
	refuses(t, w.get(query(forged)), 400, "Wrong signature: it was made too long ago") // before the signature
	forged = w.sign(mallory, nil)
	forged.Signature = "AAAA"
	refuses(t, w.get(query(forged)), 400, "Wrong signature")
}

func TestSecurityRow12OneAccountHasOneKey(t *testing.T) {
	w := newWorld(t, nil)
	mallory, victim := account(t, "mallory"), account(t, "victim")
	key := mallory.Public().String()
	box, sign, _ := strings.Cut(key, "$")
	spare := func(half string) string {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
		last := len(half) - 2
		return half[:last] + string(alphabet[strings.IndexByte(alphabet, half[last])+1]) + "="
	}
	for what, spelling := range map[string]string{
		"a third part": key + "$AAAA", "an empty third part": key + "$",
		"spare bits in the box half": spare(box) + "$" + sign, "spare bits in the sign half": box + "$" + spare(sign),
		"no padding": strings.ReplaceAll(key, "=", ""), "a space": key + " ",
		"no points at all": strings.Repeat("A", 43) + "=$" + strings.Repeat("A", 43) + "=",
	} {
		payload := fmt.Sprintf(`{"when":%d,"publicKey":"%s","salt":"s"}`, w.clock.now().UnixMilli(), spelling)
		r := w.get(query(signText(mallory, payload)))
		t.Run(what, func(t *testing.T) { refuses(t, r, 400, "Wrong public key") })
	}

	// Somebody else's box half in front of one's own sign half gives nothing of his, and only one id.
	mixed := func() secrez.Signed {
		victimsBox, _, _ := strings.Cut(victim.Public().String(), "$")
		return signText(mallory, fmt.Sprintf(`{"when":%d,"publicKey":"%s$%s","salt":"s"}`, w.clock.now().UnixMilli(), victimsBox, sign))
	}
	his := w.register(w.sign(victim, nil))
	hers := w.register(mixed())
	if his.ID == hers.ID {
		t.Fatal("two keys have one id")
	}
	refuses(t, w.get(query(w.sign(mallory, nil))), 400, "Wrong public key: the account is known with another first half")
	if w.registry.Count() != 2 {
		t.Errorf("%d records for two sign halves", w.registry.Count())
	}
	if r := w.get("/api/v1/publickey/" + his.ID.String()); r.body != `{"publickey":"`+victim.Public().String()+`"}` {
		t.Errorf("the victim's key is %s", r.body)
	}
}

func TestSecurityRow13AddressesAreNotMadeOfTheHostHeader(t *testing.T) {
	alice := account(t, "alice")
	w := newWorld(t, nil)
	for _, host := range []string{"evil.example", "evil.example:1", "localhost", "hub.test.evil.example", "hub.test@evil.example"} {
		if res := w.register(w.sign(alice, nil)); res.URL != "http://"+res.ID.String()+".hub.test:8433" {
			t.Errorf("by %s: %s", host, res.URL)
		}
		r := w.get(query(w.sign(alice, nil)), "Host", host, "X-Forwarded-Host", "evil.example", "Forwarded", "host=evil.example")
		if strings.Contains(r.body, "evil") || r.status == 200 && !strings.HasSuffix(w.registered(r).URL, ".hub.test:8433") {
			t.Errorf("by %s: %s", host, r.body)
		}
	}

	// Without a domain there are addresses for this machine alone.
	here := netip.MustParseAddr("127.0.0.1")
	w = newWorld(t, func(c *Config) {
		c.Domain = ""
		c.Addr = func(*http.Request) netip.Addr { return here }
	})
	for host, want := range map[string]string{
		"localhost:8433": "localhost:8433", "127.0.0.1:18653": "localhost:18653", "[::1]:8433": "localhost:8433", "localhost": "localhost",
		"localhost:80": "localhost", "LOCALHOST:8433": "localhost:8433", "hub.localhost:8433": "localhost:8433",
	} {
		if res := w.registerAt(query(w.sign(alice, nil)), host); res.URL != "http://"+res.ID.String()+"."+want {
			t.Errorf("by %s: %s", host, res.URL)
		}
	}
	for _, host := range []string{"evil.example", "evil.example:8433", "localhost.evil.example", "notlocalhost", "10.0.0.1", "127.0.0.1.evil.example"} {
		r := w.get(query(w.sign(alice, nil)), "Host", host)
		refuses(t, r, 501, "This hub has no domain")
	}
	here = netip.MustParseAddr("192.0.2.1")
	refuses(t, w.get(query(w.sign(alice, nil)), "Host", "localhost:8433"), 501, "This hub has no domain")
	refuses(t, w.get("/s/7y-6ro-3z", "Host", "localhost:8433"), 501, "This hub has no domain")
}

func (w *world) registerAt(target, host string) registered {
	w.t.Helper()
	return w.registered(w.get(target, "Host", host))
}

func TestSecurityRow15SecretsNeedNotBeInAddresses(t *testing.T) {
	w := newWorld(t, nil)
	s := w.sign(account(t, "alice"), map[string]any{"note": "not-for-logs"})
	w.registered(w.do(http.MethodPost, "/api/v1/tunnel/new", postBody(s, "invite", `"letmein-1234"`)))
	if r := w.get("/api/v1/status", "Authorization", "Bearer "+testCode); r.status != 200 {
		t.Errorf("got %d %s", r.status, r.body)
	}
	w.get("/api/v1/status?code=" + testCode)
	w.get(query(w.sign(account(t, "alice"), map[string]any{"note": "not-for-logs"})))
	w.get("/api/v1/tunnel/new?payload=not-for-logs&signature=not-for-logs")
	for _, secret := range []string{"not-for-logs", testCode, "letmein-1234", s.Signature} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
	if !strings.Contains(w.logs.String(), "a courier has registered") {
		t.Error("nothing was logged at all")
	}
	r := w.do(http.MethodPost, "/api/v1/tunnel/new", postBody(w.sign(account(t, "alice"), nil)))
	if got := r.headers.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control is %q", got)
	}
}

func TestWhatWasSignedForACourierIsNoRegistration(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	for _, body := range []map[string]any{
		{"message": "c2VhbGVk"},
		{"message": nil},
		{"action": map[string]any{"name": "send"}},
		{"action": map[string]any{}},
		{"action": "publish"},
	} {
		refuses(t, w.get(query(w.sign(alice, body))), 400, "Wrong parameters")
	}
	w.register(w.sign(alice, map[string]any{"action": map[string]any{"name": "publish"}}))
}

func TestSecurityRow16AResetMustBeSigned(t *testing.T) {
	w := newWorld(t, nil)
	alice := account(t, "alice")
	res := w.register(w.sign(alice, nil))
	for _, value := range []string{"1", "true", "TRUE", "yes", "on", "t", "reset", " true"} {
		s := w.sign(alice, map[string]any{"id": 0})
		r := w.get(query(s, "reset", value))
		refuses(t, r, 400, "Wrong parameters: a reset must be signed")
		if !strings.Contains(r.body, `Put \"reset\":true into the payload`) {
			t.Errorf("it does not say what to do: %s", r.body)
		}
		// What a meddler has spoilt works without his words.
		if again := w.register(s); again.ID != res.ID {
			t.Fatalf("reset=%s: the id is %v, was %v", value, again.ID, res.ID)
		}
	}
	for _, value := range []string{"", "0", "false", "False", "no", "off", "null", "undefined"} {
		if again := w.registered(w.get(query(w.sign(alice, nil), "reset", value))); again.ID != res.ID {
			t.Errorf("reset=%q: the id is %v, was %v", value, again.ID, res.ID)
		}
	}
	for body, ok := range map[string]bool{`true`: false, `"true"`: false, `1`: false, `{}`: false, `false`: true, `"false"`: true, `0`: true, `null`: true, `""`: true} {
		r := w.do(http.MethodPost, "/api/v1/new", postBody(w.sign(alice, nil), "reset", body))
		if ok != (r.status == 200) {
			t.Errorf("in the body, unsigned, %s: %d %s", body, r.status, r.body)
		}
	}
	refuses(t, w.get(query(w.sign(alice, nil), "reset", "false", "reset", "true")), 400, "Wrong parameters: a reset must be signed")
	refuses(t, w.do(http.MethodPost, "/api/v1/new?reset=true", postBody(w.sign(alice, nil))), 400, "Wrong parameters: a reset must be signed")
}

func TestSecurityRow18LookUpsAreLimited(t *testing.T) {
	limited := false
	w := newWorld(t, func(c *Config) {
		c.Allow = func(kind Kind, _ netip.Addr) error {
			if limited && kind == Lookup {
				return &Refusal{Status: 429, Message: "Too many look-ups", RetryAfter: time.Second}
			}
			return nil
		}
	})
	id := w.register(w.sign(account(t, "alice"), nil)).ID.String()
	limited = true
	for _, path := range []string{"/api/v1/publickey/" + id, "/api/v1/publickey/7y-6ro-3z", "/s/" + id, "/s/7y-6ro-3z", "/API/V1/PUBLICKEY/" + id + "/"} {
		r := w.get(path)
		refuses(t, r, 429, "Too many look-ups")
		if r.headers.Get("Retry-After") != "1" {
			t.Errorf("%s: Retry-After is %q", path, r.headers.Get("Retry-After"))
		}
	}
}

func TestSecurityRow19ACourierIsToldAsManySocketsAsItMayHave(t *testing.T) {
	const most = 2
	w := newWorld(t, nil)
	w.restart(func(c *Config) {
		_ = c.Pools.Close()
		c.Pools = w.newPools(vhost.PortRange{}, vhost.PoolConfig{MaxSockets: most})
	})
	res := w.register(w.sign(account(t, "alice"), nil))
	if res.MaxSockets != most {
		t.Fatalf("max_conn_count is %d", res.MaxSockets)
	}
	var own []net.Conn
	for range res.MaxSockets {
		c, err := net.Dial("tcp", w.tunnel(res))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		own = append(own, c)
	}
	waitFor(t, "all are in the pool", func() bool { return w.pools.Pool(res.ID).Stats().Open == most })
	for _, c := range own {
		if isReadable(c) {
			t.Error("a socket that was asked for is closed: its client comes back at once, for ever")
		}
	}
}

func TestSecurityRow23NamesOfMethodsAreNoIDs(t *testing.T) {
	w := newWorld(t, nil)
	for _, name := range []string{"constructor", "get", "__proto__", "toString", "%00", "..%2f", "", "7y-6ro-3z"} {
		refuses(t, w.get("/api/v1/tunnels/"+name+"/status?code="+testCode), 404, "Not found")
		refuses(t, w.get("/api/v1/publickey/"+name), 404, "Not found")
		refuses(t, w.get("/s/"+name), 404, "Not found")
	}
}

func TestSecurityRow24HeadRegistersNobody(t *testing.T) {
	w := newWorld(t, nil)
	s := w.sign(account(t, "alice"), nil)
	r := w.do(http.MethodHead, query(s), nil)
	if r.status != 405 || r.headers.Get("Allow") != "GET, POST" {
		t.Errorf("got %d, Allow %q", r.status, r.headers.Get("Allow"))
	}
	if w.registry.Count() != 0 || w.pools.Len() != 0 {
		t.Error("somebody is registered")
	}
	w.register(s)
	for _, path := range []string{"/", "/api/v1/status?code=" + testCode, "/api/v1/publickey/7y-6ro-3z", "/s/7y-6ro-3z"} {
		if r := w.do(http.MethodHead, path, nil); r.body != "" || r.status == 405 {
			t.Errorf("%s: %d %q", path, r.status, r.body)
		}
	}
}

func TestSecurityRow24TunnelPortsListenWhereTheyAreTold(t *testing.T) {
	w := newWorld(t, nil) // at 127.0.0.1
	res := w.register(w.sign(account(t, "alice"), nil))
	w.connect(res)
	elsewhere := fmt.Sprintf("127.0.0.2:%d", res.Port)
	if c, err := net.Dial("tcp", elsewhere); err == nil {
		_ = c.Close()
		t.Errorf("the tunnel port is open at %s", elsewhere)
	}
}

func TestSecurityRow27KeysThatVerifyEverythingAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	box, _, _ := strings.Cut(account(t, "alice").Public().String(), "$")
	one := append([]byte{1}, make([]byte, 31)...) // the identity of the group
	signature := append(slices.Clone(one), make([]byte, 32)...)
	payload := fmt.Sprintf(`{"when":%d,"publicKey":"%s$%s","salt":"s"}`, w.clock.now().UnixMilli(), box, base64.StdEncoding.EncodeToString(one))
	if !ed25519.Verify(one, []byte(payload), signature) {
		t.Fatal("that signature verifies nothing")
	}
	s := secrez.Signed{Payload: payload, Signature: base64.StdEncoding.EncodeToString(signature)}
	refuses(t, w.get(query(s)), 400, "Wrong public key")
	if w.registry.Count() != 0 {
		t.Error("nobody's key has an id")
	}
}
