package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Bounds of one scrape.
const (
	maxScrapes    = 4
	scrapeTimeout = 10 * time.Second
)

// Config says which hub is operated, and by whom. Hub and Observer are needed.
type Config struct {
	Hub      Hub
	Observer *Observer

	// Token is what an operator proves himself with. The zero Token: nobody can, and only metrics and health are served.
	Token Token

	// Logger gets what operators do and failed logins, never a token. Nil: nothing is logged.
	Logger *slog.Logger
}

// Handler answers the operator of a hub.
type Handler struct {
	cfg Config
	mux *http.ServeMux
}

// New makes the handler of a hub.
func New(cfg Config) (*Handler, error) {
	if cfg.Hub == nil || cfg.Observer == nil {
		return nil, errors.New("admin: no hub or no observer given")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	metrics, err := newRegistry(cfg.Hub, cfg.Observer)
	if err != nil {
		return nil, fmt.Errorf("admin: metrics: %w", err)
	}
	h := &Handler{cfg: cfg, mux: http.NewServeMux()}
	h.mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
		EnableOpenMetrics:   true,
	}))
	h.mux.HandleFunc("GET /healthz", h.healthz)
	h.mux.HandleFunc("GET /readyz", h.readyz)
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// NewServer makes a server for a listener of its own, with bounds for every wait. The caller gives it the listener and ends it.
func (h *Handler) NewServer() *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(h.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

func writeJSON(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // whoever asked has gone
}
