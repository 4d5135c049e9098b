package share

import (
	"context"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/secretstack/secretstack/multiserver"
)

// serve takes the stream of a visitor.
func (s *Shares) serve(ctx context.Context, conn *multiserver.Conn) {
	number, ok := s.enter(conn.Remote())
	if ok {
		defer s.leave(conn.Remote())
	}
	var r request
	_ = conn.SetDeadline(time.Now().Add(s.cfg.RequestTimeout))
	if err := readMessage(conn, &r); err != nil {
		s.log.Debug("share: a visitor asks for nothing", "peer", conn.Remote().Short(), "err", err)
		return
	}
	if !ok {
		_ = writeMessage(conn, answer{Status: Busy})
		return
	}
	mine := s.allowed(conn.Remote())
	sv, a := choose(r, mine)
	if sv == nil {
		s.refuse(r, a, conn, number)
		return
	}
	s.connect(ctx, sv, conn, number)
}

// choose finds the service that a visitor wants among those that it may connect to, or says why there is none.
func choose(r request, mine map[string]*service) (*service, answer) {
	names := slices.Sorted(maps.Keys(mine))
	switch {
	case len(mine) == 0:
		return nil, answer{Status: Denied}
	case r.List:
		return nil, answer{Status: OK, Services: names}
	case r.Service == "" && len(mine) == 1:
		return mine[names[0]], answer{}
	case r.Service == "":
		return nil, answer{Status: Which, Services: names}
	case mine[r.Service] == nil:
		return nil, answer{Status: Unknown, Services: names}
	}
	return mine[r.Service], answer{}
}

// refuse answers a visitor who is not connected. The owner is told of those who may connect to nothing.
func (s *Shares) refuse(r request, a answer, conn *multiserver.Conn, number uint64) {
	for len(a.Services) > 0 && tooLong(a) {
		a.Services = a.Services[:len(a.Services)/2]
	}
	_ = writeMessage(conn, a)
	if a.Status == OK {
		return
	}
	s.log.Info("share: a visitor is refused", "peer", conn.Remote().Short(), "why", a.Status)
	if a.Status != Denied {
		return
	}
	for _, sv := range s.named(r.Service) {
		sv.tell(Event{Type: Refused, Peer: conn.Remote(), Conn: number})
	}
}

func tooLong(a answer) bool {
	n := 64
	for _, name := range a.Services {
		n += len(name) + 3
	}
	return n > maxMessage
}

// connect joins a visitor with the service.
func (s *Shares) connect(ctx context.Context, sv *service, conn *multiserver.Conn, number uint64) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(sv.ctx, func() { cancel(nil) }) // it is not shared any more
	defer stop()
	defer s.begin(number, &visit{conn.Remote(), sv, cancel})()
	if !sv.Allow(conn.Remote()) { // since we were not known to Recheck when it was asked
		_ = writeMessage(conn, answer{Status: Denied})
		sv.tell(Event{Type: Refused, Peer: conn.Remote(), Conn: number})
		return
	}
	local, err := s.dial(ctx, sv)
	if err != nil {
		_ = writeMessage(conn, answer{Status: Down})
		sv.tell(Event{Type: Failed, Peer: conn.Remote(), Conn: number, Error: err.Error()})
		return
	}
	if err := writeMessage(conn, answer{Status: OK}); err != nil {
		_ = local.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	sv.tell(Event{Type: Opened, Peer: conn.Remote(), Conn: number})
	var own Meter
	err = Pump(ctx, local, conn, &own, sv.meter)
	closed := Event{Type: Closed, Peer: conn.Remote(), Conn: number}
	closed.Sent, closed.Received = own.Read()
	if err != nil {
		closed.Error = err.Error()
	}
	sv.tell(closed)
}

func (s *Shares) dial(ctx context.Context, sv *service) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	return sv.Dial(ctx)
}
