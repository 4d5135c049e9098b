package admin

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/secretstack/secretstack/hub/admission"
	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

const (
	maxBody   = 64 << 10 // bytes of a request
	maxListed = 1000     // in one answer
)

// apiFunc answers a request of the API with what becomes JSON.
type apiFunc func(*http.Request) (any, error)

// explain makes an answer of an error. What it does not know stays in the log.
func (h *Handler) explain(r *http.Request, err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	text := strings.TrimPrefix(err.Error(), admission.ErrRule.Error()+": ")
	switch {
	case errors.Is(err, admission.ErrRule):
		return &apiError{status: http.StatusBadRequest, Message: text}
	case errors.Is(err, admission.ErrNotFound):
		return &apiError{status: http.StatusNotFound, Message: "there is no such thing any more"}
	case errors.Is(err, admission.ErrListFull):
		return &apiError{status: http.StatusConflict, Message: "the list is full; remove something first"}
	}
	h.cfg.Logger.Error("admin: failed", "path", r.URL.Path, "error", err)
	if errors.Is(err, admission.ErrUnavailable) {
		return &apiError{
			status: http.StatusServiceUnavailable, Message: "the hub cannot write now, nothing has changed; its log says why",
		}
	}
	return &apiError{status: http.StatusInternalServerError, Message: "internal error; the hub's log says more"}
}

func badRequest(message string) error {
	return &apiError{status: http.StatusBadRequest, Message: message}
}

// decode reads a request's JSON. Members that are not known are an error: a misspelt limit must not become none.
func decode(r *http.Request, into any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &apiError{status: http.StatusUnsupportedMediaType, Message: "send Content-Type: application/json"}
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); errors.Is(err, admission.ErrRule) {
		return err
	} else if err != nil {
		return badRequest("the body is not the JSON expected: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("the body has something after its JSON")
	}
	return nil
}

// statusJSON is how the hub is doing, in the API.
type statusJSON struct {
	health
	Version      string            `json:"version"`
	Key          string            `json:"key"`
	Domain       string            `json:"domain,omitempty"`
	Address      string            `json:"address,omitempty"`
	Started      time.Time         `json:"started"`
	Couriers     map[Kind]int      `json:"couriers"`
	Registry     registryJSON      `json:"registry"`
	Certificates []certificateJSON `json:"certificates"`
	Pools        int               `json:"pools"`
	Sockets      int               `json:"sockets"`
	Waiting      int               `json:"waiting"`
	Requests     int               `json:"requests"`
	Circuits     int               `json:"circuits"`
	Tunnels      int               `json:"tunnels"`
	Envelopes    int               `json:"envelopes"`
	Limits       map[string]string `json:"limits"`
	Cluster      *Cluster          `json:"cluster,omitempty"`
}

type registryJSON struct {
	Records  int    `json:"records"`
	Retired  int    `json:"retired"`
	Writes   uint64 `json:"writes"`
	Writable bool   `json:"writable"`
	Free     *int64 `json:"free"` // bytes; null: unknown
}

type certificateJSON struct {
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
	Problem string    `json:"problem,omitempty"`
}

func (h *Handler) apiStatus(*http.Request) (any, error) {
	about, st := h.cfg.Hub.About(), h.cfg.Hub.Status()
	answer := statusJSON{
		health:       st.health(),
		Version:      about.Version,
		Key:          about.Key.Ref(),
		Domain:       about.Domain,
		Address:      about.Address,
		Started:      about.Started.UTC(),
		Couriers:     countKinds(h.cfg.Hub.Couriers()),
		Registry:     registryJSON{st.Registry.Records, st.Registry.Retired, st.Registry.Writes, st.Registry.Err == nil, nil},
		Certificates: []certificateJSON{},
		Pools:        st.Pools,
		Sockets:      st.Sockets,
		Waiting:      st.Waiting,
		Requests:     st.Requests,
		Circuits:     st.Circuits.Open,
		Tunnels:      st.Tunnels,
		Envelopes:    st.Mailboxes.Mail.Count + st.Mailboxes.Requests.Count,
		Limits:       map[string]string{},
		Cluster:      st.Cluster,
	}
	if st.Registry.Free >= 0 {
		answer.Registry.Free = &st.Registry.Free
	}
	for _, c := range st.Certificates {
		answer.Certificates = append(answer.Certificates, certificateJSON{c.Name, c.Expires.UTC(), c.Problem})
	}
	for _, l := range about.Limits {
		answer.Limits[l.Name] = l.Value
	}
	return answer, nil
}

