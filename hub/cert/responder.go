package cert

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// Bounds of a [Responder].
const (
	maxAsking  = 64               // connections at once; above it the oldest makes room
	askingTime = 10 * time.Second // of one connection
	maxQuery   = 4 << 10          // bytes; more is garbage
)

// ResponderOptions configures [NewResponder].
type ResponderOptions struct {
	// Domain is the hub's, in lower case. Required.
	Domain string
	// NameServer is the host that the delegation names; empty: Domain.
	NameServer string
	// Logger gets errors of the sockets. nil: none
	Logger *slog.Logger
}

// Responder is the name server of the zone _acme-challenge.<domain>. All there is in it are the proofs for an authority
// that is being asked for a certificate; to questions about other zones the answer is no.
//
// It is of no use to attack others with: over UDP its answers are never larger than 1232 bytes, and who asks often gets
// none, or one without content that makes a resolver ask over TCP. Everything it remembers has a fixed size.
type Responder struct {
	domain string
	zone   zone
	often  limiter
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool        // guarded by mu
	sockets []io.Closer // guarded by mu
	asking  []net.Conn  // guarded by mu: connections, oldest first
}

// NewResponder makes a responder, which does not listen yet.
func NewResponder(opts ResponderOptions) (*Responder, error) {
	if opts.NameServer == "" {
		opts.NameServer = opts.Domain
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if !isHostname(opts.Domain) || !isHostname(opts.NameServer) {
		return nil, fmt.Errorf("cert: %q, %q: not a domain and its name server", opts.Domain, opts.NameServer)
	}
	z, err := newZone(opts.Domain, opts.NameServer)
	if err != nil {
		return nil, err
	}
	r := &Responder{domain: opts.Domain, zone: z, often: newLimiter(), log: opts.Logger}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// Listen answers on an address, over UDP and TCP. It may be called for several. On a machine with several addresses,
// each should be given, not the one that means all: answers must come from the address that was asked.
func (r *Responder) Listen(ctx context.Context, address string) error {
	var config net.ListenConfig
	for attempt := 0; ; attempt++ {
		tcp, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("cert: %w", err)
		}
		udp, err := config.ListenPacket(ctx, "udp", tcp.Addr().String())
		if err == nil {
			r.Serve(udp, tcp)
			return nil
		}
		_ = tcp.Close()
		if _, port, _ := net.SplitHostPort(address); port != "0" || attempt == 10 { // any port will do, if it is free for both
			return fmt.Errorf("cert: %w", err)
		}
	}
}

// Serve answers on sockets, which the responder owns from then on. Either may be nil.
func (r *Responder) Serve(udp net.PacketConn, tcp net.Listener) {
	if udp != nil && r.own(udp) {
		r.wg.Go(func() { r.packets(udp) })
	}
	if tcp != nil && r.own(tcp) {
		r.wg.Go(func() { r.accept(tcp) })
	}
}

// own takes a socket, and reports false when the responder is closed.
func (r *Responder) own(socket io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_ = socket.Close()
		return false
	}
	r.sockets = append(r.sockets, socket)
	return true
}

// Addr returns the first address that is listened on over TCP, nil when there is none.
func (r *Responder) Addr() net.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sockets {
		if ln, ok := s.(net.Listener); ok {
			return ln.Addr()
		}
	}
	return nil
}

// Close closes the sockets and waits for everything that the responder started.
func (r *Responder) Close() error {
	r.cancel()
	r.mu.Lock()
	r.closed = true
	sockets := r.sockets
	for _, c := range r.asking {
		sockets = append(sockets, c)
	}
	r.sockets, r.asking = nil, nil
	r.mu.Unlock()
	var errs []error
	for _, s := range sockets {
		errs = append(errs, ignoreClosed(s.Close()))
	}
	r.wg.Wait()
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// packets answers one packet after the other: an answer takes a few microseconds and waits for nobody.
func (r *Responder) packets(socket net.PacketConn) {
	query := make([]byte, maxQuery)
	for {
		n, from, err := socket.ReadFrom(query)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of an earlier packet of ours, as a rule
			if !r.pause(err) {
				return
			}
			continue
		}
		if response := r.packet(query[:n], addrOf(from)); response != nil {
			_, _ = socket.WriteTo(response, from)
		}
	}
}

// pause logs an error and waits a little.
func (r *Responder) pause(err error) (goOn bool) {
	r.log.Debug("answering DNS failed", "err", err)
	t := time.NewTimer(10 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// packet returns the answer to a packet, nil when there is none.
func (r *Responder) packet(query []byte, from netip.Addr) []byte {
	switch r.often.verdict(from, time.Now()) {
	case drop:
		return nil
	case shorten:
		return r.zone.shortAnswer(query)
	}
	return r.zone.packetAnswer(query)
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func (r *Responder) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !r.pause(err) {
				return
			}
			continue
		}
		if r.enter(conn) {
			r.wg.Go(func() {
				r.converse(conn)
				r.leave(conn)
			})
		}
	}
}

// enter takes a connection, for which the oldest may have to make room.
func (r *Responder) enter(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_ = conn.Close()
		return false
	}
	r.asking = append(r.asking, conn)
	if len(r.asking) > maxAsking {
		_ = r.asking[0].Close()
		r.asking = slices.Delete(r.asking, 0, 1)
	}
	return true
}

func (r *Responder) leave(conn net.Conn) {
	_ = conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asking = slices.DeleteFunc(r.asking, func(c net.Conn) bool { return c == conn })
}

// converse answers the questions on a connection, each of which has its length before it.
func (r *Responder) converse(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(askingTime))
	var size [2]byte
	query := make([]byte, maxQuery)
	for {
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > maxQuery {
			return
		}
		if _, err := io.ReadFull(conn, query[:n]); err != nil {
			return
		}
		response := r.zone.answer(query[:n])
		if response == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(response))), response...)); err != nil {
			return
		}
	}
}

// dnsSolver puts the proofs of DNS-01 into the zone.
type dnsSolver struct{ responder *Responder }

func (s dnsSolver) Present(_ context.Context, c acme.Challenge) error {
	s.responder.zone.add(c.DNS01KeyAuthorization())
	return nil
}

func (s dnsSolver) CleanUp(_ context.Context, c acme.Challenge) error {
	s.responder.zone.remove(c.DNS01KeyAuthorization())
	return nil
}
