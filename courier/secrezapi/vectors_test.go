package secrezapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier/secrezapi"
	"github.com/secretstack/secretstack/secrez"
)

// exchange is one recorded from the original courier.
type exchange struct {
	Name     string
	Method   string
	Path     string
	Query    secrez.Signed
	Body     json.RawMessage
	Response struct {
		Status  int
		Body    string
		Hang    int `json:"hang_after_ms"`
		Error   string
		Headers json.RawMessage
	}
}

// A deviation is what we answer instead, and why.
type deviation struct {
	status int
	body   string
	why    string
}

const (
	bad    = `{"error":"Bad request"}`
	wrong  = "what is malformed is the caller's mistake, not an internal error"
	nobody = `{"error":"Unauthorized"}`
)

// deviations by the exchange's name; whatever is not here is answered as it was recorded.
var deviations = map[string]deviation{
	"admin: bad JSON payload":                                {400, bad, wrong},
	"admin: signature of wrong size":                         {400, bad, wrong},
	"POST / wrong signature size":                            {400, bad, wrong},
	"POST / no publicKey":                                    {400, bad, wrong},
	"POST / payload as object":                               {400, bad, wrong},
	"admin unknown action: HANGS":                            {400, `{"error":"Unknown action"}`, "every request is answered"},
	"add: invalid public key => success:true":                {200, `{"success":false,"error":"The public key is not a valid one"}`, "add says what is wrong"},
	"send to bob (bob has NOT trusted alice: accepted, bug)": {200, `{"success":false,"error":"The recipient does not take it"}`, "strangers are refused"},
	"send: the very same signed request replayed":            {400, bad, "a call is good once"},
	"messages: limit as string injection attempt":            {400, bad, "a limit is a number"},
	"messages: from is an object":                            {400, bad, "from is a key"},
	"POST / untrusted mallory: accepted (bug)":               {400, ``, "strangers are refused, as the original meant to"},
	"POST / payload from 2017 (no window)":                   {400, bad, "a message is not years old"},
	"POST / same again (replay)":                             {400, bad, "a message is not years old"},
	"send to bob 0.3 s after his courier died (grace): ":     {200, `{"success":false,"error":"Not found on the hub"}`, "every request is answered"},
	"add mallory with bob's url (UNIQUE url): hang, then process crash": {200,
		`{"success":false,"error":"The url is already associated to another public key"}`, "nothing that arrives ends the process"},
	"restarted without -o: request signed by a stranger: crash": {401, nobody, "the owner is known from the start"},
	"fresh courier without owner: first signer becomes owner":   {401, nobody, "this office has an owner already"},
	"then the real user is refused": {200,
		`{"success":true,"caCrt":"<PEM of ca.crt>\n","tunnel":{"clientId":"ys-dhs-rb","url":"http://ys-dhs-rb.127zero0one.com:18553"}}`,
		"he is the owner from the start"},
}

// skipped are recorded exchanges without a request that can be repeated.
var skipped = map[string]string{
	"POST / 1 MiB payload accepted": "the recording has no body; TestAPayloadMayBeLarge has its own",
}

func TestRecordedExchanges(t *testing.T) {
	text, err := os.ReadFile("testdata/courier_http.json")
	check(t, err)
	var recorded struct{ Exchanges []exchange }
	check(t, json.Unmarshal(text, &recorded))
	w := newRecordedWorld(t, recorded.Exchanges)
	replayed := 0
	used := map[string]bool{}
	for _, e := range recorded.Exchanges {
		if e.Method == "" || skipped[e.Name] != "" {
			continue
		}
		replayed++
		w.before(t, e)
		got := w.replay(t, e)
		want := reply{e.Response.Status, e.Response.Body}
		if d, ok := deviations[e.Name]; ok {
			want, used[e.Name] = reply{d.status, d.body}, true
		}
		if want, got := w.comparable(want), w.comparable(got); got != want {
			t.Errorf("%s:\n got %d %s\nwant %d %s", e.Name, got.status, got.body, want.status, want.body)
		}
	}
	if replayed < 40 {
		t.Errorf("only %d exchanges were replayed", replayed)
	}
	for name := range deviations {
		if !used[name] {
			t.Errorf("no exchange is called %q", name)
		}
	}
}

// recordedWorld is Alice's and Bob's couriers.
type recordedWorld struct {
	alice, bob *office
	bobKey     secrez.PublicKey
	aliceKey   secrez.PublicKey
	bobIsGone  bool
}

