package secrezapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/secretstack/secretstack/secrez"
)

const (
	// maxBody bounds the body of a request, in bytes: the longest payload, escaped.
	maxBody = 4 << 20
	// bodyTimeout bounds how long a body may take to arrive.
	bodyTimeout = time.Minute
	// workTimeout bounds everything else about a request.
	workTimeout = 30 * time.Second

	defaultLimit = 10
	maxLimit     = 1000
)

// Options are the parts of an API. Backend and Client are needed.
type Options struct {
	Backend Backend
	Client  *Client
	// CA is the certificate, in PEM, with which the one of the local server was signed.
	CA string
	// MaxAge is how old a message may be, and MaxAhead how far in the future its sender's clock. Zero: 60 days, 1 day.
	MaxAge, MaxAhead time.Duration
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Logger gets what failed. Nil: none.
	Logger *slog.Logger
}

// API answers Secrez's programs.
type API struct {
	o       Options
	replays *secrez.ReplayCache
	owning  sync.Mutex // held while the owner is decided on
}

// New makes an API. Calls that were signed before are refused: another process may have answered them.
func New(o Options) *API {
	if o.MaxAge <= 0 {
		o.MaxAge = 60 * 24 * time.Hour
	}
	if o.MaxAhead <= 0 {
		o.MaxAhead = 24 * time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &API{o: o, replays: secrez.NewReplayCache(secrez.ReplayOptions{NotBefore: o.Now(), Now: o.Now})}
}

// answer is what a request gets: a status and a JSON value, or no body.
type answer struct {
	status int
	body   any
}

type object = map[string]any

func failed(status int) answer { return answer{status, object{"error": "Error"}} }

func badRequest() answer { return answer{http.StatusBadRequest, object{"error": "Bad request"}} }

func unsuccessful(why string) answer {
	return answer{http.StatusOK, struct {
		Success bool   `json:"success"`
		Error   string `json:"error"`
	}{false, why}}
}

// Local answers the programs of the machine: GET /, and GET or POST of /admin and /messages, which take the signed payload
// in the query or in the body, where it may be large; and POST /, as Public does.
func (a *API) Local() http.Handler {
	return a.serve(func(r *http.Request) answer {
		switch path := strings.TrimSuffix(strings.ToLower(r.URL.Path), "/"); {
		case path == "" && r.Method == http.MethodPost:
			return a.post(r)
		case path == "" && r.Method == http.MethodGet:
			return answer{http.StatusOK, object{"hello": "world"}}
		case path == "/admin":
			return a.owned(r, a.admin)
		case path == "/messages":
			return a.owned(r, a.messages)
		}
		return failed(http.StatusNotFound)
	})
}

// Public answers everybody: POST /, and nothing else.
func (a *API) Public() http.Handler {
	return a.serve(func(r *http.Request) answer {
		if r.URL.Path != "/" || r.Method != http.MethodPost {
			return failed(http.StatusNotFound)
		}
		return a.post(r)
	})
}

func (a *API) serve(route func(r *http.Request) answer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, stop := context.WithTimeout(r.Context(), bodyTimeout+workTimeout)
		defer stop()
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout)) // not every connection can
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		out := route(r.WithContext(ctx))
		if out.body == nil {
			w.WriteHeader(out.status)
			return
		}
		text, err := encode(out.body)
		if err != nil {
			a.o.Logger.Error("secrezapi: an answer has no JSON", "error", err)
			out.status, text = http.StatusInternalServerError, []byte(`{"error":"Error"}`)
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(out.status)
		_, _ = w.Write(text) // the client has gone: that is its own affair
	})
}

// encode writes JSON as JavaScript does, without escapes for HTML.
func encode(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return []byte(strings.TrimSuffix(b.String(), "\n")), err
}

// read takes the signed payload out of a request: from the query or, of a POST, from the body.
func read(r *http.Request) (secrez.Signed, answer, bool) {
	if r.Method == http.MethodGet {
		q := r.URL.Query()
		s := secrez.Signed{Payload: q.Get("payload"), Signature: q.Get("signature")}
		return s, badRequest(), s.Payload != "" && s.Signature != ""
	}
	if r.Method != http.MethodPost {
		return secrez.Signed{}, failed(http.StatusNotFound), false
	}
	body, err := io.ReadAll(r.Body)
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return secrez.Signed{}, failed(http.StatusRequestEntityTooLarge), false
	}
	if err != nil {
		return secrez.Signed{}, failed(http.StatusBadRequest), false
	}
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.TrimSpace(kind) != "application/json" {
		return secrez.Signed{}, badRequest(), false
	}
	var s secrez.Signed
	if !json.Valid(body) {
		return s, failed(http.StatusBadRequest), false
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, badRequest(), false
	}
	return s, badRequest(), s.Payload != "" && s.Signature != ""
}

