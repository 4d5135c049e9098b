package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/secretstack/secretstack/hub/admission"
)

// Bounds of one scrape.
const (
	maxScrapes    = 4
	scrapeTimeout = 10 * time.Second
)

// Config says which hub is operated, and by whom. Hub, Admission and Observer are needed.
type Config struct {
	Hub       Hub
	Admission *admission.Admission
	Observer  *Observer

	// Token is what an operator proves himself with. The zero Token: nobody can, and only metrics and health are told.
	Token Token

	// Names are those by which the listener is asked, besides localhost, its addresses, and the hub's domain. Requests for
	// other names are refused: they come from pages of others.
	Names []string

	// Logger gets what operators do and failed logins, never a token or the code of an invite. Nil: nothing is logged.
	Logger *slog.Logger
}

// Handler answers the operator of a hub.
type Handler struct {
	cfg      Config
	pages    pages
	throttle throttle
	sessions sessions
	serve    http.Handler
}

// New makes the handler of a hub.
func New(cfg Config) (*Handler, error) {
	if cfg.Hub == nil || cfg.Admission == nil || cfg.Observer == nil {
		return nil, errors.New("admin: Hub, Admission and Observer must be given")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	metrics, err := newRegistry(cfg.Hub, cfg.Admission, cfg.Observer)
	if err != nil {
		return nil, fmt.Errorf("admin: metrics: %w", err)
	}
	h := &Handler{cfg: cfg}
	if h.pages, err = parsePages(); err != nil {
		return nil, fmt.Errorf("admin: pages: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
		EnableOpenMetrics:   true,
	}))
	mux.HandleFunc("GET /healthz", healthz)
	mux.HandleFunc("GET /readyz", h.readyz)
	h.mountPages(mux)
	h.mountAPI(mux)
	names := append([]string{cfg.Hub.About().Domain}, cfg.Names...)
	origins := http.NewCrossOriginProtection()
	origins.SetDenyHandler(refusing(&apiError{status: http.StatusForbidden, Message: "pages of other origins may not ask for this"}))
	h.serve = secured(atOwnName(names, origins.Handler(mux)))
	return h, nil
}

func (h *Handler) mountPages(mux *http.ServeMux) {
	mux.HandleFunc("GET /static/{name}", static)
	mux.HandleFunc("GET /login", h.loginPage)
	mux.HandleFunc("POST /login", h.login)
	mux.HandleFunc("POST /logout", h.logout)
	for pattern, page := range map[string]http.HandlerFunc{
		"GET /{$}":             h.couriersPage,
		"POST /disconnect":     h.disconnectForm,
		"GET /lists":           h.listsPage,
		"POST /lists":          h.ruleForm,
		"POST /lists/remove":   h.removeForm,
		"POST /mode":           h.modeForm,
		"GET /invites":         h.invitesPage,
		"POST /invites":        h.inviteForm,
		"POST /invites/revoke": h.revokeForm,
		"GET /status":          h.statusPage,
	} {
		mux.HandleFunc(pattern, h.asPage(page))
	}
}

func (h *Handler) mountAPI(mux *http.ServeMux) {
	for pattern, answer := range map[string]apiFunc{
		"GET /api/v1/status":          h.apiStatus,
		"GET /api/v1/couriers":        h.apiCouriers,
		"POST /api/v1/disconnect":     h.apiDisconnect,
		"GET /api/v1/refusals":        h.apiRefusals,
		"GET /api/v1/mode":            h.apiMode,
		"PUT /api/v1/mode":            h.apiSetMode,
		"GET /api/v1/rules":           h.apiRules,
		"POST /api/v1/rules":          h.apiSetRule,
		"DELETE /api/v1/rules":        h.apiRemoveRule,
		"GET /api/v1/invites":         h.apiInvites,
		"POST /api/v1/invites":        h.apiCreateInvite,
		"DELETE /api/v1/invites/{id}": h.apiRevokeInvite,
	} {
		mux.HandleFunc(pattern, h.asAPI(answer))
	}
	mux.HandleFunc("/api/", h.asAPI(func(*http.Request) (any, error) {
		return nil, &apiError{status: http.StatusNotFound, Message: "there is no such call"}
	}))
	mux.Handle("/", refusing(&apiError{status: http.StatusNotFound, Message: "there is no such page, or not by this method"}))
}

// refusing says no to everything, in the form of all refusals here.
func refusing(e *apiError) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { e.write(w) })
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.serve.ServeHTTP(w, r) }

func writeJSON(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // whoever asked has gone
}
