package secrezapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"strconv"
	"time"

	"github.com/secretstack/secretstack/hub/registry"
	"github.com/secretstack/secretstack/hub/vhost"
	"github.com/secretstack/secretstack/secrez"
)

const (
	typeJSON = "application/json; charset=utf-8"
	typeHTML = "text/html; charset=utf-8"
	typeText = "text/plain; charset=utf-8"

	retrySoon = 5 * time.Second
)

// An answer is a whole response.
type answer struct {
	status  int
	kind    string // the content type
	headers [][2]string
	body    []byte
}

func (a answer) with(name, value string) answer {
	a.headers = append(a.headers[:len(a.headers):len(a.headers)], [2]string{name, value})
	return a
}

func (a answer) write(w http.ResponseWriter) {
	header := w.Header()
	for _, h := range a.headers {
		header.Set(h[0], h[1])
	}
	if a.kind == "" {
		a.kind = typeText
	}
	header.Set("Content-Type", a.kind)
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a visitor that has left is nobody to tell
}

// document answers with a JSON document.
func document(v any) answer { return answer{status: http.StatusOK, kind: typeJSON, body: encode(v)} }

// failure answers with an error, in the words of the original where it has any.
func failure(status int, message string) answer {
	return answer{status: status, kind: typeJSON, body: encode(struct {
		Status  int    `json:"status_code"`
		Message string `json:"message"`
	}{status, message})}
}

func notFound() answer { return failure(http.StatusNotFound, "Not found") }

// encode writes JSON as JavaScript does: without escapes for HTML, without a line's end.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil // cannot be: texts and numbers alone are encoded
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func redirect(to string, asHTML bool) answer {
	a := answer{status: http.StatusFound, kind: typeText, body: []byte("Redirecting to " + to + ".")}
	if asHTML {
		escaped := html.EscapeString(to)
		a.kind, a.body = typeHTML, []byte(`Redirecting to <a href="`+escaped+`">`+escaped+`</a>.`)
	}
	return a.with("Location", to).with("Vary", "Accept")
}

func (a answer) retryAfter(d time.Duration) answer {
	if d <= 0 {
		return a
	}
	return a.with("Retry-After", strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10))
}

func unavailable() answer {
	return failure(http.StatusServiceUnavailable, "The hub cannot do that now").retryAfter(retrySoon)
}

// refused tells why somebody who is allowed to ask gets nothing. Texts are fixed: an error's own text may name files and
// addresses. Those of the original are their beginning.
func (h *Handler) refused(err error) answer {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return failure(r.Status, r.Message).retryAfter(r.RetryAfter)
	}
	for _, known := range []struct {
		err     error
		message string
	}{
		{secrez.ErrPayload, "Wrong parameters"},
		{secrez.ErrPublicKey, "Wrong public key"},
		{secrez.ErrSignature, "Wrong signature"},
		{secrez.ErrExpired, "Wrong signature: it was made too long ago, or in the future. Sign again, and look at your clock"},
		{secrez.ErrReplayed, "Wrong signature: it has been used. Sign again"},
		{registry.ErrEvidence, "Wrong parameters: the payload is too long, or has a member of the wrong type"},
		{registry.ErrBoxKey, "Wrong public key: the account is known with another first half"},
		{registry.ErrGivenUp, "Wrong public key: it was given up for another"},
		{errUnsignedReset, `Wrong parameters: a reset must be signed. Put "reset":true into the payload`},
	} {
		if errors.Is(err, known.err) {
			return failure(http.StatusBadRequest, known.message)
		}
	}
	if errors.Is(err, vhost.ErrNoPorts) {
		return failure(http.StatusServiceUnavailable, "No tunnel port is free").retryAfter(retrySoon)
	}
	return unavailable()
}
