package hub

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/secretstack/secretstack/hub/admin"
	"github.com/secretstack/secretstack/hub/vhost"
)

// told is how much of a connection's traffic the observer has been told.
type told struct {
	mu             sync.Mutex
	received, sent int64
}

// tellTraffic tells the observer what a connection has carried since it was told last, so that the metrics of connections
// that last for days are not told at their end.
func (h *Hub) tellTraffic(s *session) {
	s.told.mu.Lock()
	defer s.told.mu.Unlock()
	stats := s.peer.Stats()
	received, sent := int64(stats.BytesRead), int64(stats.BytesWritten)
	h.observer.Carried(s.protocol(), received-s.told.received, sent-s.told.sent)
	s.told.received, s.told.sent = received, sent
}

// traffic is what has gone through the raw tunnel sockets of a courier of Secrez, without headers.
type traffic struct {
	received, sent atomic.Int64
}

// observeExchange counts an exchange with a courier.
func (h *Hub) observeExchange(x vhost.Exchange) {
	h.observer.Exchange(x)
	if t := h.guests.traffic(x.ID); t != nil {
		t.received.Add(x.Sent) // what the visitor got comes from the courier
		t.sent.Add(x.Received)
	}
}

// observeConns counts the connections of an HTTP server, until they become something else.
func (h *Hub) observeConns(server *http.Server) {
	next := server.ConnState
	server.ConnState = func(c net.Conn, state http.ConnState) {
		if next != nil {
			next(c, state)
		}
		switch state {
		case http.StateNew:
			h.observer.Opened(admin.ProtocolHTTP)
		case http.StateClosed, http.StateHijacked:
			h.observer.Closed(admin.ProtocolHTTP)
		case http.StateActive, http.StateIdle:
		}
	}
}
