package secrezapi

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/secrez"
)

var (
	errUnsignedReset = errors.New("secrezapi: the reset is not signed")
	errInterrupted   = errors.New("secrezapi: the registration was interrupted")
)

// A form is a registration as it arrives.
type form struct {
	secrez.Signed
	invite string
	reset  bool // asked for outside of what is signed
}

// A request is a registration whose signature is right.
type request struct {
	*secrez.Payload
	reset  bool
	invite string
	addr   netip.Addr // of who sent it
	site   site       // that its answer names
}

// registered is the answer to a registration.
type registered struct {
	ID         secrez.ID `json:"id"`
	Port       int       `json:"port"`
	MaxSockets int       `json:"max_conn_count"`
	URL        string    `json:"url"`
	IP         string    `json:"ip,omitempty"`
}

// serveNew registers a courier.
func (h *Handler) serveNew(w http.ResponseWriter, r *http.Request, _ string) answer {
	if a, ok := h.allowed(Registration, r); !ok {
		return a
	}
	if h.cfg.Pools == nil {
		return failure(http.StatusNotImplemented, "This hub gives no tunnel ports")
	}
	s, ok := h.site(r)
	if !ok {
		return noSite()
	}
	f, a, ok := h.readForm(w, r)
	if !ok {
		return a
	}
	res, err := h.register(r.Context(), f, h.cfg.Addr(r), s)
	if err != nil {
		return h.refused(err)
	}
	return document(res)
}

func noSite() answer {
	return failure(http.StatusNotImplemented, "This hub has no domain, so nobody has an address at it. Its operator can give it one")
}

// readForm takes a registration out of the query, or out of the JSON document that was sent.
func (h *Handler) readForm(w http.ResponseWriter, r *http.Request) (form, answer, bool) {
	query := r.URL.Query()
	f := form{reset: anyMeansYes(query["reset"])}
	if r.Method == http.MethodGet {
		var ok bool
		f.Payload, ok = one(query, "payload")
		f.Signature, _ = one(query, "signature")
		f.invite, _ = one(query, "invite")
		if !ok {
			return form{}, h.refused(secrez.ErrPayload), false
		}
		return f, answer{}, true
	}
	body, a, ok := h.readBody(w, r)
	if !ok {
		return form{}, a, false
	}
	var doc struct {
		secrez.Signed
		Invite string          `json:"invite"`
		Reset  json.RawMessage `json:"reset"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return form{}, h.refused(secrez.ErrPayload), false
	}
	f.Signed, f.invite = doc.Signed, doc.Invite
	f.reset = f.reset || meansYes(strings.Trim(string(doc.Reset), `"`))
	return f, answer{}, true
}

// readBody reads what was sent, within bounds of size and time.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, answer, bool) {
	deadlines := http.NewResponseController(w)
	_ = deadlines.SetReadDeadline(time.Now().Add(h.cfg.Timeout)) // a test's ResponseWriter has none
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.cfg.MaxBody))
	if err == nil {
		_ = deadlines.SetReadDeadline(time.Time{})
		return bytes.TrimSpace(body), answer{}, true
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, failure(http.StatusRequestEntityTooLarge, "Request body too large"), false
	}
	return nil, failure(http.StatusRequestTimeout, "The request did not arrive in time").with("Connection", "close"), false
}

// one gives the only value of a parameter.
func one(query url.Values, name string) (string, bool) {
	if values := query[name]; len(values) == 1 {
		return values[0], true
	}
	return "", false
}

func anyMeansYes(values []string) bool {
	for _, v := range values {
		if meansYes(v) {
			return true
		}
	}
	return false
}

// meansYes reports whether a parameter asks for something. To the original everything does but the empty text.
func meansYes(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "0", "false", "no", "off", "null", "undefined":
		return false
	}
	return true
}

// register answers a registration: as it was answered before, if it is the same one, else by doing what it says.
func (h *Handler) register(ctx context.Context, f form, addr netip.Addr, s site) (res registered, err error) {
	payload, err := f.VerifyFresh(h.cfg.Now(), window)
	if err != nil {
		return registered{}, err
	}
	ask := request{Payload: payload, invite: f.invite, addr: addr, site: s}
	if _, err := payload.Field("reset", &ask.reset); err != nil {
		return registered{}, err
	}
	if _, err := payload.Field("invite", &ask.invite); err != nil {
		return registered{}, err
	}
	if f.reset && !ask.reset {
		return registered{}, errUnsignedReset
	}
	if err := meantForHub(payload); err != nil {
		return registered{}, err
	}
	at, mine := h.attempts.begin(payload.Digest())
	if !mine {
		return h.repeat(ctx, at, payload)
	}
	err = errInterrupted // what those who wait are told if the attempt panics
	defer func() { h.attempts.end(at, res, err) }()
	res, err = h.attempt(ctx, ask)
	return res, err
}

// meantForHub refuses what was signed for somebody else: whoever is sent a message, or a request to a courier, has its
// signature and could otherwise register with it. The couriers of Secrez sign {"action":{"name":"publish"}} for both.
func meantForHub(payload *secrez.Payload) error {
	var message json.RawMessage
	if there, err := payload.Field("message", &message); err != nil || there {
		return secrez.ErrPayload
	}
	var action struct {
		Name string `json:"name"`
	}
	if there, err := payload.Field("action", &action); err != nil || there && action.Name != "publish" {
		return secrez.ErrPayload
	}
	return nil
}

