package secrezapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/secretstack/secretstack/courier/secrezapi"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func account(t testing.TB, b byte) *secrez.Account {
	t.Helper()
	id, err := keys.FromSeed(bytes.Repeat([]byte{b}, keys.SeedSize))
	check(t, err)
	a, err := secrez.FromIdentity(id)
	check(t, err)
	return a
}

// memory is a backend of tests.
type memory struct {
	mu       sync.Mutex
	owner    secrez.PublicKey
	account  *secrez.Account // opens messages; nil: nobody does
	contacts map[string]secrezapi.Contact
	messages []secrezapi.Message
	at       secrezapi.Published
	publish  func(ctx context.Context, s secrez.Signed) (secrezapi.Published, error)
	now      func() time.Time
}

func (m *memory) Owner(context.Context) (secrez.PublicKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.owner, nil
}

func (m *memory) SetOwner(_ context.Context, key secrez.PublicKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.owner = key
	return nil
}

func (m *memory) Trust(_ context.Context, c secrezapi.Contact) (added, changed bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := c.PublicKey.Identity().Ref()
	for key, other := range m.contacts {
		if key != id && c.URL != "" && other.URL == c.URL {
			return false, false, secrezapi.ErrURLTaken
		}
	}
	known, ok := m.contacts[id]
	if ok && !known.PublicKey.Equal(c.PublicKey) {
		return false, false, secrezapi.ErrKeyChanged
	}
	changed = ok && c.URL != "" && known.URL != c.URL
	if c.URL == "" {
		c.URL = known.URL
	}
	m.contacts[id] = c
	return !ok, changed, nil
}

func (m *memory) Trusted(_ context.Context, key keys.PublicKey) (secrezapi.Contact, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.contacts[key.Ref()]
	if !ok {
		return c, secrezapi.ErrUnknown
	}
	return c, nil
}

func (m *memory) Keep(_ context.Context, msg secrezapi.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, old := range m.messages {
		if old.Digest == msg.Digest && old.Direction == msg.Direction {
			return nil
		}
	}
	msg.Time = m.now()
	m.messages = append(m.messages, msg)
	return nil
}

func (m *memory) Receive(ctx context.Context, msg secrezapi.Message, p *secrez.Payload) error {
	if m.account != nil {
		var sealed string
		if _, err := p.Field("message", &sealed); err != nil {
			return secrezapi.ErrNotForUs
		}
		if _, err := m.account.Open(msg.Peer, sealed); err != nil {
			return secrezapi.ErrNotForUs
		}
	}
	return m.Keep(ctx, msg)
}

func (m *memory) Messages(_ context.Context, q secrezapi.Query) ([]secrezapi.Message, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []secrezapi.Message
	for _, msg := range m.messages {
		if !msg.Time.Before(q.Min) && !msg.Time.After(q.Max) && len(found) < q.Limit && (q.Direction == 0 || q.Direction == msg.Direction) &&
			(q.Peer.IsZero() || q.Peer.Equal(msg.Peer)) {
			found = append(found, msg)
		}
	}
	return found, nil
}

func (m *memory) Published() secrezapi.Published {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

func (m *memory) setPublished(at secrezapi.Published) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = at
}

func (m *memory) Publish(ctx context.Context, s secrez.Signed) (secrezapi.Published, error) {
	if m.publish == nil {
		return secrezapi.Published{}, secrezapi.ErrOffline
	}
	at, err := m.publish(ctx, s)
	if err == nil {
		m.setPublished(at)
	}
	return at, err
}

func (m *memory) Hub() string { return "http://127.0.0.1:1" }

// office is a courier's API with its backend and its clock.
type office struct {
	*memory
	api *secrezapi.API

	mu    sync.Mutex
	clock time.Time
}

func (o *office) set(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock = now
}

func (o *office) time() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.clock
}

// newOffice makes an API whose clock stands at a time.
func newOffice(owner secrez.PublicKey, now time.Time, client *secrezapi.Client) *office {
	o := &office{clock: now}
	o.memory = &memory{owner: owner, contacts: map[string]secrezapi.Contact{}, now: o.time}
	o.api = secrezapi.New(secrezapi.Options{Backend: o.memory, Client: client, CA: "<PEM of ca.crt>\n", Now: o.time})
	return o
}

// reply is what a request gets.
type reply struct {
	status int
	body   string
}

func serve(t testing.TB, h http.Handler, r *http.Request) reply {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return reply{w.Code, w.Body.String()}
}

// get makes a signed request.
func get(t testing.TB, h http.Handler, path string, s secrez.Signed) reply {
	t.Helper()
	q := url.Values{}
	if s.Payload != "" {
		q.Set("payload", s.Payload)
	}
	if s.Signature != "" {
		q.Set("signature", s.Signature)
	}
	return serve(t, h, httptest.NewRequest(http.MethodGet, path+"?"+q.Encode(), nil))
}

func post(t testing.TB, h http.Handler, path, body string) reply {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return serve(t, h, r)
}

func postSigned(t testing.TB, h http.Handler, path string, s secrez.Signed) reply {
	t.Helper()
	body, err := json.Marshal(s)
	check(t, err)
	return post(t, h, path, string(body))
}

func signed(t testing.TB, a *secrez.Account, body any, when time.Time) secrez.Signed {
	t.Helper()
	s, err := a.SignPayload(body, when)
	check(t, err)
	return s
}

type action = map[string]any

// admin makes the owner's call.
func (o *office) admin(t testing.TB, owner *secrez.Account, do action) reply {
	t.Helper()
	return get(t, o.api.Local(), "/admin", signed(t, owner, action{"action": do}, o.time()))
}

// sealed is a message of a to the account to, as it is posted.
func sealed(t testing.TB, a *secrez.Account, to secrez.PublicKey, text string, when time.Time) secrez.Signed {
	t.Helper()
	box, err := a.Seal(to, []byte(text))
	check(t, err)
	return signed(t, a, action{"message": box}, when)
}

// clientTo is a client for which every name is that of one server.
func clientTo(t testing.TB, server *httptest.Server) *secrezapi.Client {
	t.Helper()
	return secrezapi.ClientTo(secrezapi.ClientOptions{}, server.Listener.Addr().String())
}

// newServer serves a handler until the test ends.
func newServer(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// body reads a whole body.
func body(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	check(t, err)
	check(t, r.Body.Close())
	return string(b)
}
