package secrezapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/secretstack/secretstack/secrez"
)

// servePublicKey tells the key of an id, whether its courier is there or not.
func (h *Handler) servePublicKey(_ http.ResponseWriter, r *http.Request, param string) answer {
	if a, ok := h.allowed(Lookup, r); !ok {
		return a
	}
	key, _, ok := h.lookup(param)
	if !ok {
		return notFound()
	}
	return document(struct {
		Key secrez.PublicKey `json:"publickey"`
	}{key})
}

// lookup finds whose id a segment of a path is.
func (h *Handler) lookup(param string) (secrez.PublicKey, secrez.ID, bool) {
	id, err := secrez.ParseID(param)
	if err != nil {
		return secrez.PublicKey{}, id, false
	}
	rec, ok := h.cfg.Registry.Lookup(id)
	if !ok {
		return secrez.PublicKey{}, id, false
	}
	key, err := rec.PublicKey()
	return key, id, err == nil
}

// known asks whether a visitor may have the counts. Who may not gets what is nowhere, as in the original: that there is
// something to be had is not for everybody to know.
func (h *Handler) known(r *http.Request) (answer, bool) {
	if a, ok := h.allowed(Admin, r); !ok {
		return a, false
	}
	given := sha256.Sum256([]byte(codeOf(r)))
	if subtle.ConstantTimeCompare(given[:], h.code[:]) != 1 || h.cfg.Code == "" {
		return notFound(), false
	}
	return answer{}, true
}

// codeOf takes the code out of a request: from the Authorization header, or else from the query, where it ends up in logs.
func codeOf(r *http.Request) string {
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	if found && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	code, _ := one(r.URL.Query(), "code")
	return code
}

// memory is what the original tells of its process. Ours is told in the nearest terms.
type memory struct {
	RSS          uint64 `json:"rss"`
	HeapTotal    uint64 `json:"heapTotal"`
	HeapUsed     uint64 `json:"heapUsed"`
	External     uint64 `json:"external"`     // what the runtime holds besides the heap
	ArrayBuffers uint64 `json:"arrayBuffers"` // JavaScript's alone: 0
}

// serveStatus counts couriers and memory.
func (h *Handler) serveStatus(_ http.ResponseWriter, r *http.Request, _ string) answer {
	if a, ok := h.known(r); !ok {
		return a
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return document(struct {
		Tunnels int    `json:"tunnels"`
		Memory  memory `json:"mem"`
	}{h.cfg.Online(), memory{RSS: resident(m.Sys), HeapTotal: m.HeapSys, HeapUsed: m.HeapAlloc, External: m.Sys - m.HeapSys}})
}

// resident tells how much memory the process has in use, where the system says so.
func resident(otherwise uint64) uint64 {
	const pages = 1 // the second number
	text, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) <= pages {
		return otherwise
	}
	n, err := strconv.ParseUint(fields[pages], 10, 64)
	if err != nil {
		return otherwise
	}
	return n * uint64(os.Getpagesize())
}

// serveTunnelStatus counts the connections of a courier.
func (h *Handler) serveTunnelStatus(_ http.ResponseWriter, r *http.Request, param string) answer {
	if a, ok := h.known(r); !ok {
		return a
	}
	id, err := secrez.ParseID(param)
	if err != nil {
		return notFound()
	}
	sockets, ok := h.cfg.Sockets(id)
	if !ok {
		return notFound()
	}
	return document(struct {
		Sockets int `json:"connected_sockets"`
	}{sockets})
}
