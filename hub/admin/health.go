package admin

import "net/http"

// health is what /healthz and /readyz answer.
type health struct {
	Ready   bool     `json:"ready"`
	Serving bool     `json:"serving"` // what is known, although perhaps nothing can be written
	Reasons []string `json:"reasons"` // why it is not ready
}

// reasons says why a hub should get no new connections. They are read by anybody who reaches the admin listener, so they
// name no file and no address.
func (s Status) reasons() []string {
	reasons := []string{}
	if s.Draining {
		reasons = append(reasons, "the hub is about to end")
	}
	switch {
	case s.Cluster != nil && s.Cluster.Alone:
		reasons = append(reasons, "this node is cut off from the majority of nodes: it serves what it knows, and writes nothing")
	case s.Registry.Err != nil:
		reasons = append(reasons, "the registry cannot write; the log says why")
	}
	if s.Cluster != nil && s.Cluster.odd() {
		reasons = append(reasons, "the version of this node does not work with that of any other: nothing is carried between them")
	}
	return append(reasons, s.Problems...)
}

func (s Status) health() health {
	reasons := s.reasons()
	return health{len(reasons) == 0, !s.Draining, reasons}
}

// healthz answers as long as the process does.
func healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz tells whether the hub should get new connections.
func (h *Handler) readyz(w http.ResponseWriter, _ *http.Request) {
	answer := h.cfg.Hub.Status().health()
	status := http.StatusOK
	if !answer.Ready {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, answer)
}