// owned answers a call that the owner has signed, within the minute and once.
func (a *API) owned(r *http.Request, call func(ctx context.Context, p *secrez.Payload) answer) answer {
	s, refusal, ok := read(r)
	if !ok {
		return refusal
	}
	p, err := s.Verify()
	if err != nil {
		return badRequest()
	}
	if !a.isOwner(r.Context(), p) {
		return answer{http.StatusUnauthorized, object{"error": "Unauthorized"}}
	}
	if err := a.replays.Admit(p); err != nil {
		return badRequest()
	}
	return call(r.Context(), p)
}

// isOwner reports whether the owner has signed. Whoever is the first to sign a fresh payload becomes the owner if there is
// none.
func (a *API) isOwner(ctx context.Context, p *secrez.Payload) bool {
	a.owning.Lock()
	defer a.owning.Unlock()
	owner, err := a.o.Backend.Owner(ctx)
	if err != nil {
		a.report(err)
		return false
	}
	if !owner.IsZero() {
		return owner.Equal(p.PublicKey())
	}
	if p.Fresh(a.o.Now(), time.Minute) != nil {
		return false
	}
	if err := a.o.Backend.SetOwner(ctx, p.PublicKey()); err != nil {
		a.report(err)
		return false
	}
	a.o.Logger.Warn("secrezapi: the courier has an owner now", "key", p.PublicKey().Short())
	return true
}

func (a *API) report(err error) {
	if !errors.Is(err, context.Canceled) {
		a.o.Logger.Error("secrezapi: a request failed", "error", err)
	}
}

// post takes a message.
func (a *API) post(r *http.Request) answer {
	s, refusal, ok := read(r)
	if !ok {
		return refusal
	}
	p, err := s.Verify()
	if err != nil {
		return badRequest()
	}
	if age := a.o.Now().Sub(p.When()); age > a.o.MaxAge || age < -a.o.MaxAhead {
		return badRequest()
	}
	known, err := a.o.Backend.Trusted(r.Context(), p.PublicKey().Identity())
	if errors.Is(err, ErrUnknown) || err == nil && !known.PublicKey.Equal(p.PublicKey()) {
		return answer{http.StatusBadRequest, nil}
	}
	if err == nil {
		err = a.o.Backend.Receive(r.Context(), messageOf(Received, p.PublicKey(), p), p)
	}
	switch {
	case errors.Is(err, ErrNotForUs):
		return badRequest()
	case err != nil:
		a.report(err)
		return failed(http.StatusInternalServerError)
	}
	return answer{http.StatusOK, object{"success": true}}
}

func messageOf(direction int, peer secrez.PublicKey, p *secrez.Payload) Message {
	return Message{Direction: direction, Peer: peer, Signed: p.Signed(), Digest: p.Digest()}
}

// messagesResult is a message in the answer to GET /messages.
type messagesResult struct {
	Timestamp int64            `json:"timestamp"`
	Direction int              `json:"direction"`
	Payload   string           `json:"payload"`
	Signature string           `json:"signature"`
	PublicKey secrez.PublicKey `json:"publickey"`
}

// success is the order of members in which the original writes its answers.
type success struct {
	Success bool `json:"success"`
	Result  any  `json:"result,omitempty"`
	Info    any  `json:"info,omitempty"`
}

// messages gives messages to the owner.
func (a *API) messages(ctx context.Context, p *secrez.Payload) answer {
	if a.o.Backend.Published().ID.IsZero() {
		return answer{http.StatusOK, struct {
			Success bool   `json:"success"`
			Error   int    `json:"error"`
			Message string `json:"message"`
		}{false, 2, "Tunnel not active"}}
	}
	q, err := a.query(p)
	if err != nil {
		return badRequest()
	}
	found, err := a.o.Backend.Messages(ctx, q)
	if err != nil {
		a.report(err)
		return failed(http.StatusInternalServerError)
	}
	result := make([]messagesResult, len(found))
	for i, m := range found {
		result[i] = messagesResult{m.Time.UnixMilli(), m.Direction, m.Signed.Payload, m.Signed.Signature, m.Peer}
	}
	return answer{http.StatusOK, success{Success: true, Result: result}}
}

// query reads what messages the owner asks for.
func (a *API) query(p *secrez.Payload) (Query, error) {
	least, most, q := int64(0), a.o.Now().UnixMilli()+1000, Query{Limit: defaultLimit}
	for _, f := range []struct {
		name string
		into any
	}{{"minTimestamp", &least}, {"maxTimestamp", &most}, {"direction", &q.Direction}, {"from", &q.Peer}, {"limit", &q.Limit}} {
		if _, err := p.Field(f.name, f.into); err != nil {
			return q, err
		}
	}
	if q.Limit < 1 || q.Direction < 0 || q.Direction > Sent {
		return q, secrez.ErrPayload
	}
	q.Limit = min(q.Limit, maxLimit)
	q.Min, q.Max = time.UnixMilli(least), time.UnixMilli(most)
	return q, nil
}
