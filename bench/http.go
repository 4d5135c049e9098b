package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	gonet "net"
	"slices"
	"strconv"
	"time"
)

// What each visitor gets.
const httpBody = "Hello, world"

// httpAlso are what rows about requests show besides how many there are.
var httpAlso = []aspect{
	{Title: "half of them within", Unit: "ms", LessIsMore: true},
	{Title: "99 % of them within", Unit: "ms", LessIsMore: true},
}

// Targets of HTTP through the hub with many connections: the part of a plain proxy's requests, and how much longer than
// through it 99 % of them may take, which is twice; then how many times as many as through others.
const (
	httpOfPlain   = 0.8
	httpLatency   = 0.5
	httpOfFrp     = 2
	httpOfSecrez  = 3
	httpTitle     = "HTTP through the hub, %s, %s"
	nativeCourier = "native courier"
	rawSockets    = "4 raw tunnel sockets"
)

// httpRow is requests through our hub to a courier that has connected natively, beside other ways from a visitor to a
// server behind a program.
func httpRow(key string, node *secrezJS, conns int) row {
	r := row{
		Key: key, Title: fmt.Sprintf(httpTitle, counted(conns, "connection"), nativeCourier), Unit: "requests/s", Also: httpAlso,
		Ours: peer{
			Name:  oursName,
			Note:  "visitor, hub and courier are processes of their own; the courier's handler is in the courier",
			Start: visits(conns, startNativeSite),
		},
		Peers: []peer{
			{
				Name:  "httputil.ReverseProxy",
				Note:  "with a pool as large as the number of visitors, in front of a net/http server; each a process of its own",
				Start: visits(conns, startPlainSite),
			},
			{
				Name:  "frp " + frpVersion,
				Note:  "frps and frpc as shipped, TLS between them, a proxy of type http; the server is that of the plain proxy",
				Start: visits(conns, startFrpSite),
			},
			secrezSite(node, conns),
		},
	}
	if conns > 1 {
		r.Peers[0].AtLeast, r.Peers[0].AlsoAtLeast = httpOfPlain, []float64{0, httpLatency}
		r.Peers[1].AtLeast, r.Peers[2].AtLeast = httpOfFrp, httpOfSecrez
	}
	return r
}

// rawHTTPRow is the same to a courier as Secrez's, with raw tunnel sockets.
func rawHTTPRow(key string, node *secrezJS, conns int) row {
	r := row{
		Key: key, Title: fmt.Sprintf(httpTitle, counted(conns, "connection"), rawSockets), Unit: "requests/s", Also: httpAlso,
		Ours: peer{
			Name: oursName,
			Note: "the tunnel client is a program in Go that does what Secrez's does: it passes the bytes of each socket to a " +
				"connection of its own to a net/http server, which is in the same process",
			Start: visits(conns, startRawSite),
		},
		Peers: []peer{
			{Name: "httputil.ReverseProxy", Start: visits(conns, startPlainSite)},
			secrezSite(node, conns),
		},
	}
	if conns > 1 {
		r.Peers[0].AtLeast, r.Peers[0].AlsoAtLeast = httpOfPlain, []float64{0, httpLatency}
		r.Peers[1].AtLeast = httpOfSecrez
	}
	return r
}

func secrezSite(node *secrezJS, conns int) peer {
	return peer{
		Name:  "@secrez/hub, 4 sockets",
		Note:  secrezNote + "; started with -m 4; the tunnel client is that of our row with raw tunnel sockets",
		Start: visits(conns, node.startSite),
	}
}

// site is something that answers requests for a host at an address, and the programs that make it up.
type site struct {
	address, host string
	parts         []io.Closer // in the order in which they were started
}

func (s *site) Close() error {
	var errs []error
	for _, part := range slices.Backward(s.parts) {
		errs = append(errs, part.Close())
	}
	return errors.Join(errs...)
}

// visits measures requests to a site over some connections at once, each of which sends the next request when it has
// the answer.
func visits(conns int, start func(ctx context.Context) (*site, error)) func(context.Context) (meter, error) {
	return func(ctx context.Context) (meter, error) {
		s, err := start(ctx)
		if err != nil {
			return nil, err
		}
		// It is there when it answers.
		if err := eventually(ctx, func() error { return s.visitOnce(ctx) }); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		measure := func(ctx context.Context, d time.Duration) ([]float64, error) { return s.measure(ctx, d, conns) }
		return &several{measure: measure, close: s.Close}, nil
	}
}

func (s *site) visitOnce(ctx context.Context) error {
	v, err := s.visitor(ctx)
	if err != nil {
		return err
	}
	defer drop(v.conn)
	return v.visit()
}

func (s *site) measure(ctx context.Context, d time.Duration, conns int) ([]float64, error) {
	var ops []func(context.Context) error
	for range conns {
		v, err := s.visitor(ctx)
		if err != nil {
			return nil, err
		}
		defer drop(v.conn)
		defer context.AfterFunc(ctx, func() { drop(v.conn) })()
		ops = append(ops, func(context.Context) error { return v.visit() })
	}
	return rateAndLatency(ctx, d, ops)
}

// visitor is one connection of a client.
type visitor struct {
	conn    gonet.Conn
	r       *bufio.Reader
	request []byte
}

func (s *site) visitor(ctx context.Context) (*visitor, error) {
	conn, err := new(gonet.Dialer).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	request := "GET / HTTP/1.1\r\nHost: " + s.host + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	return &visitor{conn: conn, r: bufio.NewReader(conn), request: []byte(request)}, nil
}

// visitPatience bounds a visit: a program that loses a request is found out.
const visitPatience = 20 * time.Second

// visit asks, and checks the answer. It reads no more of HTTP than what these servers write.
func (v *visitor) visit() error {
	if err := v.conn.SetDeadline(time.Now().Add(visitPatience)); err != nil {
		return err
	}
	if _, err := v.conn.Write(v.request); err != nil {
		return err
	}
	status, err := v.line()
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("the answer is %q", status)
	}
	size := -1
	for {
		line, err := v.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	var body [len(httpBody)]byte
	if size != len(body) {
		return fmt.Errorf("the answer has %d bytes", size)
	}
	if _, err := io.ReadFull(v.r, body[:]); err != nil {
		return err
	}
	if string(body[:]) != httpBody {
		return fmt.Errorf("the answer says %q", body)
	}
	return nil
}

// line reads a line of a header. It is good until the next reading.
func (v *visitor) line() ([]byte, error) {
	line, err := v.r.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}
