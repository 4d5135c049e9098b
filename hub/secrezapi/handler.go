package secrezapi

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/secretstack/secretstack/keys"
	"github.com/secretstack/secretstack/secrez"
)

// Handler answers the API. It can be used by many goroutines and owns none. Its parts (registry, pools) are its owner's
// to close, after the last request.
type Handler struct {
	cfg      Config
	replays  *secrez.ReplayCache
	used     *usedPayloads // nil: only in memory
	attempts *attempts
	code     [sha256.Size]byte // of Config.Code
	calls    []call
	contact  contactPage
}

// New makes a handler, and reads from Config.Used what was used before. Its error is [ErrConfig], or the store's.
func New(cfg Config) (*Handler, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	page, err := newContactPage()
	if err != nil {
		return nil, fmt.Errorf("secrezapi: %w", err)
	}
	h := &Handler{
		cfg: cfg, attempts: newAttempts(cfg.MaxAnswers, cfg.Now), code: sha256.Sum256([]byte(cfg.Code)), calls: calls(),
		contact: page,
	}
	if err := h.remember(); err != nil {
		return nil, fmt.Errorf("secrezapi: read the used payloads: %w", err)
	}
	return h, nil
}

// remember begins with what was used before, or else without anything that could have been.
func (h *Handler) remember() error {
	opts := secrez.ReplayOptions{Window: window, Now: h.cfg.Now}
	if h.cfg.Shared != nil {
		h.replays = secrez.NewReplayCache(opts) // what it does not know is asked for
		return nil
	}
	if h.cfg.Used != nil {
		h.replays = secrez.NewReplayCache(opts)
		h.used = newUsedPayloads(h.cfg.Used, h.cfg.Now)
		err := h.used.load(h.cfg.Timeout, h.replays.Remember)
		if !errors.Is(err, errPage) {
			return err
		}
		h.cfg.Logger.Warn("registrations signed before now are refused", "err", err)
	}
	opts.NotBefore = h.cfg.Now()
	h.replays = secrez.NewReplayCache(opts)
	return nil
}

// A call is one thing that the API does. Segments of its path are matched in any case; "*" stands for any one segment.
type call struct {
	name    string
	path    []string
	methods []string // besides OPTIONS, in the order of the Allow header
	serve   func(h *Handler, w http.ResponseWriter, r *http.Request, param string) answer
}

func calls() []call {
	read := []string{http.MethodHead, http.MethodGet}
	register := []string{http.MethodGet, http.MethodPost}
	return []call{
		{"new", []string{"api", "v1", "tunnel", "new"}, register, (*Handler).serveNew},
		{"new", []string{"api", "v1", "new"}, register, (*Handler).serveNew},
		{"publickey", []string{"api", "v1", "publickey", "*"}, read, (*Handler).servePublicKey},
		{"status", []string{"api", "v1", "status"}, read, (*Handler).serveStatus},
		{"tunnel status", []string{"api", "v1", "tunnels", "*", "status"}, read, (*Handler).serveTunnelStatus},
		{"contact", []string{"s", "*"}, read, (*Handler).serveContact},
	}
}

// ServeHTTP answers a request to the hub itself.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, a := h.answer(w, r)
	a.write(w)
	h.cfg.Observe(name, a.status)
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request) (string, answer) {
	path := r.URL.EscapedPath()
	if r.Host == "" {
		return "other", failure(http.StatusBadRequest, "Host header is required")
	}
	if path == "/" || path == "" {
		return "root", h.serveRoot(r)
	}
	for _, c := range h.calls {
		if param, ok := c.match(path); ok {
			return c.name, c.dispatch(h, w, r, param)
		}
	}
	return "other", notFound()
}

// match compares a path, not unescaped, with the call's. One slash at the end makes no difference.
func (c call) match(path string) (param string, ok bool) {
	segments := strings.Split(strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/"), "/")
	if len(segments) != len(c.path) || !strings.HasPrefix(path, "/") {
		return "", false
	}
	for i, want := range c.path {
		switch {
		case want == "*" && segments[i] != "":
			param = segments[i]
		case !strings.EqualFold(segments[i], want):
			return "", false
		}
	}
	return param, true
}

func (c call) dispatch(h *Handler, w http.ResponseWriter, r *http.Request, param string) answer {
	if slices.Contains(c.methods, r.Method) {
		return c.serve(h, w, r, param)
	}
	a := failure(http.StatusNotImplemented, "Not Implemented")
	switch r.Method {
	case http.MethodOptions:
		a = answer{status: http.StatusOK}
	case http.MethodHead, http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		a = failure(http.StatusMethodNotAllowed, "Method Not Allowed")
	}
	return a.with("Allow", strings.Join(c.methods, ", "))
}

// serveRoot welcomes whoever comes, by whatever method, or leads on.
func (h *Handler) serveRoot(r *http.Request) answer {
	if h.cfg.Landing != "" {
		return redirect(h.cfg.Landing, accepts(r.Header.Values("Accept"), "text", "html") > 0)
	}
	return document(struct {
		Welcome string         `json:"welcome_to"`
		Version string         `json:"version"`
		More    string         `json:"more_info_at"`
		Key     keys.PublicKey `json:"key,omitzero"`
	}{"a secretstack hub, through which peers and the couriers of Secrez reach each other", h.cfg.Version, "https://github.com/secretstack/secretstack", h.cfg.Key})
}

// allowed asks whether a visitor may have something now, and gives the answer if not.
func (h *Handler) allowed(kind Kind, r *http.Request) (answer, bool) {
	if err := h.cfg.Allow(kind, h.cfg.Addr(r)); err != nil {
		return h.refused(err), false
	}
	return answer{}, true
}
