package admin

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/secretstack/secretstack/internal/netaddr"
)

// cookieName names the session's cookie. It is not a __Host- cookie because the listener speaks plain HTTP where nobody else
// is on the way: on loopback, through ssh, behind a proxy.
const cookieName = "secretstack-admin"

// asAPI lets those through who show the token or a session; others get 401 or 429 and JSON.
func (h *Handler) asAPI(next apiFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := h.session(r); !ok {
			token, shown := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if err := h.prove(r, token, shown); err != nil {
				h.explain(r, err).write(w)
				return
			}
		}
		answer, err := next(r)
		if err != nil {
			h.explain(r, err).write(w)
			return
		}
		writeJSON(w, http.StatusOK, answer)
	}
}

// asPage lets those through who have a session, others to the login.
func (h *Handler) asPage(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := h.session(r); !ok {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		next(w, r)
	}
}

// session gives the cookie of the session that a request belongs to.
func (h *Handler) session(r *http.Request) (string, bool) {
	c, err := r.Cookie(cookieName)
	if err != nil || !h.sessions.has(c.Value) {
		return "", false
	}
	return c.Value, true
}

// prove checks a token, unless too many wrong ones came from there.
func (h *Handler) prove(r *http.Request, token string, shown bool) error {
	from := remote(r)
	if wait := h.throttle.wait(from); wait > 0 {
		return &apiError{status: http.StatusTooManyRequests, Message: "too many wrong tokens; wait a little", retry: wait}
	}
	switch {
	case shown && h.cfg.Token.is(token):
		return nil
	case shown:
		h.throttle.failed(from)
		h.cfg.Logger.Warn("admin: wrong token", "from", from)
		return &apiError{status: http.StatusUnauthorized, Message: "this is not the token"}
	}
	return &apiError{status: http.StatusUnauthorized, Message: "show the token: Authorization: Bearer TOKEN"}
}

// login turns the token into a session.
func (h *Handler) login(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimSpace(r.PostFormValue("token"))
	if err := h.prove(r, token, true); err != nil {
		h.showLogin(w, r, err)
		return
	}
	h.cfg.Logger.Info("admin: logged in", "from", remote(r))
	http.SetCookie(w, h.cookie(r, h.sessions.begin(), sessionTime))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// logout ends the session.
func (h *Handler) logout(w http.ResponseWriter, r *http.Request) {
	if cookie, ok := h.session(r); ok {
		h.sessions.end(cookie)
	}
	http.SetCookie(w, h.cookie(r, "", -time.Second))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func (h *Handler) cookie(r *http.Request, value string, age time.Duration) *http.Cookie {
	return &http.Cookie{
		Name:     cookieName,
		Value:    value,
		Path:     "/",
		MaxAge:   int(age / time.Second),
		HttpOnly: true,
		Secure:   r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
		SameSite: http.SameSiteStrictMode,
	}
}

// remote is the address that a request comes from. Proxies are not looked through: who stands behind one is throttled as one.
func remote(r *http.Request) netip.Addr { return netaddr.Of(r.RemoteAddr) }

// apiError is an answer that says no.
type apiError struct {
	status  int
	retry   time.Duration // zero: not said
	Message string        `json:"message"`
}

func (e *apiError) Error() string { return e.Message }

func (e *apiError) header(w http.ResponseWriter) {
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if e.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retry.Seconds()))))
	}
}

func (e *apiError) write(w http.ResponseWriter) {
	e.header(w)
	writeJSON(w, e.status, map[string]*apiError{"error": e})
}