func newRecordedWorld(t *testing.T, all []exchange) *recordedWorld {
	t.Helper()
	w := &recordedWorld{}
	var first time.Time
	for _, e := range all {
		if p, err := e.Query.Verify(); err == nil && strings.HasPrefix(e.Name, "admin publish (") {
			if strings.Contains(e.Name, "alice") {
				w.aliceKey = p.PublicKey()
			} else {
				w.bobKey = p.PublicKey()
			}
		}
		if p, err := e.Query.Verify(); err == nil && first.IsZero() {
			first = p.When()
		}
	}
	bobServer := newServer(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if w.bobIsGone {
			rw.WriteHeader(http.StatusNotFound) // as the hub does
			return
		}
		w.bob.api.Public().ServeHTTP(rw, r)
	}))
	client := clientTo(t, bobServer)
	w.alice, w.bob = newOffice(w.aliceKey, first.Add(-time.Second), client), newOffice(w.bobKey, first.Add(-time.Second), client)
	return w
}

// before brings the world into the state that the recording had.
func (w *recordedWorld) before(t *testing.T, e exchange) {
	t.Helper()
	switch e.Name {
	case "admin publish (alice)":
		w.alice.setPublished(secrezapi.Published{ID: mustID(t, "ys-dhs-rb"), URL: "http://ys-dhs-rb.127zero0one.com:18553"})
	case "admin publish (bob)":
		w.bob.setPublished(secrezapi.Published{ID: mustID(t, "q3-5o7-eu"), URL: "http://q3-5o7-eu.127zero0one.com:18553"})
	case "bob /messages":
		// Nobody was refused in the recording, so each had one message of Alice's.
		var do struct {
			Message secrez.Signed
		}
		p, err := firstSend(t).Verify()
		check(t, err)
		_, err = p.Field("action", &do)
		check(t, err)
		inner, err := do.Message.Verify()
		check(t, err)
		msg := secrezapi.Message{Signed: do.Message, Digest: inner.Digest()}
		msg.Direction, msg.Peer = secrezapi.Received, w.aliceKey
		w.bob.set(inner.When())
		check(t, w.bob.Keep(t.Context(), msg))
		msg.Direction, msg.Peer = secrezapi.Sent, w.bobKey
		w.alice.set(inner.When())
		check(t, w.alice.Keep(t.Context(), msg))
		_, _, err = w.bob.Trust(t.Context(), secrezapi.Contact{PublicKey: w.aliceKey})
		check(t, err)
	case "send to bob 0.3 s after his courier died (grace): ":
		w.bobIsGone = true
	case "publish with the hub down (timeout 5 s)":
		w.alice.setPublished(secrezapi.Published{})
	}
}

func mustID(t *testing.T, text string) secrez.ID {
	t.Helper()
	id, err := secrez.ParseID(text)
	check(t, err)
	return id
}

// firstSend is the recorded call that sends Alice's message.
func firstSend(t *testing.T) secrez.Signed {
	t.Helper()
	text, err := os.ReadFile("testdata/courier_http.json")
	check(t, err)
	var recorded struct{ Exchanges []exchange }
	check(t, json.Unmarshal(text, &recorded))
	for _, e := range recorded.Exchanges {
		if strings.HasPrefix(e.Name, "send to bob (") {
			return e.Query
		}
	}
	t.Fatal("no such exchange")
	return secrez.Signed{}
}

// replay makes a recorded request at its time.
func (w *recordedWorld) replay(t *testing.T, e exchange) reply {
	t.Helper()
	at, when := w.alice, time.Time{}
	if p, err := e.Query.Verify(); err == nil {
		when = p.When()
		if p.PublicKey().Equal(w.bobKey) || strings.HasPrefix(e.Name, "messages: not the owner") {
			at = w.bob
		}
	}
	if e.Method == http.MethodPost {
		at = w.bob
		when = time.UnixMilli(1795311470500)
	}
	if !when.IsZero() {
		at.set(when)
	}
	switch {
	case e.Method == http.MethodGet && e.Query.Payload == "" && e.Query.Signature == "":
		return serve(t, at.api.Local(), httptest.NewRequest(http.MethodGet, e.Path, nil))
	case e.Method == http.MethodGet:
		return get(t, at.api.Local(), e.Path, e.Query)
	case strings.HasPrefix(string(e.Body), `"`): // a text, not JSON
		var raw string
		check(t, json.Unmarshal(e.Body, &raw))
		r := httptest.NewRequest(http.MethodPost, e.Path, strings.NewReader(raw))
		r.Header.Set("Content-Type", map[bool]string{true: "application/x-www-form-urlencoded", false: "application/json"}[strings.HasPrefix(raw, "payload=")])
		return serve(t, at.api.Public(), r)
	}
	return post(t, at.api.Public(), e.Path, string(e.Body))
}

// comparable drops what differs with each recording: the times of messages, and what was kept twice.
func (w *recordedWorld) comparable(r reply) reply {
	var list struct {
		Success bool
		Result  []map[string]any
	}
	if json.Unmarshal([]byte(r.body), &list) != nil || list.Result == nil {
		return r
	}
	seen := map[string]bool{}
	var kept []map[string]any
	for _, m := range list.Result {
		delete(m, "timestamp")
		if payload, _ := m["payload"].(string); !seen[payload] {
			seen[payload] = true
			kept = append(kept, m)
		}
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return r
	}
	return reply{r.status, string(text)}
}
