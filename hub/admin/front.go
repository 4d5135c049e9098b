package admin

import (
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// Front answers on an admin listener from the start of a process on. Until it is given a Handler it says that the process
// lives and is not ready. The zero value is ready for use. Its methods may be called concurrently.
type Front struct {
	reason atomic.Pointer[string]
	then   atomic.Pointer[http.Handler]
}

// Wait says why the hub is not ready yet. The text is told to everybody who reaches the listener.
func (f *Front) Wait(reason string) { f.reason.Store(&reason) }

// Open hands over to the handler of a hub.
func (f *Front) Open(h http.Handler) { f.then.Store(&h) }

// ServeHTTP implements http.Handler.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := f.then.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	secured(atOwnName(nil, http.HandlerFunc(f.starting))).ServeHTTP(w, r)
}

func (f *Front) starting(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		healthz(w, r)
		return
	}
	reasons := []string{"the hub is starting"}
	if reason := f.reason.Load(); reason != nil {
		reasons = append(reasons, *reason)
	}
	writeJSON(w, http.StatusServiceUnavailable, health{Reasons: reasons})
}

// NewServer makes a server for a listener of its own, with bounds for every wait. The caller gives it the listener and ends
// it. The logger gets what goes wrong with connections.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