// couriersJSON is a part of those who are connected.
type couriersJSON struct {
	Online   int           `json:"online"`
	Found    int           `json:"found"`
	From     int           `json:"from"`
	Couriers []courierJSON `json:"couriers"`
}

func (h *Handler) apiCouriers(r *http.Request) (any, error) {
	q, online := r.URL.Query(), h.cfg.Hub.Couriers()
	answer := couriersJSON{Online: len(online), Couriers: []courierJSON{}}
	found := search{q.Get("q"), Kind(q.Get("kind")), q.Get("order")}.find(online)
	from, to, err := window(r, len(found))
	answer.Found, answer.From = len(found), from
	for _, c := range found[from:to] {
		answer.Couriers = append(answer.Couriers, c.json())
	}
	return answer, err
}

// window is what of a list a request asks for, with from= and limit=.
func window(r *http.Request, found int) (from, to int, err error) {
	q := r.URL.Query()
	from, err1 := number(q.Get("from"), 0)
	limit, err2 := number(q.Get("limit"), 100)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, badRequest("from and limit are numbers")
	}
	from = min(from, found)
	return from, from + min(limit, maxListed, found-from), nil
}

// number reads a whole number that is not negative.
func number(text string, absent int) (int, error) {
	if text == "" {
		return absent, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err
}

func (h *Handler) apiDisconnect(r *http.Request) (any, error) {
	var who struct {
		Key string `json:"key"`
		ID  string `json:"id"`
	}
	if err := decode(r, &who); err != nil {
		return nil, err
	}
	if (who.Key == "") == (who.ID == "") {
		return nil, badRequest("name a key or an id")
	}
	closed, err := h.disconnect(r, who.Key+who.ID)
	return map[string]int{"closed": closed}, err
}

// disconnect closes the connections of a key, or of whoever is connected with an id.
func (h *Handler) disconnect(r *http.Request, who string) (int, error) {
	if id, err := secrez.ParseID(who); err == nil {
		for _, c := range h.cfg.Hub.Couriers() {
			if c.ID == id {
				return h.cut(r, c.Key), nil
			}
		}
		return 0, nil
	}
	key, err := keys.ParsePublicKey(who)
	if err != nil {
		return 0, badRequest("this is neither a key nor an id")
	}
	return h.cut(r, key), nil
}

func (h *Handler) cut(r *http.Request, key keys.PublicKey) int {
	closed := h.cfg.Hub.Disconnect(key)
	h.cfg.Logger.Info("admin: disconnected", "from", remote(r), "key", key, "connections", closed)
	return closed
}

// refusalJSON is a refusal in the API.
type refusalJSON struct {
	Time    time.Time `json:"time"`
	Reason  Reason    `json:"reason"`
	What    string    `json:"what"`
	Address string    `json:"address,omitempty"`
	Key     string    `json:"key,omitempty"`
}

func (h *Handler) apiRefusals(*http.Request) (any, error) {
	answer := []refusalJSON{}
	for _, x := range h.cfg.Observer.latest.list() {
		j := refusalJSON{Time: x.Time.UTC(), Reason: x.Reason, What: x.What}
		if x.Addr.IsValid() {
			j.Address = x.Addr.String()
		}
		if !x.Key.IsZero() {
			j.Key = x.Key.Ref()
		}
		answer = append(answer, j)
	}
	return map[string][]refusalJSON{"refusals": answer}, nil
}
