package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	gonet "net"
	"net/http"
	"sync"
	"time"

	"tailscale.com/derp"
	"tailscale.com/derp/derpserver"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// The parts that Tailscale's relay plays.
const (
	roleDerp        = "derp"
	roleDerpClients = "derp-clients"
)

const derpNote = "tailscale.com/derp/derpserver 1.102.5, the server of derper, without TLS"

// serveDerp serves Tailscale's relay and answers with its memory.
func serveDerp(ctx context.Context, args []string) error {
	server := derpserver.New(key.NewNode(), logger.Discard)
	ln, err := new(gonet.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.Handler(server))
	go func() { _ = (&http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}).Serve(ln) }()
	fmt.Println(ln.Addr())
	return errors.Join(answerMemory(args, silence), server.Close())
}

// derpPeer is a client of the relay.
type derpPeer struct {
	*derp.Client
	conn gonet.Conn
}

func (p *derpPeer) Close() error { return p.conn.Close() }

func dialDerp(ctx context.Context, address string) (io.Closer, error) {
	return newDerpPeer(ctx, address)
}

// newDerpPeer connects with a new key and waits until the relay knows it.
func newDerpPeer(ctx context.Context, address string) (*derpPeer, error) {
	conn, err := new(gonet.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	p := &derpPeer{conn: conn}
	if err := p.begin(address); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return p, nil
}

func (p *derpPeer) begin(address string) error {
	rw := bufio.NewReadWriter(bufio.NewReader(p.conn), bufio.NewWriter(p.conn))
	req, err := http.NewRequest(http.MethodGet, "http://"+address+"/derp", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Upgrade", "DERP")
	req.Header.Set("Connection", "Upgrade")
	if err := errors.Join(req.Write(rw), rw.Flush()); err != nil {
		return err
	}
	res, err := http.ReadResponse(rw.Reader, req)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the relay answers %s", res.Status)
	}
	if p.Client, err = derp.NewClient(key.NewNode(), p.conn, rw, logger.Discard); err != nil {
		return err
	}
	m, err := p.Recv()
	if _, ok := m.(derp.ServerInfoMessage); err == nil && !ok {
		err = fmt.Errorf("the relay begins with %T", m)
	}
	return err
}

// derpWindow is how many packets of a stream may be on their way: the relay drops what its queue of 32 for each client
// does not hold.
const derpWindow = 24

// derpStream is one direction from a to b, as a stream: the relay carries packets, and b says which have come.
type derpStream struct {
	a, b  *derpPeer
	room  chan struct{} // a place for each packet that may be sent
	rest  []byte        // of a packet that has come
	heard int
	once  sync.Once
}

func newDerpStream(ctx context.Context, address string) (*derpStream, error) {
	a, err := newDerpPeer(ctx, address)
	if err != nil {
		return nil, err
	}
	b, err := newDerpPeer(ctx, address)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	s := &derpStream{a: a, b: b, room: make(chan struct{}, derpWindow)}
	for range derpWindow {
		s.room <- struct{}{}
	}
	go s.hear()
	return s, nil
}

// hear takes what b says to a.
func (s *derpStream) hear() {
	defer close(s.room)
	for {
		m, err := s.a.Recv()
		if err != nil {
			return
		}
		if p, ok := m.(derp.ReceivedPacket); ok {
			for range p.Data[0] {
				s.room <- struct{}{}
			}
		}
	}
}

// Write sends packets from a to b.
func (s *derpStream) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		if _, ok := <-s.room; !ok {
			return sent, io.ErrClosedPipe
		}
		n := min(len(p)-sent, derp.MaxPacketSize)
		if err := s.a.Send(s.b.PublicKey(), p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// Read reads what has come to b.
func (s *derpStream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		m, err := s.b.Recv()
		if err != nil {
			return 0, err
		}
		packet, ok := m.(derp.ReceivedPacket)
		if !ok {
			continue
		}
		s.rest = packet.Data
		if s.heard++; s.heard == derpWindow/4 {
			if err := s.b.Send(s.a.PublicKey(), []byte{byte(s.heard)}); err != nil {
				return 0, err
			}
			s.heard = 0
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close ends both ends.
func (s *derpStream) Close() error {
	s.once.Do(func() { drop(s.a, s.b) })
	return nil
}