// repeat gives the answer that the same registration got, or is about to get, as long as it is true.
func (h *Handler) repeat(ctx context.Context, at *attempt, payload *secrez.Payload) (registered, error) {
	select {
	case <-at.done:
	case <-ctx.Done():
		return registered{}, context.Cause(ctx)
	}
	if at.err != nil {
		return registered{}, at.err
	}
	rec, ok := h.cfg.Registry.Lookup(at.res.ID)
	pool := h.cfg.Pools.Pool(at.res.ID)
	if !ok || !rec.Key.Equal(payload.PublicKey().Identity()) || pool == nil || pool.Port() != at.res.Port {
		return registered{}, secrez.ErrReplayed // to give it a port now would be to use it again
	}
	return at.res, nil
}

// attempt does what a payload says unless it was used before. It goes on when the courier has hung up: it will ask again.
func (h *Handler) attempt(ctx context.Context, ask request) (registered, error) {
	if err := h.replays.Admit(ask.Payload); err != nil {
		return registered{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.Timeout)
	defer cancel()
	res, err := h.publish(ctx, ask)
	if err != nil {
		h.replays.Forget(ask.Payload)
		h.log(ctx, ask, err)
	}
	return res, err
}

// publish gives a courier its id and a port.
func (h *Handler) publish(ctx context.Context, ask request) (registered, error) {
	before, err := h.admit(ctx, ask)
	if err != nil {
		return registered{}, err
	}
	rec, err := h.cfg.Registry.Register(ctx, registry.Registration{Payload: ask.Payload})
	if err != nil {
		return registered{}, err
	}
	if err := h.writeDown(ctx, ask.Payload); err != nil {
		return registered{}, err
	}
	rec, pool, err := h.openPool(ctx, rec, ask.addr)
	if err != nil {
		h.strikeOut(ctx, ask.Payload)
		return registered{}, err
	}
	if !before.IsZero() && before != rec.ID {
		h.cfg.Pools.Remove(before)
	}
	h.cfg.Registered(rec, before, ask.addr)
	h.cfg.Logger.InfoContext(ctx, "a courier has registered", "courier", rec, "address", ask.addr, "port", pool.Port())
	return registered{
		ID: rec.ID, Port: pool.Port(), MaxSockets: pool.MaxSockets(), URL: ask.site.courier(rec.ID), IP: h.cfg.TunnelHost,
	}, nil
}

// writeDown remembers that a payload is used. Its error is [secrez.ErrReplayed] if it has been, at another node or before a restart.
//
// When nothing can be written, nothing had to be: the id is on disk. A courier that comes back to a hub whose disk is full is worth
// more than what is lost, which is that this payload works again, within a minute, should the hub restart, or at another node.
func (h *Handler) writeDown(ctx context.Context, p *secrez.Payload) (err error) {
	switch {
	case h.cfg.Shared != nil:
		_, err = h.cfg.Shared.Create(ctx, ledgerKey(p), []byte{1})
		if errors.Is(err, registry.ErrExists) {
			return secrez.ErrReplayed
		}
	case h.used != nil:
		err = h.used.add(ctx, p)
	}
	if err != nil {
		h.cfg.Logger.WarnContext(ctx, "a used registration is remembered until the hub stops, and no longer", "err", err)
	}
	return nil
}

// strikeOut takes back that a payload is used: what fails is not. A payload that stays in the ledger nevertheless is refused when
// it comes again, and its courier signs another one.
func (h *Handler) strikeOut(ctx context.Context, p *secrez.Payload) {
	if h.cfg.Shared == nil {
		return
	}
	if err := h.cfg.Shared.Delete(ctx, ledgerKey(p)); err != nil {
		h.cfg.Logger.WarnContext(ctx, "a registration that failed counts as used", "err", err)
	}
}

func ledgerKey(p *secrez.Payload) string {
	digest := p.Digest()
	return hex.EncodeToString(digest[:])
}

// admit asks whether a key may have what it asks for, and tells the id that it has.
func (h *Handler) admit(ctx context.Context, ask request) (secrez.ID, error) {
	key := ask.PublicKey().Identity()
	rec, known := h.cfg.Registry.LookupKey(key)
	if err := h.cfg.Publish(ctx, ask.addr, key, rec.ID, ask.invite); err != nil {
		return secrez.ID{}, err
	}
	if ask.reset && known {
		return rec.ID, h.cfg.Reset(ask.addr, key)
	}
	return rec.ID, nil
}

// openPool opens the port of a record. When the key has got another id in the meantime, by a reset that came beside this
// registration, the port is that one's.
func (h *Handler) openPool(ctx context.Context, rec registry.Record, addr netip.Addr) (registry.Record, *vhost.Pool, error) {
	for {
		pool, err := h.cfg.Pools.Register(ctx, rec.ID, addr)
		if err != nil {
			return rec, nil, fmt.Errorf("secrezapi: open a tunnel port: %w", err)
		}
		now, ok := h.cfg.Registry.LookupKey(rec.Key)
		if ok && now.ID == rec.ID {
			return rec, pool, nil
		}
		h.cfg.Pools.Remove(rec.ID)
		if !ok { // given up at the same moment
			return rec, nil, registry.ErrGivenUp
		}
		rec = now
	}
}

// log says what failed on our side. What is wrong with a request is for its sender to know.
func (h *Handler) log(ctx context.Context, ask request, err error) {
	if h.refused(err).status >= http.StatusInternalServerError {
		h.cfg.Logger.WarnContext(ctx, "a registration failed", "courier", ask.PublicKey(), "address", ask.addr, "err", err)
	}
}
